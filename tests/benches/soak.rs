//! `cargo bench -p litefs-tests --bench soak -- [SECONDS] [JOURNAL_MODE…]`: a cluster under everything at once.
//!
//! ```text
//!   4 writers, one database each, all journal modes in turn, checkpoints, VACUUM, drops      primary
//!   killed, cut off, stalled, at random                                                      3 replicas
//!   a reader of each database that isn't dropped, with one connection for all the time       replica 0
//! ```
//!
//! Ends with a panic, at once, if a writer or a reader has seen an error, or if the nodes don't get equal. `LITEFS_SEED` repeats a run as far as
//! timing allows.

// A failed expectation is what a bench has to report.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use litefs_tests::cluster::{Cluster, ClusterOptions, Watcher, Watching};
use litefs_tests::random::Random;
use litefs_tests::workload::{Mode, Stop, Workload};

const JOURNALS: &[&str] = &["WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"];
const DATABASES: usize = 4;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let seconds = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(120);
    let chosen = |mode: &&str| args.iter().any(|arg| arg == mode);
    let mut journals: Vec<&str> = JOURNALS.iter().copied().filter(chosen).collect();
    if journals.is_empty() {
        journals = JOURNALS.to_vec();
    }
    let journals = &journals;
    let mut random = Random::from_env();
    let limit = Duration::from_secs(seconds * 2 + 300);
    let mut cluster =
        Cluster::start_with(ClusterOptions { replicas: 3, limit, ..ClusterOptions::default() });
    let end = Instant::now() + Duration::from_secs(seconds);
    let names: Vec<String> = (0..DATABASES).map(|i| format!("db{i}")).collect();
    for name in &names {
        let mode = Mode::new("DELETE", "OFF");
        Workload::open(&cluster.primary.path(name), mode, 0).unwrap().steps(3).unwrap();
        cluster.converge(name);
    }
    let watchers: Vec<Watcher> = names[..DATABASES - 1]
        .iter()
        .map(|name| {
            let path = cluster.replicas[0].node.path(name);
            Watcher::start(env!("CARGO_BIN_EXE_litefs-workload"), &path, Watching::Keep)
        })
        .collect();
    let (stop, commits) = (&AtomicBool::new(false), &AtomicI64::new(0));
    let (mut kills, mut cuts, mut drops) = (0, 0, 0);
    thread::scope(|scope| {
        let stopping = Stop(stop);
        let writers: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let (path, mut random) = (cluster.primary.path(name), Random::new(random.any()));
                // Who reads a database that is dropped goes on with what it was: the last one has no reader.
                let may_drop = i == DATABASES - 1;
                scope.spawn(move || {
                    let _all = Stop(stop);
                    let mut drops = 0;
                    while !stop.load(Relaxed) {
                        let journal = journals[random.below(journals.len() as u64) as usize];
                        let mode = Mode::new(journal, "OFF");
                        let fail = |err| -> ! { panic!("{}, {mode:?}: {err}", path.display()) };
                        let mut workload = Workload::open(&path, mode, random.any())
                            .unwrap_or_else(|err| fail(err));
                        for _ in 0..random.below(60) {
                            if stop.load(Relaxed) {
                                break;
                            }
                            workload.step().unwrap_or_else(|err| fail(err));
                            commits.fetch_add(1, Relaxed);
                        }
                        drop(workload);
                        if may_drop && random.percent(30) {
                            fs::remove_file(&path).unwrap();
                            drops += 1;
                        }
                    }
                    drops
                })
            })
            .collect();
        while Instant::now() < end && !stop.load(Relaxed) {
            thread::park_timeout(Duration::from_millis(random.below(400)));
            let at = random.below(3) as usize;
            let replica = &mut cluster.replicas[at];
            match random.below(4) {
                0 if at > 0 => {
                    replica.node.kill();
                    replica.node.up_alone();
                    kills += 1;
                }
                1 => {
                    replica.net.stall(true);
                    thread::park_timeout(Duration::from_millis(random.below(800)));
                    replica.net.stall(false);
                }
                _ => {
                    replica.net.cut();
                    cuts += 1;
                }
            }
            watchers.iter().for_each(Watcher::check);
        }
        drop(stopping);
        drops = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    });
    for name in &names {
        cluster.converge(name);
    }
    let reads: usize = watchers.iter().map(Watcher::count).sum();
    watchers.into_iter().for_each(Watcher::finish);
    let commits = commits.load(Relaxed);
    println!(
        "{seconds} s: {commits} commits, {reads} reads, {kills} kills, {cuts} cuts, {drops} drops: equal"
    );
}
