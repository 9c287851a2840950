//! Nodes are killed while one of them writes for the other.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use litefs_tests::cluster::{Cluster, ClusterOptions, eventually};
use litefs_tests::node::LIMIT;
use litefs_tests::random::Random;
use litefs_tests::sqlite;
use litefs_tests::workload::{self, Mode, Workload};

use crate::{MODES, count, halt, try_halt, with_table};

#[test]
fn a_primary_killed_while_a_replica_writes_goes_on() {
    let mut random = Random::from_env();
    let limit = Duration::from_secs(200);
    let mut cluster = Cluster::start_with(ClusterOptions { limit, ..ClusterOptions::default() });
    for round in 0..12 {
        let name = MODES[round % MODES.len()];
        let mode = Mode::new(name, "NORMAL");
        drop(Workload::open(&cluster.primary.path(name), mode, random.any()).unwrap());
        cluster.converge(name);
        let acknowledged = {
            let (node, primary) = (&cluster.replicas[0].node, &mut cluster.primary);
            let killed = AtomicBool::new(false);
            thread::scope(|scope| {
                let writer = scope.spawn(|| {
                    // It may not have found the primary again, or may find it dead.
                    let mut lock = None;
                    eventually(LIMIT, || {
                        lock = try_halt(node, name).ok();
                        lock.is_some() || killed.load(Relaxed)
                    });
                    let mut last = 0;
                    let workload = Workload::open(&node.path(name), mode, random.any());
                    let Ok(mut workload) = workload else { return last };
                    while let (Some(_), Ok(tx)) = (&lock, workload.step()) {
                        last = tx;
                    }
                    last
                });
                thread::park_timeout(Duration::from_millis(100 + (round as u64 * 37) % 200));
                primary.kill();
                killed.store(true, Relaxed);
                writer.join().unwrap()
            })
        };
        cluster.primary_up();
        cluster.converge(name);
        let last = workload::check(&sqlite::open(&cluster.primary.path(name))).unwrap();
        assert!(last >= acknowledged, "{name}: {acknowledged} was acknowledged, {last} is there");
    }
}

/// While its commit is on the way, in both directions; its lock ends by its expiry.
#[test]
fn a_replica_killed_while_it_commits_goes_on() {
    thread::scope(|scope| {
        for mode in MODES {
            scope.spawn(move || {
                let (mut cluster, there, here) = with_table(mode, 1);
                let lock = halt(&cluster.replica().node, "db");
                sqlite::run(&here, "INSERT INTO t VALUES (1)");
                cluster.replica().net.stall(true);
                thread::scope(|scope| {
                    scope.spawn(move || {
                        sqlite::try_run(&here, "INSERT INTO t VALUES (2)").unwrap_err();
                    });
                    thread::park_timeout(Duration::from_millis(300));
                    let node = &mut cluster.replicas[0].node;
                    node.kill_and_abort();
                });
                drop(lock);
                cluster.replica().net.stall(false);
                let node = &mut cluster.replicas[0].node;
                node.process().wait(LIMIT);
                node.up_alone();
                let there_first = count(&there);
                assert!(there_first == 1 || there_first == 2, "{mode}: {there_first}");
                cluster.await_position("db");
                there.busy_timeout(Duration::from_secs(40)).unwrap();
                sqlite::run(&there, "INSERT INTO t VALUES (3)");
                cluster.converge("db");
                let node = &cluster.replica().node;
                assert!(eventually(LIMIT, || try_halt(node, "db").is_ok()));
            });
        }
    });
}
