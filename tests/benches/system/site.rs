//! The two places that are compared: a plain directory and a mount, on the same file system.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use litefs_tests::node::{Node, NodeOptions};
use litefs_tests::sqlite;
use rusqlite::Connection;
use tempfile::TempDir;

/// A plain directory beside a mount.
#[derive(Debug)]
pub(crate) struct Sites {
    pub(crate) node: Node,
    plain: TempDir,
}

impl Sites {
    pub(crate) fn new() -> Sites {
        Sites { node: node(), plain: tempfile::tempdir().unwrap() }
    }

    /// The path of a database in both places, raw first.
    pub(crate) fn paths(&self, name: &str) -> [PathBuf; 2] {
        [self.plain.path().join(name), self.node.path(name)]
    }

    /// Makes the same database in both places.
    pub(crate) fn make(&self, name: &str, make: impl Fn(&Connection)) {
        for path in self.paths(name) {
            let conn = sqlite::open(&path);
            make(&conn);
        }
    }

    /// Takes the rate of `work` in both places in turns: raw, mount, raw, mount, ….
    pub(crate) fn compare(
        &self,
        rounds: usize,
        name: &str,
        mut work: impl FnMut(&Path) -> f64,
    ) -> [Vec<f64>; 2] {
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            // Whoever comes first in one round comes second in the next.
            for site in [round % 2, 1 - round % 2] {
                // What others left to be written would be waited for by the first fsync.
                nix::unistd::sync();
                rates[site].push(work(&self.paths(name)[site]));
            }
        }
        rates
    }
}

pub(crate) fn node() -> Node {
    Node::start_with(NodeOptions {
        strict_verify: false,
        limit: Duration::from_secs(900),
        ..NodeOptions::default()
    })
}

/// Forgets all cached file content, that of the mount and that beneath it. Needs root.
pub(crate) fn drop_caches() {
    nix::unistd::sync();
    if let Err(err) = fs::write("/proc/sys/vm/drop_caches", "3") {
        eprintln!("caches stay warm: {err}");
    }
}
