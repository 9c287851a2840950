//! `cargo bench -p litefs-tests --bench failover`: how long nobody can write when the primary changes, and what is lost.
//!
//! ```text
//!   writer ─▶ candidate 0 ─┐
//!   writer ─▶ candidate 1 ─┴─▶ one Consul       both write all the time: one of them may
//! ```
//!
//! The outage is from the last acknowledgement on the old primary to the first on the new one, as the writers saw them.
//! Each item ends with the judgement of `litefs_tests::verdict`, and with a panic if anything is wrong.
//!
//! Arguments (after `--`) or `LITEFS_BENCH`: words; an item runs if its name contains one of them.
//! `quick` makes everything smaller, which is good for a look and for nothing else. `LITEFS_FAILOVER_LOG` names a file for what
//! the nodes have logged while they were killed.

// A failed expectation is what a bench has to report.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use litefs_core::authority::Authority;
use litefs_tests::bench::{Plan, Table, clock, median, percentile};
use litefs_tests::candidates::{Candidates, CandidatesOptions, DATABASES, KEY};
use litefs_tests::day::Day;
use litefs_tests::handovers::{Change, Handovers};
use litefs_tests::starts::{End, Starts};
use nix::sys::signal::Signal;

/// Work, figure, bar, note.
type Report = Table<4>;

fn main() {
    let plan = Plan::from_args();
    let mut report = Table::new(["work", "figure", "bar", "note"]);
    check(&plan, &mut report);
    for (name, _) in DATABASES {
        promote(&plan, &mut report, name);
        terminate(&plan, &mut report, name);
    }
    for fast in [true, false] {
        kill(&plan, &mut report, fast);
    }
    pause(&plan, &mut report);
    start(&plan, &mut report);
    report.print(&plan);
}

/// What each commit pays for being fenced.
fn check(plan: &Plan, report: &mut Report) {
    let name = "fencing check at commit";
    if !plan.wants(name) {
        return;
    }
    let authority = Authority::new();
    authority.grant_until(Instant::now() + Duration::from_secs(3600));
    let count: u32 = 10_000_000;
    let times: Vec<f64> = (0..plan.rounds)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..count {
                assert!(black_box(&authority).check().is_some());
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(count)
        })
        .collect();
    let figure = format!("{:.0} ns", median(&times));
    report.line([name.into(), figure, "< 1 µs".into(), String::new()]);
}

/// `POST /promote` on the replica.
fn promote(plan: &Plan, report: &mut Report, database: &'static str) {
    let name = format!("promote, write outage, {database}");
    if !plan.wants(&name) {
        return;
    }
    let mut rig = Handovers::start(PROGRAM, database, true);
    let mut changes = Vec::new();
    for _ in 0..50 / plan.shrink {
        rig.settle();
        changes.push(rig.change(|candidates, old| assert!(candidates.promote(1 - old))));
    }
    planned(report, &name, ["≤ 15 ms", "≤ 200 ms"], &changes, rig);
}

/// SIGTERM of the primary, whose database is open.
fn terminate(plan: &Plan, report: &mut Report, database: &'static str) {
    let name = format!("SIGTERM, write outage, {database}");
    if !plan.wants(&name) {
        return;
    }
    let mut rig = Handovers::start(PROGRAM, database, true);
    let mut changes = Vec::new();
    for _ in 0..20 / plan.shrink {
        rig.settle();
        let old = rig.primary;
        changes.push(rig.change(Candidates::stop));
        rig.candidates.up(old);
    }
    planned(report, &name, ["≤ 100 ms", ""], &changes, rig);
}

fn planned(report: &mut Report, name: &str, bars: [&str; 2], changes: &[Change], rig: Handovers) {
    let verdict = rig.verdict();
    let outages: Vec<f64> = changes.iter().map(|change| change.outage).collect();
    let overlaps = outages.iter().filter(|outage| **outage < 0.0).count();
    let lost = verdict.set_aside.len();
    let note = format!(
        "{} rounds; {} acknowledged, {lost} lost; {overlaps} of the old after the first of the new",
        changes.len(),
        verdict.acknowledged
    );
    for (percent, bar) in [50, 100].into_iter().zip(bars) {
        let figure = format!("{:.1} ms", percentile(&outages, percent));
        let of = if percent == 50 { "p50" } else { "max" };
        report.line([format!("{name}, {of}"), figure, bar.into(), note.clone()]);
    }
}

/// `kill -9` of the primary; it comes back and has lost what nobody had received.
fn kill(plan: &Plan, report: &mut Report, fast: bool) {
    let name = format!("kill -9, {} fast-failover", if fast { "with" } else { "without" });
    if !plan.wants(&name) {
        return;
    }
    let (database, _) = DATABASES[0];
    let mut rig = Handovers::start(PROGRAM, database, fast);
    let (mut changes, mut waits) = (Vec::new(), Vec::new());
    for _ in 0..if fast { 20 / plan.shrink } else { 3 } {
        rig.settle();
        let (old, mut freed) = (rig.primary, None);
        let change = rig.change(|candidates, old| {
            candidates.kill(old);
            freed = (!fast).then(|| await_free(candidates));
        });
        if let Some(freed) = freed {
            waits.push((change.first - freed) * 1e3);
        }
        changes.push(change);
        rig.candidates.up(old);
    }
    if let Some(path) = std::env::var_os("LITEFS_FAILOVER_LOG") {
        let story: String = changes.iter().map(|change| format!("{change:?}\n")).collect();
        std::fs::write(path, story + &rig.candidates.logs()).unwrap();
    }
    let verdict = rig.verdict();
    let of = |all: &[f64]| {
        format!("p50 {:.0} ms, max {:.0} ms", percentile(all, 50), percentile(all, 100))
    };
    let outages: Vec<f64> = changes.iter().map(|change| change.outage).collect();
    let rounds = format!("{} rounds, TTL 10 s, lock delay 1 s", changes.len());
    let outage = format!("{name}, write outage");
    if fast {
        report.line([outage, of(&outages), "≤ 4 s".into(), rounds]);
    } else {
        report.line([outage, of(&outages), String::new(), rounds.clone()]);
        let name = format!("{name}, after Consul frees the key");
        report.line([name, of(&waits), "≤ 1 s".into(), rounds]);
    }
    let mut before = f64::NEG_INFINITY;
    let mut lost = Vec::new();
    for change in &changes {
        let during = before..=change.last;
        let aside = verdict.set_aside.iter().filter(|receipt| during.contains(&receipt.end));
        lost.push(aside.count() as f64);
        before = change.last;
    }
    let figure = format!("p50 {:.0}, max {:.0}", percentile(&lost, 50), percentile(&lost, 100));
    let note = format!("transactions per kill; {} acknowledged", verdict.acknowledged);
    let bar = "all in diverged/: yes";
    report.line([format!("{name}, set aside"), figure, bar.into(), note]);
}

/// SIGSTOP of the primary for much longer than its right lasts, while its applications write on.
fn pause(plan: &Plan, report: &mut Report) {
    let name = "SIGSTOP for 30 s, then SIGCONT";
    if !plan.wants(name) {
        return;
    }
    let mut day = Day::begin(PROGRAM, CandidatesOptions::default());
    let rounds = (6 / plan.shrink).max(1);
    let mut late = 0;
    for _ in 0..rounds {
        let old = day.settle();
        day.candidates.all[old].node.process().pause();
        let paused = clock();
        let new = day.leader_after(paused, |at| at != old);
        day.pass(Duration::from_secs(30));
        day.candidates.all[old].node.process().signal(Signal::SIGCONT);
        assert_eq!(day.settle(), new);
        late += day.writers.told(|r| r.token.site == old && r.begin > paused).len();
    }
    let acknowledged = day.end().acknowledged;
    let note = format!("{rounds} rounds; {acknowledged} acknowledged");
    let work = format!("{name}, acknowledged by the old one");
    report.line([work, late.to_string(), "0".into(), note]);
}

/// Two candidates that have ended in the same moment start in the same moment.
fn start(plan: &Plan, report: &mut Report) {
    let name = "both start at once, until one writes";
    if !plan.wants(name) {
        return;
    }
    let mut starts = Starts::begin(PROGRAM);
    let ends = [End::Stopped, End::Killed].into_iter().cycle();
    let rounds = ends.take(50 / plan.shrink as usize);
    let waits: Vec<f64> = rounds.map(|end| starts.round(end)).collect();
    let acknowledged = starts.end().acknowledged;
    let figure =
        format!("p50 {:.0} ms, max {:.0} ms", percentile(&waits, 50), percentile(&waits, 100));
    let note = format!("{} rounds, one primary in each; {acknowledged} acknowledged", waits.len());
    report.line([name.into(), figure, String::new(), note]);
}

/// When the key may be had: its session is gone, and the lock delay is over.
fn await_free(candidates: &Candidates) -> f64 {
    let deadline = Instant::now() + LIMIT;
    while candidates.consul.get(KEY).is_some_and(|entry| entry.session.is_some()) {
        assert!(Instant::now() < deadline, "Consul doesn't end the session");
        thread::sleep(Duration::from_millis(2));
    }
    clock() + LOCK_DELAY.as_secs_f64()
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_litefs-workload");
const LOCK_DELAY: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(60);
