//! Transactions whose end nothing marks: with `journal_mode=MEMORY` or `OFF` and `synchronous=OFF` SQLite writes pages to the
//! database file, and that is all that is seen of it.
//!
//! ```text
//!  write, first by this handle ─► ask: is the database locked exclusively? ─► yes: the writer keeps SQLite's locks
//!                                  (who writes waits for the answer)          no: a copy, or who knows
//!  written under locks ─► watch: a thread looks every few ms: nothing changed, nobody has the lock? ─► captured
//!  fsync; last close of those who have written ──────────────────────────────────────────────────────► captured
//! ```
//!
//! SQLite writes pages in rollback mode only while it holds its lock EXCLUSIVE, and keeps it until the transaction's last
//! page is written or put back. So if nobody holds it, the file holds whole transactions. The lock is asked for, not taken: nobody waits.
//! The answer comes from the kernel, but the file has to be opened in the mount for that, so it isn't asked for by threads that
//! serve the mount, nor with a lock of ours held. What was written before and after the question is told by
//! counting changes: if there are as many under the capture lock as before the question, then none was made in between, and the file is
//! as it was when nobody held the lock.
//!
//! `cp` and the like take no locks, so the absence of one says nothing about them: while such a writer has uncaptured pages, only
//! its fsync or close captures, and a close only if nobody else has uncaptured pages.
//!
//! # Invariants
//! * A writer counts as one that keeps locks only if the database was locked exclusively while its first write without a journal waited.
//!   (Somebody else may have held that lock. Then both wrote at once, and the file is what it is.)
//! * What was written under locks is captured before a journal gets hot and before a WAL begins: whoever writes their
//!   first bytes has locked the database for writing. So journal and undo file never speak of the same pages.
//!
//! # What isn't told
//! * With `locking_mode=EXCLUSIVE` the lock stays between transactions: fsync and close remain.
//! * A process that is killed amid such a transaction leaves half of it in the file, for SQLite's readers, too. It is captured when nobody
//!   who has written has the file open any more: what they see is what replicas get.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use crate::db::peer::ByteLock;
use crate::db::plan::Dirty;
use crate::db::{Database, FileKind, OpenFile};
use crate::error::{Error, chain};
use crate::sqlite::locks::{SHARED_FIRST, SHARED_SIZE};

use super::Capture;

/// Who writes to the database file by one open handle.
#[derive(Debug, Default)]
pub(in crate::db) struct Writer {
    /// Whether it keeps SQLite's locks, once that was asked.
    locks: OnceLock<bool>,
}

/// What the thread that looks for the end of transactions has to know.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::db) struct Watch {
    /// Changes of the database file by applications, so far.
    changes: u64,
    /// Whether there is such a thread.
    running: bool,
}

impl Writer {
    fn keeps_locks(&self) -> bool {
        self.locks.get() == Some(&true)
    }
}

impl Dirty {
    /// Whether that writer has uncaptured pages.
    pub(in crate::db) fn has(&self, writer: &Arc<Writer>) -> bool {
        self.writers.iter().any(|other| Arc::ptr_eq(other, writer))
    }

    /// Whether nobody else has.
    fn is_only_by(&self, writer: &Arc<Writer>) -> bool {
        self.writers.iter().all(|other| Arc::ptr_eq(other, writer))
    }

    /// Whether some pages were written under SQLite's locks.
    fn is_by_sqlite(&self) -> bool {
        !self.is_empty() && self.writers.iter().any(|writer| writer.keeps_locks())
    }

    /// Whether all were.
    fn is_all_by_sqlite(&self) -> bool {
        self.is_by_sqlite() && self.writers.iter().all(|writer| writer.keeps_locks())
    }
}

impl Database {
    /// The database file is about to be changed by that writer.
    pub(in crate::db) fn note_writer(&self, c: &mut Capture, writer: &Arc<Writer>) {
        c.watch.changes += 1;
        let may_differ = !c.dirty.is_empty() || c.wal.is_some();
        if may_differ && !c.journal_hot && !c.dirty.has(writer) {
            c.dirty.writers.push(Arc::clone(writer));
        }
        if c.dirty.is_by_sqlite() {
            self.watch(c);
        }
    }

    /// Somebody has SQLite's write lock and is about to begin a journal or a WAL: what was written under locks before is whole.
    pub(in crate::db) fn before_begin(&self, c: &mut Capture) -> Result<(), Error> {
        if c.dirty.is_by_sqlite() { self.commit_unjournaled(c) } else { Ok(()) }
    }

    /// The engine has SQLite's write lock: likewise, unless there are others than SQLite.
    pub(in crate::db) fn capture_locked(&self) -> Result<(), Error> {
        let mut c = self.capture.lock();
        if c.dirty.is_all_by_sqlite() { self.commit_unjournaled(&mut c) } else { Ok(()) }
    }

    /// Captures what was written without a journal, if all of it was written under SQLite's locks and no transaction is under way.
    ///
    /// Asks through the mount: not for a thread that serves it.
    ///
    /// # Errors
    /// If the capture fails.
    pub(crate) fn capture_whole(&self) -> Result<(), Error> {
        let changes = {
            let c = self.capture.lock();
            if !c.dirty.is_all_by_sqlite() || self.authority.check().is_none() {
                return Ok(());
            }
            c.watch.changes
        };
        if self.is_locked_exclusively() != Some(false) {
            return Ok(());
        }
        let mut c = self.capture.lock();
        let unchanged = c.watch.changes == changes && c.dirty.is_all_by_sqlite();
        if unchanged { self.commit_unjournaled(&mut c) } else { Ok(()) }
    }

    /// Whether another process has the database locked exclusively; `None` if nobody can tell.
    fn is_locked_exclusively(&self) -> Option<bool> {
        // Without a mount there are no locks, and that nobody holds one says nothing.
        let peer = self.peers.get()?;
        let ask = || {
            let file = peer.open(&self.name, FileKind::Database, false)?;
            file.locked_by_others(SHARED_FIRST..SHARED_FIRST + SHARED_SIZE)
        };
        match ask() {
            Ok(lock) => Some(lock == ByteLock::Exclusive),
            Err(err) => {
                tracing::debug!(db = %self.name, %err, "can't ask for SQLite's lock");
                None
            }
        }
    }

    /// Has somebody look for the end of the transaction.
    fn watch(&self, c: &mut Capture) {
        if c.watch.running {
            return;
        }
        let me = Weak::clone(&self.me);
        let watching =
            thread::Builder::new().name("litefs-watch".into()).spawn(move || keep_watch(&me));
        match watching {
            Ok(_) => c.watch.running = true,
            // The next write tries again; a close captures in any case.
            Err(err) => {
                tracing::warn!(db = %self.name, %err, "no thread to look for the end of a transaction");
            }
        }
    }

    /// Looks once; whether there is anything left to look for, and how many changes there were so far.
    fn look(&self, failed: &mut bool) -> Option<u64> {
        for _ in 0..TRIES {
            match self.capture_whole() {
                Ok(()) => *failed = false,
                Err(err) => {
                    if !std::mem::replace(failed, true) {
                        tracing::error!(db = %self.name, err = chain(&err),
                            "what was written without a journal can't be captured yet");
                    }
                }
            }
            let mut c = self.capture.lock();
            if !c.dirty.is_by_sqlite() || self.peers.get().is_none() {
                c.watch.running = false;
                return None;
            }
        }
        Some(self.capture.lock().watch.changes)
    }
}

impl OpenFile {
    /// Whether it has to be found out, before the next write, if who writes here keeps SQLite's locks: see [`OpenFile::ask`].
    pub fn asks_to_write(&self) -> bool {
        let is_known = self.own || self.writer.locks.get().is_some();
        // A replica may be waiting for its primary with the capture lock held.
        if self.kind() != FileKind::Database
            || is_known
            || self.database().authority.check().is_none()
        {
            return false;
        }
        let c = self.database().capture.lock();
        !c.journal_hot && c.wal.is_none()
    }

    /// Finds it out, by way of the mount: not for a thread that serves it. Who writes waits for its write meanwhile.
    pub fn ask(&self) {
        if let Some(locked) = self.database().is_locked_exclusively() {
            self.writer.locks.get_or_init(|| locked);
        }
    }

    /// Whether [`OpenFile::flush_asking`] has something to do.
    pub fn asks_to_flush(&self) -> bool {
        self.writer.keeps_locks() && self.wrote.load(Ordering::Relaxed)
    }

    /// As [`OpenFile::flush`] for those who keep SQLite's locks. Asks through the mount: not for a thread that serves it.
    ///
    /// # Errors
    /// If the capture fails.
    pub fn flush_asking(&self) -> Result<(), Error> {
        self.database().capture_whole()
    }

    /// A descriptor of this handle was closed: what was written without a journal is captured, unless others have written,
    /// too, or the writer keeps SQLite's locks, so that there is a better moment.
    ///
    /// # Errors
    /// If the capture fails.
    pub fn flush(&self) -> Result<(), Error> {
        if !self.wrote.load(Ordering::Relaxed) || self.writer.keeps_locks() {
            return Ok(());
        }
        let mut c = self.database().capture.lock();
        if c.dirty.is_only_by(&self.writer) { self.capture_at_close(&mut c) } else { Ok(()) }
    }

    /// The handle is gone: if nobody is left who has written, nobody goes on with what was written.
    pub(in crate::db) fn release(&self) -> Result<(), Error> {
        if !self.wrote.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut c = self.database().capture.lock();
        if c.dirty.is_only_by(&self.writer) {
            self.capture_at_close(&mut c)?;
        }
        c.dirty.writers.retain(|other| !Arc::ptr_eq(other, &self.writer));
        Ok(())
    }

    fn capture_at_close(&self, c: &mut Capture) -> Result<(), Error> {
        if self.is_current() && !c.journal_hot && c.dirty.has(&self.writer) {
            self.database().commit_unjournaled(c)
        } else {
            Ok(())
        }
    }
}

fn keep_watch(db: &Weak<Database>) {
    let (mut pause, mut changes, mut failed) = (SHORTEST, 0, false);
    loop {
        thread::sleep(pause);
        let Some(db) = db.upgrade() else { return };
        let Some(now) = db.look(&mut failed) else { return };
        pause = if now == changes { (pause * 2).min(LONGEST) } else { SHORTEST };
        changes = now;
    }
}

/// Between two looks while pages are being written; the pause doubles while a transaction is open and nothing happens.
const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_millis(320);
/// How often one look asks: writers without a pause leave little time in which nothing changes.
const TRIES: usize = 4;

#[cfg(test)]
mod tests;
