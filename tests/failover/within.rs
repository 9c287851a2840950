//! The primary changes within something that depends on it: a handover, a halt lock, a transaction without a journal.

use std::fs::{File, OpenOptions};
use std::time::Duration;

use litefs_tests::bench::clock;
use litefs_tests::candidates::DATABASES;
use litefs_tests::cluster::eventually;
use litefs_tests::day::Day;
use litefs_tests::node::{LIMIT, Node};
use litefs_tests::sqlite;
use nix::sys::signal::Signal;
use rusqlite::Connection;

use crate::{PROGRAM, fast};

/// The target has got the lease's ID, or is about to, and dies. Nobody else takes the lease meanwhile, though that is longer
/// than a beat lasts.
#[test]
fn a_primary_goes_on_if_the_target_of_its_handover_dies() {
    let mut day = Day::begin(PROGRAM, fast());
    for dies_after in [Duration::from_millis(200), Duration::from_secs(4)] {
        let leader = day.settle();
        let target = (leader + 1) % 3;
        let status = day.candidates.all[target].status().unwrap();
        let hand_off = format!("/handoff?nodeID={}", status["nodeID"].as_str().unwrap());
        day.candidates.all[target].node.process().signal(Signal::SIGSTOP);
        let asked = clock();
        let (status, _) = day.candidates.all[leader].ask("POST", &hand_off, LIMIT).unwrap();
        assert_eq!(status, 200);
        day.pass(dies_after);
        day.candidates.kill(target);
        let next = day.leader_after(asked + dies_after.as_secs_f64(), |_| true);
        assert_eq!(next, leader, "{}", day.candidates.logs());
        let log = day.candidates.all[leader].node.process().output();
        assert!(log.contains("handoff unsuccessful, continuing as primary"), "{log}");
        day.candidates.up(target);
    }
    assert_eq!(day.end().set_aside, [], "lost");
}

/// Opens the lock file of a database for writing; while it is open this node may write.
fn halt(day: &Day, at: usize, name: &str) -> File {
    let path = day.candidates.all[at].node.path(&format!("{name}-lock"));
    let open = || OpenOptions::new().read(true).write(true).open(&path).ok();
    let mut lock = None;
    let opened = eventually(LIMIT, || {
        lock = open();
        lock.is_some()
    });
    assert!(opened, "{}", day.candidates.logs());
    lock.unwrap()
}

fn count(conn: &Connection, table: &str) -> i64 {
    conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

/// A replica has written in the primary's stead, and is within a transaction when `change` makes another one the primary.
/// Whether that transaction was acknowledged.
fn loses_the_halt_lock(day: &mut Day, name: &str, change: impl Fn(&mut Day, [usize; 3])) -> bool {
    let leader = day.settle();
    let [holder, third] = [(leader + 1) % 3, (leader + 2) % 3];
    let lock = halt(day, holder, name);
    let held = clock();
    let wrote = eventually(LIMIT, || day.writers.of(name, holder).first_after(held).is_some());
    assert!(wrote, "{}", day.candidates.logs());
    let conn = sqlite::open(&day.candidates.all[holder].node.path(name));
    conn.busy_timeout(LIMIT).unwrap();
    let pair = "BEGIN IMMEDIATE; INSERT INTO pair VALUES (1); INSERT INTO pair VALUES (2)";
    sqlite::run(&conn, pair);
    change(day, [leader, holder, third]);
    assert_ne!(day.candidates.await_primary(Some(leader), LIMIT), leader);
    let ended = sqlite::try_run(&conn, "COMMIT");
    if !conn.is_autocommit() {
        sqlite::run(&conn, "ROLLBACK");
    }
    drop((conn, lock));
    day.candidates.heal();
    day.settle();
    ended.is_ok()
}

#[test]
fn a_halt_lock_ends_with_the_primary_that_has_lent_it() {
    let mut day = Day::begin(PROGRAM, fast());
    let leader = day.settle();
    for (name, _) in DATABASES {
        let conn = sqlite::open(&day.candidates.all[leader].node.path(name));
        conn.busy_timeout(LIMIT).unwrap();
        sqlite::run(&conn, "CREATE TABLE pair(x)");
    }
    let mut acknowledged = 0;
    for (name, _) in DATABASES {
        day.settle();
        let ended = [
            loses_the_halt_lock(&mut day, name, |day, [_, _, third]| {
                assert!(day.candidates.promote(third));
            }),
            loses_the_halt_lock(&mut day, name, |day, [_, holder, _]| {
                assert!(day.candidates.promote(holder));
            }),
            loses_the_halt_lock(&mut day, name, |day, [leader, ..]| day.candidates.kill(leader)),
        ];
        acknowledged += ended.into_iter().filter(|is_ok| *is_ok).count();
    }
    day.settle();
    let mut pairs: Vec<[i64; 2]> = Vec::new();
    // They follow, but may be some transactions behind.
    let equal = eventually(LIMIT, || {
        let nodes = day.candidates.all.iter().map(|candidate| &candidate.node);
        let count_in = |node: &Node, name| count(&sqlite::open(&node.path(name)), "pair");
        pairs = nodes.map(|node| DATABASES.map(|(name, _)| count_in(node, name))).collect();
        pairs.iter().all(|other| *other == pairs[0])
    });
    assert!(equal, "{pairs:?}");
    let [wal, rollback] = pairs[0];
    assert!(wal % 2 == 0 && rollback % 2 == 0, "half a transaction: {pairs:?}");
    assert!(wal + rollback >= 2 * acknowledged as i64, "{pairs:?}, {acknowledged} acknowledged");
    day.end();
}

/// SQLite has written pages into the database that it can't take back: nobody but the engine can.
#[test]
fn a_transaction_without_a_journal_ends_with_the_right_to_write() {
    let mut day = Day::begin(PROGRAM, fast());
    let first = day.settle();
    for journal in ["MEMORY", "OFF"] {
        let conn = sqlite::open(&day.candidates.all[first].node.path(journal));
        sqlite::run(&conn, &format!("PRAGMA journal_mode={journal}; CREATE TABLE t(x); {FILL}"));
    }
    for (journal, demoted) in [("MEMORY", false), ("OFF", false), ("MEMORY", true), ("OFF", true)] {
        let leader = day.settle();
        let path = day.candidates.all[leader].node.path(journal);
        let conn = sqlite::open(&path);
        let begin = format!("PRAGMA journal_mode={journal}; PRAGMA cache_size=5; BEGIN IMMEDIATE");
        sqlite::run(&conn, &begin);
        sqlite::run(&conn, "UPDATE t SET x = randomblob(2000)");
        sqlite::run(&conn, FILL);
        if demoted {
            let asked = day.candidates.all[leader].ask("POST", "/demote", LIMIT);
            assert_eq!(asked.unwrap().0, 200);
        } else {
            assert!(day.candidates.promote((leader + 1) % 3));
        }
        let next = day.candidates.await_primary(Some(leader), LIMIT);
        sqlite::try_run(&conn, "COMMIT").unwrap_err();
        drop(conn);
        day.settle();
        let conn = sqlite::open(&day.candidates.all[next].node.path(journal));
        assert_eq!(count(&conn, "t"), ROWS, "{journal}");
        // And the old one reads what the cluster has, and writes once it leads again.
        assert!(day.candidates.promote(leader));
        day.candidates.await_primary(Some(next), LIMIT);
        let conn = sqlite::open(&path);
        conn.busy_timeout(LIMIT).unwrap();
        sqlite::run(&conn, &format!("PRAGMA journal_mode={journal}; DELETE FROM t; {FILL}"));
        assert_eq!(sqlite::text(&conn, "PRAGMA integrity_check"), "ok", "{journal}");
    }
    day.end();
}

const ROWS: i64 = 100;
const FILL: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
                    INSERT INTO t SELECT randomblob(2000) FROM n";
