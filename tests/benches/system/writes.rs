//! Transactions of each size and kind, and a writer among readers.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use litefs_tests::bench::{Plan, fill, rate};
use litefs_tests::process::Process;
use litefs_tests::random::Random;
use litefs_tests::sqlite;
use rusqlite::Connection;

use crate::report::Report;
use crate::site::Sites;

/// Name, journal mode, synchronous, rows per transaction, transactions, bar.
const ITEMS: [(&str, &str, &str, u64, u64, &str); 6] = [
    ("one-row transactions, WAL NORMAL", "WAL", "NORMAL", 1, 8000, "0.09, aim 0.20"),
    ("one-row transactions, WAL FULL", "WAL", "FULL", 1, 800, "0.45, aim 0.60"),
    ("one-row transactions, DELETE FULL", "DELETE", "FULL", 1, 250, "0.50, aim 0.65"),
    ("one-row transactions, TRUNCATE NORMAL", "TRUNCATE", "NORMAL", 1, 300, "0.50, aim 0.65"),
    ("1,000-row transactions, WAL NORMAL", "WAL", "NORMAL", 1000, 200, "0.40, aim 0.60"),
    ("1,000-row transactions, DELETE FULL", "DELETE", "FULL", 1000, 100, "0.40, aim 0.60"),
];

pub(crate) fn run(plan: &Plan, report: &mut Report) {
    bulk(plan, report, "bulk load in 16 MiB transactions, DELETE", "DELETE");
    bulk(plan, report, "bulk load in 16 MiB transactions, WAL", "WAL");
    for (name, journal, synchronous, rows, count, bar) in ITEMS {
        if plan.wants(name) {
            let sites = Sites::new();
            let pragmas =
                format!("PRAGMA journal_mode={journal}; PRAGMA synchronous={synchronous}");
            sites.make("db", |conn| {
                sqlite::run(conn, &pragmas);
                fill(conn, 1 << 20);
            });
            let count = count / plan.shrink;
            let [raw, mount] = sites.compare(plan.rounds, "db", |path| {
                let mut conn = sqlite::open(path);
                sqlite::run(&conn, &pragmas);
                insert(&mut conn, rows, 1 + count / 20);
                insert(&mut conn, rows, count)
            });
            report.ratio(name, "tx/s", bar, &raw, &mount);
        }
    }
    writer_among_readers(plan, report);
}

/// Transactions per second.
fn insert(conn: &mut Connection, rows: u64, count: u64) -> f64 {
    let body = Random::new(count).bytes(100);
    rate(count, |_| {
        let tx = conn.transaction().unwrap();
        let mut insert = tx.prepare_cached("INSERT INTO t(body) VALUES (?)").unwrap();
        for _ in 0..rows {
            insert.execute([&body]).unwrap();
        }
        drop(insert);
        tx.commit().unwrap();
    })
}

fn bulk(plan: &Plan, report: &mut Report, name: &str, journal: &str) {
    if !plan.wants(name) {
        return;
    }
    let sites = Sites::new();
    let transactions = 16 / plan.shrink;
    let mut number = 0;
    // A new database each time, and the old one away: what is compared is a load, not an overwrite.
    let [raw, mount] = sites.compare(plan.rounds.min(3), "db", |path| {
        let path = path.with_file_name(format!("bulk{number}"));
        number += 1;
        let rate = load(&path, journal, transactions);
        std::fs::remove_file(&path).unwrap();
        rate
    });
    report.ratio(name, "B/s", "0.5", &raw, &mount);
}

fn load(path: &Path, journal: &str, transactions: u64) -> f64 {
    const ROW: usize = 1000;
    const BYTES: u64 = 16 << 20;
    let mut conn = sqlite::open(path);
    sqlite::run(
        &conn,
        &format!(
            "PRAGMA journal_mode={journal}; PRAGMA synchronous=NORMAL;
             CREATE TABLE t(id INTEGER PRIMARY KEY, body BLOB)"
        ),
    );
    let bytes = Random::new(3).bytes(1 << 20);
    let per_second = rate(transactions, |_| {
        let tx = conn.transaction().unwrap();
        let mut insert = tx.prepare_cached("INSERT INTO t(body) VALUES (?)").unwrap();
        for row in 0..BYTES / ROW as u64 {
            let at = row as usize * 61 % (bytes.len() - ROW);
            insert.execute([&bytes[at..at + ROW]]).unwrap();
        }
        drop(insert);
        tx.commit().unwrap();
    });
    per_second * BYTES as f64
}

fn writer_among_readers(plan: &Plan, report: &mut Report) {
    let (writer, readers) = ("writer among four readers, WAL", "four readers beside a writer, WAL");
    if !plan.wants(writer) && !plan.wants(readers) {
        return;
    }
    let sites = Sites::new();
    sites.make("db", |conn| {
        sqlite::run(conn, "PRAGMA journal_mode=WAL");
        fill(conn, (16 << 20) / plan.shrink);
    });
    let mut read_rates = [Vec::new(), Vec::new()];
    let raw_path = sites.paths("db")[0].clone();
    let [raw, mount] = sites.compare(plan.rounds, "db", |path| {
        let (written, read) = contend(path);
        read_rates[usize::from(path != raw_path)].push(read);
        written
    });
    report.ratio(writer, "tx/s", "0.10, aim 0.25", &raw, &mount);
    report.ratio(readers, "/s", "0.90", &read_rates[0], &read_rates[1]);
}

/// Rates of the writer and of all readers together, each a process, for a second.
fn contend(path: &Path) -> (f64, f64) {
    let limit = Duration::from_secs(30);
    let start = |role: &str, seconds: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_litefs-workload"));
        let process = Process::start(command.arg(role).arg(path).arg(seconds));
        process.line("ready", limit);
        process
    };
    // The readers are there before and after the writer.
    let readers: Vec<_> = (0..4).map(|_| start("--read", "1.5")).collect();
    let writer = start("--write", "1");
    let rate = |process: &Process| {
        process.wait(limit);
        let lines = process.lines();
        lines.last().and_then(|line| line.text.parse::<f64>().ok()).expect("the rate comes last")
    };
    (rate(&writer), readers.iter().map(rate).sum())
}
