//! The bytes that SQLite locks, under SQLite's names.
//!
//! | file | bytes | lock |
//! |---|---|---|
//! | `<db>` | `0x4000_0000` | PENDING ([`PENDING_BYTE`]) |
//! | `<db>` | `0x4000_0001` | RESERVED |
//! | `<db>` | `0x4000_0002` .. +510 | SHARED |
//! | `<db>-shm` | 120, 121, 122 | WRITE, CKPT, RECOVER |
//! | `<db>-shm` | 123 ..= 127 | READ0 ..= READ4 |
//! | `<db>-shm` | 128 | DMS ("dead man's switch": held shared by all who have the file open) |
//!
//! Sources: SQLite `os.h` ("PENDING_BYTE"), fileformat2, "WAL Locks"; the constants of `wal.c` count from
//! the first of these bytes, ours are offsets in the file.

pub use crate::types::PENDING_BYTE;

/// Held by the one connection that prepares a rollback-mode transaction.
pub const RESERVED_BYTE: u64 = PENDING_BYTE + 1;
/// First byte of the range that readers lock shared, and a committing writer exclusively.
pub const SHARED_FIRST: u64 = PENDING_BYTE + 2;
/// Length of the range at [`SHARED_FIRST`].
pub const SHARED_SIZE: u64 = 510;

/// Held by the one connection that appends to the WAL.
pub const WAL_WRITE_LOCK: u64 = 120;
/// Held by the one connection that checkpoints.
pub const WAL_CKPT_LOCK: u64 = 121;
/// Held while the wal-index is rebuilt from the WAL.
pub const WAL_RECOVER_LOCK: u64 = 122;
/// How many read marks, and locks for them, a wal-index has.
pub const WAL_NREADER: usize = 5;
/// Guards the file as such; see the table above.
pub const WAL_DMS: u64 = wal_read_lock(WAL_NREADER);

/// The lock of read mark `index`, which is below [`WAL_NREADER`].
pub const fn wal_read_lock(index: usize) -> u64 {
    WAL_RECOVER_LOCK + 1 + index as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_locks_are_contiguous_up_to_dms() {
        assert_eq!((wal_read_lock(0), wal_read_lock(4), WAL_DMS), (123, 127, 128));
    }
}
