//! A replica writes, under the halt lock: real daemons on real mounts, and a network that fails.
//!
//! Each test ends with a primary and replicas that are equal down to the bytes.
//!
//! `LITEFS_SEED` repeats a run as far as timing allows.

// A failed expectation is what a test has to report.
#![allow(clippy::unwrap_used)]

mod commits;
mod crash;
mod lock;
mod network;

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::Duration;

use litefs_tests::cluster::{Cluster, ClusterOptions, Watcher, Watching};
use litefs_tests::node::Node;
use litefs_tests::sqlite;
use rusqlite::Connection;

const MODES: [&str; 4] = ["WAL", "DELETE", "TRUNCATE", "PERSIST"];

/// Opens the lock file of a database for writing; while it is open this node may write.
fn try_halt(node: &Node, name: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(node.path(&format!("{name}-lock")))
}

#[track_caller]
fn halt(node: &Node, name: &str) -> File {
    try_halt(node, name).unwrap_or_else(|err| panic!("{err}\n{}", node.process().output()))
}

/// A cluster of so many replicas, with a database of an empty table `t`, and connections to it on the primary and the
/// first replica.
fn with_table(mode: &str, replicas: usize) -> (Cluster, Connection, Connection) {
    let limit = Duration::from_secs(150);
    let options = ClusterOptions { replicas, limit, ..ClusterOptions::default() };
    let cluster = Cluster::start_with(options);
    let there = sqlite::open(&cluster.primary.path("db"));
    sqlite::run(&there, &format!("PRAGMA journal_mode={mode}; CREATE TABLE t(x)"));
    cluster.converge("db");
    let here = sqlite::open(&cluster.replica().node.path("db"));
    sqlite::run(&here, &format!("PRAGMA journal_mode={mode}"));
    (cluster, there, here)
}

fn count(conn: &Connection) -> i64 {
    conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

fn watch(path: &Path, how: Watching) -> Watcher {
    Watcher::start(env!("CARGO_BIN_EXE_litefs-workload"), path, how)
}
