//! One node as its users have it: the real binary on a real kernel mount, real applications, and what can befall them.

// A failed expectation is what a test has to report.
#![allow(clippy::unwrap_used)]

mod bad_disk;
mod compatibility;
mod concurrency;
mod crash;
mod damage;
mod full_disk;
mod hostile;
mod inspect;
mod journal_modes;
mod large;
mod lesson;
mod lifecycle;
mod transactions;
mod transfer;
mod unjournaled;
mod user;
mod whole_files;
