//! Every way in which SQLite writes: journal modes, synchronous levels, locking modes, page sizes, and the
//! switches between them. Each commit is checked by the node (`strict-verify`) and in the end by the oracle.

use litefs_tests::node::Node;
use litefs_tests::sqlite;
use litefs_tests::workload::{self, Mode, Workload};

const JOURNALS: [&str; 6] = ["DELETE", "TRUNCATE", "PERSIST", "WAL", "MEMORY", "OFF"];
const LEVELS: [&str; 4] = ["OFF", "NORMAL", "FULL", "EXTRA"];

/// Random transactions in each mode.
fn write(node: &Node, name: &str, mode: Mode, steps: u64) {
    let path = node.path(name);
    let mut workload = Workload::open(&path, mode, steps).unwrap();
    let mut last = 0;
    for _ in 0..steps {
        last = workload.step().unwrap();
    }
    assert_eq!(workload::check(workload.connection()), Ok(last), "{mode:?}");
    drop(workload);
    assert_eq!(workload::check(&sqlite::open(&path)), Ok(last), "{mode:?} after close");
}

#[test]
fn each_journal_mode_with_each_synchronous_level() {
    let node = Node::start();
    for journal in JOURNALS {
        for synchronous in LEVELS {
            let name = format!("{journal}-{synchronous}.db");
            write(&node, &name, Mode::new(journal, synchronous), 25);
            node.check(&name);
        }
    }
}

#[test]
fn exclusive_locking_in_each_journal_mode() {
    let node = Node::start();
    for journal in JOURNALS {
        let name = format!("{journal}.db");
        write(&node, &name, Mode::new(journal, "NORMAL").exclusive(), 40);
        node.check(&name);
    }
}

#[test]
fn exclusive_locking_taken_and_given_back_on_a_live_wal() {
    let node = Node::start();
    let conn = sqlite::open(&node.path("db"));
    sqlite::run(&conn, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    sqlite::run(&conn, "PRAGMA locking_mode=EXCLUSIVE; INSERT INTO t VALUES (2)");
    sqlite::run(&conn, "PRAGMA locking_mode=NORMAL; INSERT INTO t VALUES (3)");
    let other = sqlite::open(&node.path("db"));
    sqlite::run(&other, "INSERT INTO t VALUES (4)");
    assert_eq!(sqlite::number(&conn, "SELECT sum(x) FROM t"), 10);
    drop((conn, other));
    node.check("db");
}

#[test]
fn each_page_size_in_rollback_and_wal_mode() {
    let node = Node::start();
    for page_size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        for journal in ["DELETE", "WAL"] {
            let name = format!("{page_size}-{journal}.db");
            let conn = sqlite::open(&node.path(&name));
            sqlite::run(&conn, &format!("PRAGMA page_size={page_size}"));
            // Makes the page size lasting before the workload opens it with its own pragmas.
            sqlite::run(&conn, "CREATE TABLE size(x)");
            drop(conn);
            write(&node, &name, Mode::new(journal, "NORMAL"), 20);
            let conn = sqlite::open(&node.path(&name));
            assert_eq!(sqlite::number(&conn, "PRAGMA page_size"), page_size);
            drop(conn);
            node.check(&name);
        }
    }
}

#[test]
fn every_switch_of_the_journal_mode() {
    let node = Node::start();
    let mut want = 0;
    for from in JOURNALS {
        for to in JOURNALS {
            let conn = sqlite::open(&node.path("db"));
            for mode in [from, to] {
                sqlite::run(&conn, &format!("PRAGMA journal_mode={mode}"));
                assert_eq!(sqlite::text(&conn, "PRAGMA journal_mode"), mode.to_lowercase());
                sqlite::run(
                    &conn,
                    "CREATE TABLE IF NOT EXISTS t(x, y); INSERT INTO t VALUES (1, zeroblob(5000))",
                );
                want += 1;
                assert_eq!(sqlite::number(&conn, "SELECT sum(x) FROM t"), want, "{from} to {to}");
            }
            drop(conn);
            node.check("db");
        }
    }
}

#[test]
fn each_transaction_raises_the_txid_by_one() {
    let node = Node::start();
    for (journal, first) in [("DELETE", 1), ("TRUNCATE", 1), ("PERSIST", 1), ("WAL", 2)] {
        let conn = sqlite::open(&node.path(journal));
        sqlite::run(&conn, &format!("PRAGMA journal_mode={journal}; CREATE TABLE t(x)"));
        assert_eq!(node.pos(journal).txid, first, "{journal}: the switch to WAL counts as one");
        for i in 1..=20 {
            sqlite::run(&conn, "INSERT INTO t VALUES (1)");
            assert_eq!(node.pos(journal).txid, first + i, "{journal}");
        }
        let before = node.pos(journal);
        sqlite::run(&conn, "BEGIN; INSERT INTO t VALUES (2); ROLLBACK");
        sqlite::run(&conn, "BEGIN IMMEDIATE; COMMIT");
        sqlite::run(&conn, "SELECT count(*) FROM t");
        assert_eq!(node.pos(journal), before, "{journal}: nothing was written");
        drop(conn);
        node.check(journal);
    }
}

/// The shell of the distribution is another SQLite than the one in this process.
#[test]
fn the_sqlite3_shell_writes_too() {
    let node = Node::start();
    for journal in JOURNALS {
        let path = node.path(journal);
        let pragma = format!("PRAGMA journal_mode={journal}");
        let create = "CREATE TABLE t(x); INSERT INTO t VALUES (1), (2)";
        sqlite::shell(&path, &[&pragma, create]).unwrap();
        sqlite::shell(&path, &[&pragma, "INSERT INTO t SELECT x + 10 FROM t"]).unwrap();
        assert_eq!(sqlite::shell(&path, &["SELECT sum(x) FROM t"]).unwrap(), "26\n");
        node.check(journal);
    }
}

#[test]
fn auto_vacuum_and_incremental_vacuum() {
    let node = Node::start();
    for journal in ["DELETE", "WAL"] {
        for vacuum in ["FULL", "INCREMENTAL"] {
            let name = format!("{journal}-{vacuum}");
            let conn = sqlite::open(&node.path(&name));
            sqlite::run(
                &conn,
                &format!("PRAGMA auto_vacuum={vacuum}; PRAGMA journal_mode={journal}"),
            );
            sqlite::run(&conn, "CREATE TABLE t(x INTEGER PRIMARY KEY, y)");
            for _ in 0..10 {
                sqlite::run(&conn, "INSERT INTO t(y) VALUES (zeroblob(100000))");
            }
            let before = sqlite::number(&conn, "PRAGMA page_count");
            sqlite::run(&conn, "DELETE FROM t WHERE x % 2 = 0; PRAGMA incremental_vacuum");
            assert!(sqlite::number(&conn, "PRAGMA page_count") < before, "{name}");
            drop(conn);
            node.check(&name);
        }
    }
}
