//! The real SQLite on the engine, over a simulated disk that fails any call and loses its power at any moment.

// A failed expectation is what a test has to report.
#![allow(clippy::unwrap_used)]

mod apply;
mod attached;
mod crash;
mod faults;
mod history;
mod modes;
mod orphan;
mod snapshots;
