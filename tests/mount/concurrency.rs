//! Several connections, threads and processes on one database.

use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use litefs_tests::node::{LIMIT, Node, NodeOptions};
use litefs_tests::process::Process;
use litefs_tests::sqlite;
use litefs_tests::workload;
use rusqlite::TransactionBehavior;

fn node() -> Node {
    Node::start_with(NodeOptions { strict_verify: false, ..NodeOptions::default() })
}

fn writer(node: &Node, name: &str, journal: &str, seed: u64) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_litefs-workload"));
    Process::start(command.arg(node.path(name)).args([journal, "NORMAL", &seed.to_string()]))
}

#[test]
fn a_reader_keeps_its_snapshot_across_commits_and_checkpoints() {
    let node = Node::start();
    let writer = sqlite::open(&node.path("db"));
    sqlite::run(&writer, "PRAGMA journal_mode=WAL; CREATE TABLE t(x, y)");
    sqlite::run(&writer, "INSERT INTO t VALUES (1, zeroblob(50000))");
    let reader = sqlite::open(&node.path("db"));
    sqlite::run(&reader, "PRAGMA cache_size=1; BEGIN");
    assert_eq!(sqlite::number(&reader, "SELECT sum(length(y)) FROM t"), 50000);
    writer.busy_timeout(Duration::ZERO).unwrap();
    for how in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
        for _ in 0..5 {
            sqlite::run(&writer, "INSERT INTO t VALUES (1, zeroblob(50000))");
            sqlite::run(&writer, "UPDATE t SET y = zeroblob(40000) WHERE rowid = 1");
        }
        // Stops before what the reader still needs.
        sqlite::run(&writer, &format!("PRAGMA wal_checkpoint({how})"));
        assert_eq!(sqlite::number(&reader, "SELECT sum(length(y)) FROM t"), 50000, "{how}");
    }
    sqlite::run(&reader, "COMMIT");
    assert_eq!(sqlite::number(&reader, "SELECT count(*) FROM t"), 21);
    sqlite::run(&writer, "PRAGMA wal_checkpoint(TRUNCATE)");
    drop((reader, writer));
    node.check("db");
}

#[test]
fn a_reader_in_rollback_mode_makes_the_writer_wait() {
    let node = Node::start();
    let reader = sqlite::open(&node.path("db"));
    sqlite::run(&reader, "CREATE TABLE t(x); INSERT INTO t VALUES (1); BEGIN; SELECT * FROM t");
    let writer = sqlite::open(&node.path("db"));
    writer.busy_timeout(Duration::ZERO).unwrap();
    let busy = sqlite::try_run(&writer, "INSERT INTO t VALUES (2)").unwrap_err();
    assert_eq!(busy.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy), "{busy}");
    writer.busy_timeout(LIMIT).unwrap();
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            let writer = writer;
            barrier.wait();
            sqlite::run(&writer, "INSERT INTO t VALUES (2)");
        });
        barrier.wait();
        sqlite::run(&reader, "COMMIT");
    });
    assert_eq!(sqlite::number(&reader, "SELECT sum(x) FROM t"), 3);
    drop(reader);
    node.check("db");
}

#[test]
fn four_threads_write_and_four_read() {
    for journal in ["WAL", "DELETE"] {
        let node = node();
        let path = node.path("db");
        sqlite::run(
            &sqlite::open(&path),
            &format!(
                "PRAGMA journal_mode={journal}; CREATE TABLE t(thread, n); CREATE INDEX i ON t(n)"
            ),
        );
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let conn = sqlite::open(&path);
                    let mut last = 0;
                    while !done.load(Ordering::Relaxed) {
                        // Each transaction adds two rows, and none is ever taken away.
                        let count = sqlite::number(&conn, "SELECT count(*) FROM t");
                        assert!(count >= last && count % 2 == 0, "{count} after {last}");
                        last = count;
                    }
                });
            }
            let writers: Vec<_> = (0..4)
                .map(|thread| {
                    let path = &path;
                    scope.spawn(move || {
                        let mut conn = sqlite::open(path);
                        conn.busy_timeout(Duration::from_secs(60)).unwrap();
                        sqlite::run(&conn, "PRAGMA synchronous=NORMAL");
                        for n in 0..60 {
                            let tx = conn
                                .transaction_with_behavior(TransactionBehavior::Immediate)
                                .unwrap();
                            for _ in 0..2 {
                                tx.execute("INSERT INTO t VALUES (?, ?)", [thread, n]).unwrap();
                            }
                            tx.commit().unwrap();
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.join().unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(sqlite::number(&sqlite::open(&path), "SELECT count(*) FROM t"), 480);
        let first = if journal == "WAL" { 2 } else { 1 };
        assert_eq!(node.pos("db").txid, first + 1 + 240, "one for the table, one for the index");
        node.check("db");
    }
}

#[test]
fn three_processes_write_one_database() {
    for journal in ["WAL", "TRUNCATE"] {
        let node = node();
        // The first one creates the schema before the others come.
        let first = writer(&node, "db", journal, 1);
        first.lines_at_least(1, LIMIT);
        let others = [writer(&node, "db", journal, 2), writer(&node, "db", journal, 3)];
        let mut acknowledged = 0;
        for process in [&first].into_iter().chain(&others) {
            process.lines_at_least(50, Duration::from_secs(60));
        }
        for process in [&first].into_iter().chain(&others) {
            process.signal(nix::sys::signal::Signal::SIGKILL);
            process.wait(LIMIT);
            acknowledged +=
                process.lines().iter().filter(|l| l.text.parse::<i64>().is_ok()).count();
        }
        let last = workload::check(&sqlite::open(&node.path("db"))).unwrap();
        let in_flight = 3;
        assert!((0..=in_flight).contains(&(last - acknowledged as i64)), "{last}, {acknowledged}");
        node.check("db");
    }
}

#[test]
fn writers_of_different_databases_dont_disturb_each_other() {
    let node = node();
    let names = ["a", "b", "c", "d"];
    let journals = ["WAL", "DELETE", "PERSIST", "TRUNCATE"];
    let writers: Vec<_> =
        names.iter().zip(journals).map(|(name, journal)| writer(&node, name, journal, 9)).collect();
    for process in &writers {
        process.lines_at_least(100, Duration::from_secs(60));
        process.signal(nix::sys::signal::Signal::SIGKILL);
        process.wait(LIMIT);
    }
    for name in names {
        assert!(workload::check(&sqlite::open(&node.path(name))).unwrap() >= 100);
        node.check(name);
    }
}

#[test]
fn a_position_read_through_a_kept_handle_follows() {
    use std::os::unix::fs::FileExt;
    let node = Node::start();
    let conn = sqlite::open(&node.path("db"));
    sqlite::run(&conn, "PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    let kept = std::fs::File::open(node.path("db-pos")).unwrap();
    for _ in 0..20 {
        sqlite::run(&conn, "INSERT INTO t VALUES (1)");
        let mut text = [0; 34];
        kept.read_exact_at(&mut text, 0).unwrap();
        let want = node.pos("db");
        assert_eq!(
            text.as_slice(),
            format!("{:016x}/{:016x}\n", want.txid, want.checksum).as_bytes()
        );
    }
}
