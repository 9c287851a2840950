//! A replica writes, under the halt lock: real daemons on real mounts.
//!
//! Each test ends with a primary and replicas that are equal down to the bytes.

// A failed expectation is what a test has to report.
#![allow(clippy::unwrap_used)]

mod commits;

use std::fs::{File, OpenOptions};
use std::io;

use litefs_tests::node::Node;

/// Opens the lock file of a database for writing; while it is open this node may write.
fn try_halt(node: &Node, name: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(node.path(&format!("{name}-lock")))
}

#[track_caller]
fn halt(node: &Node, name: &str) -> File {
    try_halt(node, name).unwrap_or_else(|err| panic!("{err}\n{}", node.process().output()))
}
