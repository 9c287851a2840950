//! The start: log, journal, WAL and database file are brought to one state, whatever ended the last use.
//!
//! ```text
//!   undo file ─► journal ─► is the database where the log says? ─► capture the WAL's rest ─► checkpoint
//!                                  │ no
//!                                  ├─► where an earlier record says: apply the later ones again,
//!                                  │      or, if the WAL goes on otherwise, log the whole database
//!                                  ├─► pages of the log repair it:   write them
//!                                  ├─► a journal was rolled back, there are free pages: log the whole database
//!                                  └─► else: read-only, files untouched
//! ```
//!
//! # Why this is enough
//! * **The process was killed.** Nothing written is lost. In WAL mode the log is a prefix of what the WAL and
//!   the database file hold, since both wait for the log before frames are checkpointed or overwritten: the
//!   state at the last record's frame is checked, and the rest of the WAL is captured, with the same TXIDs
//!   and checksums as it was (or would have been) before. In rollback mode the journal decides: still hot,
//!   the pages are rolled back and the staged record that carries its nonce is dropped, before, so that it
//!   can't come back; gone, the record, appended before it went, stands.
//! * **The power was lost.** What the app synced is there: the WAL (then as above), or database and log,
//!   which were synced together before the journal went. What it didn't sync may be lost from the file and
//!   yet be in the log: then the file is at an earlier record, and the later ones are applied again. That
//!   way a commit survives that SQLite alone would have lost.
//! * **The transaction that is rolled back had written to free pages.** SQLite doesn't journal what they hold, so
//!   they differ from the log. The log's pages restore them; if it has forgotten them, the whole database is logged as the
//!   next transaction. That is the one case in which the start takes pages that nothing vouches for.
//! * **A page changed behind our back** (bit rot, another program): the checksum of all pages tells. Pages
//!   that the log still has are repaired from it. Otherwise nothing is touched, as any guess could lose data.
//!
//! The full check is skipped after a clean shutdown: see [`super::clean`].

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use crate::env::File;
use crate::error::{Error, IoContext};
use crate::log::{BlobReader, RecordKind, RecordMeta};
use crate::ltx::{DecodeError, Decoder, page_checksum};
use crate::sqlite::DbHeader;
use crate::types::{Checksum, PageCount, PageSize, Pgno, Txid};

use super::Database;
use super::capture::{Capture, WalTail};
use super::clean::{Mark, WalState};
use super::known::Known;
use super::names::FileKind;
use super::pages::{PageFiles, Source};
use super::plan::{Logged, WalPages};

impl Database {
    /// Recovers the database.
    ///
    /// # Errors
    /// Those of the disk; or it can't be brought to a state that the log knows.
    pub(super) fn recover(&self, mark: Option<Mark>) -> Result<(), Error> {
        let mut capture = self.capture.lock();
        let c = &mut *capture;
        self.remove_if_there(FileKind::Shm)?;
        let last = self.log.lock().log.last().cloned();
        self.note_log(&self.log.lock().log);
        c.logged = last.as_ref().map_or_else(Logged::default, logged_by);
        self.publish_recovered(c, last.as_ref());

        if let Some(want) = mark.as_ref().and_then(|mark| mark.pos)
            && c.logged.pos.is_none_or(|pos| pos.txid < want.txid)
        {
            // Going on would give TXIDs that replicas know a second meaning.
            let log = self.paths.dir().join("log");
            return Err(Error::LogLost { db: self.name.clone(), got: c.logged.pos, want, log });
        }
        let replaced = self.finish_image()?;
        let redo = self.to_redo()?;
        let trusted = match mark {
            Some(mark) if !replaced && redo.is_none() => self.is_as_marked(c, &mark)?,
            _ => false,
        };
        let mut rolled_back = false;
        if !trusted {
            self.unmark_clean()?;
            self.roll_back_undo(c)?;
            rolled_back = self.roll_back_journal(last.as_ref())?;
            let last = self.log.lock().log.last().cloned();
            c.logged = last.as_ref().map_or_else(Logged::default, logged_by);
        }
        if let Some(from) = redo {
            tracing::warn!(db = %self.name, txid = %from, "writes pages again that were being written at the last end");
            self.write_pages(&self.logged_pages(from)?, c.logged)?;
            self.end_redo()?;
        }
        if c.logged.pos.is_none() && self.log.lock().log.was_cut() {
            tracing::warn!(db = %self.name, "the log holds no whole transaction; a new history begins");
        }
        if self.len(FileKind::Database)?.is_none() && c.logged.count.is_zero() {
            self.publish_recovered(c, last.as_ref());
            return self.remove_remains();
        }
        self.agree(c, trusted, rolled_back)?;
        let last = self.log.lock().log.last().cloned();
        self.publish_recovered(c, last.as_ref());
        Ok(())
    }

    /// After a recovery that has failed: what SQLite's files hold, whatever the log says. A snapshot may come and heal the
    /// database, and is not to be mixed with an old WAL, nor rolled back by an old journal.
    pub(super) fn take_as_it_is(&self) -> Result<(), Error> {
        let mut capture = self.capture.lock();
        let c = &mut *capture;
        c.journal_hot = self.open_if_there(FileKind::Journal)?.is_some_and(|j| is_hot(j.as_ref()));
        if let Some(file) = self.open_if_there(FileKind::Database)?
            && let Ok(Some((header, count))) = self.read_header(file.as_ref())
        {
            (c.logged.page_size, c.logged.count) = (Some(header.page_size), count);
        }
        let wal = self.open_if_there(FileKind::Wal)?;
        let tail = wal.as_ref().map(|wal| WalTail::open(wal.as_ref())).transpose();
        c.wal = tail.at("read", self.paths.wal())?.flatten();
        if let (Some(tail), Some(wal)) = (&mut c.wal, &wal) {
            while let Some(tx) = tail.advance(wal.as_ref()).at("read", self.paths.wal())? {
                (c.logged.page_size, c.logged.count) = (Some(tail.page_size()), tx.commit);
                tail.accept(tx);
            }
        }
        self.publish_recovered(c, self.log.lock().log.last());
        Ok(())
    }

    /// Brings the pages to a state that the log knows, and the log to all that the WAL holds.
    fn agree(&self, c: &mut Capture, trusted: bool, rolled_back: bool) -> Result<(), Error> {
        let wal = self.open_if_there(FileKind::Wal)?;
        self.adopt_wal(c, wal.as_ref(), trusted)?;
        // What a replica has written to its WAL was in the log before, but which record it ends with, only the pages tell.
        let by_apply =
            c.wal.as_ref().is_some_and(|tail| tail.is_by_apply() && tail.captured() == 0);
        if c.logged.pos.is_some()
            && !c.dirty.whole
            && !trusted
            && (by_apply || !self.pages_are_logged(c)?)
        {
            self.catch_up(c, wal.as_ref(), rolled_back)?;
        }
        if let Some(wal) = &wal {
            if self.wal_is_over(c)? {
                self.checkpoint(c, wal)?;
            }
            self.after_wal_write(c, wal, u64::MAX)?;
            self.drain()?;
            self.checkpoint(c, wal)?;
        }
        let file = self.open_if_there(FileKind::Database)?;
        if let Some(file) = file {
            if let Some((header, _)) = self.read_header(file.as_ref())? {
                c.page_size = Some(header.page_size);
            }
            if c.dirty.whole && !c.logged.count.is_zero() {
                // Decided before the start, so whether this node may write now doesn't matter.
                self.commit_file(c, || Ok(()))?;
            }
        }
        Ok(())
    }

    /// Follows the WAL up to where the log's last record ends, without capturing; all of it, if a clean shutdown
    /// left it so.
    fn adopt_wal(
        &self,
        c: &mut Capture,
        wal: Option<&Arc<dyn File>>,
        trusted: bool,
    ) -> Result<(), Error> {
        let Some(wal) = wal else { return Ok(()) };
        c.wal = WalTail::open(wal.as_ref()).at("read", self.paths.wal())?;
        let Some(tail) = &mut c.wal else { return Ok(()) };
        let logged = self.log.lock().log.last().and_then(|last| last.wal);
        let logged = logged.filter(|w| w.salt == tail.salt()).map(|w| w.end());
        let end = if trusted { Some(u64::MAX) } else { logged };
        let Some(end) = end else { return Ok(()) };
        while tail.captured_end() < end {
            match tail.advance(wal.as_ref()).at("read", self.paths.wal())? {
                Some(tx) => tail.accept(tx),
                None => break,
            }
        }
        Ok(())
    }

    /// Whether the database is where the log's last record says.
    fn pages_are_logged(&self, c: &Capture) -> Result<bool, Error> {
        let started = std::time::Instant::now();
        let checked = self.check_pages(c);
        tracing::info!(db = %self.name, pages = %c.logged.count, elapsed_ms = started.elapsed().as_millis() as u64,
            ok = checked.is_ok(), "checked the database after an unclean end");
        match checked {
            Ok(()) => Ok(true),
            Err(Error::ChecksumMismatch { .. } | Error::NotFound { .. }) => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// The database isn't where the log's last record says: it is behind, on another way, or damaged.
    fn catch_up(
        &self,
        c: &mut Capture,
        wal: Option<&Arc<dyn File>>,
        rolled_back: bool,
    ) -> Result<(), Error> {
        let (now, known) = self.find_known(wal)?;
        if let Some(Known { at, tail, overtaken }) = known {
            c.wal = tail;
            if c.logged.pos == Some(at.pos()) {
                return Ok(());
            }
            if overtaken {
                tracing::warn!(db = %self.name, txid = %at.max_txid,
                    "transactions that SQLite never finished are in the log; the next one corrects them");
                c.dirty.whole = true;
                return Ok(());
            }
            if let Some(wal) = wal {
                let logged = std::mem::replace(&mut c.logged, logged_by(&at));
                self.checkpoint(c, wal)?;
                c.logged = logged;
            }
            return self.apply_after(c, &at);
        }
        if self.repair(c, wal)? {
            return Ok(());
        }
        if rolled_back && c.wal.is_none() && self.has_free_pages()? {
            // SQLite doesn't journal what free pages hold, and the log may have forgotten it. The journal has decided what
            // the database is, so that is what the next record says, in full.
            tracing::warn!(db = %self.name,
                "the transaction that was rolled back had written to free pages; all pages are logged anew");
            c.dirty.whole = true;
            return Ok(());
        }
        let last = c.logged.pos.ok_or_else(|| Error::NotFound { db: self.name.clone() })?;
        let got = now.unwrap_or(Checksum::EMPTY);
        Err(Error::ChecksumMismatch { db: self.name.clone(), got, want: last })
    }

    /// The file is at `at`, the log further: applies the records between, or, where one has no pages,
    /// takes back what SQLite never made durable.
    fn apply_after(&self, c: &mut Capture, at: &RecordMeta) -> Result<(), Error> {
        let last = self.log.lock().log.last().map(RecordMeta::pos);
        if last == Some(at.pos()) {
            return Ok(());
        }
        let Some(next) = at.max_txid.next() else { return Ok(()) };
        let records = self.log.lock().log.records(next).map_err(|e| self.log_error(e))?;
        let metas: Vec<RecordKind> =
            records.map_while(Result::ok).map(|(meta, _)| meta.kind).collect();
        if metas.contains(&RecordKind::PositionOnly) {
            tracing::warn!(db = %self.name, txid = %at.max_txid, transactions = metas.len(),
                "the last transactions were never made durable by SQLite and are taken back");
            for _ in metas {
                self.drop_last()?;
            }
            c.logged = logged_by(at);
            return Ok(());
        }
        tracing::warn!(db = %self.name, txid = %at.max_txid, transactions = metas.len(),
            "the database is behind its log; applying the last transactions again");
        self.write_pages(&self.logged_pages(next)?, c.logged)
    }

    fn has_free_pages(&self) -> Result<bool, Error> {
        let file = self.file(FileKind::Database)?;
        Ok(self.read_header(file.as_ref())?.is_some_and(|(header, _)| header.free_pages > 0))
    }

    /// Writes pages that the log has over those in the database, if that brings it to the log's position.
    fn repair(&self, c: &mut Capture, wal: Option<&Arc<dyn File>>) -> Result<bool, Error> {
        let (Some(pos), Some(page_size)) = (c.logged.pos, c.logged.page_size) else {
            return Ok(false);
        };
        let Some(first) = self.log.lock().log.first_txid() else { return Ok(false) };
        let logged = self.logged_pages(first)?;
        let files = match self.page_files(page_size) {
            Ok(files) => files,
            Err(Error::NotFound { .. }) if first == Txid::FIRST => {
                self.open_file_anew()?;
                self.page_files(page_size)?
            }
            Err(err) => return Err(err),
        };
        let none = WalPages::new();
        let in_wal = c.wal.as_ref().map_or(&none, WalTail::pages);
        let (mut sum, mut buf, mut fixed) = (Checksum::EMPTY, files.buffer(), LoggedPages::new());
        for pgno in Pgno::all(c.logged.count, page_size) {
            let now = match in_wal.get(&pgno) {
                Some(page) => page.sum,
                None => {
                    files.sum(pgno, Source::Database, &mut buf).at("read", self.paths.database())?
                }
            };
            let want = logged.get(&pgno);
            sum = sum.toggle(want.map_or(now, |page| page.sum));
            if let Some(page) = want.filter(|page| page.sum != now) {
                fixed.insert(pgno, *page);
            }
        }
        if sum != pos.post_apply || self.may_be_ahead(files.database.as_ref(), &fixed, page_size)? {
            return Ok(false);
        }
        tracing::warn!(db = %self.name, pages = fixed.len(), "damaged pages were repaired from the log");
        // A WAL whose end was lost holds older versions of such pages: it must not hide them.
        let hidden = fixed.keys().any(|pgno| in_wal.contains_key(pgno));
        if let Some(wal) = wal.filter(|_| hidden) {
            self.checkpoint(c, wal)?;
        }
        self.write_pages(&fixed, c.logged)?;
        self.repaired.store(fixed.len() as u64, Ordering::Relaxed);
        Ok(true)
    }

    /// Whether the pages that differ may be newer than the log, whose end was lost: then putting old ones over
    /// them would lose what was committed. They are not if the file lacks them, or if its header shows the
    /// change counter of the log's page 1, which every rollback transaction raises.
    fn may_be_ahead(
        &self,
        file: &dyn File,
        differing: &LoggedPages,
        page_size: PageSize,
    ) -> Result<bool, Error> {
        let len = file.len().at("stat", self.paths.database())?;
        let in_file = PageCount::in_file(len, page_size);
        let cut = self.log.lock().log.was_cut();
        if !cut && differing.keys().all(|pgno| !in_file.contains(*pgno)) {
            return Ok(false);
        }
        let mut logged = None;
        self.each_logged_page(Txid::FIRST..=Txid::MAX, |_, pgno, page| {
            if pgno == Pgno::FIRST {
                logged = DbHeader::decode(page).ok();
            }
            Ok(())
        })?;
        let now = match self.read_header(file) {
            Ok(header) => header.map(|(header, _)| header),
            Err(Error::Header { .. }) => None,
            Err(err) => return Err(err),
        };
        let same = logged.zip(now).is_some_and(|(logged, now)| {
            !now.is_wal() && logged.change_counter == now.change_counter
        });
        Ok(cut || !same)
    }

    /// The newest version of each page in the records from `from` on: which record has it.
    fn logged_pages(&self, from: Txid) -> Result<LoggedPages, Error> {
        let mut pages = LoggedPages::new();
        self.each_logged_page(from..=Txid::MAX, |txid, pgno, page| {
            pages.insert(pgno, LoggedPage { txid, sum: page_checksum(pgno, page) });
            Ok(())
        })?;
        Ok(pages)
    }

    /// Writes logged pages to the database file and brings it to the logged size, durably.
    fn write_pages(&self, pages: &LoggedPages, logged: Logged) -> Result<(), Error> {
        let Some(page_size) = logged.page_size else { return Ok(()) };
        let path = self.paths.database();
        let file = self.file(FileKind::Database)?;
        let first = pages.values().map(|page| page.txid).min();
        if let Some(first) = first {
            self.each_logged_page(first..=Txid::MAX, |txid, pgno, page| {
                let newest = pages.get(&pgno).is_some_and(|p| p.txid == txid);
                if newest && logged.count.contains(pgno) {
                    file.write_at(page, pgno.offset(page_size)).at("write", &path)?;
                }
                Ok(())
            })?;
        }
        file.set_len(logged.count.len_bytes(page_size)).at("truncate", &path)?;
        file.sync().at("sync", &path)
    }

    /// Hands out every page in the records from `from` on, oldest first.
    pub(super) fn each_logged_page(
        &self,
        txids: RangeInclusive<Txid>,
        mut page: impl FnMut(Txid, Pgno, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let records = {
            let writer = self.log.lock();
            let from = *txids.start();
            let from = from.max(writer.log.first_txid().unwrap_or(from));
            writer.log.records(from).map_err(|e| self.log_error(e))?
        };
        for record in records {
            let (meta, blob) = record.map_err(|e| self.log_error(e))?;
            if meta.max_txid > *txids.end() {
                break;
            }
            if meta.kind == RecordKind::PositionOnly {
                continue;
            }
            let txid = meta.max_txid;
            let failed = |source| Error::Decode { db: self.name.clone(), txid, source };
            let mut decoder = decoder(blob).map_err(failed)?;
            let mut buf = vec![0; meta.page_size.as_usize()];
            while let Some(pgno) = decoder.next_page(&mut buf).map_err(failed)? {
                page(txid, pgno, &buf)?;
            }
            decoder.finish().map_err(failed)?;
        }
        Ok(())
    }

    /// Brings the WAL's pages to the database file and empties the WAL.
    fn checkpoint(&self, c: &mut Capture, wal: &Arc<dyn File>) -> Result<(), Error> {
        if wal.is_empty().at("stat", self.paths.wal())? {
            c.wal = None;
            return Ok(());
        }
        self.unmark_clean()?;
        self.sync_log()?;
        if let Some(tail) = c.wal.take().filter(|tail| tail.captured() > 0) {
            let files =
                PageFiles { wal: Some(Arc::clone(wal)), ..self.page_files(tail.page_size())? };
            let (mut buf, path) = (files.buffer(), self.paths.database());
            for (pgno, page) in tail.pages().iter().filter(|(p, _)| c.logged.count.contains(**p)) {
                files
                    .read(*pgno, Source::Wal(page.frame), &mut buf)
                    .at("read", self.paths.wal())?;
                files.database.write_at(&buf, pgno.offset(files.page_size)).at("write", &path)?;
            }
            files
                .database
                .set_len(c.logged.count.len_bytes(files.page_size))
                .at("truncate", &path)?;
            files.database.sync().at("sync", &path)?;
        }
        self.empty_wal(c, wal)
    }

    /// Whether all transactions of the WAL past those that count are in the log already, before others: the
    /// power took the WAL's restart, or its removal, and perhaps its end.
    fn wal_is_over(&self, c: &Capture) -> Result<bool, Error> {
        let Some(tail) = c.wal.as_ref().filter(|_| !c.dirty.whole) else { return Ok(false) };
        let last = self.log.lock().log.last().and_then(|last| last.wal);
        if let Some(last) = last.filter(|last| last.salt == tail.salt()) {
            return Ok(tail.captured_end() < last.end());
        }
        if tail.captured() > 0 {
            return Ok(false);
        }
        for record in self.records()? {
            let (meta, _) = record.map_err(|e| self.log_error(e))?;
            if meta.wal.is_some_and(|wal| wal.salt == tail.salt()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn empty_wal(&self, c: &mut Capture, wal: &Arc<dyn File>) -> Result<(), Error> {
        c.wal = None;
        wal.set_len(0).at("truncate", self.paths.wal())?;
        wal.sync().at("sync", self.paths.wal())
    }

    /// Whether files and log stand where a clean shutdown left them.
    fn is_as_marked(&self, c: &Capture, mark: &Mark) -> Result<bool, Error> {
        let quiet = self.open_if_there(FileKind::Journal)?.is_none_or(|j| !is_hot(j.as_ref()));
        let undo = self.env.metadata(&self.paths.undo()).is_ok();
        if !quiet || undo || mark.pos != c.logged.pos || self.file_state()? != Some(mark.file) {
            return Ok(false);
        }
        let mut wal = WalState::default();
        if let Some(file) = self.open_if_there(FileKind::Wal)?
            && let Some(mut tail) = WalTail::open(file.as_ref()).at("read", self.paths.wal())?
        {
            while let Some(tx) = tail.advance(file.as_ref()).at("read", self.paths.wal())? {
                tail.accept(tx);
            }
            wal = WalState { salt: tail.salt(), frames: tail.captured() };
        }
        Ok(wal == mark.wal || wal.frames == 0 && mark.wal.frames == 0)
    }

    fn publish_recovered(&self, c: &Capture, last: Option<&RecordMeta>) {
        let committed_at = last.map(|meta| {
            SystemTime::UNIX_EPOCH + Duration::from_millis(meta.timestamp_ms.unsigned_abs())
        });
        *self.published.write() = super::Published { logged: c.logged, committed_at };
    }

    pub(super) fn records(&self) -> Result<crate::log::Records, Error> {
        let writer = self.log.lock();
        let from = writer.log.first_txid().unwrap_or(Txid::FIRST);
        writer.log.records(from).map_err(|e| self.log_error(e))
    }

    /// A database file that was lost is made again, empty.
    fn open_file_anew(&self) -> Result<(), Error> {
        let path = self.paths.database();
        self.env.open(&path, crate::env::OpenMode::Create).at("create", &path)?;
        self.env.sync_dir(self.paths.dir()).at("sync", self.paths.dir())
    }

    pub(super) fn open_if_there(&self, kind: FileKind) -> Result<Option<Arc<dyn File>>, Error> {
        match self.file(kind) {
            Ok(file) => Ok(Some(file)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(err) => Err(err),
        }
    }

    pub(super) fn remove_if_there(&self, kind: FileKind) -> Result<(), Error> {
        match self.remove(kind) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(err) => Err(err),
        }
    }
}

/// The newest logged version of a page.
#[derive(Debug, Clone, Copy)]
struct LoggedPage {
    txid: Txid,
    sum: Checksum,
}

type LoggedPages = BTreeMap<Pgno, LoggedPage>;

/// What a record says of the database after it.
pub(super) fn logged_by(meta: &RecordMeta) -> Logged {
    let page_size = (!meta.commit.is_zero()).then_some(meta.page_size);
    Logged { pos: Some(meta.pos()), page_size, count: meta.commit }
}

/// Reads the transaction of a record.
pub(super) fn decoder(blob: BlobReader) -> Result<Decoder<BlobReader>, DecodeError> {
    if blob.is_checked() { Decoder::of_checked(blob) } else { Decoder::new(blob) }
}

/// Whether a journal begins with its magic.
pub(super) fn is_hot(journal: &dyn File) -> bool {
    let mut magic = [0; 8];
    let read: io::Result<usize> = journal.read_at(&mut magic, 0);
    read.is_ok_and(|n| crate::sqlite::is_hot_header(&magic[..n]))
}
