//! A follower that takes what [`Database::next_after`] gives ends with the same database.
#![allow(clippy::unwrap_used)] // A test panics where an error is a failure.
