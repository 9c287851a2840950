//! `cargo bench -p litefs-tests`: what LiteFS costs, as ratios to plain SQLite.
//!
//! ```text
//!   item ─▶ raw    the same code on a plain directory of the same file system ┐ taken in turns,
//!        └▶ mount  on a mount, in the same process                            ┘ the median counts
//! ```
//!
//! Arguments (after `--`) or `LITEFS_BENCH`: words; an item runs if its name contains one of them.
//! `quick` makes everything smaller, which is good for a look and for nothing else.
//!
//! One table at the end holds each bar. The exit code doesn't depend on the figures: machines differ,
//! so they are for people to judge.

// A failed expectation is what a bench has to report.
#![allow(clippy::unwrap_used)]

mod cost;
mod reads;
mod report;
mod site;
mod writes;

use report::Report;

/// What is to be measured, and how thoroughly.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    words: Vec<String>,
    /// Rounds of raw and mount each.
    pub(crate) rounds: usize,
    /// Divides sizes and counts.
    pub(crate) shrink: u64,
}

impl Plan {
    fn from_args() -> Plan {
        let env = std::env::var("LITEFS_BENCH").unwrap_or_default();
        let args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        let mut words: Vec<_> = args.chain(env.split_whitespace().map(String::from)).collect();
        let quick = words.iter().any(|w| w == "quick");
        words.retain(|w| w != "quick");
        let (rounds, shrink) = if quick { (3, 8) } else { (5, 1) };
        Plan { words, rounds, shrink }
    }

    /// Whether the item was asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }
}

fn main() {
    let plan = Plan::from_args();
    let mut report = Report::default();
    reads::run(&plan, &mut report);
    writes::run(&plan, &mut report);
    cost::run(&plan, &mut report);
    report.print(&plan);
}
