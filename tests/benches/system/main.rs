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

use litefs_tests::bench::Plan;
use report::Report;

fn main() {
    let plan = Plan::from_args();
    let mut report = Report::new();
    reads::run(&plan, &mut report);
    writes::run(&plan, &mut report);
    cost::run(&plan, &mut report);
    report.print(&plan);
}
