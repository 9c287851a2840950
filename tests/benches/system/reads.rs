//! Reads: warm, cold, and of pages that are still in the WAL.

use std::path::Path;

use litefs_tests::bench::{Plan, fill, rate};
use litefs_tests::random::Random;
use litefs_tests::sqlite;
use rusqlite::Connection;

use crate::report::Report;
use crate::site::{Sites, drop_caches};

pub(crate) fn run(plan: &Plan, report: &mut Report) {
    for journal in ["WAL", "DELETE"] {
        warm(plan, report, journal);
    }
    live_wal(plan, report);
    cold(plan, report);
}

/// Of a database that fits into the kernel's cache, and not into SQLite's.
fn warm(plan: &Plan, report: &mut Report, journal: &str) {
    let points = format!("point reads, {journal}, warm");
    let scan = format!("full scan, {journal}, warm");
    if !plan.wants(&points) && !plan.wants(&scan) {
        return;
    }
    let sites = Sites::new();
    let bytes = (100 << 20) / plan.shrink;
    sites.make("db", |conn| {
        sqlite::run(conn, &format!("PRAGMA journal_mode={journal}"));
        fill(conn, bytes);
    });
    if plan.wants(&points) {
        let count = 60_000 / plan.shrink;
        let [raw, mount] = sites.compare(plan.rounds, "db", |path| point_reads(path, count));
        report.ratio(&points, "/s", "0.95", &raw, &mount);
    }
    if plan.wants(&scan) {
        let [raw, mount] = sites.compare(plan.rounds, "db", |path| {
            let conn = sqlite::open(path);
            full_scan(&conn);
            rate(3, |_| full_scan(&conn)) * bytes as f64
        });
        report.ratio(&scan, "B/s", "0.95", &raw, &mount);
    }
}

fn cold(plan: &Plan, report: &mut Report) {
    let name = "cold scan";
    if !plan.wants(name) {
        return;
    }
    let sites = Sites::new();
    let bytes = (256 << 20) / plan.shrink;
    sites.make("db", |conn| fill(conn, bytes));
    let [raw, mount] = sites.compare(plan.rounds, "db", |path| {
        drop_caches();
        let conn = sqlite::open(path);
        rate(1, |_| full_scan(&conn)) * bytes as f64
    });
    report.ratio(name, "B/s", "0.6", &raw, &mount);
}

/// The reader looks each page up in the wal-index and reads it from the WAL.
fn live_wal(plan: &Plan, report: &mut Report) {
    let name = "point reads of pages in a live WAL";
    if !plan.wants(name) {
        return;
    }
    let sites = Sites::new();
    // Kept open, so that no last close checkpoints.
    let writers = sites.paths("db").map(|path| {
        let conn = sqlite::open(&path);
        sqlite::run(&conn, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0");
        fill(&conn, (32 << 20) / plan.shrink);
        conn
    });
    let count = 40_000 / plan.shrink;
    let [raw, mount] = sites.compare(plan.rounds, "db", |path| point_reads(path, count));
    report.ratio(name, "/s", "0.7", &raw, &mount);
    drop(writers);
}

fn point_reads(path: &Path, count: u64) -> f64 {
    let conn = sqlite::open(path);
    sqlite::run(&conn, "PRAGMA cache_size=50");
    let rows = sqlite::number(&conn, "SELECT max(id) FROM t") as u64;
    let mut random = Random::new(1);
    let mut select = conn.prepare("SELECT length(body) FROM t WHERE id = ?").unwrap();
    let mut read = |_| {
        let id = 1 + random.below(rows) as i64;
        let len: i64 = select.query_row([id], |row| row.get(0)).unwrap();
        assert_eq!(len, 105);
    };
    rate(count / 10, &mut read);
    rate(count, &mut read)
}

fn full_scan(conn: &Connection) {
    assert!(sqlite::number(conn, "SELECT sum(length(body)) FROM t") > 0);
}
