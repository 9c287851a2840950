//! A primary and its replicas: real nodes, each replica with a network of its own to the primary.
//!
//! ```text
//!   primary ◄── Proxy ◄── replica 0
//!           ◄── Proxy ◄── replica 1 …
//! ```
//!
//! [`Cluster::converge`] is what each test ends with: equal positions, equal bytes, intact by SQLite's judgement and by
//! the oracle's, and nobody has panicked or ended.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::MAIN_DB;

use crate::node::{LIMIT, Node, NodeOptions, Position};
use crate::process::{Process, Stream};
use crate::proxy::Proxy;
use crate::{scan, sqlite};

/// One primary, some replicas.
#[derive(Debug)]
pub struct Cluster {
    /// The primary.
    pub primary: Node,
    /// Its replicas.
    pub replicas: Vec<Replica>,
}

/// A replica and its network.
#[derive(Debug)]
pub struct Replica {
    /// The node.
    pub node: Node,
    /// Between it and the primary.
    pub net: Proxy,
}

/// What a cluster is like.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// How many replicas.
    pub replicas: usize,
    /// More lines of the section `data` of the primary's `litefs.yml`.
    pub data: String,
    /// The longest life of the nodes.
    pub limit: Duration,
}

impl Default for ClusterOptions {
    fn default() -> ClusterOptions {
        ClusterOptions { replicas: 1, data: String::new(), limit: Duration::from_secs(120) }
    }
}

impl Cluster {
    /// A primary and a replica.
    pub fn start() -> Cluster {
        Cluster::start_with(ClusterOptions::default())
    }

    /// Starts the nodes.
    ///
    /// # Panics
    /// If one doesn't come up.
    pub fn start_with(options: ClusterOptions) -> Cluster {
        let ClusterOptions { replicas, data, limit } = options;
        let primary = Node::start_with(NodeOptions {
            strict_verify: false,
            data,
            limit,
            ..NodeOptions::default()
        });
        let mut cluster = Cluster { primary, replicas: Vec::new() };
        for _ in 0..replicas {
            let mut replica = Replica::new(limit);
            replica.net.set_target(Some(cluster.address()));
            replica.node.up();
            cluster.replicas.push(replica);
        }
        cluster
    }

    /// Where the primary listens.
    pub fn address(&self) -> SocketAddr {
        address(&self.primary)
    }

    /// The first replica.
    pub fn replica(&self) -> &Replica {
        &self.replicas[0]
    }

    /// Starts a primary that was stopped or killed; the replicas find it.
    pub fn primary_up(&mut self) {
        self.primary.up();
        let address = self.address();
        for replica in &self.replicas {
            replica.net.set_target(Some(address));
        }
    }

    /// Waits until each replica has what the primary has, and compares them down to the bytes. Nobody may write.
    ///
    /// # Panics
    /// If they don't get equal, or something is wrong with one of them.
    #[track_caller]
    pub fn converge(&self, name: &str) {
        converge(&self.primary, &self.replicas(), name);
    }

    /// Waits until each replica is where the primary is. Nobody may write.
    ///
    /// # Panics
    /// If it takes too long.
    #[track_caller]
    pub fn await_position(&self, name: &str) -> Option<Position> {
        await_position(&self.primary, &self.replicas(), name)
    }

    fn replicas(&self) -> Vec<&Node> {
        self.replicas.iter().map(|replica| &replica.node).collect()
    }
}

impl Replica {
    /// A replica that doesn't run yet, and whose network leads nowhere.
    pub fn new(limit: Duration) -> Replica {
        let net = Proxy::start();
        let config = replica_config(&net.url());
        let options = NodeOptions { strict_verify: true, config, limit, ..NodeOptions::default() };
        Replica { node: Node::new(options), net }
    }
}

/// A process that reads a database all the time and must never see an error or half a transaction.
#[derive(Debug)]
pub struct Watcher {
    process: Process,
    what: String,
}

/// How a [`Watcher`] uses its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watching {
    /// One connection for its whole life.
    Keep,
    /// A new connection for each transaction; the database may be missing.
    Reopen,
}

impl Watcher {
    /// Starts it and waits for its first look.
    ///
    /// # Panics
    /// If that fails.
    pub fn start(program: &str, database: &Path, how: Watching) -> Watcher {
        let mut command = Command::new(program);
        let flag = if how == Watching::Keep { "--watch" } else { "--watch-anew" };
        let process = Process::start(command.arg(flag).arg(database));
        process.line_of("ready", LIMIT);
        // SQLite opens the WAL when it is first read.
        process.lines_at_least(2, LIMIT);
        Watcher { process, what: format!("{how:?} {}", database.display()) }
    }

    /// How many transactions it has read.
    pub fn count(&self) -> usize {
        self.process.stream(Stream::Stdout).len()
    }

    /// Waits until it has read `more` transactions from now on.
    ///
    /// # Panics
    /// If it has seen an error.
    #[track_caller]
    pub fn look(&self, more: usize) {
        self.process.lines_at_least(self.process.lines().len() + more, LIMIT);
        self.check();
    }

    /// Ends it.
    ///
    /// # Panics
    /// If it has seen an error.
    #[track_caller]
    pub fn finish(self) {
        self.look(2);
    }

    /// Checks that it still reads.
    ///
    /// # Panics
    /// If it has seen an error.
    #[track_caller]
    pub fn check(&self) {
        let errors = self.process.stream(Stream::Stderr);
        assert!(self.process.is_running() && errors.is_empty(), "{}: {errors:?}", self.what);
    }
}

/// The part of a replica's `litefs.yml` that says whom it follows.
pub fn replica_config(url: &str) -> String {
    format!(
        "lease:\n  type: static\n  candidate: false\n  hostname: primary\n  \
         advertise-url: {url}\n  reconnect-delay: 40ms\n"
    )
}

/// [`Cluster::converge`] for nodes whose network is something else.
///
/// # Panics
/// If they don't get equal, or something is wrong with one of them.
#[track_caller]
pub fn converge(primary: &Node, replicas: &[&Node], name: &str) {
    let want = await_position(primary, replicas, name);
    let image = want.map(|_| image(primary, name));
    for (i, node) in replicas.iter().enumerate() {
        if let Some(image) = &image {
            let differs = difference(image, &self::image(node, name));
            assert!(
                differs.is_none(),
                "{name} of replica {i} at {want:x?}: {}",
                differs.unwrap_or_default()
            );
            check_position(node, name);
        }
        check_process(node);
    }
    if want.is_some() {
        check_position(primary, name);
    }
    check_process(primary);
}

#[track_caller]
fn await_position(primary: &Node, replicas: &[&Node], name: &str) -> Option<Position> {
    // A database without a transaction isn't sent.
    let there = |node: &Node| node.pos_if_there(name).filter(|pos| pos.txid > 0);
    let want = there(primary);
    for (i, node) in replicas.iter().enumerate() {
        let mut got = None;
        let equal = eventually(CONVERGE_LIMIT, || {
            got = there(node);
            got == want
        });
        assert!(
            equal,
            "{name} of replica {i}: {got:x?} instead of {want:x?}\n--- primary\n{}",
            tail(&primary.process().output())
        );
    }
    want
}

/// Where a node listens.
///
/// # Panics
/// If it doesn't.
pub fn address(node: &Node) -> SocketAddr {
    const LISTENING: &str = "http server listening on: http://";
    let line = node.process().line(LISTENING, LIMIT).text;
    let at = line.find(LISTENING).unwrap() + LISTENING.len();
    line[at..].trim_end_matches('"').parse().unwrap()
}

/// Waits until it is so; whether it is.
pub fn eventually(limit: Duration, mut ready: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !ready() {
        if Instant::now() > deadline {
            return false;
        }
        thread::park_timeout(Duration::from_millis(2));
    }
    true
}

/// What is not the same, by pages.
fn difference(want: &[u8], got: &[u8]) -> Option<String> {
    if want == got {
        return None;
    }
    // Bytes 16 and 17 of the header; 1 stands for 65536.
    let page_size = match want.get(16..18).map(|b| usize::from(b[0]) << 8 | usize::from(b[1])) {
        Some(1) => 65536,
        Some(len @ 512..) => len,
        _ => 512,
    };
    let (mut ours, mut theirs) = (want.chunks(page_size), got.chunks(page_size));
    let pages = want.len().max(got.len()).div_ceil(page_size);
    let other: Vec<usize> = (1..=pages).filter(|_| ours.next() != theirs.next()).collect();
    Some(format!(
        "{} instead of {} bytes, pages {other:?} of {page_size} bytes differ",
        got.len(),
        want.len()
    ))
}

/// All pages, as SQLite reads them; `integrity_check` must find nothing. None, if it was dropped.
#[track_caller]
fn image(node: &Node, name: &str) -> Vec<u8> {
    if !node.path(name).exists() {
        return Vec::new();
    }
    let mut conn = sqlite::open(&node.path(name));
    assert_eq!(sqlite::text(&conn, "PRAGMA integrity_check"), "ok", "{name}");
    conn.serialize(MAIN_DB).unwrap().to_vec()
}

/// The position is that of the files.
#[track_caller]
fn check_position(node: &Node, name: &str) {
    let dir = node.backing(name);
    let (database, wal) = (dir.join("database"), dir.join("wal"));
    let sum =
        if database.exists() { scan::checksum(&database, &wal).unwrap() } else { scan::EMPTY };
    let pos = node.pos(name);
    assert!(pos.checksum == sum || pos.txid == 0, "{name}: {pos:x?}, but files have {sum:016x}");
}

#[track_caller]
fn check_process(node: &Node) {
    let output = node.process().output();
    assert!(node.process().is_running() && !output.contains("panicked"), "{}", tail(&output));
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

const CONVERGE_LIMIT: Duration = Duration::from_secs(30);
