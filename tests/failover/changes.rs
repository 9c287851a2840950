//! One primary after the other: asked for, at a stop, after a crash, and at random.

use std::time::Duration;

use litefs_tests::candidates::Candidates;
use litefs_tests::chaos::{self, ChaosOptions};
use litefs_tests::handovers::{Change, Handovers};
use litefs_tests::random::Random;

use crate::PROGRAM;

/// Nothing is lost, and the old primary has told nobody so after the new one did.
fn check_planned(changes: &[Change], handovers: Handovers) {
    let verdict = handovers.verdict();
    assert_eq!(verdict.set_aside, [], "lost");
    for change in changes {
        assert!((0.0..LONGEST_MS).contains(&change.outage), "{change:?}");
    }
}

#[test]
fn a_replica_that_is_promoted_leads_at_once_and_has_everything() {
    let mut handovers = Handovers::start(PROGRAM, "wal.db", true);
    let changes: Vec<_> = (0..5)
        .map(|_| {
            handovers.settle();
            handovers.change(|candidates, old| assert!(candidates.promote(1 - old)))
        })
        .collect();
    check_planned(&changes, handovers);
}

#[test]
fn a_primary_that_is_terminated_while_files_are_open_hands_over_everything() {
    let mut handovers = Handovers::start(PROGRAM, "delete.db", true);
    let changes: Vec<_> = (0..3)
        .map(|_| {
            handovers.settle();
            let old = handovers.primary;
            let change = handovers.change(Candidates::stop);
            handovers.candidates.up(old);
            change
        })
        .collect();
    check_planned(&changes, handovers);
}

#[test]
fn a_primary_that_is_killed_is_replaced_and_what_only_it_had_is_set_aside() {
    let mut handovers = Handovers::start(PROGRAM, "wal.db", true);
    for _ in 0..2 {
        handovers.settle();
        let old = handovers.primary;
        let change = handovers.change(Candidates::kill);
        assert!(change.outage < LONGEST_MS, "{change:?}");
        handovers.candidates.up(old);
    }
    handovers.verdict();
}

#[test]
fn whatever_happens_there_is_one_history() {
    let mut random = Random::from_env();
    let options = ChaosOptions {
        length: Duration::from_secs(20),
        longest: Duration::from_secs(4),
        fast_failover: true,
        ttl: Duration::from_secs(10),
    };
    let outcome = chaos::run(PROGRAM, options, &mut random);
    let (story, verdict) = (outcome.story.join("\n"), outcome.verdict.text());
    assert!(outcome.verdict.wrong.is_empty(), "{story}\n{verdict}\n{}", outcome.logs);
}

/// Machines that are busy with other things are slow; the benches measure.
const LONGEST_MS: f64 = 10_000.0;
