//! The primary is cut off, and doesn't know from whom.

use std::time::Duration;

use litefs_tests::bench::clock;
use litefs_tests::day::Day;

use crate::{FENCE, PROGRAM, fast};

/// The primary loses its right, and another one takes it; then all is well again.
fn is_replaced(day: &mut Day, cut: impl Fn(&Day, usize, bool)) {
    let old = day.settle();
    cut(day, old, true);
    let begin = clock();
    let new = day.leader_after(begin, |at| at != old);
    let over = begin + FENCE.as_secs_f64();
    day.never("written without a right", |r| r.token.site == old && r.begin > over);
    cut(day, old, false);
    assert_eq!(day.settle(), new, "the old one has come back as a replica");
}

#[test]
fn a_primary_without_consul_is_replaced_and_one_without_replicas_is_not() {
    let mut day = Day::begin(PROGRAM, fast());
    is_replaced(&mut day, |day, at, cut| day.candidates.all[at].consul.stall(cut));

    // Longer than the others wait for a primary that is silent.
    let leader = day.settle();
    let begin = clock();
    day.candidates.part(leader, true);
    day.pass(Duration::from_secs(5));
    let end = clock();
    day.candidates.part(leader, false);
    day.never("another one has written", |r| {
        r.token.site != leader && (begin..end).contains(&r.end)
    });
    assert_eq!(day.settle(), leader);

    is_replaced(&mut day, |day, at, cut| {
        day.candidates.all[at].consul.stall(cut);
        day.candidates.part(at, cut);
    });
    day.end();
}
