//! Transactions of unusual shape. The oracle is the same SQL on a plain directory.

use std::path::Path;

use litefs_tests::node::Node;
use litefs_tests::random::Random;
use litefs_tests::sqlite;
use rusqlite::params;

/// Runs the same on the mount and on a plain directory, and compares the databases.
#[track_caller]
fn same_as_plain(names: &[&str], script: impl Fn(&Path)) {
    let node = Node::start();
    let plain = tempfile::tempdir().unwrap();
    script(&node.path(""));
    script(plain.path());
    for name in names {
        let got = sqlite::dump(&sqlite::open(&node.path(name)));
        assert_eq!(got, sqlite::dump(&sqlite::open(&plain.path().join(name))), "{name}");
        node.check(name);
    }
}

fn for_modes(script: impl Fn(&Path, &str)) {
    same_as_plain(&["DELETE", "TRUNCATE", "PERSIST", "WAL", "MEMORY"], |dir| {
        for journal in ["DELETE", "TRUNCATE", "PERSIST", "WAL", "MEMORY"] {
            script(&dir.join(journal), journal);
        }
    });
}

#[test]
fn savepoints_released_and_rolled_back() {
    for_modes(|path, journal| {
        let conn = sqlite::open(path);
        sqlite::run(&conn, &format!("PRAGMA journal_mode={journal}; CREATE TABLE t(x, y)"));
        sqlite::run(
            &conn,
            "BEGIN;
             INSERT INTO t VALUES (1, zeroblob(9000));
             SAVEPOINT a; INSERT INTO t VALUES (2, zeroblob(9000));
             SAVEPOINT b; UPDATE t SET y = 'b'; ROLLBACK TO b; RELEASE b;
             INSERT INTO t VALUES (3, 'kept'); RELEASE a;
             SAVEPOINT c; DELETE FROM t; ROLLBACK TO c;
             COMMIT;
             SAVEPOINT outer; INSERT INTO t VALUES (4, 'outer'); RELEASE outer;",
        );
    });
}

#[test]
fn spilled_transactions_committed_and_rolled_back() {
    for_modes(|path, journal| {
        let mut conn = sqlite::open(path);
        sqlite::run(
            &conn,
            &format!(
                "PRAGMA journal_mode={journal}; PRAGMA cache_size=5;
                 CREATE TABLE t(id INTEGER PRIMARY KEY, y BLOB); CREATE INDEX i ON t(y)"
            ),
        );
        let mut random = Random::new(7);
        for round in 0..6 {
            let tx = conn.transaction().unwrap();
            for _ in 0..150 {
                let sql = "INSERT OR REPLACE INTO t VALUES (?, ?)";
                tx.execute(sql, params![random.below(500) as i64, random.bytes(700)]).unwrap();
            }
            if round % 3 == 1 { tx.rollback() } else { tx.commit() }.unwrap();
        }
        sqlite::run(&conn, "UPDATE t SET y = zeroblob(300) WHERE id % 3 = 0");
    });
}

#[test]
fn a_spilled_savepoint_is_rolled_back_within_a_transaction() {
    for_modes(|path, journal| {
        let conn = sqlite::open(path);
        sqlite::run(
            &conn,
            &format!(
                "PRAGMA journal_mode={journal}; PRAGMA cache_size=5;
                 CREATE TABLE t(id INTEGER PRIMARY KEY, y BLOB);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
                 INSERT INTO t SELECT i, zeroblob(500) FROM n;
                 BEGIN; UPDATE t SET y = zeroblob(600) WHERE id < 50;
                 SAVEPOINT s; UPDATE t SET y = zeroblob(900); ROLLBACK TO s;
                 UPDATE t SET y = zeroblob(10) WHERE id > 280; COMMIT;"
            ),
        );
    });
}

#[test]
fn vacuum_shrinks_and_changes_the_page_size() {
    same_as_plain(&["db", "wal"], |dir| {
        let conn = sqlite::open(&dir.join("db"));
        sqlite::run(
            &conn,
            "CREATE TABLE t(id INTEGER PRIMARY KEY, y BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
             INSERT INTO t SELECT i, zeroblob(i % 900) FROM n;
             DELETE FROM t WHERE id % 4 <> 0; VACUUM;",
        );
        for size in [512, 65536, 4096, 1024] {
            sqlite::run(
                &conn,
                &format!("PRAGMA page_size={size}; VACUUM; INSERT INTO t(y) VALUES ('{size}')"),
            );
            assert_eq!(sqlite::number(&conn, "PRAGMA page_size"), size);
        }
        // In WAL mode the page size stays, which is SQLite's rule.
        let conn = sqlite::open(&dir.join("wal"));
        sqlite::run(
            &conn,
            "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, y BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
             INSERT INTO t SELECT i, zeroblob(i % 900) FROM n;
             DELETE FROM t WHERE id % 4 <> 0; PRAGMA page_size=8192; VACUUM;
             PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode=DELETE; VACUUM;
             INSERT INTO t(y) VALUES ('end')",
        );
    });
}

#[test]
fn attached_databases_commit_together() {
    for journal in ["DELETE", "TRUNCATE", "PERSIST", "WAL"] {
        same_as_plain(&["one", "two", "three"], |dir| {
            let mut conn = sqlite::open(&dir.join("one"));
            for (alias, name) in [("b", "two"), ("c", "three")] {
                let path = dir.join(name).display().to_string();
                conn.execute(&format!("ATTACH ? AS {alias}"), [path]).unwrap();
            }
            for schema in ["main", "b", "c"] {
                sqlite::run(
                    &conn,
                    &format!(
                        "PRAGMA {schema}.journal_mode={journal}; PRAGMA {schema}.cache_size=5;
                         CREATE TABLE {schema}.t(x, y)"
                    ),
                );
            }
            for i in 0..12_i64 {
                let tx = conn.transaction().unwrap();
                for schema in ["main", "b", "c"] {
                    let sql = format!("INSERT INTO {schema}.t VALUES (?, zeroblob(20000))");
                    tx.execute(&sql, [i]).unwrap();
                }
                if i % 4 == 3 { tx.rollback() } else { tx.commit() }.unwrap();
            }
        });
    }
}

#[test]
fn checkpoints_of_every_kind_between_writes() {
    same_as_plain(&["db"], |dir| {
        let conn = sqlite::open(&dir.join("db"));
        sqlite::run(&conn, "PRAGMA journal_mode=WAL; CREATE TABLE t(x, y)");
        for how in ["PASSIVE", "FULL", "RESTART", "TRUNCATE", "PASSIVE", "TRUNCATE"] {
            for _ in 0..5 {
                sqlite::run(
                    &conn,
                    "INSERT INTO t VALUES (random() > 2, zeroblob(9000)); UPDATE t SET x = 5",
                );
            }
            sqlite::run(&conn, &format!("PRAGMA wal_checkpoint({how})"));
        }
        sqlite::run(&conn, "PRAGMA wal_autocheckpoint=3");
        for i in 0..40 {
            sqlite::run(&conn, &format!("INSERT INTO t VALUES ({i}, zeroblob(3000))"));
        }
    });
}

#[test]
fn a_checkpoint_is_no_transaction() {
    let node = Node::start();
    let conn = sqlite::open(&node.path("db"));
    sqlite::run(&conn, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    let before = node.pos("db");
    for how in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
        sqlite::run(&conn, &format!("PRAGMA wal_checkpoint({how})"));
        assert_eq!(node.pos("db"), before, "{how}");
    }
    drop(conn);
    assert_eq!(node.pos("db"), before, "the last close checkpoints too");
    node.check("db");
}

#[test]
fn a_database_is_dropped_and_recreated_with_another_page_size() {
    let node = Node::start();
    let mut txid = 0;
    for (round, (size, journal)) in
        [(4096, "DELETE"), (512, "WAL"), (65536, "DELETE"), (1024, "WAL")].into_iter().enumerate()
    {
        let conn = sqlite::open(&node.path("db"));
        sqlite::run(
            &conn,
            &format!(
                "PRAGMA page_size={size}; PRAGMA journal_mode={journal};
                 CREATE TABLE t{round}(x); INSERT INTO t{round} VALUES (zeroblob(40000))"
            ),
        );
        assert_eq!(sqlite::number(&conn, "PRAGMA page_size"), size);
        assert_eq!(sqlite::number(&conn, "SELECT count(*) FROM sqlite_schema"), 1);
        drop(conn);
        node.check("db");
        assert!(node.pos("db").txid > txid, "the sequence goes on");
        txid = node.pos("db").txid;
        std::fs::remove_file(node.path("db")).unwrap();
        let left: Vec<_> = std::fs::read_dir(node.path("")).unwrap().collect();
        assert!(
            left.iter().all(|e| !e
                .as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .starts_with("db"))
        );
    }
}

/// Known positions of the original: CREATE TABLE t (x); INSERT 100, 4096-byte pages. They depend on the
/// SQLite version in the header, which is taken out of the comparison here by only counting.
#[test]
fn the_first_transactions_count_as_in_the_original() {
    let node = Node::start();
    for (journal, want) in
        [("WAL", [2, 3]), ("DELETE", [1, 2]), ("TRUNCATE", [1, 2]), ("PERSIST", [1, 2])]
    {
        let conn = sqlite::open(&node.path(journal));
        sqlite::run(&conn, &format!("PRAGMA journal_mode={journal}; CREATE TABLE t (x)"));
        assert_eq!(node.pos(journal).txid, want[0], "{journal}");
        sqlite::run(&conn, "INSERT INTO t VALUES (100)");
        assert_eq!(node.pos(journal).txid, want[1], "{journal}");
    }
}
