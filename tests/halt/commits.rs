//! What is committed on a replica is on the primary, in all journal modes.

use std::fs;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use litefs_core::env::SystemEnv;
use litefs_core::log;
use litefs_tests::cluster::{Cluster, ClusterOptions, Watcher, Watching};
use litefs_tests::node::Node;
use litefs_tests::random::Random;
use litefs_tests::sqlite;
use litefs_tests::workload::{Mode, Workload};

use crate::{MODES, count, halt, with_table};

#[test]
fn a_commit_is_visible_on_both_nodes_when_it_returns() {
    for mode in MODES {
        let (cluster, there, here) = with_table(mode, 2);
        let lock = halt(&cluster.replica().node, "db");
        for n in 1..=5 {
            sqlite::run(&here, &format!("INSERT INTO t VALUES ({n})"));
            assert_eq!((count(&here), count(&there)), (n, n), "{mode}");
        }
        drop(lock);
        cluster.converge("db");
        let first = transactions(&cluster.replica().node, "db");
        for node in [&cluster.primary, &cluster.replicas[1].node] {
            let others = transactions(node, "db");
            assert!(first.len() >= 5, "{mode}");
            for (txid, ltx) in others.iter().rev().take(5) {
                assert!(first.contains(&(*txid, ltx.clone())), "{mode}: {txid} has other bytes");
            }
        }
    }
}

/// TXID and LTX file of each transaction in a node's log.
fn transactions(node: &Node, name: &str) -> Vec<(u64, Vec<u8>)> {
    let records = log::read(Arc::new(SystemEnv), &node.backing(name)).unwrap();
    let records = records.map(|record| {
        let (meta, mut blob) = record.unwrap();
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).unwrap();
        (meta.max_txid.as_u64(), bytes)
    });
    records.collect()
}

#[test]
fn a_rollback_leaves_no_transaction() {
    for mode in MODES {
        let (cluster, _, here) = with_table(mode, 1);
        let node = &cluster.replica().node;
        let before = node.pos("db");
        let _lock = halt(node, "db");
        sqlite::run(&here, "PRAGMA cache_size=5");
        // Enough to spill out of the cache, into the WAL or the database file.
        sqlite::run(
            &here,
            "BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
             INSERT INTO t SELECT randomblob(2000) FROM n; ROLLBACK",
        );
        assert_eq!((node.pos("db"), count(&here)), (before, 0), "{mode}");
        sqlite::run(&here, "INSERT INTO t VALUES (1)");
        cluster.converge("db");
        assert_eq!(node.pos("db").txid, before.txid + 1, "{mode}");
    }
}

/// Larger than what is held in memory, and, the last, than what is logged on a primary.
#[test]
fn big_transactions_go_through() {
    for (mode, sizes) in [("WAL", &[20, 66][..]), ("DELETE", &[1, 20])] {
        let (cluster, there, here) = with_table(mode, 1);
        let lock = halt(&cluster.replica().node, "db");
        for mebibytes in sizes {
            sqlite::run(
                &here,
                &format!(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {mebibytes})
                     INSERT INTO t SELECT randomblob(1 << 20) FROM n"
                ),
            );
            assert_eq!(count(&here), count(&there));
        }
        drop(lock);
        cluster.converge("db");
    }
}

/// Spills, rollbacks, checkpoints of all kinds, VACUUM, while everybody reads, and turns with a writer on the primary.
#[test]
fn writers_on_both_sides_take_turns() {
    let mut random = Random::from_env();
    for journal in MODES {
        let limit = Duration::from_secs(150);
        let cluster =
            Cluster::start_with(ClusterOptions { replicas: 2, limit, ..ClusterOptions::default() });
        let mode = Mode::new(journal, "NORMAL");
        let there = cluster.primary.path("db");
        Workload::open(&there, mode, random.any()).unwrap().steps(5).unwrap();
        cluster.converge("db");
        let nodes = [&cluster.primary, &cluster.replicas[0].node, &cluster.replicas[1].node];
        let how = [Watching::Keep, Watching::Reopen];
        let watchers: Vec<Watcher> = nodes
            .iter()
            .flat_map(|node| how.map(|how| crate::watch(&node.path("db"), how)))
            .collect();
        for turn in 0..9 {
            let node = nodes[turn % 3];
            let lock = halt(node, "db");
            let mut workload = Workload::open(&node.path("db"), mode, random.any()).unwrap();
            let done = workload.steps(20);
            assert!(done.is_ok(), "{journal}, turn {turn}: {done:?}\n{}", node.process().output());
            drop(workload);
            drop(lock);
            cluster.await_position("db");
            watchers.iter().for_each(Watcher::check);
        }
        cluster.converge("db");
        watchers.into_iter().for_each(Watcher::finish);
    }
}

#[test]
fn the_shape_of_a_database_changes_under_the_lock() {
    let (cluster, _, here) = with_table("DELETE", 1);
    let lock = halt(&cluster.replica().node, "db");
    for sql in [
        "INSERT INTO t VALUES (randomblob(100000)), (randomblob(100000))",
        "INSERT INTO t VALUES (randomblob(100000)); DELETE FROM t WHERE rowid = 1; VACUUM",
        "PRAGMA journal_mode=WAL",
        "INSERT INTO t VALUES (1)",
        "DELETE FROM t WHERE length(x) > 1000; VACUUM",
        "PRAGMA journal_mode=DELETE",
        "INSERT INTO t VALUES (2)",
        "PRAGMA page_size=1024; VACUUM",
        "CREATE TABLE u(y); DROP TABLE t; CREATE TABLE t(x); INSERT INTO t VALUES (3)",
        "PRAGMA journal_mode=WAL",
        "INSERT INTO t VALUES (4)",
    ] {
        sqlite::run(&here, sql);
        cluster.converge("db");
    }
    drop(lock);
    let there = sqlite::open(&cluster.primary.path("db"));
    sqlite::run(&there, "INSERT INTO t VALUES (5)");
    cluster.converge("db");
    assert_eq!(count(&here), 3);
}

/// It couldn't be taken back if the primary said no.
#[test]
fn what_no_journal_protects_is_refused() {
    for mode in ["MEMORY", "OFF"] {
        let (cluster, there, here) = with_table("DELETE", 1);
        let node = &cluster.replica().node;
        let _lock = halt(node, "db");
        sqlite::run(&here, &format!("PRAGMA journal_mode={mode}"));
        sqlite::try_run(&here, "INSERT INTO t VALUES (1)").unwrap_err();
        drop(here);
        fs::remove_file(node.path("db")).unwrap_err();
        fs::write(node.path("db"), [0; 4096]).unwrap_err();
        drop(_lock);
        sqlite::run(&there, "INSERT INTO t VALUES (1)");
        cluster.converge("db");
    }
}

/// Replication has the database open in WAL mode, as any connection does; it lets go for the lock.
#[test]
fn the_journal_mode_changes_where_replication_was_at_work() {
    let (cluster, there, here) = with_table("WAL", 1);
    sqlite::run(&there, "INSERT INTO t VALUES (1)");
    cluster.converge("db");
    drop(there);
    let lock = halt(&cluster.replica().node, "db");
    for mode in ["delete", "wal", "truncate"] {
        assert_eq!(sqlite::text(&here, &format!("PRAGMA journal_mode={mode}")), mode);
        sqlite::run(&here, "INSERT INTO t VALUES (2)");
        cluster.converge("db");
    }
    drop(lock);
    sqlite::run(&sqlite::open(&cluster.primary.path("db")), "INSERT INTO t VALUES (3)");
    cluster.converge("db");
    assert_eq!(count(&here), 5);
}
