//! What frontends do to a database's files: open, read, write, truncate, sync, delete, close.
//!
//! Every change passes here, takes the capture lock where it matters, and goes: check the right to write
//! → capture's step before → the file → capture's step after. What isn't here: what a write means (see
//! [`super::capture`]). Reads take no lock at all.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::env::{File, OpenMode};
use crate::error::{Error, IoContext};
use crate::sqlite::{JournalHeader, is_hot_header};
use crate::types::PageSize;

use super::capture::{Capture, Writer};
use super::names::FileKind;
use super::{Database, Right};

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenHow {
    /// It must exist.
    Existing,
    /// Create it if it doesn't exist.
    Create,
    /// It must not exist.
    CreateNew,
}

/// An open file of a database, as one process sees it. Dropping it is the last close.
#[derive(Debug)]
pub struct OpenFile {
    db: Arc<Database>,
    kind: FileKind,
    file: Arc<dyn File>,
    /// Whether this handle has ever written to the database file.
    pub(super) wrote: AtomicBool,
    /// Who does.
    pub(super) writer: Arc<Writer>,
    /// Whether the engine itself has it open: what it writes is in the log already.
    pub(super) own: bool,
}

impl Database {
    /// Opens a file.
    ///
    /// # Errors
    /// `NotFound` or `Exists` as `how` asks; `ReadOnly` if a database or journal would be created on a
    /// node that may not write.
    pub fn open_file(self: &Arc<Self>, kind: FileKind, how: OpenHow) -> Result<OpenFile, Error> {
        let mut files = self.files.lock();
        let file = match files.get(kind) {
            Some(_) if how == OpenHow::CreateNew => {
                return Err(Error::Exists { db: self.name.clone() });
            }
            Some(file) => file,
            None => {
                let file = self.open_backing(kind, how)?;
                files.set(kind, Arc::clone(&file));
                file
            }
        };
        Ok(self.opened(kind, file, false))
    }

    /// Opens a file for the engine itself, which a frontend does when a [`super::Peer`] asks for it: nobody's
    /// right to write is checked, and nothing that is written is captured.
    ///
    /// # Errors
    /// `NotFound` unless `create`; I/O errors.
    pub fn open_own_file(
        self: &Arc<Self>,
        kind: FileKind,
        create: bool,
    ) -> Result<OpenFile, Error> {
        let mut files = self.files.lock();
        let file = match files.get(kind) {
            Some(file) => file,
            None => {
                let mode = if create { OpenMode::Create } else { OpenMode::Existing };
                let file = self.env.open(&self.paths.file(kind), mode);
                let file = file.map_err(|e| self.open_error(e, "open", kind))?;
                self.names_changed.store(true, Ordering::Release);
                files.set(kind, Arc::clone(&file));
                file
            }
        };
        Ok(self.opened(kind, file, true))
    }

    /// Removes a file's name for the engine itself.
    ///
    /// # Errors
    /// `NotFound`; I/O errors.
    pub fn unlink_own_file(&self, kind: FileKind) -> Result<(), Error> {
        let mut capture = self.capture.lock();
        let c = &mut *capture;
        if kind == FileKind::Database {
            // Nothing is left that the WAL's pages could be compared with.
            c.wal = None;
        }
        if kind == FileKind::Wal && c.wal.is_some() {
            let wal = self.file(FileKind::Wal)?;
            self.before_wal_truncate(c, wal.as_ref(), 0)?;
        }
        self.remove(kind)
    }

    /// Size of a file in bytes; `None` if it doesn't exist.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn len(&self, kind: FileKind) -> Result<Option<u64>, Error> {
        let path = self.paths.file(kind);
        if let Some(file) = self.files.lock().get(kind) {
            return file.len().map(Some).at("stat", path);
        }
        match self.env.metadata(&path) {
            Ok(meta) => Ok(Some(meta.len)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).at("stat", path),
        }
    }

    /// Cuts or extends a file by name.
    ///
    /// # Errors
    /// As [`OpenFile::truncate`]; `NotFound` if it doesn't exist.
    pub fn truncate(self: &Arc<Self>, kind: FileKind, len: u64) -> Result<(), Error> {
        let file = self.open_file(kind, OpenHow::Existing)?;
        file.truncate(len)
    }

    /// Removes a file's name. Removing a hot journal commits; removing the database drops it.
    ///
    /// # Errors
    /// `NotFound`; `ReadOnly` where removing is a write; I/O errors, and then nothing was committed.
    pub fn unlink(&self, kind: FileKind) -> Result<(), Error> {
        tracing::trace!(target: TRACE_TARGET, db = %self.name, file = ?kind, "unlink");
        let mut capture = self.capture.lock();
        let c = &mut *capture;
        match kind {
            FileKind::Database => return self.drop_database(c),
            FileKind::Journal if c.journal_hot => self.before_journal_end(c)?,
            FileKind::Wal if c.wal.is_some() => {
                self.writable()?;
                let wal = self.file(FileKind::Wal)?;
                self.before_wal_truncate(c, wal.as_ref(), 0)?;
            }
            FileKind::Journal | FileKind::Wal | FileKind::Shm | FileKind::Super(_) => {}
        }
        self.remove(kind)?;
        if kind == FileKind::Journal {
            self.after_journal_end(c)?;
        }
        Ok(())
    }

    /// Makes created and removed names durable.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn sync_dir(&self) -> Result<(), Error> {
        if !self.names_changed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let synced = self.env.sync_dir(self.paths.dir());
        if synced.is_err() {
            self.names_changed.store(true, Ordering::Release);
        }
        synced.at("sync", self.paths.dir())
    }

    /// The open backing file, opened if need be.
    pub(super) fn file(&self, kind: FileKind) -> Result<Arc<dyn File>, Error> {
        let mut files = self.files.lock();
        if let Some(file) = files.get(kind) {
            return Ok(file);
        }
        let file = self.open_backing(kind, OpenHow::Existing)?;
        files.set(kind, Arc::clone(&file));
        Ok(file)
    }

    /// Removes the name, if it is there; open handles go on with the nameless file.
    pub(super) fn remove(&self, kind: FileKind) -> Result<(), Error> {
        let mut files = self.files.lock();
        let path = self.paths.file(kind);
        self.env.remove_file(&path).map_err(|e| self.open_error(e, "remove", kind))?;
        files.clear(kind);
        self.names_changed.store(true, Ordering::Release);
        Ok(())
    }

    fn opened(self: &Arc<Self>, kind: FileKind, file: Arc<dyn File>, own: bool) -> OpenFile {
        let (wrote, writer) = Default::default();
        OpenFile { db: Arc::clone(self), kind, file, wrote, writer, own }
    }

    fn open_backing(&self, kind: FileKind, how: OpenHow) -> Result<Arc<dyn File>, Error> {
        let path = self.paths.file(kind);
        match self.env.open(&path, OpenMode::Existing) {
            Ok(_) if how == OpenHow::CreateNew => Err(Error::Exists { db: self.name.clone() }),
            Ok(file) => Ok(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound && how != OpenHow::Existing => {
                if matches!(kind, FileKind::Database | FileKind::Journal) {
                    self.writable()?;
                }
                let file = self.env.open(&path, OpenMode::CreateNew);
                let file = file.map_err(|e| self.open_error(e, "create", kind))?;
                self.names_changed.store(true, Ordering::Release);
                Ok(file)
            }
            Err(e) => Err(self.open_error(e, "open", kind)),
        }
    }

    fn open_error(&self, source: io::Error, op: &'static str, kind: FileKind) -> Error {
        match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound { db: self.name.clone() },
            _ => Error::Io { op, path: self.paths.file(kind), source },
        }
    }
}

impl OpenFile {
    /// Which file it is.
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// Whose file it is.
    pub fn database(&self) -> &Arc<Database> {
        &self.db
    }

    /// Size in bytes.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn len(&self) -> Result<u64, Error> {
        self.file.len().at("stat", self.db.paths.file(self.kind))
    }

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn is_empty(&self) -> Result<bool, Error> {
        self.len().map(|n| n == 0)
    }

    /// The descriptor beneath, for passthrough of the shared memory file.
    pub fn backing_fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_fd()
    }

    /// Whether the file still has its name.
    pub fn is_current(&self) -> bool {
        self.db.files.lock().get(self.kind).is_some_and(|f| Arc::ptr_eq(&f, &self.file))
    }

    /// Reads until the buffer is full or the file ends; returns the number of bytes read.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        self.file.read_at(buf, offset).at("read", self.db.paths.file(self.kind))
    }

    /// Writes all of `data`. A write that completes a commit captures the transaction first.
    ///
    /// # Errors
    /// `ReadOnly` if this node may not write; I/O errors of the file or the log: the transaction that
    /// the write would have completed isn't committed then.
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        self.trace("write", offset, data.len() as u64);
        if self.own {
            return self.write_own(data, offset);
        }
        self.db.metrics.written(self.kind);
        match self.kind {
            FileKind::Shm | FileKind::Super(_) => self.put(data, offset),
            FileKind::Database => self.write_page(data, offset),
            FileKind::Journal => self.write_journal(data, offset),
            FileKind::Wal => self.write_wal(data, offset),
        }
    }

    /// Cuts or extends the file.
    ///
    /// # Errors
    /// As [`OpenFile::write_at`].
    pub fn truncate(&self, len: u64) -> Result<(), Error> {
        self.trace("truncate", 0, len);
        let (db, path) = (&self.db, self.db.paths.file(self.kind));
        let set_len = || self.file.set_len(len).at("truncate", &path);
        if matches!(self.kind, FileKind::Shm | FileKind::Super(_)) {
            return set_len();
        }
        let mut capture = db.capture.lock();
        let c = &mut *capture;
        if self.own && self.kind == FileKind::Wal {
            db.before_wal_truncate(c, self.file.as_ref(), len)?;
        }
        if self.own || !self.is_current() {
            c.snapshots.before_change(&self.file, len..u64::MAX);
            return set_len();
        }
        match self.kind {
            FileKind::Database => {
                let now = self.file.len().at("stat", db.paths.database())?;
                if now == len {
                    return Ok(());
                }
                db.check_truncate(c, now, len)?;
                db.before_truncate(c, len)?;
                self.note_writing(c);
                c.snapshots.before_change(&self.file, len..u64::MAX);
                set_len()
            }
            FileKind::Journal if len < JournalHeader::MAGIC.len() as u64 && c.journal_hot => {
                db.before_journal_end(c)?;
                set_len()?;
                db.after_journal_end(c)
            }
            FileKind::Wal if self.file.len().at("stat", &path)? != len => {
                db.writable()?;
                db.before_wal_truncate(c, self.file.as_ref(), len)?;
                c.snapshots.before_change(&self.file, len..u64::MAX);
                set_len()
            }
            FileKind::Wal | FileKind::Journal | FileKind::Shm | FileKind::Super(_) => set_len(),
        }
    }

    /// Makes the content durable, and with it what of it is in the log.
    ///
    /// # Errors
    /// If the file system fails: nothing may be taken as durable then.
    pub fn sync(&self) -> Result<(), Error> {
        self.trace("sync", 0, 0);
        let db = &self.db;
        match self.kind {
            _ if self.own => self.sync_file(),
            FileKind::Database if self.is_current() => {
                let mut capture = db.capture.lock();
                self.capture_written(&mut capture)?;
                if capture.wal.is_some() {
                    capture.app_syncs = true;
                    drop(capture);
                    return self.sync_file();
                }
                db.sync_with_log(|| self.sync_file())
            }
            FileKind::Wal => {
                db.capture.lock().app_syncs = true;
                self.sync_file()
            }
            _ => self.sync_file(),
        }
    }

    fn capture_written(&self, c: &mut Capture) -> Result<(), Error> {
        if c.journal_hot {
            // Under the halt lock nothing is logged before the journal's end.
            match self.db.right() {
                Some(Right::Own(_)) => self.db.stage(c),
                _ => Ok(()),
            }
        } else if c.dirty.has(&self.writer) {
            self.db.commit_unjournaled(c)
        } else {
            Ok(())
        }
    }

    fn note_writing(&self, c: &mut Capture) {
        self.wrote.store(true, Ordering::Relaxed);
        self.db.note_writer(c, &self.writer);
    }

    fn write_own(&self, data: &[u8], offset: u64) -> Result<(), Error> {
        let mut capture = self.db.capture.lock();
        let c = &mut *capture;
        match self.kind {
            FileKind::Database => {
                self.overwrite(c, data, offset)?;
                let page_len = c.page_size.map_or(data.len(), PageSize::as_usize);
                for (page, at) in data.chunks(page_len).zip((offset..).step_by(page_len)) {
                    self.db.after_page_write(c, page, at);
                }
                Ok(())
            }
            FileKind::Wal => {
                self.db.before_wal_write(c, self.file.as_ref(), data, offset)?;
                self.overwrite(c, data, offset)?;
                self.db.after_own_wal_write(c, self.file.as_ref())
            }
            FileKind::Shm | FileKind::Journal | FileKind::Super(_) => self.put(data, offset),
        }
    }

    fn write_page(&self, data: &[u8], offset: u64) -> Result<(), Error> {
        let mut capture = self.db.capture.lock();
        if !self.is_current() {
            return self.overwrite(&mut capture, data, offset);
        }
        self.db.check_page_write(&capture, || capture.puts_back(data, offset))?;
        self.db.before_page_write(&mut capture, self.file.as_ref(), data, offset)?;
        self.note_writing(&mut capture);
        self.overwrite(&mut capture, data, offset)?;
        self.db.after_page_write(&mut capture, data, offset);
        Ok(())
    }

    fn write_journal(&self, data: &[u8], offset: u64) -> Result<(), Error> {
        let magic_len = JournalHeader::MAGIC.len() as u64;
        if offset >= magic_len {
            self.db.writable()?;
            return self.put(data, offset);
        }
        let mut capture = self.db.capture.lock();
        if !self.is_current() {
            return self.put(data, offset);
        }
        let mut magic = JournalHeader::MAGIC;
        let n = data.len().min(magic.len() - offset as usize);
        magic[offset as usize..][..n].copy_from_slice(&data[..n]);
        let c = &mut *capture;
        if c.journal_hot && !is_hot_header(&magic) {
            self.db.before_journal_end(c)?;
            self.put(data, offset)?;
            return self.db.after_journal_end(c);
        }
        self.db.writable()?;
        if !c.journal_hot && is_hot_header(&magic) {
            self.db.before_begin(c)?;
        }
        self.put(data, offset)?;
        self.db.look_at_journal(c, self.file.as_ref())
    }

    fn write_wal(&self, data: &[u8], offset: u64) -> Result<(), Error> {
        let mut capture = self.db.capture.lock();
        let c = &mut *capture;
        if !self.is_current() {
            return self.overwrite(c, data, offset);
        }
        let right = self.db.writable()?;
        if c.wal.is_none() {
            self.db.before_begin(c)?;
        }
        self.db.before_wal_write(c, self.file.as_ref(), data, offset)?;
        let Right::Lent(forward) = right else {
            self.overwrite(c, data, offset)?;
            return self.db.after_wal_write(c, &self.file, offset + data.len() as u64);
        };
        let forwarded = self.db.forward_wal(c, &forward, &self.file, data, offset)?;
        if let Err(err) = self.overwrite(c, data, offset) {
            self.db.not_written(c, &self.file)?;
            return Err(err);
        }
        self.db.accept_forwarded(c, forwarded)
    }

    fn trace(&self, op: &'static str, offset: u64, len: u64) {
        tracing::trace!(target: TRACE_TARGET, db = %self.db.name, file = ?self.kind, offset, len, "{op}");
    }

    /// Writes to a file that snapshots may be reading.
    fn overwrite(&self, c: &mut Capture, data: &[u8], offset: u64) -> Result<(), Error> {
        c.snapshots.before_change(&self.file, offset..offset + data.len() as u64);
        self.put(data, offset)
    }

    fn put(&self, data: &[u8], offset: u64) -> Result<(), Error> {
        self.file.write_at(data, offset).at("write", self.db.paths.file(self.kind))
    }

    fn sync_file(&self) -> Result<(), Error> {
        self.file.sync().at("sync", self.db.paths.file(self.kind))
    }
}

/// The target of the events that say what SQLite does, one for each file operation.
const TRACE_TARGET: &str = "trace";

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Err(err) = self.release() {
            tracing::error!(db = %self.db.name, err = &err as &dyn std::error::Error,
                "what was written without a journal couldn't be captured");
        }
    }
}
