//! Pages written to the database file, while nobody else reads or writes it: rollback mode, and new databases.
//!
//! Locks as SQLite takes them to commit: RESERVED keeps writers out, PENDING new readers; EXCLUSIVE is had once
//! the readers have gone. They get a moment to do so; then they are let in again, and the change waits.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::sqlite::locks::{PENDING_BYTE, RESERVED_BYTE, SHARED_FIRST, SHARED_SIZE};
use crate::types::{PageSize, Pgno};

use super::change::{Change, Pages, Target};
use super::redo::Redo;
use super::{Applied, Applier};
use crate::db::capture::Capture;
use crate::db::peer::{ByteLock, PeerFile};
use crate::db::plan::Logged;
use crate::db::{Database, FileKind};

impl Database {
    /// Writes the pages of a change under the exclusive lock.
    pub(super) fn write_directly(
        &self,
        applier: &mut Applier,
        from: &Logged,
        change: &Change,
    ) -> Result<Applied, Error> {
        self.write_exclusively(applier, from, &change.to, |old_len, part, writer| {
            let failed = |e| self.peer_error(e, "write", FileKind::Database);
            change.each(self, &mut |pgno, page| {
                if part.has(pgno.offset(change.to.page_size()), old_len) {
                    writer.page(pgno, page).map_err(failed)?;
                }
                Ok(())
            })
        })
    }

    /// Locks the database exclusively and lets `write` write to it, first what lies past its end: if there is no
    /// room for that, the file is as before. If a later write fails the lock stays, as what is there is neither the
    /// old nor the new state: nobody may see it, and the next attempt begins with that lock.
    pub(super) fn write_exclusively(
        &self,
        applier: &mut Applier,
        from: &Logged,
        to: &Target,
        mut write: impl FnMut(u64, Part, &mut PageWriter<'_>) -> Result<(), Error>,
    ) -> Result<Applied, Error> {
        let torn = applier.torn.take();
        let was_torn = torn.is_some();
        let file = match torn {
            Some(file) => file,
            None => match self.open_exclusively(applier.reserved())? {
                Some(file) => file,
                None => return Ok(Applied::Waiting),
            },
        };
        let failed = |e| self.peer_error(e, "write", FileKind::Database);
        let old_len = from.page_size.map_or(0, |size| from.count.len_bytes(size));
        let redo = Redo::begin(self)?;
        let mut writer = PageWriter::new(file.as_ref(), to.page_size());
        let mut part =
            |part| write(old_len, part, &mut writer).and_then(|()| writer.flush().map_err(failed));
        if let Err(err) = part(Part::PastEnd) {
            if was_torn {
                applier.torn = Some(file);
            } else {
                file.set_len(old_len).map_err(failed)?;
                redo.end(self)?;
            }
            return Err(err);
        }
        // From here on the file holds a mixture.
        self.capture.lock().rewriting = true;
        let written = part(Part::Within).and_then(|()| {
            file.set_len(to.count.len_bytes(to.page_size())).map_err(failed)?;
            if was_torn { self.check_all(to) } else { Ok(()) }
        });
        if let Err(err) = written {
            applier.torn = Some(file);
            return Err(err);
        }
        let mut c = self.capture.lock();
        c.logged = to.logged();
        c.page_size = Some(to.page_size());
        c.dirty = Default::default();
        c.rewriting = false;
        drop(c);
        redo.end(self)?;
        Ok(Applied::All)
    }

    /// The database file, exclusively locked; `None` if others won't go. With the halt lock it is reserved already.
    pub(in crate::db) fn open_exclusively(
        &self,
        reserved: bool,
    ) -> Result<Option<Box<dyn PeerFile>>, Error> {
        let failed = |op| move |e| self.peer_error(e, op, FileKind::Database);
        let file =
            self.peer().open(&self.name, FileKind::Database, true).map_err(failed("open"))?;
        let deadline = Instant::now() + PATIENCE;
        let lock = |first, len| lock_by(deadline, file.as_ref(), first..first + len);
        let locked = (|| {
            let reserved = reserved || lock(RESERVED_BYTE, 1)?;
            Ok(reserved && lock(PENDING_BYTE, 1)? && lock(SHARED_FIRST, SHARED_SIZE)?)
        })();
        // Dropping the file lets go of what was locked.
        Ok(locked.map_err(failed("lock"))?.then_some(file))
    }

    /// Whether all pages add up to the target's checksum.
    fn check_all(&self, to: &Target) -> Result<(), Error> {
        let c = Capture { logged: to.logged(), ..Capture::default() };
        self.check_pages(&c).inspect_err(|_| self.diverged.store(true, Ordering::Release))
    }
}

/// Which pages are written: those past the old end of the file, or the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    PastEnd,
    Within,
}

impl Part {
    /// Whether a page at `offset` belongs to it.
    pub(super) fn has(self, offset: u64, old_len: u64) -> bool {
        (offset >= old_len) == (self == Part::PastEnd)
    }
}

/// Locks bytes exclusively, unless others hold them until `deadline`.
pub(in crate::db) fn lock_by(
    deadline: Instant,
    file: &dyn PeerFile,
    bytes: Range<u64>,
) -> std::io::Result<bool> {
    loop {
        if file.lock(bytes.clone(), ByteLock::Exclusive)? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(PAUSE);
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

/// How long others may keep a lock before a change is put off.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_micros(500);
const MAX_WRITE: usize = 256 * 1024;
