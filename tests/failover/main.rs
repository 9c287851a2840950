//! The primary changes while applications write on all nodes: nothing that was acknowledged is lost where that can be, and
//! never do two nodes take writes at once. The benches `failover` and `chaos` do the same for longer.
//!
//! | module | what happens |
//! |---|---|
//! | `changes` | handing over, stops, kills, all at random |
//! | `consul` | Consul restarts, is away, says no, is slow, loses its memory; somebody ends the session |
//! | `cut` | the primary is cut off from Consul, from the others, from both |
//! | `time` | a process stands still, a clock jumps |
//! | `starts` | all at once; an empty node alone |
//! | `within` | the primary changes within what depends on it: a handover, a halt lock, a transaction without a journal |
//!
//! Each ends with a judgement (see `litefs_tests::verdict`), and nobody's help.

// A failed expectation is what a test has to report.
#![allow(clippy::unwrap_used)]

mod changes;
mod consul;
mod cut;
mod starts;
mod time;
mod within;

use std::time::Duration;

use litefs_tests::candidates::CandidatesOptions;

const PROGRAM: &str = env!("CARGO_BIN_EXE_litefs-workload");

/// Three nodes that give up their right, and take others', fast.
fn fast() -> CandidatesOptions {
    CandidatesOptions { ttl: Duration::from_secs(3), ..CandidatesOptions::default() }
}

/// Three nodes that rely on Consul's sessions.
fn slow() -> CandidatesOptions {
    CandidatesOptions { fast_failover: false, ttl: SLOW_TTL, ..CandidatesOptions::default() }
}

/// How long a beat gives the right to write.
const FENCE: Duration = Duration::from_secs(2);
/// How long a session does. Consul lets it live for up to twice as long.
const SLOW_TTL: Duration = Duration::from_secs(2);
