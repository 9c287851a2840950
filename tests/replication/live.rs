//! The primary does what is unusual, while applications on the replica read all the time.

use std::fs;
use std::time::Duration;

use litefs_tests::cluster::{Cluster, ClusterOptions, Watcher, Watching, eventually};
use litefs_tests::node::LIMIT;
use litefs_tests::random::Random;
use litefs_tests::sqlite;
use litefs_tests::workload::{Mode, Workload};

use crate::watch;

const WAL: Mode = Mode::new("WAL", "NORMAL");
const DELETE: Mode = Mode::new("DELETE", "NORMAL");

const BOTH: &[Watching] = &[Watching::Keep, Watching::Reopen];

/// A database with some transactions, and readers on the replica.
fn busy(cluster: &Cluster, mode: Mode, seed: u64, readers: &[Watching]) -> Vec<Watcher> {
    let mut workload = Workload::open(&cluster.primary.path("db"), mode, seed).unwrap();
    workload.steps(30).unwrap();
    drop(workload);
    cluster.converge("db");
    let path = cluster.replica().node.path("db");
    readers.iter().map(|how| watch(&path, *how)).collect()
}

#[test]
fn readers_see_no_error_while_everything_is_done_to_their_database() {
    for mode in [WAL, DELETE] {
        let mut random = Random::from_env();
        let cluster = Cluster::start();
        let watchers = busy(&cluster, mode, random.any(), BOTH);
        let mut workload = Workload::open(&cluster.primary.path("db"), mode, random.any()).unwrap();
        for round in 0..25 {
            workload.steps(20).unwrap();
            sqlite::run(workload.connection(), "VACUUM");
            if round % 5 == 0 {
                watchers.iter().for_each(|watcher| watcher.look(2));
            }
        }
        drop(workload);
        cluster.converge("db");
        watchers.into_iter().for_each(Watcher::finish);
    }
}

#[test]
fn readers_see_no_error_while_journal_modes_change() {
    let mut random = Random::from_env();
    let cluster = Cluster::start();
    let watchers = busy(&cluster, WAL, random.any(), BOTH);
    for journal in ["DELETE", "WAL", "TRUNCATE", "WAL", "PERSIST", "WAL", "DELETE", "MEMORY", "WAL"]
        .into_iter()
        .cycle()
        .take(36)
    {
        let mode = Mode::new(journal, "NORMAL");
        let mut workload = Workload::open(&cluster.primary.path("db"), mode, random.any()).unwrap();
        workload.steps(10).unwrap();
        watchers.iter().for_each(|watcher| watcher.look(1));
    }
    cluster.converge("db");
    watchers.into_iter().for_each(Watcher::finish);
}

/// In rollback mode: in WAL mode the page size can't change.
#[test]
fn readers_see_no_error_while_the_page_size_changes() {
    let mut random = Random::from_env();
    let cluster = Cluster::start();
    let watchers = busy(&cluster, DELETE, random.any(), BOTH);
    for page_size in [512, 4096, 65536, 1024, 8192, 16384] {
        let mut workload =
            Workload::open(&cluster.primary.path("db"), DELETE, random.any()).unwrap();
        sqlite::run(workload.connection(), &format!("PRAGMA page_size={page_size}; VACUUM"));
        workload.steps(10).unwrap();
        drop(workload);
        cluster.converge("db");
        watchers.iter().for_each(|watcher| watcher.look(2));
    }
    watchers.into_iter().for_each(Watcher::finish);
}

/// Who has a dropped database open goes on with what it was.
#[test]
fn readers_see_no_error_while_their_database_is_dropped_and_made_anew() {
    let mut random = Random::from_env();
    for mode in [WAL, DELETE] {
        let cluster = Cluster::start();
        let mut watchers = busy(&cluster, mode, random.any(), &[Watching::Keep]);
        for round in 0..12 {
            fs::remove_file(cluster.primary.path("db")).unwrap();
            if round % 2 == 0 {
                cluster.await_position("db");
                let gone = || !cluster.replica().node.path("db").exists();
                assert!(eventually(LIMIT, gone));
            }
            let path = cluster.primary.path("db");
            let sizes = [512, 4096, 65536];
            sqlite::run(
                &sqlite::open(&path),
                &format!("PRAGMA page_size={}; CREATE TABLE other(x)", sizes[round % 3]),
            );
            let mut workload = Workload::open(&path, mode, random.any()).unwrap();
            workload.steps(10).unwrap();
            drop(workload);
            cluster.converge("db");
            watchers.iter().for_each(|watcher| watcher.look(1));
            let path = cluster.replica().node.path("db");
            watchers.truncate(4);
            watchers.push(watch(&path, Watching::Keep));
        }
        watchers.into_iter().for_each(Watcher::finish);
    }
}

/// The position of what is too big for the log is logged alone; who has read before reads on.
#[test]
fn a_commit_too_big_for_the_log_comes_as_a_snapshot() {
    let limit = Duration::from_secs(150);
    let cluster = Cluster::start_with(ClusterOptions { limit, ..ClusterOptions::default() });
    let watchers = busy(&cluster, DELETE, 5, BOTH);
    let writer = sqlite::open(&cluster.primary.path("db"));
    sqlite::run(&writer, "PRAGMA cache_size=-20000; CREATE TABLE big(x)");
    sqlite::run(
        &writer,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO big SELECT randomblob(1 << 20) FROM n",
    );
    cluster.converge("db");
    watchers.into_iter().for_each(Watcher::finish);
}
