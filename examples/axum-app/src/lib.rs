//! A web server that keeps its notes in SQLite, replicated by a LiteFS node in its own process.
//!
//! ```text
//!   HTTP ─► notes ─► rusqlite ─► mount ─► store ══ node API ══► the other one's store ─► mount ─► rusqlite ─► notes
//!                    (this process, by way of the kernel)
//! ```
//!
//! [`node`] is what an application copies: it knows nothing of notes. [`notes`] is the application: it knows a path,
//! and asks the store whether it may write.

#![forbid(unsafe_code)]

pub mod node;
pub mod notes;
