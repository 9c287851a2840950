//! What LiteFS costs besides speed: the time of a start, memory, and disk for the log.

use std::fs;
use std::path::Path;
use std::time::Instant;

use litefs_tests::bench::{Plan, fill, median, memory};
use litefs_tests::node::Node;
use litefs_tests::sqlite;

use crate::report::Report;
use crate::site::node;

pub(crate) fn run(plan: &Plan, report: &mut Report) {
    start(plan, report);
    footprint(plan, report);
    log_size(plan, report);
}

/// From the command to the line that says it is up, after a clean stop.
fn start(plan: &Plan, report: &mut Report) {
    for (name, bytes) in [("start, 10 MiB database", 10 << 20), ("start, 1 GiB database", 1 << 30)]
    {
        if plan.wants(name) {
            let mut node = node();
            blob_database(&node, bytes / plan.shrink);
            let seconds: Vec<_> = (0..plan.rounds)
                .map(|_| {
                    assert_eq!(node.stop(), Some(0));
                    let start = Instant::now();
                    node.up();
                    start.elapsed().as_secs_f64()
                })
                .collect();
            report.figure(
                name,
                &format!("{:.3} s", median(&seconds)),
                "0.1 s",
                "after a clean stop",
            );
        }
    }
}

fn blob_database(node: &Node, bytes: u64) {
    let conn = sqlite::open(&node.path("db"));
    sqlite::run(&conn, "PRAGMA synchronous=OFF; CREATE TABLE t(body BLOB)");
    let blob = (64 << 20).min(bytes);
    for _ in 0..bytes / blob {
        sqlite::run(&conn, &format!("INSERT INTO t VALUES (zeroblob({blob}))"));
    }
}

fn footprint(plan: &Plan, report: &mut Report) {
    let name = "memory, 1 GiB database written and scanned";
    if !plan.wants(name) {
        return;
    }
    let node = node();
    let conn = sqlite::open(&node.path("db"));
    sqlite::run(&conn, "PRAGMA journal_mode=WAL");
    fill(&conn, (1 << 30) / plan.shrink);
    sqlite::run(&conn, "SELECT sum(length(body)) FROM t");
    let (peak, now) = (memory(&node, "VmHWM"), memory(&node, "VmRSS"));
    report.figure(name, &format!("{peak:.1} MiB"), "32 MiB", &format!("VmHWM; {now:.1} MiB now"));
}

/// The log of many small transactions: LTX bytes as the log itself counts them, and what the disk holds.
fn log_size(plan: &Plan, report: &mut Report) {
    let name = "log of 20,000 one-row transactions";
    if !plan.wants(name) {
        return;
    }
    let mut node = node();
    let conn = sqlite::open(&node.path("db"));
    sqlite::run(&conn, "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; CREATE TABLE t(body)");
    let body = litefs_tests::random::Random::new(2).bytes(100);
    for _ in 0..20_000 / plan.shrink {
        conn.execute("INSERT INTO t VALUES (?)", [&body]).unwrap();
    }
    drop(conn);
    assert_eq!(node.stop(), Some(0));
    let log = node.backing("db").join("log");
    let (files, bytes) = size(&log);
    let ltx = sum_of_ltx(&log);
    let ratio = bytes as f64 / ltx as f64;
    report.figure(
        name,
        &format!("× {ratio:.3}"),
        "1.2 of LTX bytes",
        &format!("{bytes} of {ltx} bytes"),
    );
    report.figure(&format!("{name}, files"), &files.to_string(), "20", "");
}

/// Files of a directory, and the bytes they take on disk.
fn size(dir: &Path) -> (usize, u64) {
    use std::os::unix::fs::MetadataExt;
    let files: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap()).collect();
    (files.len(), files.iter().map(|m| m.blocks() * 512).sum())
}

/// By walking the segments: each record is a header of 32 bytes, with the length of its LTX blob at 8.
fn sum_of_ltx(log: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(log).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "seg") {
            let bytes = fs::read(&path).unwrap();
            let mut at = 0;
            while bytes[at..].starts_with(b"LFSR") {
                let len = u64::from_be_bytes(bytes[at + 8..at + 16].try_into().unwrap());
                sum += len;
                at += 32 + usize::try_from(len).unwrap();
            }
        }
    }
    sum
}
