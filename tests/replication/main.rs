//! Replication's bad days: real daemons on real mounts, and a network that fails.
//!
//! Each test ends with a primary and replicas that are equal down to the bytes, without anyone's help.
//!
//! `LITEFS_SEED` repeats a run as far as timing allows, `LITEFS_CRASH_ROUNDS` makes those with kills longer.

// A failed expectation is what a test has to report.
#![allow(clippy::unwrap_used)]

mod behind;
mod crash;
mod live;
mod metrics;
mod network;
mod partition;
mod scale;
mod wire;

use std::path::Path;
use std::thread;

use litefs_tests::cluster::{Watcher, Watching};
use litefs_tests::workload::{Mode, Stop, Workload};

/// Journal modes that are written in turns.
const MODES: [Mode; 5] = [
    Mode::new("WAL", "NORMAL"),
    Mode::new("DELETE", "FULL"),
    Mode::new("PERSIST", "NORMAL"),
    Mode::new("TRUNCATE", "NORMAL"),
    Mode::new("WAL", "OFF"),
];

fn watch(path: &Path, how: Watching) -> Watcher {
    Watcher::start(env!("CARGO_BIN_EXE_litefs-workload"), path, how)
}

/// Commits random transactions while `work` is done; whether they were many.
fn while_writing<T>(path: &Path, mode: Mode, seed: u64, work: impl FnOnce() -> T) -> T {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut workload = Workload::open(path, mode, seed).unwrap();
            while !stop.load(Relaxed) {
                workload.step().unwrap();
            }
        });
        let stop = Stop(stop);
        let done = work();
        drop(stop);
        done
    })
}
