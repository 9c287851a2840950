//! The FUSE frontend of LiteFS: each SQLite file of the store, as a file that any program can open.
//!
//! ```text
//!   kernel ─▶ fuser ─▶ fs ─▶ ops ─▶ litefs_core::db
//!                      │      ├── node     names and inode numbers
//!                      │      ├── handles  open files
//!                      │      └── special  .primary, .lag, -pos, -lock
//!                      └── errno, caps     what the kernel is told, what it has
//!   engine ─▶ notify ─▶ kernel             what it shall forget
//! ```
//!
//! What isn't here: anything about SQLite. Which write completes a transaction, what may be written,
//! what is replicated: `litefs_core`. Byte locks aren't here either, they stay in the kernel.
//!
//! [`Mount`] is the only way in.

#![forbid(unsafe_code)]

mod apart;
mod caps;
mod errno;
mod fs;
mod halt;
mod handles;
mod node;
mod notify;
mod ops;
mod peer;
mod run;
mod session;
mod special;

pub use notify::Notifier;
pub use session::{Mount, MountError, MountOptions, Passthrough, Unmounted};
