//! What is committed on a replica is on the primary, in all journal modes.

use litefs_tests::cluster::{Cluster, ClusterOptions};
use litefs_tests::sqlite;

use crate::halt;

const MODES: [&str; 4] = ["WAL", "DELETE", "TRUNCATE", "PERSIST"];

#[test]
fn a_commit_is_visible_on_both_nodes_when_it_returns() {
    for mode in MODES {
        let cluster =
            Cluster::start_with(ClusterOptions { replicas: 2, ..ClusterOptions::default() });
        let there = sqlite::open(&cluster.primary.path("db"));
        sqlite::run(&there, &format!("PRAGMA journal_mode={mode}; CREATE TABLE t(x)"));
        cluster.converge("db");
        let node = &cluster.replica().node;
        let here = sqlite::open(&node.path("db"));
        sqlite::run(&here, &format!("PRAGMA journal_mode={mode}"));
        let lock = halt(node, "db");
        for n in 1..=5 {
            sqlite::run(&here, &format!("INSERT INTO t VALUES ({n})"));
            for conn in [&here, &there] {
                assert_eq!(sqlite::text(conn, "SELECT count(*) FROM t"), n.to_string(), "{mode}");
            }
        }
        drop(lock);
        cluster.converge("db");
    }
}
