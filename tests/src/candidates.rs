//! Nodes that each may lead, the Consul that they ask, applications that write on each, and networks between all of them.
//!
//! ```text
//!   Consul ◄── Proxy ◄── candidate 0 ──┐
//!          ◄── Proxy ◄── candidate 1 ──┼── Network: each on a host of its own, silent where it is cut
//!          ◄── Proxy ◄── candidate 2 ──┘
//!                            ▲
//!                            └── Writers, one per database: whoever may write has them writing
//! ```
//!
//! What is true at the end is judged by [`crate::verdict`].

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cluster::eventually;
use crate::consul::Consul;
use crate::http;
use crate::netns::{Host, Network};
use crate::node::{LIMIT, Node, NodeOptions, litefs};
use crate::process::Process;
use crate::proxy::Proxy;
use crate::receipts::{self, Receipt, Writer};

/// The databases, and their journal modes.
pub const DATABASES: [(&str, &str); 2] = [("wal.db", "WAL"), ("delete.db", "DELETE")];
/// The lease's key in Consul.
pub const KEY: &str = "litefs/primary";

/// The whole.
#[derive(Debug)]
pub struct Candidates {
    /// Whom they ask.
    pub consul: Consul,
    /// The nodes.
    pub all: Vec<Candidate>,
    /// What went wrong with processes that nobody has killed.
    exits: Vec<String>,
    _network: Network,
}

/// A node and its networks.
#[derive(Debug)]
pub struct Candidate {
    /// The node.
    pub node: Node,
    /// Where it runs.
    pub host: Host,
    /// Between it and Consul.
    pub consul: Proxy,
    /// Whether it is to run.
    runs: bool,
    /// What it has logged in earlier lives.
    past: String,
}

/// What the nodes are like.
#[derive(Debug, Clone, Copy)]
pub struct CandidatesOptions {
    /// How many.
    pub count: usize,
    /// `lease.consul.fast-failover`.
    pub fast_failover: bool,
    /// `lease.consul.ttl`.
    pub ttl: Duration,
    /// The longest life of the nodes.
    pub limit: Duration,
}

impl Default for CandidatesOptions {
    fn default() -> CandidatesOptions {
        CandidatesOptions {
            count: 3,
            fast_failover: true,
            ttl: Duration::from_secs(10),
            limit: Duration::from_secs(600),
        }
    }
}

impl Candidates {
    /// Starts all; the first one leads and has the databases, and the others have them, too.
    ///
    /// # Panics
    /// If one doesn't come up.
    pub fn start(options: CandidatesOptions) -> Candidates {
        let mut candidates = Candidates::new(options);
        candidates.begin(&(0..options.count).collect::<Vec<_>>());
        candidates
    }

    /// None of them runs yet.
    pub fn new(options: CandidatesOptions) -> Candidates {
        let (consul, network) = (Consul::start(), Network::new());
        let all = (0..options.count).map(|at| Candidate::new(&network, &consul, at, options));
        let all = all.collect();
        Candidates { consul, all, exits: Vec::new(), _network: network }
    }

    /// Starts some; the first of these leads and makes the databases, and the others have them, too.
    ///
    /// # Panics
    /// If one doesn't come up.
    pub fn begin(&mut self, sites: &[usize]) {
        self.all[sites[0]].start_and_join();
        self.create(sites[0]);
        for site in &sites[1..] {
            self.all[*site].start_and_join();
        }
    }

    /// Makes the databases on the primary.
    ///
    /// # Panics
    /// If it isn't.
    pub fn create(&self, primary: usize) {
        for (name, journal) in DATABASES {
            receipts::create(&self.all[primary].node.path(name), journal);
        }
    }

    /// A writer for each node and each of the databases, which pauses between rows.
    pub fn writers(&self, program: &str, names: &[&str], pause: Duration) -> Writers {
        let of = |name: &&str| {
            let sites = self.all.iter().enumerate();
            let writers = sites
                .map(|(site, other)| Writer::start(program, other.node.path(name), site, pause));
            (name.to_string(), writers.collect())
        };
        Writers(names.iter().map(of).collect())
    }

    /// Those that say that they are the primary. There may be two of them for a moment: one has yet to notice.
    pub fn primaries(&self) -> Vec<usize> {
        let leads = |at: &usize| self.all[*at].status().is_ok_and(|s| s["isPrimary"] == true);
        (0..self.all.len()).filter(leads).collect()
    }

    /// Waits until one says so, other than `former`.
    ///
    /// # Panics
    /// If it takes too long.
    #[track_caller]
    pub fn await_primary(&self, former: Option<usize>, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(at) = self.primaries().into_iter().find(|at| Some(*at) != former) {
                return at;
            }
            assert!(Instant::now() < deadline, "no primary after {limit:?}\n{}", self.logs());
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Waits until all that run follow the primary, and have all that it has; whether they do. Nobody may write.
    pub fn converge(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let all: Vec<_> = self.all.iter().map(Candidate::status).collect();
            let equal = |status: &io::Result<Value>| match (status, &all[0]) {
                (Ok(status), Ok(first)) => {
                    positions(status) == positions(first)
                        && (status["isPrimary"] == true || status["primary"].is_object())
                }
                _ => false,
            };
            let leads = |s: &&io::Result<Value>| s.as_ref().is_ok_and(|s| s["isPrimary"] == true);
            if all.iter().all(equal) && all.iter().filter(leads).count() == 1 {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
            thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Waits until `count` others follow the node and have what it had a moment ago.
    ///
    /// # Panics
    /// If it takes too long.
    #[track_caller]
    pub fn await_followers(&self, at: usize, count: usize, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.all[at].status().unwrap_or_default();
            let live = |stream: &&Value| stream["behind"].as_u64().is_some_and(|n| n < 100);
            let streams = status["streams"].as_array();
            if streams.is_some_and(|streams| streams.iter().filter(live).count() >= count) {
                return;
            }
            assert!(Instant::now() < deadline, "{count} don't follow: {status}\n{}", self.logs());
            thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Kills it as a crash does. The mount is dead.
    pub fn kill(&mut self, at: usize) {
        self.note_exit(at);
        let candidate = &mut self.all[at];
        candidate.runs = false;
        // A replica writes through its own mount.
        candidate.node.kill_and_abort();
    }

    /// Kills all in the same moment.
    pub fn kill_all(&mut self) {
        for candidate in &self.all {
            candidate.node.process().signal(Signal::SIGKILL);
        }
        for at in 0..self.all.len() {
            self.all[at].runs = false;
            self.all[at].node.kill_and_abort();
        }
    }

    /// Ends all in good order in the same moment.
    pub fn stop_all(&mut self) {
        for candidate in self.all.iter().filter(|candidate| candidate.runs) {
            candidate.node.process().signal(Signal::SIGTERM);
        }
        for at in 0..self.all.len() {
            if self.all[at].runs {
                self.await_stop(at);
            }
        }
    }

    /// Ends it in good order; one that doesn't end, a code other than 0, and a mount that is left count as failures.
    pub fn stop(&mut self, at: usize) {
        self.note_exit(at);
        self.all[at].node.process().signal(Signal::SIGTERM);
        self.await_stop(at);
    }

    fn await_stop(&mut self, at: usize) {
        self.all[at].runs = false;
        let node = &self.all[at].node;
        let process = node.process();
        if !eventually(LIMIT, || !process.is_running()) {
            let (threads, log) = (threads(process.pid().as_raw()), process.output());
            self.exits.push(format!("node {at}: doesn't stop\n{threads}\n{log}"));
            node.kill_and_abort();
            return;
        }
        let (code, mounted) = (process.wait(LIMIT).code(), node.is_mounted());
        if code != Some(0) || mounted {
            let log = process.output();
            self.exits.push(format!("node {at}: stopped: {code:?}, mounted: {mounted}\n{log}"));
        }
    }

    /// Starts it again, with no wait for a primary.
    ///
    /// # Panics
    /// If it doesn't come up.
    pub fn up(&mut self, at: usize) {
        self.all[at].up();
    }

    /// Starts all in the same moment, with no wait for a primary.
    ///
    /// # Panics
    /// If one doesn't come up.
    pub fn up_all(&mut self) {
        thread::scope(|scope| {
            for candidate in &mut self.all {
                scope.spawn(|| candidate.up());
            }
        });
    }

    /// Asks that it become the primary; whether that was agreed to.
    pub fn promote(&self, at: usize) -> bool {
        self.all[at].ask("POST", "/promote", LIMIT).is_ok_and(|(status, _)| status == 200)
    }

    /// Cuts it off from the other nodes, both ways, or ends that.
    pub fn part(&self, at: usize, parted: bool) {
        let host = &self.all[at].host;
        for (_, other) in self.all.iter().enumerate().filter(|(other, _)| *other != at) {
            for (from, to) in [(host, &other.host), (&other.host, host)] {
                if parted { from.lose(to) } else { from.carry(to) }
            }
        }
    }

    /// All networks pass everything, and all processes run.
    pub fn heal(&mut self) {
        for at in 0..self.all.len() {
            self.part(at, false);
            self.all[at].consul.stall(false);
            self.all[at].node.process().signal(Signal::SIGCONT);
            if !self.all[at].runs {
                self.up(at);
            }
        }
    }

    /// Processes that ended though nobody has ended them, that panicked, or that couldn't be stopped in good order.
    pub fn exits(&mut self) -> Vec<String> {
        for at in (0..self.all.len()).filter(|at| self.all[*at].runs).collect::<Vec<_>>() {
            self.note_exit(at);
        }
        self.exits.clone()
    }

    fn note_exit(&mut self, at: usize) {
        let process = self.all[at].node.process();
        let output = process.output();
        if !process.is_running() || output.contains("panicked") {
            self.exits.push(format!("node {at}: ended by itself or panicked\n{output}"));
        }
    }

    /// What all of them have logged, in all their lives.
    pub fn logs(&self) -> String {
        let log = |(at, candidate): (usize, &Candidate)| {
            format!("--- node {at}\n{}{}", candidate.past, candidate.node.process().output())
        };
        self.all.iter().enumerate().map(log).collect()
    }
}

impl Candidate {
    fn new(network: &Network, consul: &Consul, at: usize, options: CandidatesOptions) -> Candidate {
        let host = network.host();
        let proxy = Proxy::start_on(&host);
        proxy.set_target(Some(consul.address()));
        let CandidatesOptions { fast_failover, ttl, limit, .. } = options;
        let (address, url, ttl) = (host.address(PORT), proxy.url(), ttl.as_secs());
        let config = format!(
            "http:\n  addr: \"{address}\"\nlog:\n  timestamp: true\nlease:\n  type: consul\n  hostname: node{at}\n  \
             advertise-url: \"http://{address}\"\n  consul:\n    url: \"{url}\"\n    key: {KEY}\n    \
             ttl: {ttl}s\n    fast-failover: {fast_failover}\n"
        );
        let through = host.through();
        let node =
            NodeOptions { strict_verify: false, config, through, limit, ..Default::default() };
        Candidate { node: Node::new(node), host, consul: proxy, runs: false, past: String::new() }
    }

    fn start_and_join(&mut self) {
        self.runs = true;
        self.node.up();
    }

    fn up(&mut self) {
        self.runs = true;
        if self.node.was_started() {
            self.past += &self.node.process().output();
            self.past += "--- its next life\n";
        }
        self.node.up_alone();
    }

    /// Whether it is to run.
    pub fn runs(&self) -> bool {
        self.runs
    }

    /// What `GET /status` answers.
    ///
    /// # Errors
    /// If it doesn't answer in a moment.
    pub fn status(&self) -> io::Result<Value> {
        let (_, body) = self.ask("GET", "/status", Duration::from_millis(500))?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// A database as the node exports it.
    ///
    /// # Panics
    /// If it can't be had.
    pub fn export(&self, name: &str) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut export = self.host.command(litefs());
        export.args(["export", "-url", &format!("http://{}", self.address()), "-name", name]);
        let (code, output) = Process::run(export.arg(file.path()), LIMIT);
        assert_eq!(code, Some(0), "{output}");
        fs::read(file.path()).unwrap()
    }

    /// Asks it from its own host.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn ask(&self, method: &str, target: &str, limit: Duration) -> io::Result<(u16, Vec<u8>)> {
        if !self.runs {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.host.within(|| http::ask(self.address(), method, target, "", limit))
    }

    fn address(&self) -> SocketAddr {
        self.host.address(PORT)
    }
}

/// Where each thread of a process is in the kernel.
fn threads(pid: i32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |task: fs::DirEntry| {
        let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        format!("thread {}{}", read("comm"), read("stack"))
    };
    tasks.map(of).collect()
}

/// Name, transaction and checksum of each database.
fn positions(status: &Value) -> Vec<String> {
    let databases = status["databases"].as_array().cloned().unwrap_or_default();
    databases.iter().map(|db| format!("{} {} {}", db["name"], db["txid"], db["checksum"])).collect()
}

/// The writers of each database, by node.
#[derive(Debug)]
pub struct Writers(Vec<(String, Vec<Writer>)>);

impl Writers {
    /// The one of a database on a node.
    ///
    /// # Panics
    /// If there is none.
    pub fn of(&mut self, name: &str, at: usize) -> &mut Writer {
        let (_, writers) = self.0.iter_mut().find(|(other, _)| other == name).unwrap();
        &mut writers[at]
    }

    /// Who was first told that a row of a database is committed, of those that were begun after that moment; and when.
    pub fn first_after(&mut self, name: &str, moment: f64) -> Option<(usize, f64)> {
        let (_, writers) = self.0.iter_mut().find(|(other, _)| other == name)?;
        let firsts = writers.iter_mut().map(|writer| writer.first_after(moment)).enumerate();
        let firsts = firsts.filter_map(|(at, end)| Some((at, end?)));
        firsts.min_by(|(_, a), (_, b)| a.total_cmp(b))
    }

    /// All that anybody was told and that fits.
    pub fn told(&mut self, fits: impl Fn(&Receipt) -> bool) -> Vec<Receipt> {
        let all = self.0.iter_mut().flat_map(|(_, writers)| writers);
        all.flat_map(|w| w.receipts().iter().filter(|r| fits(r)).copied().collect::<Vec<_>>())
            .collect()
    }

    /// Starts those anew that have died with their mount.
    pub fn tend(&mut self) {
        for writer in self.0.iter_mut().flat_map(|(_, writers)| writers) {
            writer.receipts();
        }
    }

    /// Ends them; by database, all they were told.
    pub fn finish(self) -> Vec<(String, Vec<Receipt>)> {
        let told = |writers: Vec<Writer>| writers.into_iter().flat_map(Writer::finish).collect();
        self.0.into_iter().map(|(name, writers)| (name, told(writers))).collect()
    }

    /// What they have complained of.
    pub fn complaints(&self) -> String {
        let all = self.0.iter().flat_map(|(name, writers)| {
            let numbered = writers.iter().enumerate();
            numbered.map(move |(at, w)| format!("--- writer {at} of {name}\n{}\n", w.complaints()))
        });
        all.collect()
    }
}

const PORT: u16 = 20202;
