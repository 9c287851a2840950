//! The connection of a commit breaks at any byte: the application is told an error or the truth, and both sides get equal.

use std::thread;
use std::time::{Duration, Instant};

use litefs_tests::cluster::eventually;
use litefs_tests::node::LIMIT;
use litefs_tests::proxy::Way;
use litefs_tests::sqlite;

use crate::{MODES, count, halt, try_halt, with_table};

/// Cuts the connection at byte after byte of asking for the lock, committing, and giving the lock back.
fn cut_everywhere(mode: &str, way: Way, step: u64) {
    let (cluster, there, here) = with_table(mode, 1);
    let node = &cluster.replica().node;
    let net = &cluster.replica().net;
    let (mut failed, mut known, mut at) = (0, 0, 0);
    loop {
        let struck = net.struck();
        net.cut_next(way, Some(at));
        let lock = try_halt(node, "db");
        let told = lock.is_ok().then(|| sqlite::try_run(&here, "INSERT INTO t VALUES (1)"));
        drop(lock);
        net.cut_next(way, None);
        // If it stayed at the primary, that's told by the stream.
        cluster.await_position("db");
        let now = count(&there);
        match told {
            Some(Ok(())) => assert_eq!(now, known + 1, "{at}"),
            Some(Err(_)) => {
                failed += 1;
                assert!(now == known || now == known + 1, "{at}: {now}");
            }
            None => assert_eq!(now, known, "{at}"),
        }
        let same = || count(&here) == now && node.pos("db") == cluster.primary.pos("db");
        assert!(eventually(LIMIT, same), "{at}: {} instead of {now}", count(&here));
        known = now;
        if net.struck() == struck && told == Some(Ok(())) {
            assert!(at > 200 && failed > 0, "{at} {failed}");
            break;
        }
        // The answer to a commit is short, and what comes before it may be lost at no cost.
        at += if way == Way::Answer && told.is_some() { 2 } else { step };
    }
    cluster.converge("db");
}

#[test]
fn a_request_may_end_anywhere_in_wal_mode() {
    cut_everywhere("WAL", Way::Request, 31);
}

#[test]
fn a_request_may_end_anywhere_in_rollback_mode() {
    cut_everywhere("DELETE", Way::Request, 37);
}

#[test]
fn an_answer_may_end_anywhere_in_wal_mode() {
    cut_everywhere("WAL", Way::Answer, 7);
}

#[test]
fn an_answer_may_end_anywhere_in_rollback_mode() {
    cut_everywhere("PERSIST", Way::Answer, 11);
}

/// The stream breaks within a transaction that has spilled: it can't be committed any more, but taken back.
#[test]
fn a_transaction_that_loses_its_right_is_rolled_back() {
    for mode in MODES {
        for end in ["COMMIT", "ROLLBACK"] {
            let (cluster, there, here) = with_table(mode, 1);
            let node = &cluster.replica().node;
            let lock = halt(node, "db");
            sqlite::run(&here, "PRAGMA cache_size=5");
            sqlite::run(
                &here,
                "INSERT INTO t VALUES (1); BEGIN;
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
                 INSERT INTO t SELECT randomblob(2000) FROM n",
            );
            cluster.replica().net.cut();
            let line = "the halt lock is lost";
            node.process().line(line, LIMIT);
            let ended = sqlite::try_run(&here, end);
            assert_eq!(ended.is_ok(), end == "ROLLBACK", "{mode}: {ended:?}");
            if !here.is_autocommit() {
                sqlite::run(&here, "ROLLBACK");
            }
            assert_eq!(count(&here), 1, "{mode}");
            drop(lock);
            sqlite::run(&there, "INSERT INTO t VALUES (2)");
            cluster.converge("db");
            assert_eq!(count(&here), 2, "{mode}");
        }
    }
}

/// The stream is missed before the commit's own deadline has come.
#[test]
fn a_commit_into_a_silent_network_fails_soon() {
    let (cluster, there, here) = with_table("WAL", 1);
    let lock = halt(&cluster.replica().node, "db");
    sqlite::run(&here, "INSERT INTO t VALUES (1)");
    cluster.replica().net.stall(true);
    let began = Instant::now();
    sqlite::try_run(&here, "INSERT INTO t VALUES (2)").unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    cluster.replica().net.stall(false);
    drop(lock);
    there.busy_timeout(Duration::from_secs(40)).unwrap();
    sqlite::run(&there, "INSERT INTO t VALUES (3)");
    cluster.converge("db");
    assert!((2..=3).contains(&count(&here)));
}

/// More commits wait for the primary than threads serve the mount.
#[test]
fn commits_that_wait_hold_up_nobody_else() {
    let (cluster, there, _here) = with_table("WAL", 1);
    let node = &cluster.replica().node;
    sqlite::run(&there, "INSERT INTO t VALUES (1)");
    let writers: Vec<_> = (0..6)
        .map(|i| {
            let name = format!("db{i}");
            let there = sqlite::open(&cluster.primary.path(&name));
            let mode = MODES[i % MODES.len()];
            sqlite::run(&there, &format!("PRAGMA journal_mode={mode}; CREATE TABLE t(x)"));
            cluster.converge(&name);
            let lock = halt(node, &name);
            let here = sqlite::open(&node.path(&name));
            sqlite::run(&here, "BEGIN IMMEDIATE; INSERT INTO t VALUES (1)");
            (lock, here)
        })
        .collect();
    cluster.await_position("db");
    cluster.replica().net.stall(true);
    let commits: Vec<_> = writers
        .into_iter()
        .map(|(lock, here)| {
            thread::spawn(move || {
                let ended = sqlite::try_run(&here, "COMMIT");
                drop(lock);
                ended
            })
        })
        .collect();
    // The stream is left after three silent seconds, and with it the wait.
    let mut looks = 0;
    while commits.iter().all(|commit| !commit.is_finished()) {
        assert_eq!(count(&sqlite::open(&node.path("db"))), 1);
        looks += 1;
    }
    assert!(looks >= 20, "{looks}");
    for commit in commits {
        commit.join().unwrap().unwrap_err();
    }
    cluster.replica().net.stall(false);
}
