//! The engine of LiteFS.

pub mod db;
pub mod env;
pub mod error;
pub mod ltx;
pub mod sqlite;
pub mod store;
pub mod types;
