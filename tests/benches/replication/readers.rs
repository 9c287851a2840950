//! Readers on the replica: while transactions are applied at full speed, and one that holds on to its snapshot.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use litefs_tests::bench::Plan;
use litefs_tests::process::Process;
use litefs_tests::sqlite;

use crate::Report;
use crate::pair::{LIMIT, Pair, workload};

pub(crate) fn run(plan: &Plan, report: &mut Report) {
    for journal in ["WAL", "DELETE"] {
        while_applying(plan, report, journal);
    }
    one_that_stays(plan, report);
}

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x INTEGER, body BLOB);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
    INSERT INTO t SELECT i, 0, randomblob(100) FROM n";

fn while_applying(plan: &Plan, report: &mut Report, journal: &str) {
    let name = format!("reads while applying, {journal}");
    if !plan.wants(&name) {
        return;
    }
    let pair = Pair::started();
    let conn = sqlite::open(&pair.primary.path("db"));
    // A primary that doesn't wait for its disk writes most.
    sqlite::run(&conn, &format!("PRAGMA journal_mode={journal}; PRAGMA synchronous=OFF; {TABLE}"));
    pair.follow("db");
    let path = pair.replica.path("db");
    let seconds = if plan.is_quick() { 5 } else { 30 };
    let read = |seconds: u64| workload(["--check", &path.to_string_lossy(), &seconds.to_string()]);

    let idle = Reads::of(&read(3));
    let reader = read(seconds);
    let (start, mut x) = (Instant::now(), 0);
    let mut update = conn.prepare("UPDATE t SET x = ?").unwrap();
    while reader.is_running() {
        x += 1;
        update.execute([x]).unwrap();
    }
    let per_second = f64::from(x) / start.elapsed().as_secs_f64();
    let reads = Reads::of(&reader);
    pair.follow("db");
    let note = format!("{} reads in {seconds} s; {per_second:.0} transactions/s", reads.count);
    let figure = format!("{} / {}", reads.errors, reads.wrong);
    report.line([format!("{name}, errors / wrong"), figure, "0 / 0".into(), note]);
    if journal == "WAL" {
        let figure = format!("× {:.2}", reads.p99 / idle.p99);
        let note = format!("{:.0} µs and {:.0} µs; p50 {:.0} µs", reads.p99, idle.p99, reads.p50);
        report.line([format!("{name}, p99 / idle"), figure, "≤ 2".into(), note]);
        let figure = format!("{:.1} ms", reads.max / 1e3);
        let note = format!("idle {:.1} ms", idle.max / 1e3);
        report.line([format!("{name}, max"), figure, "≤ 20 ms".into(), note]);
    } else {
        let figure = format!("{:.1} ms", reads.max / 1e3);
        let note =
            format!("p99 {:.1} ms; readers and transactions exclude each other", reads.p99 / 1e3);
        report.line([format!("{name}, max"), figure, "–".into(), note]);
    }
}

/// What a reader has to report; times in µs.
struct Reads {
    count: u64,
    errors: u64,
    wrong: u64,
    p50: f64,
    p99: f64,
    max: f64,
}

impl Reads {
    fn of(process: &Process) -> Reads {
        process.wait(LIMIT);
        let lines = process.lines();
        let figures = lines.iter().rev().find_map(|line| {
            line.text.split(' ').map(str::parse).collect::<Result<Vec<f64>, _>>().ok()
        });
        let Some([count, errors, wrong, p50, p99, max]) = figures.as_deref() else {
            panic!("{}", process.output());
        };
        let [count, errors, wrong] = [count, errors, wrong].map(|n| *n as u64);
        Reads { count, errors, wrong, p50: *p50, p99: *p99, max: *max }
    }
}

fn one_that_stays(plan: &Plan, report: &mut Report) {
    let name = "a reader that holds its snapshot";
    if !plan.wants(name) {
        return;
    }
    let pair = Pair::started();
    let conn = sqlite::open(&pair.primary.path("db"));
    sqlite::run(&conn, &format!("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {TABLE}"));
    pair.follow("db");
    let reader = sqlite::open(&pair.replica.path("db"));
    let seen = || sqlite::number(&reader, "SELECT min(x) + max(x) FROM t");
    sqlite::run(&reader, "BEGIN");
    assert_eq!(seen(), 0);
    let held = Duration::from_secs(if plan.is_quick() { 5 } else { 30 });
    let (start, mut x, mut lag) = (Instant::now(), 0, Duration::ZERO);
    let (mut stayed, mut advances) = (true, true);
    while start.elapsed() < held {
        for _ in 0..500 {
            x += 1;
            conn.execute("UPDATE t SET x = ?", [x]).unwrap();
        }
        let since = Instant::now();
        advances = pair.follows_within("db", Duration::from_secs(10));
        lag = lag.max(since.elapsed());
        stayed &= seen() == 0;
        if !advances {
            break;
        }
        sleep(Duration::from_millis(100));
    }
    let wal = fs::metadata(pair.replica.path("db-wal")).unwrap().len() >> 20;
    sqlite::run(&reader, "COMMIT");
    let moved = seen() == 2 * x;
    let figure = format!("advances: {advances}, stays: {stayed}, then moves: {moved}");
    let note = format!(
        "{:.0} s, {x} transactions; at most {:.0} ms behind after 500; the replica's WAL has {wal} MiB",
        start.elapsed().as_secs_f64(),
        lag.as_secs_f64() * 1e3
    );
    report.line([name.into(), figure, "all true".into(), note]);
}
