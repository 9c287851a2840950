//! What a database needs when its node becomes the primary, and when it ceases to be it.
//!
//! ```text
//! replica ─► take_over: files at the log's end, nothing held ─► applications may write
//! primary ─► hold_writers: SQLite's write locks, so that writers wait ─► await_commits: the log is complete
//! ```
//!
//! What isn't here: who decides (see [`crate::cluster`]), and the right to write (see [`crate::authority`]).
//!
//! A transaction that was under way when the right went is not committed: its record, if it was logged ahead of its
//! journal's end, leaves the log.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::apply::{Applied, lock_by};
use super::peer::PeerFile;
use super::{Database, FileKind};
use crate::error::Error;
use crate::sqlite::locks::{RESERVED_BYTE, WAL_WRITE_LOCK};

/// SQLite's write locks of one database: whoever wants to write waits, or is told that the database is busy.
#[derive(Debug)]
pub(crate) struct HeldWriters {
    _files: [Option<Box<dyn PeerFile>>; 2],
}

impl Database {
    /// Brings SQLite's files to the log's end and lets go of them. Until that has succeeded the database takes no writes.
    ///
    /// # Errors
    /// As [`Database::apply_pending`].
    pub(crate) fn take_over(&self) -> Result<Applied, Error> {
        self.behind.store(true, Ordering::Release);
        let applied = self.apply_pending()?;
        if applied == Applied::All {
            self.end_session();
            self.behind.store(false, Ordering::Release);
        }
        Ok(applied)
    }

    /// Waits until commits are in the log that were under way when the right to write was taken away.
    ///
    /// # Errors
    /// If the log can't be written.
    pub(crate) fn await_commits(&self) -> Result<(), Error> {
        let mut c = self.capture.lock();
        self.drain()?;
        self.unstage(&mut c)
    }

    /// Whether the log couldn't take what was committed, when it was last tried.
    pub(crate) fn is_log_blocked(&self) -> bool {
        self.log_blocked.load(Ordering::Acquire)
    }

    /// Takes the locks of a writer, in either mode, so that no transaction is under way. `None` if one goes on until
    /// `deadline`.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn hold_writers(&self, deadline: Instant) -> Result<Option<HeldWriters>, Error> {
        self.end_halt();
        let locks = [(FileKind::Database, RESERVED_BYTE), (FileKind::Shm, WAL_WRITE_LOCK)];
        let mut files = [None, None];
        for (file, (kind, byte)) in files.iter_mut().zip(locks) {
            let opened = match self.peer().open(&self.name, kind, false) {
                Ok(opened) => opened,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(self.peer_error(e, "open", kind)),
            };
            let locked = lock_by(deadline, opened.as_ref(), byte..byte + 1);
            if !locked.map_err(|e| self.peer_error(e, "lock", kind))? {
                return Ok(None);
            }
            *file = Some(opened);
        }
        self.capture_locked()?;
        Ok(Some(HeldWriters { _files: files }))
    }
}
