//! A replica that comes late: it has the database's beginning, or nothing.
//!
//! Taken from the start of its process to the line that says it is ready, so a start is part of each figure.

use std::time::Duration;

use litefs_tests::bench::{Plan, fill, median, memory};
use litefs_tests::random::Random;
use litefs_tests::sqlite;
use rusqlite::Connection;

use crate::Report;
use crate::pair::Pair;

pub(crate) fn run(plan: &Plan, report: &mut Report) {
    let name = "catch-up of 20,000 one-row transactions";
    if plan.wants(name) {
        let count = 20_000 / plan.shrink;
        let took = late(plan, |conn| {
            let body = Random::new(1).bytes(100);
            let mut insert = conn.prepare("INSERT INTO t(body) VALUES (?)").unwrap();
            for _ in 0..count {
                insert.execute([&body]).unwrap();
            }
        });
        let figure = format!("{:.0} /s", count as f64 / took);
        report.line([name.into(), figure, "≥ 20,000/s".into(), format!("{took:.2} s")]);
    }
    let name = "catch-up of 256 MiB in 16 MiB transactions";
    if plan.wants(name) {
        let count = (16 / plan.shrink).max(1);
        let took = late(plan, |conn| {
            for _ in 0..count {
                sqlite::run(
                    conn,
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 16384)
                     INSERT INTO t(body) SELECT randomblob(1000) FROM n",
                );
            }
        });
        let figure = format!("{:.0} MB/s", (count << 24) as f64 / took / 1e6);
        report.line([name.into(), figure, "≥ 200 MB/s".into(), format!("{took:.2} s")]);
    }
    first_sync(plan, report);
}

/// Seconds that a replica with the beginning needs for what `write` writes.
fn late(plan: &Plan, write: impl Fn(&Connection)) -> f64 {
    let took: Vec<f64> = (0..plan.rounds.min(3))
        .map(|_| {
            let mut pair = Pair::started();
            let conn = sqlite::open(&pair.primary.path("db"));
            sqlite::run(&conn, "PRAGMA journal_mode=WAL");
            // Were the database small, a snapshot would serve better than its transactions.
            fill(&conn, 64 << 20);
            pair.follow("db");
            assert_eq!(pair.replica.stop(), Some(0));
            write(&conn);
            drop(conn);
            nix::unistd::sync();
            let before = snapshots(&pair);
            let took = timed(&mut pair).as_secs_f64();
            assert_eq!(snapshots(&pair), before, "these weren't transactions");
            took
        })
        .collect();
    median(&took)
}

fn first_sync(plan: &Plan, report: &mut Report) {
    let name = "first sync of a 1 GiB database";
    if !plan.wants(name) {
        return;
    }
    let mut pair = Pair::new();
    let bytes = (1_u64 << 30) / plan.shrink;
    let conn = sqlite::open(&pair.primary.path("db"));
    sqlite::run(&conn, "PRAGMA journal_mode=WAL");
    fill(&conn, bytes);
    drop(conn);
    // Its memory shall be that of the sync only.
    assert_eq!(pair.primary.stop(), Some(0));
    pair.primary.up();
    nix::unistd::sync();
    let took = timed(&mut pair).as_secs_f64();
    let figure = format!("{:.0} MB/s", bytes as f64 / took / 1e6);
    report.line([name.into(), figure, "≥ 200 MB/s".into(), format!("{took:.2} s")]);
    for (who, node) in [("primary", &pair.primary), ("replica", &pair.replica)] {
        let figure = format!("{:.1} MiB", memory(node, "VmHWM"));
        report.line([format!("{name}, {who}"), figure, "≤ 48 MiB".into(), "VmHWM".into()]);
    }
}

/// How many the primary has sent.
fn snapshots(pair: &Pair) -> usize {
    pair.primary.process().output().matches("writing snapshot").count()
}

fn timed(pair: &mut Pair) -> Duration {
    let took = pair.start_replica();
    assert_eq!(pair.replica.pos("db"), pair.primary.pos("db"), "ready, but not there");
    took
}
