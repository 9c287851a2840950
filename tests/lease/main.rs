//! Leases against a real Consul, beside what an original node does by plain HTTP.

// A failed expectation is what a test has to report.
#![allow(clippy::unwrap_used)]

mod basics;
mod fast;
mod faults;
mod race;
mod rig;
mod suite;
mod tls;
mod wire;
