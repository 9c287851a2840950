//! `cargo bench -p litefs-tests --bench replication`: how fast a replica follows, and what that costs the primary.
//!
//! ```text
//!   this process writes ─▶ primary ──▶ replica ─▶ a process reads      both are release daemons on loopback
//!                             └──────▶ clients that only speak the stream
//! ```
//!
//! Arguments (after `--`) or `LITEFS_BENCH`: words; an item runs if its name contains one of them.
//! `quick` makes everything smaller, which is good for a look and for nothing else.
//!
//! One table at the end holds each bar. The exit code doesn't depend on the figures: machines differ,
//! so they are for people to judge.

// A failed expectation is what a bench has to report.
#![allow(clippy::unwrap_used)]

mod catch_up;
mod clients;
mod commits;
mod pair;
mod readers;

use litefs_tests::bench::{Plan, Table};

/// Work, figure, bar, note.
pub(crate) type Report = Table<4>;

fn main() {
    let plan = Plan::from_args();
    let mut report = Table::new(["work", "figure", "bar", "note"]);
    commits::run(&plan, &mut report);
    catch_up::run(&plan, &mut report);
    readers::run(&plan, &mut report);
    clients::run(&plan, &mut report);
    report.print(&plan);
}
