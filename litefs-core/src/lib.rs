//! The engine of LiteFS: every transaction of an SQLite database becomes a record in a log, whichever
//! program wrote it.
//!
//! ```text
//!  frontend (FUSE, VFS) ─► db::files ─► db::capture ─► db::plan ─► db::encode ─► log
//!                              │                                                  │
//!                              └─► SQLite's files        db::recover, at start ◄──┘
//! ```
//!
//! A [`store::Store`] is a data directory, a [`db::Database`] one database in it. A frontend opens, writes and
//! syncs SQLite's files through [`db::OpenFile`]; the engine sees a transaction end, accepts or refuses it,
//! and logs it as LTX. There is no global state, no runtime and no signal handling: ten stores fit in one
//! process.
//!
//! ```
//! use litefs_core::db::{FileKind, OpenHow};
//! use litefs_core::store::StoreOptions;
//! use litefs_core::types::DbName;
//!
//! # let dir = tempfile::tempdir()?;
//! let store = StoreOptions::new(dir.path()).open()?;
//! store.become_primary();
//! let db = store.create_database(&DbName::new("app.db")?)?;
//! let file = db.open_file(FileKind::Database, OpenHow::Create)?;
//! // A frontend hands SQLite's writes to `file`.
//! # drop(file);
//! assert_eq!(db.pos(), None);
//! store.close();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Modules
//! | module | holds |
//! |---|---|
//! | [`types`] | transaction IDs, page numbers, checksums, positions |
//! | [`ltx`], [`sqlite`] | file formats, pure: no files, no clock |
//! | [`log`] | the transaction log: segments of LTX |
//! | [`db`] | capture, recovery, verification, snapshots, history of one database |
//! | [`store`] | a data directory |
//! | [`authority`] | whether this node may write |
//! | [`cluster`] | leads or follows, as the lease says |
//! | [`http`] | what nodes say to each other: replication streams, information |
//! | [`env`](mod@env) | the door to files, time and chance; with the feature `testing`, a simulated disk |
//! | [`error`] | errors and their kinds |
//!
//! # Glossary
//! | word | means |
//! |---|---|
//! | position | TXID and rolling checksum after it |
//! | rolling checksum | XOR of the checksums of all pages, without the lock page |
//! | commit | pages in the database after a transaction |
//! | dirty | a page whose content may differ from what the log says |
//! | staged | logged, while a rollback journal still decides |
//! | orphan | logged, but forgotten by SQLite: the app died before the wal-index showed it |
//! | segment | one file of the log |
//! | snapshot | the whole database at a position, readable while it changes |

#![forbid(unsafe_code)]

pub mod authority;
pub mod cluster;
pub mod db;
pub mod env;
pub mod error;
pub mod http;
pub mod log;
pub mod ltx;
mod metrics;
pub mod sqlite;
pub mod store;
pub mod types;
