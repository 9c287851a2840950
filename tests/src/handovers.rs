//! One primary after the other, while applications write on both nodes: between which acknowledgements nobody could.
//!
//! ```text
//!   writer ─▶ candidate 0 ─┐
//!   writer ─▶ candidate 1 ─┴─▶ one Consul       both write all the time: one of them may
//! ```

use std::thread;
use std::time::{Duration, Instant};

use crate::bench::clock;
use crate::candidates::{Candidates, CandidatesOptions, Writers};
use crate::verdict::Verdict;

/// Two candidates, and writers of one database on both.
#[derive(Debug)]
pub struct Handovers {
    /// The nodes.
    pub candidates: Candidates,
    /// Who leads.
    pub primary: usize,
    writers: Writers,
    database: &'static str,
}

/// One change of the primary.
#[derive(Debug)]
pub struct Change {
    /// Between the two, in milliseconds.
    pub outage: f64,
    /// The last acknowledgement of the old primary.
    pub last: f64,
    /// The first one of the new primary.
    pub first: f64,
}

impl Handovers {
    /// Starts all; `program` is `litefs-workload`.
    pub fn start(program: &str, database: &'static str, fast_failover: bool) -> Handovers {
        let limit = Duration::from_secs(900);
        let options = CandidatesOptions { count: 2, fast_failover, limit, ..Default::default() };
        let candidates = Candidates::start(options);
        let writers = candidates.writers(program, &[database], PAUSE);
        Handovers { candidates, primary: 0, writers, database }
    }

    /// Waits until the primary's writer and its follower are in their stride.
    ///
    /// # Panics
    /// If that takes too long.
    #[track_caller]
    pub fn settle(&mut self) {
        self.await_first(self.primary, clock());
        self.candidates.await_followers(self.primary, 1, LIMIT);
        thread::sleep(STRIDE);
    }

    /// What `work` leads to, which is to make the other node the primary.
    ///
    /// # Panics
    /// If the other one can't be written to.
    #[track_caller]
    pub fn change(&mut self, work: impl FnOnce(&mut Candidates, usize)) -> Change {
        let (old, begun) = (self.primary, clock());
        work(&mut self.candidates, old);
        self.primary = 1 - old;
        let first = self.await_first(self.primary, begun);
        // What the old one is told yet would be told too late.
        thread::sleep(STRIDE / 2);
        let last = self.writers.of(self.database, old).last().unwrap();
        Change { outage: (first - last) * 1e3, last, first }
    }

    fn await_first(&mut self, at: usize, begun: f64) -> f64 {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(first) = self.writers.of(self.database, at).first_after(begun) {
                return first;
            }
            assert!(
                Instant::now() < deadline,
                "node {at} isn't written to\n{}{}",
                self.writers.complaints(),
                self.candidates.logs()
            );
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// What is true at the end.
    ///
    /// # Panics
    /// If anything is wrong.
    #[track_caller]
    pub fn verdict(mut self) -> Verdict {
        let receipts = self.writers.finish();
        let verdict = Verdict::of(&mut self.candidates, &receipts);
        assert!(verdict.wrong.is_empty(), "{}\n{}", verdict.text(), self.candidates.logs());
        verdict
    }
}

/// Between two rows of a writer.
const PAUSE: Duration = Duration::from_micros(500);
/// How long there are writes between two changes.
const STRIDE: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(60);
