//! The engine of LiteFS.

pub mod authority;
pub mod db;
pub mod env;
pub mod error;
pub mod http;
pub mod log;
pub mod ltx;
pub mod sqlite;
pub mod store;
pub mod types;
