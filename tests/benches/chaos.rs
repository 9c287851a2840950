//! `cargo bench -p litefs-tests --bench chaos -- [SECONDS] [slow]`: three candidates in all sorts of trouble.
//!
//! Writers on each, kills, pauses, partitions and handovers at random; then all is healed and judged (see
//! `litefs_tests::chaos`). Prints what it did, and ends with a panic if anything is wrong. `slow`: without fast failover,
//! with a TTL of three seconds. `LITEFS_SEED` repeats a run as far as timing allows; `LITEFS_CHAOS_LOG` names a file for
//! what the nodes have logged.

// A failed expectation is what a bench has to report.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use litefs_tests::chaos::{self, ChaosOptions};
use litefs_tests::random::Random;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let seconds = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(120);
    let slow = args.iter().any(|arg| arg == "slow");
    let mut random = Random::from_env();
    let options = ChaosOptions {
        length: Duration::from_secs(seconds),
        longest: Duration::from_secs(7),
        fast_failover: !slow,
        ttl: Duration::from_secs(if slow { 3 } else { 10 }),
    };
    let outcome = chaos::run(env!("CARGO_BIN_EXE_litefs-workload"), options, &mut random);
    for line in &outcome.story {
        println!("{line}");
    }
    if let Some(path) = std::env::var_os("LITEFS_CHAOS_LOG") {
        std::fs::write(path, &outcome.logs).unwrap();
    }
    println!("{}", outcome.verdict.text());
    assert!(outcome.verdict.wrong.is_empty(), "see above");
}
