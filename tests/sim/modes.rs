//! Whatever SQLite is told to do, the log replays to exactly what SQLite sees.

use litefs_tests::sim::Node;
use rusqlite::Connection;

const MODES: [&str; 6] = ["DELETE", "TRUNCATE", "PERSIST", "WAL", "MEMORY", "OFF"];
const SYNCS: [&str; 4] = ["OFF", "NORMAL", "FULL", "EXTRA"];

fn set_mode(conn: &Connection, mode: &str) {
    let got: String =
        conn.query_row(&format!("PRAGMA journal_mode={mode}"), [], |row| row.get(0)).unwrap();
    assert_eq!(got, mode.to_lowercase());
}

fn run(conn: &Connection, sql: &str) {
    conn.execute_batch(sql).unwrap_or_else(|err| panic!("{sql}: {err}"));
}

fn fill(conn: &Connection, rows: u32) {
    run(
        conn,
        &format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows})
             INSERT INTO t(v) SELECT hex(i * 7919) || zeroblob(60) FROM n"
        ),
    );
}

/// Statements that stress capture; each is one step.
const STEPS: [&str; 12] = [
    "INSERT INTO t(v) VALUES ('a')",
    "BEGIN; INSERT INTO t(v) VALUES ('b'); UPDATE t SET v='c' WHERE id=1; COMMIT",
    "BEGIN; INSERT INTO t(v) SELECT v || id FROM t; SAVEPOINT s; DELETE FROM t WHERE id%3=0; ROLLBACK TO s; RELEASE s; COMMIT",
    "BEGIN; SAVEPOINT s; UPDATE t SET v='lost'; ROLLBACK TO s; COMMIT",
    "CREATE INDEX i ON t(v)",
    "UPDATE t SET v = v || 'x' WHERE id % 2",
    "DELETE FROM t WHERE id > 40",
    "VACUUM",
    "DROP INDEX i",
    "CREATE TABLE u AS SELECT * FROM t",
    "DROP TABLE u",
    "REINDEX",
];

/// Without fsync there is no sign that a journal-less transaction is over, but the closing of the file.
fn captured_at_commit(mode: &str, sync: &str) -> bool {
    !(matches!(mode, "MEMORY" | "OFF") && sync == "OFF")
}

#[test]
fn every_mode_and_durability_replays_to_what_sqlite_sees() {
    for mode in MODES {
        for sync in SYNCS {
            for locking in ["NORMAL", "EXCLUSIVE"] {
                println!("{mode} {sync} {locking}");
                let node = Node::new();
                let app = node.app();
                let mut conn = app.connect("db");
                run(&conn, &format!("PRAGMA synchronous={sync}"));
                if locking == "EXCLUSIVE" {
                    run(&conn, "PRAGMA locking_mode=EXCLUSIVE");
                }
                set_mode(&conn, mode);
                run(&conn, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
                fill(&conn, 30);
                for step in STEPS {
                    println!("  {step}");
                    run(&conn, step);
                    if captured_at_commit(mode, sync) {
                        node.check("db", &mut conn);
                    }
                }
                drop(conn);
                node.check_fresh("db");
            }
        }
    }
}

#[test]
fn every_switch_of_the_journal_mode_is_captured() {
    let node = Node::new();
    let app = node.app();
    let mut conn = app.connect("db");
    run(&conn, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    for from in MODES {
        for to in MODES {
            println!("{from} to {to}");
            set_mode(&conn, from);
            fill(&conn, 3);
            node.check("db", &mut conn);
            set_mode(&conn, to);
            node.check("db", &mut conn);
            fill(&conn, 3);
            node.check("db", &mut conn);
            node.check_fresh("db");
        }
    }
}

#[test]
fn every_page_size_is_captured() {
    for page_size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        for mode in ["DELETE", "WAL"] {
            let node = Node::new();
            let app = node.app();
            let mut conn = app.connect("db");
            run(&conn, &format!("PRAGMA page_size={page_size}"));
            set_mode(&conn, mode);
            run(&conn, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
            fill(&conn, 200);
            for step in STEPS {
                run(&conn, step);
                node.check("db", &mut conn);
            }
            run(&conn, "PRAGMA wal_checkpoint(TRUNCATE)");
            node.check("db", &mut conn);
        }
    }
}

#[test]
fn auto_vacuum_shrinks_the_database() {
    for mode in MODES {
        for auto_vacuum in ["FULL", "INCREMENTAL"] {
            println!("{mode} {auto_vacuum}");
            let node = Node::new();
            let app = node.app();
            let mut conn = app.connect("db");
            run(&conn, &format!("PRAGMA auto_vacuum={auto_vacuum}"));
            set_mode(&conn, mode);
            run(&conn, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
            fill(&conn, 500);
            node.check("db", &mut conn);
            let before = node.db("db").page_count();
            run(&conn, "DELETE FROM t WHERE id > 20");
            node.check("db", &mut conn);
            run(&conn, "PRAGMA incremental_vacuum(3)");
            run(&conn, "PRAGMA incremental_vacuum");
            node.check("db", &mut conn);
            assert!(node.db("db").page_count() < before);
            fill(&conn, 100);
            node.check("db", &mut conn);
            run(&conn, "PRAGMA wal_checkpoint(TRUNCATE)");
            node.check_fresh("db");
        }
    }
}

#[test]
fn vacuum_changes_the_page_size() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"] {
        let node = Node::new();
        let app = node.app();
        let mut conn = app.connect("db");
        set_mode(&conn, mode);
        run(&conn, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
        fill(&conn, 300);
        for page_size in [1024, 65536, 512, 4096] {
            println!("{mode} {page_size}");
            run(&conn, &format!("PRAGMA page_size={page_size}; VACUUM"));
            node.check("db", &mut conn);
            node.check_fresh("db");
            fill(&conn, 5);
            node.check("db", &mut conn);
        }
    }
}

#[test]
fn transactions_that_spill_commit_and_roll_back() {
    for mode in MODES {
        for page_size in [512, 4096] {
            println!("{mode} {page_size}");
            let node = Node::new();
            let app = node.app();
            let mut conn = app.connect("db");
            run(&conn, &format!("PRAGMA page_size={page_size}; PRAGMA cache_size=2"));
            set_mode(&conn, mode);
            run(&conn, "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE INDEX i ON t(v)");
            fill(&conn, 400);
            node.check("db", &mut conn);
            run(
                &conn,
                "BEGIN; UPDATE t SET v = v || 'y'; UPDATE t SET v = v || 'z' WHERE id%2; COMMIT",
            );
            node.check("db", &mut conn);
            if mode == "OFF" {
                continue;
            }
            let before = node.txid("db");
            run(&conn, "BEGIN; UPDATE t SET v = v || 'lost'; DELETE FROM t WHERE id%5=0; ROLLBACK");
            node.check("db", &mut conn);
            assert_eq!(
                node.txid("db"),
                before,
                "{mode}: a rolled back transaction changes nothing"
            );
            run(
                &conn,
                "BEGIN; SAVEPOINT s; UPDATE t SET v = v || 'lost'; ROLLBACK TO s; DELETE FROM t WHERE id=1; COMMIT",
            );
            node.check("db", &mut conn);
        }
    }
}

#[test]
fn a_transaction_that_changes_nothing_has_no_txid() {
    for mode in MODES {
        let node = Node::new();
        let app = node.app();
        let mut conn = app.connect("db");
        set_mode(&conn, mode);
        run(&conn, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
        fill(&conn, 5);
        let before = node.txid("db");
        for sql in [
            "SELECT * FROM t",
            "BEGIN IMMEDIATE; COMMIT",
            "BEGIN EXCLUSIVE; ROLLBACK",
            "UPDATE t SET v=1 WHERE id=-1",
            "DELETE FROM t WHERE id=-1",
            "PRAGMA wal_checkpoint(PASSIVE)",
        ] {
            run(&conn, &format!("{sql};"));
            assert_eq!(node.txid("db"), before, "{mode}: {sql}");
        }
        run(&conn, "UPDATE t SET v='changed' WHERE id=1");
        assert_eq!(node.txid("db"), before + 1, "{mode}");
        node.check("db", &mut conn);
    }
}

#[test]
fn attached_databases_commit_together() {
    for (first, second) in
        [("DELETE", "DELETE"), ("TRUNCATE", "PERSIST"), ("WAL", "WAL"), ("WAL", "DELETE")]
    {
        println!("{first} {second}");
        let node = Node::new();
        let app = node.app();
        let mut a = app.connect("a");
        let mut b = app.connect("b");
        for (conn, mode) in [(&a, first), (&b, second)] {
            set_mode(conn, mode);
            run(conn, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
        }
        run(&a, &format!("ATTACH '/mnt/b' AS b; PRAGMA b.journal_mode={second}"));
        for round in 0..3 {
            run(
                &a,
                &format!(
                    "BEGIN; INSERT INTO main.t(v) VALUES ({round}); INSERT INTO b.t(v) VALUES ({round}); COMMIT"
                ),
            );
            node.check("a", &mut a);
            node.check("b", &mut b);
            run(&a, "BEGIN; DELETE FROM main.t; DELETE FROM b.t; ROLLBACK");
            node.check("a", &mut a);
            node.check("b", &mut b);
        }
        assert_eq!((node.txid("a") > 3, node.txid("b") > 3), (true, true));
    }
}

#[test]
fn readers_stay_open_across_commits_and_checkpoints() {
    let node = Node::new();
    let (writer_app, reader_app) = (node.app(), node.app());
    let mut writer = writer_app.connect("db");
    set_mode(&writer, "WAL");
    run(&writer, "CREATE TABLE t(id INTEGER PRIMARY KEY, v); PRAGMA wal_autocheckpoint=0");
    fill(&writer, 50);
    let reader = reader_app.connect("db");
    let count = |conn: &Connection| -> i64 {
        conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    };
    for round in 0..6 {
        run(&reader, "BEGIN");
        let before = count(&reader);
        fill(&writer, 20);
        run(&writer, "UPDATE t SET v = v || 'r' WHERE id % 7 = 0");
        let checkpoint = ["PASSIVE", "FULL", "RESTART"][round % 3];
        let _busy: i64 = writer
            .query_row(&format!("PRAGMA wal_checkpoint({checkpoint})"), [], |row| row.get(0))
            .unwrap();
        fill(&writer, 3);
        assert_eq!(count(&reader), before, "a snapshot holds");
        node.check("db", &mut writer);
        run(&reader, "COMMIT");
        assert_eq!(count(&reader), before + 23);
        run(&writer, "PRAGMA wal_checkpoint(RESTART)");
        fill(&writer, 1);
        node.check_fresh("db");
    }
}

#[test]
fn a_wal_that_restarts_without_checkpoint_of_all_is_followed() {
    let node = Node::new();
    let app = node.app();
    let mut conn = app.connect("db");
    set_mode(&conn, "WAL");
    run(&conn, "PRAGMA wal_autocheckpoint=4; CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    for round in 0..60 {
        fill(&conn, 1 + round % 9);
        run(&conn, "UPDATE t SET v = v || 'q' WHERE id % 11 = 0");
        node.check("db", &mut conn);
    }
    drop(conn);
    node.check_fresh("db");
}

#[test]
fn a_dropped_database_comes_back_with_another_page_size() {
    for mode in ["DELETE", "WAL"] {
        let node = Node::new();
        let app = node.app();
        for (round, page_size) in [4096, 1024, 65536].into_iter().enumerate() {
            let mut conn = app.connect("db");
            run(&conn, &format!("PRAGMA page_size={page_size}"));
            set_mode(&conn, mode);
            run(&conn, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
            fill(&conn, 20);
            node.check("db", &mut conn);
            drop(conn);
            let before = node.txid("db");
            node.db("db").unlink(litefs_core::db::FileKind::Database).unwrap();
            assert_eq!(node.txid("db"), before + 1, "{round}");
            node.check_image("db", &[]);
        }
    }
}

#[test]
fn without_powersafe_overwrite_sectors_are_padded_and_captured() {
    for mode in MODES {
        let node = Node::new();
        let app = node.app();
        app.process.set_powersafe_overwrite(false);
        let mut conn = app.connect("db");
        run(&conn, "PRAGMA page_size=512; PRAGMA synchronous=FULL");
        set_mode(&conn, mode);
        run(&conn, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
        for step in STEPS {
            fill(&conn, 20);
            run(&conn, step);
            node.check("db", &mut conn);
        }
    }
}
