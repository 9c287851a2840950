//! Who leads after a start: one of two that come at once, never one that has nothing.

use std::thread;
use std::time::{Duration, Instant};

use litefs_tests::bench::clock;
use litefs_tests::candidates::{Candidates, CandidatesOptions, DATABASES};
use litefs_tests::cluster::eventually;
use litefs_tests::day::Day;
use litefs_tests::node::LIMIT;
use litefs_tests::starts::{End, Starts};

use crate::{PROGRAM, fast};

#[test]
fn of_two_that_start_at_once_one_leads() {
    let mut starts = Starts::begin(PROGRAM);
    for end in [End::Stopped, End::Killed, End::Stopped, End::Killed] {
        starts.round(end);
    }
    starts.end();
}

/// It isn't the primary for longer than candidates wait for each other.
fn never_leads(candidates: &Candidates, at: usize) {
    let deadline = Instant::now() + Duration::from_secs(12);
    while Instant::now() < deadline {
        let primaries = candidates.primaries();
        assert!(primaries.is_empty(), "{primaries:?}\n{}", candidates.logs());
        thread::park_timeout(Duration::from_millis(50));
    }
    assert!(candidates.all[at].node.process().is_running());
}

#[test]
fn an_empty_node_leads_no_cluster_that_had_something() {
    let mut candidates = Candidates::new(fast());
    candidates.begin(&[0, 1]);
    let mut day = Day::with(PROGRAM, candidates);
    day.leader_after(clock(), |_| true);
    day.candidates.stop_all();
    day.candidates.up(2);
    never_leads(&day.candidates, 2);
    day.candidates.up(0);
    day.candidates.up(1);
    day.settle();
    day.end();
}

/// Whoever says that old data is better than none also gets none.
#[test]
fn an_empty_node_leads_if_stale_promotion_is_allowed() {
    let mut candidates = Candidates::new(CandidatesOptions { count: 2, ..fast() });
    candidates.begin(&[0]);
    candidates.stop_all();
    let options = candidates.all[1].node.options();
    options.config = options.config.replace("lease:\n", "lease:\n  allow-stale-promotion: true\n");
    candidates.up(1);
    assert_eq!(candidates.await_primary(None, LIMIT), 1);
    candidates.up(0);
    candidates.create(1);
    let same = |name: &str| candidates.all[0].export(name) == candidates.all[1].export(name);
    for (name, _) in DATABASES {
        assert!(eventually(LIMIT, || same(name)), "{name}\n{}", candidates.logs());
    }
    assert_eq!(candidates.exits(), [""; 0]);
}
