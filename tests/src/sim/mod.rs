//! Test support: the real engine and the real SQLite on a simulated disk.
//!
//! ```text
//!  rusqlite ─► vfs (C interface) ─► mount (names, locks) ─► litefs_core::db ─► SimDisk
//! ```

pub mod mount;
pub mod node;
mod vfs;
pub mod workload;

pub use node::{App, Node};
