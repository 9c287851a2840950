//! Pages written to the database file, while nobody else reads or writes it: rollback mode, and new databases.
//!
//! Locks as SQLite takes them to commit: RESERVED keeps writers out, PENDING new readers; EXCLUSIVE is had once
//! the readers have gone. They get a moment to do so; then they are let in again, and the change waits.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::sqlite::locks::{PENDING_BYTE, RESERVED_BYTE, SHARED_FIRST, SHARED_SIZE};
use crate::types::{PageSize, Pgno};

use super::Applied;
use super::change::{Change, Target};
use super::redo::Redo;
use crate::db::peer::{ByteLock, PeerFile};
use crate::db::{Database, FileKind};

impl Database {
    /// Writes the pages of a change under the exclusive lock.
    pub(super) fn write_directly(&self, change: &Change) -> Result<Applied, Error> {
        let Some(file) = self.open_exclusively()? else { return Ok(Applied::Waiting) };
        let redo = Redo::begin(self)?;
        self.capture.lock().rewriting = true;
        let mut writer = PageWriter::new(file.as_ref(), change.to.page_size());
        let failed = |e| self.peer_error(e, "write", FileKind::Database);
        change.each(self, |pgno, page| writer.page(pgno, page).map_err(failed))?;
        writer.flush().map_err(failed)?;
        self.end_directly(file.as_ref(), &change.to)?;
        redo.end(self)?;
        Ok(Applied::All)
    }

    /// The database file, exclusively locked; `None` if others won't go.
    pub(in crate::db) fn open_exclusively(&self) -> Result<Option<Box<dyn PeerFile>>, Error> {
        let failed = |op| move |e| self.peer_error(e, op, FileKind::Database);
        let file =
            self.peer().open(&self.name, FileKind::Database, true).map_err(failed("open"))?;
        let mut lock = Exclusive { file: file.as_ref(), deadline: Instant::now() + PATIENCE };
        let locked = lock.wait(RESERVED_BYTE, 1).and_then(|reserved| {
            Ok(reserved && lock.wait(PENDING_BYTE, 1)? && lock.wait(SHARED_FIRST, SHARED_SIZE)?)
        });
        // Dropping the file lets go of what was locked.
        Ok(locked.map_err(failed("lock"))?.then_some(file))
    }

    /// Brings the file to its new length and takes the new position as that of the files.
    pub(super) fn end_directly(&self, file: &dyn PeerFile, to: &Target) -> Result<(), Error> {
        file.set_len(to.count.len_bytes(to.page_size()))
            .map_err(|e| self.peer_error(e, "truncate", FileKind::Database))?;
        let mut c = self.capture.lock();
        c.logged = to.logged();
        c.page_size = Some(to.page_size());
        c.dirty = Default::default();
        c.rewriting = false;
        Ok(())
    }
}

struct Exclusive<'a> {
    file: &'a dyn PeerFile,
    deadline: Instant,
}

impl Exclusive<'_> {
    fn wait(&mut self, first: u64, len: u64) -> std::io::Result<bool> {
        loop {
            if self.file.lock(first..first + len, ByteLock::Exclusive)? {
                return Ok(true);
            }
            if Instant::now() >= self.deadline {
                return Ok(false);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Writes pages, neighbours together.
pub(super) struct PageWriter<'a> {
    file: &'a dyn PeerFile,
    page_size: PageSize,
    start: u64,
    buf: Vec<u8>,
}

impl<'a> PageWriter<'a> {
    pub(super) fn new(file: &'a dyn PeerFile, page_size: PageSize) -> PageWriter<'a> {
        PageWriter { file, page_size, start: 0, buf: Vec::new() }
    }

    pub(super) fn page(&mut self, pgno: Pgno, page: &[u8]) -> std::io::Result<()> {
        let offset = pgno.offset(self.page_size);
        if offset != self.start + self.buf.len() as u64 || self.buf.len() >= MAX_WRITE {
            self.flush()?;
            self.start = offset;
        }
        self.buf.extend_from_slice(page);
        Ok(())
    }

    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        if !self.buf.is_empty() {
            self.file.write_at(&self.buf, self.start)?;
            self.start += self.buf.len() as u64;
            self.buf.clear();
        }
        Ok(())
    }
}

/// How long readers may go on before they are let in again.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_micros(500);
const MAX_WRITE: usize = 256 * 1024;
