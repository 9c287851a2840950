//! A primary and a replica, each a daemon with a mount.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use litefs_tests::node::{Node, NodeOptions};
use litefs_tests::process::Process;

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

pub(crate) struct Pair {
    pub(crate) primary: Node,
    pub(crate) replica: Node,
    pub(crate) url: String,
}

impl Pair {
    /// The primary runs, the replica doesn't yet.
    pub(crate) fn new() -> Pair {
        // Free a moment ago, and nobody else is told of it.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}");
        let mut primary = Node::new(options(&url, true, port));
        primary.up();
        Pair { primary, replica: Node::new(options(&url, false, 0)), url }
    }

    /// Both run, and the replica has what the primary has.
    pub(crate) fn started() -> Pair {
        let mut pair = Pair::new();
        pair.start_replica();
        pair
    }

    /// Starts the replica and waits until it has what the primary has; how long that took.
    pub(crate) fn start_replica(&mut self) -> Duration {
        let start = Instant::now();
        let process = self.replica.launch();
        process.line("waiting for signal or subprocess to exit", LIMIT);
        start.elapsed()
    }

    /// Waits until a database is at the same position on both.
    pub(crate) fn follow(&self, name: &str) {
        assert!(self.follows_within(name, LIMIT), "{name} doesn't follow");
    }

    /// Whether a database comes to the primary's position in time.
    pub(crate) fn follows_within(&self, name: &str, limit: Duration) -> bool {
        let want = self.primary.pos(name);
        let deadline = Instant::now() + limit;
        let there = self.replica.path(&format!("{name}-pos"));
        while !there.exists() || self.replica.pos(name) != want {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        true
    }
}

/// A process that uses a database, once it is at it.
pub(crate) fn workload(args: [&str; 3]) -> Process {
    let process = Process::start(Command::new(env!("CARGO_BIN_EXE_litefs-workload")).args(args));
    process.line("ready", LIMIT);
    process
}

fn options(url: &str, primary: bool, port: u16) -> NodeOptions {
    NodeOptions {
        strict_verify: false,
        limit: Duration::from_secs(900),
        config: format!(
            "lease:\n  type: static\n  candidate: {primary}\n  hostname: primary\n  advertise-url: {url}\n\
             http:\n  addr: \"127.0.0.1:{port}\"\n"
        ),
        ..NodeOptions::default()
    }
}
