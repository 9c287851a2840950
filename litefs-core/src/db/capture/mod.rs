//! Capture: from SQLite's file operations to transactions in the log.
//!
//! Locks stay in the kernel, so a commit is told by what SQLite writes; only where it writes nothing but pages, the kernel is
//! asked who has locked them:
//!
//! ```text
//!  write to <db>-wal ──► wal (tailer): valid commit frame ───┐
//!  <db>-journal unlinked, cut or zeroed ─► rollback: commit ─┼─► plan: what differs? ─► accept or refuse
//!  <db> synced, closed or unlocked ───► unjournaled: commit ─┘        │
//!                                                                     └─► encode: append to the log
//! ```
//!
//! This module holds the state and the steps; [`crate::db::files`] calls them at each file operation,
//! with the database's capture lock held. What isn't here: how a plan becomes LTX (see
//! [`crate::db::encode`]) and what a start does with the remains of a crash (see [`crate::db::recover`]).
//!
//! # The invariant
//! At any time, for each page of the logged database, the content that SQLite sees has the checksum that
//! the log says, unless the page is *dirty*, `whole` is set, or a transaction is under way in the WAL's
//! pending frames. A dirty page remembers its checksum by the log. Each commit compares all dirty pages
//! with the log, so it doesn't matter why a page is dirty: written under a journal, without one, by a
//! switch of the journal mode, or forgotten by SQLite as an orphan.
//!
//! The old checksum of a page is taken at its first overwrite, from the content itself, so memory and
//! start-up don't grow with the database.

mod rollback;
mod unjournaled;
mod wal;

use std::sync::Arc;
use std::time::Instant;

use crate::env::File;
use crate::error::{Error, IoContext};
use crate::log::RecordKind;
use crate::ltx::page_checksum;
use crate::sqlite::wal::WAL_HEADER_LEN;
use crate::types::{PageCount, PageSize, Pgno};

use super::Database;
use super::encode::Job;
use super::names::FileKind;
use super::pages::{PageFiles, Source};
use super::plan::{Dirty, Logged, Plan, View, WalPages};
use super::snapshot::Snapshots;
use super::undo::Undo;

pub(super) use unjournaled::{Watch, Writer};
pub(super) use wal::{APPLY_SEQ, WalTail, WalTx};

/// The capture state of one database.
#[derive(Debug, Default)]
pub(super) struct Capture {
    /// What the log says, including transactions that are still being encoded.
    pub(super) logged: Logged,
    /// Page size of the database file, once known.
    pub(super) page_size: Option<PageSize>,
    pub(super) dirty: Dirty,
    /// The WAL, while it has a valid header.
    pub(super) wal: Option<WalTail>,
    /// Whether the journal begins with its magic: then it decides about what is written.
    pub(super) journal_hot: bool,
    /// Whether pre-images are being kept, because pages are written without a journal.
    pub(super) undo: Option<Undo>,
    pub(super) watch: Watch,
    /// A transaction in the log that the journal still decides about.
    pub(super) staged: Option<Staged>,
    /// What the log says of the transaction that is being applied: the WAL's next commit frame is its.
    pub(super) applying: Option<Logged>,
    /// The engine is writing pages directly: what the file holds is no position.
    pub(super) rewriting: bool,
    /// Whether the app has asked for an fsync since the WAL's last restart.
    pub(super) app_syncs: bool,
    /// Snapshots that are being read: they must see each change of a file before it is made.
    pub(super) snapshots: Snapshots,
}

/// A transaction that was logged before its journal was removed.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) logged: Logged,
    /// Pages were written since: it must be made anew.
    pub(super) stale: bool,
}

static NO_PAGES: WalPages = WalPages::new();

impl Database {
    /// Before SQLite's write to the WAL: what it overwrites is given up.
    pub(super) fn before_wal_write(
        &self,
        c: &mut Capture,
        wal: &dyn File,
        data: &[u8],
        offset: u64,
    ) -> Result<(), Error> {
        let Some(tail) = &c.wal else { return Ok(()) };
        if offset >= tail.frontier() || holds(wal, data, offset).at("read", self.paths.wal())? {
            return Ok(());
        }
        if offset < WAL_HEADER_LEN as u64 {
            return self.retire_wal(c);
        }
        let frame = tail.frame_at(offset);
        self.rewind_wal(c, wal, frame)
    }

    /// After SQLite's write to the WAL: captures the transactions that are complete now.
    ///
    /// On error the caller must fail the write: the transaction isn't captured.
    pub(super) fn after_wal_write(
        &self,
        c: &mut Capture,
        wal: &Arc<dyn File>,
        end: u64,
    ) -> Result<(), Error> {
        if c.wal.is_none() {
            c.wal = WalTail::open(wal.as_ref()).at("read", self.paths.wal())?;
            c.app_syncs = false;
        }
        let Some(tail) = &mut c.wal else { return Ok(()) };
        if end <= tail.frontier() {
            return Ok(());
        }
        while let Some(tx) = c.advance(wal.as_ref()).at("read", self.paths.wal())? {
            self.commit_wal(c, wal, tx)?;
        }
        Ok(())
    }

    /// After the engine's own write to the WAL: the log has the transaction already.
    pub(super) fn after_own_wal_write(&self, c: &mut Capture, wal: &dyn File) -> Result<(), Error> {
        if c.wal.is_none() {
            c.wal = WalTail::open(wal).at("read", self.paths.wal())?;
        }
        while let Some(tx) = c.advance(wal).at("read", self.paths.wal())? {
            if let Some(logged) = c.applying.take() {
                c.logged = logged;
            }
            if let Some(tail) = &mut c.wal {
                tail.accept(tx);
            }
        }
        Ok(())
    }

    /// The WAL is cut to `len` bytes, or removed (0).
    pub(super) fn before_wal_truncate(
        &self,
        c: &mut Capture,
        wal: &dyn File,
        len: u64,
    ) -> Result<(), Error> {
        let Some(tail) = &c.wal else { return Ok(()) };
        if len >= tail.frontier() {
            return Ok(());
        }
        if len < WAL_HEADER_LEN as u64 {
            return self.retire_wal(c);
        }
        let frame = tail.frame_at(len);
        self.rewind_wal(c, wal, frame)
    }

    /// The WAL's frames are about to vanish: from here on the database file is what counts.
    ///
    /// A checkpoint has brought all that SQLite knows to the database file. A captured page that it
    /// didn't bring belongs to an orphan (or the WAL was removed by hand): the page is dirty.
    pub(super) fn retire_wal(&self, c: &mut Capture) -> Result<(), Error> {
        let Some(tail) = &c.wal else { return Ok(()) };
        self.settle_log(c)?;
        self.sync_always(FileKind::Database)?;
        let files = self.page_files(tail.page_size())?;
        let mut buf = files.buffer();
        for (pgno, page) in tail.pages().iter().filter(|(_, page)| !page.backfilled) {
            let now =
                files.sum(*pgno, Source::Database, &mut buf).at("read", self.paths.database())?;
            if now != page.sum && c.logged.count.contains(*pgno) {
                c.dirty.pages.entry(*pgno).or_insert(Some(page.sum));
            }
        }
        c.wal = None;
        Ok(())
    }

    /// Frames from `frame` on are about to be overwritten.
    fn rewind_wal(&self, c: &mut Capture, wal: &dyn File, frame: u32) -> Result<(), Error> {
        let Some(tail) = &mut c.wal else { return Ok(()) };
        if frame >= tail.captured() {
            return tail.give_up(wal, frame).at("read", self.paths.wal());
        }
        // The log must have these frames before they are gone.
        self.drain()?;
        let lost = tail.rewind(wal, frame).at("read", self.paths.wal())?;
        tracing::warn!(db = %self.name, pages = lost.len(),
            "a transaction was written to the WAL but never finished; the next one corrects it");
        for (pgno, sum) in lost {
            let logged = c.logged.count.contains(pgno).then_some(sum);
            c.dirty.pages.entry(pgno).or_insert(logged);
        }
        Ok(())
    }

    fn commit_wal(&self, c: &mut Capture, wal: &Arc<dyn File>, tx: WalTx) -> Result<(), Error> {
        let started = Instant::now();
        let Some(tail) = &c.wal else { return Ok(()) };
        let mut files = self.page_files(tail.page_size())?;
        files.wal = Some(Arc::clone(wal));
        let plan = c.view(self, &files, tail.pages(), &tx.pages, tx.commit).plan()?;
        if plan.is_some() {
            self.check_not_halted()?;
        }
        let span = tx.span;
        if let Some(tail) = &mut c.wal {
            tail.accept(tx);
        }
        c.dirty = Dirty::default();
        let Some(mut plan) = plan else { return Ok(()) };
        plan.wal = Some(span);
        self.accept(c, plan, files)?;
        self.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// What the log says otherwise than the pages do becomes a transaction, while nobody writes.
    pub(super) fn correct(&self, c: &mut Capture) -> Result<(), Error> {
        let Some(tail) = &c.wal else { return self.commit_unjournaled(c) };
        if c.dirty.is_empty() {
            return Ok(());
        }
        let mut files = self.page_files(tail.page_size())?;
        files.wal = Some(self.file(FileKind::Wal)?);
        let plan = c.view(self, &files, tail.pages(), &NO_PAGES, c.logged.count).plan()?;
        c.dirty = Dirty::default();
        plan.map_or(Ok(()), |plan| self.accept(c, plan, files))
    }

    /// Takes a transaction whose pages the WAL goes on holding: the log may have it a little later.
    fn accept(&self, c: &mut Capture, plan: Plan, files: PageFiles) -> Result<(), Error> {
        c.logged = plan.logged();
        c.page_size = Some(plan.page_size);
        self.publish(c);
        let job = Job { plan, files, timestamp: self.env.now(), kind: RecordKind::Plain };
        self.enqueue(job)?;
        self.strict_check(c)
    }
}

impl Capture {
    pub(super) fn view<'a>(
        &'a self,
        db: &'a Database,
        files: &'a PageFiles,
        wal: &'a WalPages,
        tx: &'a WalPages,
        commit: PageCount,
    ) -> View<'a> {
        View { db: &db.name, logged: &self.logged, dirty: &self.dirty, wal, tx, files, commit }
    }

    /// Whether a transaction in the database file has neither been committed nor rolled back.
    pub(super) fn is_half_way(&self) -> bool {
        self.journal_hot || self.undo.is_some()
    }

    /// Whether a write puts back what the log says of pages that were written without a journal.
    pub(super) fn puts_back(&self, data: &[u8], offset: u64) -> bool {
        let Some(page_size) = self.page_size.filter(|_| self.undo.is_some()) else { return false };
        let size = page_size.as_usize();
        let whole = data.len().is_multiple_of(size) && offset.is_multiple_of(size as u64);
        let pages = data.chunks(size).zip(touched(offset, data.len() as u64, page_size));
        let is_old = |(page, pgno): (&[u8], Pgno)| {
            self.dirty.pages.get(&pgno).copied().flatten() == Some(page_checksum(pgno, page))
        };
        whole && pages.into_iter().all(is_old)
    }

    /// Likewise for a change of the file's length.
    pub(super) fn cuts_back(&self, len: u64) -> bool {
        let logged = self.logged.page_size.map_or(0, |size| self.logged.count.len_bytes(size));
        self.undo.is_some() && logged == len
    }

    fn advance(&mut self, wal: &dyn File) -> std::io::Result<Option<WalTx>> {
        self.wal.as_mut().map_or(Ok(None), |tail| tail.advance(wal))
    }
}

/// Whether the file holds `data` at `offset` already.
fn holds(file: &dyn File, data: &[u8], offset: u64) -> std::io::Result<bool> {
    let mut now = vec![0; data.len()];
    Ok(file.read_at(&mut now, offset)? == data.len() && now == data)
}

/// The pages that a write of `len` bytes at `offset` touches.
fn touched(offset: u64, len: u64, page_size: PageSize) -> impl Iterator<Item = Pgno> {
    let first = Pgno::at_offset(offset, page_size).map_or(u32::MAX, Pgno::as_u32);
    let last = Pgno::at_offset(offset + len.saturating_sub(1), page_size).map_or(0, Pgno::as_u32);
    (first..=last).filter_map(Pgno::new)
}
