//! Transactions written to the database file: under a rollback journal, or without one.
//!
//! ```text
//!            journal synced            db synced                journal gone
//!   Clean ──────────────────► Hot ──────────────────► Staged ──────────────────► Clean, logged
//!     │    (magic at offset 0)  ▲   record appended     │
//!     │                         └───── page written ────┘ (record is stale, made anew)
//!     └── page written, no journal ──► Unjournaled ── see [`super::unjournaled`] ──► Clean, logged
//! ```
//!
//! The journal decides: while it begins with its magic, a crash rolls the pages back. So the record is
//! appended to the log (*staged*) before the journal goes, and the journal's end is the commit of both.
//! If SQLite syncs the database, the log is synced beside it; with `synchronous=OFF` neither is.
//! A staged record carries the journal's nonce, so that recovery, when it rolls a journal back, knows
//! which record goes with it.
//!
//! Whether the journal's end is a commit or a rollback needs no answer: the pages are compared with the log.
//!
//! SQLite: fileformat2, "The Rollback Journal"; `pager.c`.

use std::time::Instant;

use crate::db::encode::Job;
use crate::db::names::FileKind;
use crate::db::pages::Source;
use crate::db::plan::{Dirty, Logged, Plan};
use crate::db::undo::Undo;
use crate::db::{Database, Durability, Right};
use crate::env::File;
use crate::error::{Error, IoContext};
use crate::log::RecordKind;
use crate::ltx::page_checksum;
use crate::sqlite::{DbHeader, JournalHeader, is_hot_header};
use crate::types::{PageCount, PageSize, Pgno};

use super::{Capture, NO_PAGES, Staged, touched};

impl Database {
    /// Before a write to the database file: remembers what the log says of the pages it overwrites.
    pub(in crate::db) fn before_page_write(
        &self,
        c: &mut Capture,
        file: &dyn File,
        data: &[u8],
        offset: u64,
    ) -> Result<(), Error> {
        self.before_change(c)?;
        self.remember_empty(c, file)?;
        if c.page_size.is_none() && offset == 0 {
            c.page_size = self.page_size_in(file, data)?;
        }
        match c.page_size {
            Some(page_size) if !c.dirty.whole => {
                self.remember(c, touched(offset, data.len() as u64, page_size), page_size)
            }
            _ => self.replace_whole(c),
        }
    }

    /// After a write to the database file: a checkpoint may have brought a WAL page home.
    pub(in crate::db) fn after_page_write(&self, c: &mut Capture, data: &[u8], offset: u64) {
        let Some(tail) = &mut c.wal else { return };
        let page_size = tail.page_size();
        let one_page =
            data.len() == page_size.as_usize() && offset.is_multiple_of(data.len() as u64);
        for pgno in touched(offset, data.len() as u64, page_size) {
            tail.backfilled(pgno, one_page.then(|| page_checksum(pgno, data)));
        }
    }

    /// Before the database file is cut or extended to `len` bytes.
    pub(in crate::db) fn before_truncate(&self, c: &mut Capture, len: u64) -> Result<(), Error> {
        self.before_change(c)?;
        match c.page_size {
            // A copy over an existing database begins so; its old pages aren't worth a look.
            _ if len == 0 && !c.journal_hot && c.wal.is_none() => self.replace_whole(c),
            Some(page_size) if !c.dirty.whole => {
                let kept = PageCount::in_file(len, page_size).as_u32();
                let cut = (kept..c.logged.count.as_u32()).filter_map(|p| Pgno::new(p + 1));
                self.remember(c, cut, page_size)
            }
            _ => self.replace_whole(c),
        }
    }

    /// Before the journal ends, by whatever way: the transaction is put into the log.
    pub(in crate::db) fn before_journal_end(&self, c: &mut Capture) -> Result<(), Error> {
        if !c.journal_hot {
            return Ok(());
        }
        // What was begun may be taken back by whoever may write no more.
        if self.right().is_none() && self.is_rolled_back(c)? {
            return Ok(());
        }
        match self.writable()? {
            Right::Own(_) => self.stage(c)?,
            Right::Lent(forward) => return self.forward_journal(c, &forward),
        }
        self.sync_always(FileKind::Database)
    }

    /// The journal has ended: what it decided about is committed.
    pub(in crate::db) fn after_journal_end(&self, c: &mut Capture) -> Result<(), Error> {
        if !std::mem::take(&mut c.journal_hot) {
            return Ok(());
        }
        let staged = c.staged.take();
        self.settle(c, staged.map(|s| s.logged))?;
        // Not before the journal's end is durable is the commit: it could come back and roll back.
        self.sync_always(FileKind::Journal)?;
        if self.options.durability == Durability::Always { self.sync_dir() } else { Ok(()) }
    }

    /// Appends the transaction to the log while the journal still decides about it.
    pub(in crate::db) fn stage(&self, c: &mut Capture) -> Result<(), Error> {
        self.retire_wal(c)?;
        match &c.staged {
            Some(staged) if !staged.stale => return Ok(()),
            Some(_) => self.drop_last()?,
            None => {}
        }
        c.staged = None;
        let started = Instant::now();
        let Some(plan) = self.plan_from_file(c)? else { return Ok(()) };
        self.check_not_halted()?;
        let kind = RecordKind::Staged { journal_nonce: self.journal_nonce()? };
        let staged = Staged { logged: plan.logged(), stale: false };
        self.append(plan, kind)?;
        c.staged = Some(staged);
        self.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Commits what was written without a journal.
    pub(in crate::db) fn commit_unjournaled(&self, c: &mut Capture) -> Result<(), Error> {
        self.commit_file(c, || match self.writable()? {
            Right::Own(_) => Ok(()),
            Right::Lent(_) => Err(Error::Unprotected { db: self.name.clone() }),
        })
    }

    /// Commits what the database file holds, if it isn't what the log says, and if it may be.
    pub(in crate::db) fn commit_file(
        &self,
        c: &mut Capture,
        may: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        if c.dirty.is_empty() || c.journal_hot || c.wal.is_some() {
            return Ok(());
        }
        let started = Instant::now();
        let was_empty = c.logged.count.is_zero();
        let plan = self.plan_from_file(c)?;
        let logged = plan.as_ref().map(Plan::logged);
        if let Some(plan) = plan {
            may()?;
            self.check_not_halted()?;
            self.append(plan, RecordKind::Plain)?;
            self.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
        }
        self.settle(c, logged)?;
        if let Some(undo) = c.undo.take() {
            undo.remove(self.env.as_ref()).at("remove", self.paths.undo())?;
            if was_empty {
                // It must not come back when the log has forgotten the first transaction.
                self.sync_dir()?;
            }
        }
        self.sync_always(FileKind::Database)
    }

    /// Looks again whether the journal begins with its magic.
    pub(in crate::db) fn look_at_journal(
        &self,
        c: &mut Capture,
        journal: &dyn File,
    ) -> Result<(), Error> {
        let mut magic = [0; JournalHeader::MAGIC.len()];
        let n = journal.read_at(&mut magic, 0).at("read", self.paths.journal())?;
        c.journal_hot = is_hot_header(&magic[..n]);
        Ok(())
    }

    /// Syncs a file, if it exists, where commits are to be durable whatever the app asks for.
    pub(in crate::db) fn sync_always(&self, kind: FileKind) -> Result<(), Error> {
        if self.options.durability == Durability::Normal {
            return Ok(());
        }
        match self.file(kind) {
            Ok(file) => file.sync().at("sync", self.paths.file(kind)),
            Err(Error::NotFound { .. }) => Ok(()),
            Err(err) => Err(err),
        }
    }

    fn before_change(&self, c: &mut Capture) -> Result<(), Error> {
        if c.wal.is_some() {
            self.settle_log(c)?;
        }
        if let Some(staged) = &mut c.staged {
            staged.stale = true;
        }
        Ok(())
    }

    /// Notes that the database had nothing, before its first transaction writes pages without a journal. A file that has
    /// content and no log isn't ours to empty.
    fn remember_empty(&self, c: &mut Capture, file: &dyn File) -> Result<(), Error> {
        if c.undo.is_some() || c.journal_hot || c.wal.is_some() {
            return Ok(());
        }
        if !c.logged.count.is_zero() || !c.dirty.is_empty() {
            return Ok(());
        }
        if file.len().at("stat", self.paths.database())? == 0 {
            let path = self.paths.undo();
            // There are no pages to keep: any size will do.
            let undo = Undo::begin(self.env.as_ref(), &path, PageSize::MAX, PageCount::ZERO);
            c.undo = Some(undo.at("create", path)?);
        }
        Ok(())
    }

    fn remember(
        &self,
        c: &mut Capture,
        pages: impl Iterator<Item = Pgno>,
        page_size: PageSize,
    ) -> Result<(), Error> {
        let files = self.page_files(page_size)?;
        let mut buf = files.buffer();
        for pgno in pages {
            let in_wal = c.wal.as_ref().is_some_and(|tail| tail.pages().contains_key(&pgno));
            if in_wal || pgno == page_size.lock_page() || c.dirty.pages.contains_key(&pgno) {
                continue;
            }
            if !c.logged.count.contains(pgno) && !c.dirty.pages.is_empty() {
                // All pages that the database grows by are compared anyway: one mark is enough.
                continue;
            }
            let mut logged = None;
            if c.logged.count.contains(pgno) {
                files.read(pgno, Source::Database, &mut buf).at("read", self.paths.database())?;
                logged = Some(page_checksum(pgno, &buf));
            }
            self.save_image(c, page_size, logged.map(|_| (pgno, buf.as_slice())))?;
            c.dirty.pages.insert(pgno, logged);
        }
        Ok(())
    }

    /// Keeps the old content of a page that is about to be written without a journal.
    fn save_image(
        &self,
        c: &mut Capture,
        page_size: PageSize,
        image: Option<(Pgno, &[u8])>,
    ) -> Result<(), Error> {
        if c.journal_hot || c.wal.is_some() || c.logged.count.is_zero() {
            return Ok(());
        }
        if c.undo.is_none() {
            let undo =
                Undo::begin(self.env.as_ref(), &self.paths.undo(), page_size, c.logged.count);
            c.undo = Some(undo.at("create", self.paths.undo())?);
        }
        match (&mut c.undo, image) {
            (Some(undo), Some((pgno, page))) => {
                undo.save(pgno, page).at("write", self.paths.undo())
            }
            _ => Ok(()),
        }
    }

    /// From here on any page may differ.
    fn replace_whole(&self, c: &mut Capture) -> Result<(), Error> {
        if !c.dirty.whole && !c.journal_hot && !c.logged.count.is_zero() {
            let undo = Undo::give_up(self.env.as_ref(), &self.paths.undo());
            c.undo = Some(undo.at("create", self.paths.undo())?);
        }
        c.dirty.whole = true;
        c.dirty.pages.clear();
        Ok(())
    }

    /// The page size that a write at the start of the file tells.
    fn page_size_in(&self, file: &dyn File, data: &[u8]) -> Result<Option<PageSize>, Error> {
        let mut head = [0; DbHeader::LEN];
        file.read_at(&mut head, 0).at("read", self.paths.database())?;
        let n = data.len().min(head.len());
        head[..n].copy_from_slice(&data[..n]);
        let magic = data.len().min(DbHeader::MAGIC.len());
        match DbHeader::decode(&head) {
            Ok(header) => Ok(Some(header.page_size)),
            // Refused at once: what doesn't begin like a database can't become one.
            Err(source) if data[..magic] != DbHeader::MAGIC[..magic] => {
                Err(Error::Header { db: self.name.clone(), source })
            }
            Err(_) => Ok(None),
        }
    }

    /// What the database file holds beyond the log.
    pub(in crate::db) fn plan_from_file(&self, c: &Capture) -> Result<Option<Plan>, Error> {
        if c.dirty.is_empty() {
            return Ok(None);
        }
        let file = self.file(FileKind::Database)?;
        let (page_size, commit) = match self.read_header(file.as_ref())? {
            Some((header, count)) => (Some(header.page_size), count),
            None => (c.logged.page_size, PageCount::ZERO),
        };
        let Some(page_size) = page_size else { return Ok(None) };
        let files = self.page_files(page_size)?;
        c.view(self, &files, &NO_PAGES, &NO_PAGES, commit).plan()
    }

    /// Nothing is dirty any more, and the log says `logged` if anything changed.
    fn settle(&self, c: &mut Capture, logged: Option<Logged>) -> Result<(), Error> {
        c.dirty = Dirty::default();
        if let Some(logged) = logged {
            c.page_size = logged.page_size;
            c.logged = logged;
            self.publish(c);
        }
        self.strict_check(c)
    }

    fn append(&self, plan: Plan, kind: RecordKind) -> Result<(), Error> {
        let files = self.page_files(plan.page_size)?;
        let job = Job { plan, files, timestamp: self.env.now(), kind };
        self.append_now(&job)?;
        if self.options.durability == Durability::Always { self.sync_log() } else { Ok(()) }
    }

    pub(in crate::db) fn journal_nonce(&self) -> Result<u32, Error> {
        let mut head = [0; JournalHeader::LEN];
        let journal = self.file(FileKind::Journal)?;
        journal.read_exact_at(&mut head, 0).at("read", self.paths.journal())?;
        Ok(JournalHeader::decode(&head).map_or(0, |h| h.nonce))
    }
}
