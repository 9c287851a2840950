//! Two candidates that start in the same moment, again and again, while applications write on both.

use std::thread;
use std::time::{Duration, Instant};

use crate::bench::clock;
use crate::candidates::{Candidates, CandidatesOptions};
use crate::day::Day;
use crate::node::LIMIT;
use crate::verdict::Verdict;

/// The two.
#[derive(Debug)]
pub struct Starts(Day);

/// How both came to their end before a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By SIGTERM in the same moment.
    Stopped,
    /// By SIGKILL in the same moment.
    Killed,
}

impl Starts {
    /// The first start, in which neither has anything.
    ///
    /// # Panics
    /// If both lead, or none.
    pub fn begin(program: &str) -> Starts {
        let limit = Duration::from_secs(1200);
        let mut candidates =
            Candidates::new(CandidatesOptions { count: 2, limit, ..Default::default() });
        candidates.up_all();
        let primary = candidates.await_primary(None, LIMIT);
        only_one_leads(&candidates);
        candidates.create(primary);
        Starts(Day::with(program, candidates))
    }

    /// Both end, and start; how long it takes until somebody can write, in milliseconds.
    ///
    /// # Panics
    /// If both lead, or none.
    pub fn round(&mut self, end: End) -> f64 {
        self.0.settle();
        match end {
            End::Stopped => self.0.candidates.stop_all(),
            End::Killed => self.0.candidates.kill_all(),
        }
        let begun = clock();
        self.0.candidates.up_all();
        let leader = self.0.leader_after(begun, |_| true);
        let first = self.0.first_after(leader, begun);
        only_one_leads(&self.0.candidates);
        (first - begun) * 1e3
    }

    /// What is true at the end.
    ///
    /// # Panics
    /// If anything is wrong.
    pub fn end(self) -> Verdict {
        self.0.end()
    }
}

/// For a while; nothing gives either a reason to change.
#[track_caller]
fn only_one_leads(candidates: &Candidates) {
    let deadline = Instant::now() + Duration::from_millis(300);
    while Instant::now() < deadline {
        let primaries = candidates.primaries();
        assert!(primaries.len() < 2, "{primaries:?}\n{}", candidates.logs());
        thread::park_timeout(Duration::from_millis(20));
    }
}
