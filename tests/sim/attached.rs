//! A transaction over two databases commits in both or in neither, whatever ends the run.

use litefs_core::db::Health;
use litefs_core::env::sim::{Landed, SimDisk};
use litefs_tests::sim::Node;
use rusqlite::Connection;

fn run(conn: &Connection, sql: &str) {
    conn.execute_batch(sql).unwrap_or_else(|err| panic!("{sql}: {err}"));
}

fn number(node: &Node, name: &str) -> i64 {
    let app = node.app();
    let conn = app.connect(name);
    let verdict: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    conn.query_row("SELECT max(n) FROM t", [], |row| row.get(0)).unwrap()
}

/// Runs three transactions over both databases and crashes at each operation.
fn crash_everywhere(mode: &str, sync: &str, landed: impl Fn(usize) -> Landed) {
    let node = Node::open_with(SimDisk::new(9), |options| options);
    let app = node.app();
    let conn = app.connect("a");
    run(
        &conn,
        &format!(
            "ATTACH '/mnt/b' AS b; PRAGMA main.journal_mode={mode}; PRAGMA b.journal_mode={mode};
        PRAGMA main.synchronous={sync}; PRAGMA b.synchronous={sync};
        CREATE TABLE main.t(n, v); CREATE TABLE b.t(n, v);
        INSERT INTO main.t VALUES (0, zeroblob(9000)); INSERT INTO b.t VALUES (0, zeroblob(9000))"
        ),
    );
    node.disk.sync_all();
    let mut acknowledged = vec![node.disk.ops()];
    for n in 1..=3 {
        run(
            &conn,
            &format!(
                "BEGIN; UPDATE main.t SET n={n}, v=randomblob(9000); UPDATE b.t SET n={n}, v=randomblob(9000); COMMIT"
            ),
        );
        acknowledged.push(node.disk.ops());
    }
    for at in acknowledged[0]..=node.disk.ops() {
        println!("{mode} {sync} {at}: {}", node.disk.describe(at));
        let revived = Node::open(node.disk.crash_image(at, landed(at)));
        for name in ["a", "b"] {
            assert_eq!(revived.db(name).health(), Health::Ok);
        }
        let (a, b) = (number(&revived, "a"), number(&revived, "b"));
        assert_eq!(a, b, "all or nothing");
        let acked = acknowledged.iter().rposition(|ops| *ops <= at).unwrap() as i64;
        assert!((acked..=acked + 1).contains(&a), "found {a}, acknowledged {acked}");
        revived.check_fresh("a");
        revived.check_fresh("b");
    }
}

#[test]
fn daemon_dies() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST"] {
        // With `synchronous=OFF` SQLite uses no super-journal and promises nothing.
        for sync in ["NORMAL", "FULL"] {
            crash_everywhere(mode, sync, |_| Landed::Everything);
        }
    }
}

#[test]
fn power_goes() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST"] {
        for sync in ["FULL", "EXTRA"] {
            crash_everywhere(mode, sync, |_| Landed::Nothing);
            for seed in 0..4 {
                crash_everywhere(mode, sync, |at| Landed::Some((at as u64) << 8 | seed));
            }
        }
    }
}
