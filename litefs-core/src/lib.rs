//! The engine of LiteFS.

pub mod env;
pub mod log;
pub mod ltx;
pub mod sqlite;
pub mod types;
