//! The SQLite file formats, sans-IO: bytes in, values out, and back.
//!
//! | module | file | holds |
//! |---|---|---|
//! | [`header`] | `<db>` | the first 100 bytes of page 1 |
//! | [`journal`] | `<db>-journal` | rollback journal: what to write back, super-journal names |
//! | [`wal`] | `<db>-wal` | header, frames, the checksum chain that says which frames count |
//! | [`wal_index`] | `<db>-shm` | header and checkpoint information of the wal-index |
//! | [`wal_hash`] | `<db>-shm` | which frame holds which page |
//! | [`locks`] | | the bytes that SQLite locks |
//!
//! What isn't here: files, locks taken, and any decision of the engine; see the `db` modules.
//!
//! Invariant: no decoder panics, whatever the bytes, and none allocates by a length it has read.

pub mod header;
pub mod journal;
pub mod locks;
pub mod wal;
pub mod wal_hash;
pub mod wal_index;

pub use header::{DbHeader, DbHeaderError};
pub use journal::{JournalError, JournalHeader, Playback, is_hot_header};
pub use wal::{ByteOrder, Chain, FrameHeader, WalHeader, WalHeaderError};
pub use wal_index::{CheckpointInfo, WalIndexHeader};

/// The big-endian number at `at`, which callers keep inside a slice of fixed length.
fn be_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// A file written by SQLite itself; `testdata/sqlite/README.md` says how.
#[cfg(test)]
macro_rules! golden {
    ($name:literal) => {
        &include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/sqlite/", $name))[..]
    };
}
#[cfg(test)]
use golden;
