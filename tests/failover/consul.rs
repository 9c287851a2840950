//! Consul has a bad day, and the nodes are well.

use std::time::Duration;

use litefs_tests::bench::clock;
use litefs_tests::candidates::{CandidatesOptions, KEY};
use litefs_tests::cluster::eventually;
use litefs_tests::day::Day;
use litefs_tests::fake::{Fake, Reply};
use litefs_tests::node::LIMIT;
use litefs_tests::proxy::Proxy;

use crate::{FENCE, PROGRAM, SLOW_TTL, fast, slow};

/// For longer than any right lasts nobody gets an answer; `right` is how long it lasts.
fn away(day: &mut Day, right: Duration, begin: impl Fn(&mut Day), end: impl Fn(&mut Day)) {
    day.settle();
    begin(day);
    let away = clock();
    day.pass(right + Duration::from_secs(2));
    let back = clock();
    end(day);
    let over = away + right.as_secs_f64();
    day.never("written without a right", |r| (over..back).contains(&r.begin));
    day.leader_after(back, |_| true);
}

fn each(day: &Day, work: impl Fn(&Proxy)) {
    day.candidates.all.iter().for_each(|candidate| work(&candidate.consul));
}

fn restarts(day: &mut Day) {
    day.settle();
    day.candidates.consul.kill();
    day.candidates.consul.up();
    day.leader();
}

fn is_unreachable(day: &mut Day, right: Duration) {
    away(
        day,
        right,
        |day| each(day, |net| net.stall(true)),
        |day| each(day, |net| net.stall(false)),
    );
}

fn stands_still(day: &mut Day, right: Duration) {
    away(day, right, |day| day.candidates.consul.pause(), |day| day.candidates.consul.resume());
}

fn says_no(day: &mut Day, right: Duration) {
    let fake = Fake::start(|_| Reply::new(500, "No cluster leader"));
    let lead_to = |day: &Day, address| {
        each(day, |net| {
            net.set_target(Some(address));
            net.cut();
        });
    };
    let consul = day.candidates.consul.address();
    away(day, right, |day| lead_to(day, fake.address()), |day| lead_to(day, consul));
}

fn is_slow(day: &mut Day, right: Duration) {
    let late = Duration::from_secs(4);
    away(
        day,
        right,
        |day| each(day, |net| net.delay(late)),
        |day| each(day, |net| net.delay(Duration::ZERO)),
    );
}

/// Somebody ends the session, and the primary's right with it, long before its time.
fn forgets_the_session(day: &mut Day) {
    let leader = day.settle();
    let session = day.candidates.consul.get(KEY).unwrap().session.unwrap();
    day.candidates.consul.destroy_session(&session);
    let ended = clock();
    let next = day.leader_after(ended + LOCK_DELAY, |_| true);
    let soon = ended + LOCK_DELAY;
    day.never("written after the lock delay", |r| {
        r.token.site == leader && next != leader && r.begin > soon
    });
}

/// It is a new one that knows nothing: not who writes, nor that anybody does.
fn loses_its_memory(day: &mut Day) {
    day.candidates.consul.wipe();
    day.candidates.consul.up();
    let back = clock();
    day.leader_after(back, |_| true);
    // That may be the old one, which has still to notice.
    let knows = || day.candidates.consul.get(&format!("{KEY}/clusterid")).is_some();
    assert!(eventually(LIMIT, knows), "{}", day.candidates.logs());
}

/// Waits until the primary has renewed its lease just now.
fn await_renewal(day: &Day) {
    let told = || day.candidates.consul.get(&format!("{KEY}/progress")).unwrap().modify_index;
    let before = told();
    assert!(eventually(LIMIT, || told() > before), "{}", day.candidates.logs());
}

#[test]
fn writes_stop_and_go_on_with_consul_if_failover_is_fast() {
    let mut day = Day::begin(PROGRAM, fast());
    let leader = day.leader();
    each(&day, |net| net.delay(Duration::from_millis(200)));
    day.pass(Duration::from_secs(4));
    assert_eq!(day.leader(), leader, "a Consul that is a little slow is no reason");
    each(&day, |net| net.delay(Duration::ZERO));
    restarts(&mut day);
    is_unreachable(&mut day, FENCE);
    says_no(&mut day, FENCE);
    forgets_the_session(&mut day);
    is_slow(&mut day, FENCE);
    loses_its_memory(&mut day);
    day.end();
}

#[test]
fn writes_stop_and_go_on_with_consul_if_its_sessions_decide() {
    let mut day = Day::begin(PROGRAM, slow());
    restarts(&mut day);
    stands_still(&mut day, SLOW_TTL);
    is_unreachable(&mut day, SLOW_TTL);
    day.end();
}

/// The primary has renewed its lease a moment ago and won't do so again for five seconds. By then another one would have it.
#[test]
fn a_lease_that_consul_ends_before_its_time_gives_no_second_right() {
    let ttl = Duration::from_secs(10);
    let mut day = Day::begin(PROGRAM, CandidatesOptions { ttl, ..slow() });
    let leader = day.settle();
    await_renewal(&day);
    loses_its_memory(&mut day);
    assert_eq!(day.settle(), leader, "it has all, and the right to write");
    await_renewal(&day);
    forgets_the_session(&mut day);
    day.end();
}

/// In which nobody else may have the key of a session that was ended.
const LOCK_DELAY: f64 = 1.0;
