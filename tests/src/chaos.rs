//! Troubles at random for candidates that are written to all the time, and the judgement after.
//!
//! | trouble | ends by |
//! |---|---|
//! | killed, terminated | a start |
//! | paused (SIGSTOP) | SIGCONT: it wakes with what it was about to do |
//! | cut off from Consul, from the other nodes, from both | what was held up arrives late, or is sent again |
//!
//! Each node has one trouble at most; now and then one that has none is asked to become the primary.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::candidates::{Candidates, CandidatesOptions, DATABASES, Writers};
use crate::random::Random;
use crate::verdict::Verdict;

/// How a run is to be.
#[derive(Debug, Clone, Copy)]
pub struct ChaosOptions {
    /// How long there are troubles.
    pub length: Duration,
    /// The longest that one lasts.
    pub longest: Duration,
    /// The nodes'.
    pub fast_failover: bool,
    /// The nodes'.
    pub ttl: Duration,
}

/// What has happened.
#[derive(Debug)]
pub struct Outcome {
    /// Each trouble, with the time since the start.
    pub story: Vec<String>,
    /// What is true at the end.
    pub verdict: Verdict,
    /// What the nodes and writers have said.
    pub logs: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Killed,
    Terminated,
    Paused,
    NoConsul,
    NoOthers,
    Alone,
}

struct Chaos {
    candidates: Candidates,
    writers: Writers,
    troubles: Vec<Option<(Trouble, Instant)>>,
    start: Instant,
    story: Vec<String>,
}

/// Lets it all happen to three nodes; `program` is `litefs-workload`.
///
/// # Panics
/// If a node doesn't start.
pub fn run(program: &str, options: ChaosOptions, random: &mut Random) -> Outcome {
    let ChaosOptions { length, longest, fast_failover, ttl } = options;
    let limit = length * 2 + Duration::from_secs(300);
    let options = CandidatesOptions { count: 3, fast_failover, ttl, limit };
    let candidates = Candidates::start(options);
    let names = DATABASES.map(|(name, _)| name);
    let writers = candidates.writers(program, &names, PAUSE);
    let troubles = vec![None; candidates.all.len()];
    let (start, story) = (Instant::now(), Vec::new());
    let mut chaos = Chaos { candidates, writers, troubles, start, story };
    while chaos.start.elapsed() < length {
        chaos.step(longest, random);
        thread::park_timeout(Duration::from_millis(random.below(1000)));
    }
    chaos.end()
}

impl Chaos {
    fn step(&mut self, longest: Duration, random: &mut Random) {
        for at in 0..self.troubles.len() {
            if let Some((trouble, until)) = self.troubles[at]
                && until <= Instant::now()
            {
                self.troubles[at] = None;
                self.tell(format!("node {at}: no longer {trouble:?}"));
                self.set(at, trouble, false);
            }
        }
        self.writers.tend();
        let at = random.below(self.troubles.len() as u64) as usize;
        let choice = random.below(10);
        let lasts = longest.mul_f64(random.below(100) as f64 / 100.0);
        if self.troubles[at].is_some() {
            return;
        }
        let trouble = match choice {
            0 => Trouble::Killed,
            1 => Trouble::Terminated,
            2 | 3 => Trouble::Paused,
            4 => Trouble::NoConsul,
            5 => Trouble::NoOthers,
            6 => Trouble::Alone,
            _ => {
                let asked = self.candidates.all[at].ask("POST", "/promote", PROMOTE_LIMIT);
                let answer = asked.map(|(status, _)| status);
                return self.tell(format!("node {at}: asked to lead: {answer:?}"));
            }
        };
        self.tell(format!("node {at}: {trouble:?} for {lasts:.1?}"));
        self.set(at, trouble, true);
        self.troubles[at] = Some((trouble, Instant::now() + lasts));
    }

    /// Begins a trouble, or ends it.
    fn set(&mut self, at: usize, trouble: Trouble, begins: bool) {
        let candidates = &mut self.candidates;
        let candidate = &candidates.all[at];
        match (trouble, begins) {
            (Trouble::Killed, true) => candidates.kill(at),
            (Trouble::Terminated, true) => candidates.stop(at),
            (Trouble::Killed | Trouble::Terminated, false) => candidates.up(at),
            (Trouble::Paused, true) => candidate.node.process().signal(Signal::SIGSTOP),
            (Trouble::Paused, false) => candidate.node.process().signal(Signal::SIGCONT),
            (Trouble::NoConsul, _) => candidate.consul.stall(begins),
            (Trouble::NoOthers, _) => candidates.part(at, begins),
            (Trouble::Alone, _) => {
                candidate.consul.stall(begins);
                candidates.part(at, begins);
            }
        }
    }

    /// All is well again: somebody can write, and then it is judged.
    fn end(mut self) -> Outcome {
        self.tell("healed".into());
        self.candidates.heal();
        let healed = crate::bench::clock();
        let deadline = Instant::now() + REVIVAL_LIMIT;
        let mut silent = Vec::new();
        for (name, _) in DATABASES {
            let mut lives = || self.writers.first_after(name, healed).is_some();
            while !lives() && Instant::now() < deadline {
                thread::park_timeout(Duration::from_millis(50));
            }
            if !lives() {
                silent.push(format!("{name}: nobody can write after {REVIVAL_LIMIT:?}"));
            }
        }
        let complaints = self.writers.complaints();
        let receipts = self.writers.finish();
        let mut verdict = Verdict::of(&mut self.candidates, &receipts);
        verdict.wrong.extend(silent);
        let logs = complaints + &self.candidates.logs();
        Outcome { story: self.story, verdict, logs }
    }

    fn tell(&mut self, what: String) {
        self.story.push(format!("{:8.3} {what}", self.start.elapsed().as_secs_f64()));
    }
}

/// Between two rows of a writer.
const PAUSE: Duration = Duration::from_millis(2);
const PROMOTE_LIMIT: Duration = Duration::from_secs(2);
/// How long it may take until somebody writes again.
const REVIVAL_LIMIT: Duration = Duration::from_secs(60);
