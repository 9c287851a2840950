//! A day in the life of candidates: applications write on each of them all the time, something happens, and at the end it
//! is judged ([`crate::verdict`]).
//!
//! ```text
//!   begin ─▶ what a test does to the nodes, their networks, and Consul ─▶ end: all is healed, somebody writes, judgement
//! ```
//!
//! Moments are those of [`clock`], as in receipts. A receipt that was begun after a right had ended is a second primary's.

use std::thread;
use std::time::{Duration, Instant};

use crate::bench::clock;
use crate::candidates::{Candidates, CandidatesOptions, DATABASES, Writers};
use crate::receipts::Receipt;
use crate::verdict::Verdict;

/// The nodes and the writers.
#[derive(Debug)]
pub struct Day {
    /// The nodes.
    pub candidates: Candidates,
    /// On each, of each database.
    pub writers: Writers,
}

impl Day {
    /// All run, and the first one leads; `program` is `litefs-workload`.
    pub fn begin(program: &str, options: CandidatesOptions) -> Day {
        Day::with(program, Candidates::start(options))
    }

    /// Those that run have the databases.
    pub fn with(program: &str, candidates: Candidates) -> Day {
        let names = DATABASES.map(|(name, _)| name);
        let writers = candidates.writers(program, &names, PAUSE);
        Day { candidates, writers }
    }

    /// Who can write to all databases now.
    ///
    /// # Panics
    /// If nobody can.
    #[track_caller]
    pub fn leader(&mut self) -> usize {
        self.leader_after(clock(), |_| true)
    }

    /// Who can write to all databases after that moment, and is one of those.
    ///
    /// # Panics
    /// If none of them can.
    #[track_caller]
    pub fn leader_after(&mut self, moment: f64, fits: impl Fn(usize) -> bool) -> usize {
        let deadline = Instant::now() + LIMIT;
        loop {
            let sites = 0..self.candidates.all.len();
            let mut writes = |at: &usize| {
                DATABASES
                    .iter()
                    .all(|(name, _)| self.writers.of(name, *at).first_after(moment).is_some())
            };
            if let Some(at) = sites.filter(|at| fits(*at)).find(|at| writes(at)) {
                return at;
            }
            if Instant::now() > deadline {
                self.fail(&format!("none that may write after {LIMIT:?}"));
            }
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Waits until the others follow and have all but the last moment.
    #[track_caller]
    pub fn settle(&mut self) -> usize {
        let leader = self.leader();
        self.candidates.await_followers(leader, self.candidates.all.len() - 1, LIMIT);
        leader
    }

    /// When a node could first write to all databases, of what was begun after that moment.
    ///
    /// # Panics
    /// If it couldn't.
    pub fn first_after(&mut self, at: usize, moment: f64) -> f64 {
        let firsts = DATABASES.map(|(name, _)| self.writers.of(name, at).first_after(moment));
        firsts.into_iter().map(|first| first.expect("it was told so")).fold(moment, f64::max)
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        thread::sleep(time);
    }

    /// Nobody may have been told this.
    ///
    /// # Panics
    /// If somebody was.
    #[track_caller]
    pub fn never(&mut self, what: &str, fits: impl Fn(&Receipt) -> bool) {
        let told = self.writers.told(fits);
        if let [first, ..] = &told[..] {
            self.fail(&format!("{what}: {} receipts, as {first:?}", told.len()));
        }
    }

    /// Everything works again; the judgement.
    ///
    /// # Panics
    /// If anything is wrong.
    #[track_caller]
    pub fn end(mut self) -> Verdict {
        self.candidates.heal();
        self.leader();
        let complaints = self.writers.complaints();
        let receipts = self.writers.finish();
        let verdict = Verdict::of(&mut self.candidates, &receipts);
        let logs = || complaints.clone() + &self.candidates.logs();
        assert!(verdict.wrong.is_empty(), "{}\n{}", verdict.text(), logs());
        verdict
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        panic!("{what}\n{}{}", self.writers.complaints(), self.candidates.logs());
    }
}

/// Between two rows of a writer.
const PAUSE: Duration = Duration::from_millis(2);
const LIMIT: Duration = Duration::from_secs(60);
