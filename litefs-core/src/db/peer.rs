//! How the engine reaches SQLite's files while applications have them open: as one more SQLite process.
//!
//! What changes SQLite's files under readers goes the way that SQLite's own writes go: opened by name in the
//! mount, under SQLite's byte locks, through the page cache that the readers read from. A frontend that
//! serves a mount implements [`Peer`] and hands it to the store; without one nobody else has the files open,
//! and [`Backing`] reaches them directly.
//!
//! A frontend must let such handles pass capture by: it opens them with [`Database::open_own_file`], and
//! never serves them from the thread that waits for them.

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Weak};

use crate::error::Error;
use crate::sqlite::locks::{
    PENDING_BYTE, RESERVED_BYTE, SHARED_FIRST, WAL_CKPT_LOCK, WAL_DMS, WAL_RECOVER_LOCK,
    WAL_WRITE_LOCK, wal_read_lock,
};
use crate::types::DbName;

use super::{Database, FileKind, OpenFile};

/// A way to SQLite's files.
pub trait Peer: Debug + Send + Sync + 'static {
    /// Opens a file for reading and writing, and creates it if `create`.
    ///
    /// # Errors
    /// As the operating system says; likewise for all other methods.
    fn open(&self, db: &DbName, kind: FileKind, create: bool) -> io::Result<Box<dyn PeerFile>>;
    /// Removes a file's name.
    fn remove(&self, db: &DbName, kind: FileKind) -> io::Result<()>;
}

/// A file, as a process of SQLite has it open. Dropping it releases its locks.
pub trait PeerFile: Debug + Send + Sync {
    /// Reads at `offset` until the buffer is full or the file ends; returns the number of bytes read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `data` at `offset`.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the content durable.
    fn sync(&self) -> io::Result<()>;
    /// Locks bytes, without waiting; `false` if another process's lock is in the way.
    fn lock(&self, bytes: Range<u64>, lock: ByteLock) -> io::Result<bool>;
    /// The lock that others hold on any of these bytes, the stronger one if there are several.
    fn locked_by_others(&self, bytes: Range<u64>) -> io::Result<ByteLock>;
}

/// What to do with a range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteLock {
    /// Release it.
    None,
    /// Others may lock it shared, too.
    Shared,
    /// Nobody else may lock it.
    Exclusive,
}

/// The files beneath, while no frontend serves them to anybody.
#[derive(Debug)]
pub(super) struct Backing(pub(super) Weak<Database>);

impl Peer for Backing {
    fn open(&self, _: &DbName, kind: FileKind, create: bool) -> io::Result<Box<dyn PeerFile>> {
        let db = self.0.upgrade().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(BackingFile(db.open_own_file(kind, create).map_err(into_io)?)))
    }

    fn remove(&self, _: &DbName, kind: FileKind) -> io::Result<()> {
        let db = self.0.upgrade().ok_or(io::ErrorKind::NotFound)?;
        db.unlink_own_file(kind).map_err(into_io)
    }
}

#[derive(Debug)]
struct BackingFile(OpenFile);

impl PeerFile for BackingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset).map_err(into_io)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(data, offset).map_err(into_io)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.truncate(len).map_err(into_io)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync().map_err(into_io)
    }

    fn lock(&self, _: Range<u64>, _: ByteLock) -> io::Result<bool> {
        Ok(true)
    }

    fn locked_by_others(&self, _: Range<u64>) -> io::Result<ByteLock> {
        Ok(ByteLock::None)
    }
}

impl Database {
    /// SQLite's locks, as others hold them now. Asks through the mount: not for a thread that serves it.
    pub(crate) fn held_locks(&self) -> Vec<(&'static str, ByteLock)> {
        let peer = self.peer();
        let mut held = Vec::new();
        for (kind, locks) in [(FileKind::Database, DATABASE_LOCKS), (FileKind::Shm, SHM_LOCKS)] {
            let file = peer.open(&self.name, kind, false).ok();
            held.extend(locks.iter().map(|(name, byte)| {
                let ask = |file: &dyn PeerFile| file.locked_by_others(*byte..*byte + 1).ok();
                (*name, file.as_deref().and_then(ask).unwrap_or(ByteLock::None))
            }));
        }
        held
    }
}

/// In the original's words.
const DATABASE_LOCKS: &[(&str, u64)] =
    &[("pending", PENDING_BYTE), ("reserved", RESERVED_BYTE), ("shared", SHARED_FIRST)];
const SHM_LOCKS: &[(&str, u64)] = &[
    ("write", WAL_WRITE_LOCK),
    ("ckpt", WAL_CKPT_LOCK),
    ("recover", WAL_RECOVER_LOCK),
    ("read0", wal_read_lock(0)),
    ("read1", wal_read_lock(1)),
    ("read2", wal_read_lock(2)),
    ("read3", wal_read_lock(3)),
    ("read4", wal_read_lock(4)),
    ("dms", WAL_DMS),
];

/// The way to a database's files now.
#[derive(Debug, Default)]
pub(crate) struct PeerSlot(parking_lot::RwLock<Option<Arc<dyn Peer>>>);

impl PeerSlot {
    pub(crate) fn set(&self, peer: Option<Arc<dyn Peer>>) {
        *self.0.write() = peer;
    }

    pub(crate) fn get(&self) -> Option<Arc<dyn Peer>> {
        self.0.read().clone()
    }
}

fn into_io(err: Error) -> io::Error {
    match err {
        Error::NotFound { .. } => io::ErrorKind::NotFound.into(),
        Error::Io { source, .. } => source,
        err => io::Error::other(err),
    }
}
