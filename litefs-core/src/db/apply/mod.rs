//! Apply: from transactions that a primary has sent to SQLite's files, under the eyes of readers.
//!
//! ```text
//!  stream ─► receive: check, append to the log ─► apply_pending: all that is new, as one change
//!               │ snapshot                           │
//!               └─► image file, position logged      ├─► WAL in use: frames, wal-index, later a checkpoint   (wal)
//!                                                    ├─► else: pages under SQLite's exclusive lock           (direct)
//!                                                    └─► dropped: files removed
//! ```
//!
//! The engine is one more process of SQLite here: it takes SQLite's locks and goes through the page cache that
//! readers use (see [`super::peer`]). So readers in WAL mode never wait for it, nor it for them; in rollback mode
//! each waits for the other as SQLite's processes do.
//!
//! What isn't here: the stream and who may send (see `http` and `cluster`), and how a primary captures.
//!
//! # Invariants
//! * `logged` of the capture state is what SQLite's files hold, always. The log's end may be further: what is
//!   between is pending.
//! * The rolling checksum is checked before a byte is written: pages that wouldn't lead to the transaction's
//!   checksum are never seen by a reader.
//! * Frames that are written here come by the tailer, as on a primary, which takes them as captured. So the
//!   capture state at the end of the log is that of a primary: a promotion has nothing to convert.
//!
//! # Crashes
//! The log comes first. If the process dies:
//! * while frames are appended, the WAL has them up to a commit frame, which is a state that the log knows, and
//!   the start applies the rest (see [`super::recover`]);
//! * while pages are written directly, the note `redo` says from where on to write them again;
//! * while a snapshot is put in place, its image is there until it is done, and the start puts it in place.
//!
//! Nothing is synced here but before a checkpoint. What a power loss takes of a replica, the primary has: if
//! files and log don't agree any more, a snapshot replaces them.

mod abandoned;
mod change;
mod direct;
mod image;
mod receive;
mod redo;
mod wal;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, IoContext};
use crate::log::{RecordKind, RecordMeta};
use crate::ltx::Header;
use crate::sqlite::DbHeader;
use crate::types::{Checksum, PageCount, Pgno, Pos};

use super::capture::{Capture, WalTail};
use super::halt::Grip;
use super::pages::Source;
use super::peer::{Backing, Peer, PeerFile};
use super::plan::{Logged, WalPages};
use super::recover::logged_by;
use super::{Database, FileKind, Health};

use change::{Change, Pages, Target, checksum_after};
pub(super) use direct::lock_by;
use wal::WalSession;

pub(super) use receive::read_pages;

/// What applying keeps from one time to the next.
#[derive(Debug, Default)]
pub(super) struct Applier {
    /// SQLite's files, held open and locked as by a reader, while the database is in WAL mode.
    session: Option<WalSession>,
    /// The database file, exclusively locked because it holds a mixture of two states.
    torn: Option<Box<dyn PeerFile>>,
    /// On a primary: the halt lock.
    pub(super) grip: Option<Grip>,
}

impl Applier {
    /// Whether no other process can have the database reserved.
    fn reserved(&self) -> bool {
        self.grip.is_some()
    }

    /// Whether the database file holds a mixture of two states.
    pub(super) fn is_torn(&self) -> bool {
        self.torn.is_some()
    }
}

/// How far applying came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Applied {
    /// The files are at the log's end.
    All,
    /// Readers or a writer hold locks that are in the way: try again a little later.
    Waiting,
}

impl Database {
    /// The position up to which transactions were received; `None` if there is none that could be gone on from.
    pub fn received_pos(&self) -> Option<Pos> {
        if self.health() != Health::Ok || self.diverged.load(Ordering::Acquire) {
            return None;
        }
        self.log.lock().log.last().map(RecordMeta::pos)
    }

    /// Brings SQLite's files to the log's end: all pending transactions as one change where possible.
    ///
    /// Waits for readers of a database in rollback mode for a moment only.
    ///
    /// # Errors
    /// `Corrupt` if the database isn't where the log says: [`Database::received_pos`] then asks for a snapshot.
    /// I/O errors: what was applied before stays, the rest is still pending.
    pub fn apply_pending(&self) -> Result<Applied, Error> {
        let mut applier = self.apply.lock();
        self.apply_all(&mut applier)
    }

    /// Closes the handles to SQLite's files, and with them the locks.
    pub(crate) fn release_files(&self) {
        let mut applier = self.apply.lock();
        *applier = Applier::default();
        self.tell_halt_changed(&applier);
    }

    /// Lets go of SQLite's files, unless they hold a mixture of two states that nobody may see.
    pub(super) fn end_session(&self) {
        self.apply.lock().session = None;
    }

    pub(super) fn apply_all(&self, applier: &mut Applier) -> Result<Applied, Error> {
        loop {
            let from = self.capture.lock().logged;
            let Some(next) = self.next_pending(&from)? else { return self.show(applier, &from) };
            if self.marked_clean.load(Ordering::Acquire) {
                self.unmark_clean()?;
            }
            if self.capture.lock().is_half_way() {
                if self.roll_back_abandoned(applier.reserved())? == Applied::Waiting {
                    return Ok(Applied::Waiting);
                }
                // The log may have ended with a record that went with the journal.
                continue;
            }
            let started = Instant::now();
            let to = match next {
                Pending::Drop(meta) => {
                    self.apply_drop(applier, &meta)?;
                    meta
                }
                Pending::Image(meta) => match self.apply_image(applier, &from, &meta)? {
                    Applied::All => meta,
                    Applied::Waiting => return Ok(Applied::Waiting),
                },
                Pending::Pages(change) => match self.apply_change(applier, &from, &change)? {
                    Applied::All => change.last,
                    Applied::Waiting => return Ok(Applied::Waiting),
                },
            };
            self.metrics.apply_seconds.observe(started.elapsed().as_secs_f64());
            self.publish_applied(&to);
        }
    }

    /// What comes after `from` in the log.
    fn next_pending(&self, from: &Logged) -> Result<Option<Pending>, Error> {
        let (records, last) = {
            let writer = self.log.lock();
            let Some(last) = writer.log.last().cloned() else { return Ok(None) };
            if from.pos == Some(last.pos()) {
                return Ok(None);
            }
            let first = writer.log.first_txid().unwrap_or(last.min_txid);
            let next = from.pos.and_then(|pos| pos.txid.next()).unwrap_or(first).max(first);
            (writer.log.records(next).map_err(|e| self.log_error(e))?, last)
        };
        let mut change: Option<Change> = None;
        for record in records {
            let (meta, blob) = record.map_err(|e| self.log_error(e))?;
            let plain = meta.kind != RecordKind::PositionOnly && !meta.commit.is_zero();
            match &mut change {
                None if meta.pre() != from.pos && !meta.is_snapshot() => {
                    return Err(self.diverged(from, last.pos()));
                }
                None if meta.kind == RecordKind::PositionOnly => {
                    return Ok(Some(Pending::Image(meta)));
                }
                None if meta.commit.is_zero() => return Ok(Some(Pending::Drop(meta))),
                None => change = Some(Change::begin(self, meta, blob)?),
                Some(change) if plain && change.takes(&meta) => change.add(self, meta, blob)?,
                Some(_) => break,
            }
        }
        Ok(change.map(Pending::Pages))
    }

    fn apply_change(
        &self,
        applier: &mut Applier,
        from: &Logged,
        change: &Change,
    ) -> Result<Applied, Error> {
        // Of a mixture the checksum says nothing; it is checked when it is one no more.
        if applier.torn.is_some() {
            return self.write_directly(applier, from, change);
        }
        self.check_change(from, change)?;
        let same_size = from.page_size == Some(change.to.page_size());
        let wal_mode =
            same_size && !from.count.is_zero() && self.is_in_wal_mode(&applier.session)?;
        if !wal_mode {
            if self.leave_wal(applier)? == Applied::Waiting {
                return Ok(Applied::Waiting);
            }
            return self.write_directly(applier, from, change);
        }
        let done = self.append_to_wal(applier, change)?;
        if done == Applied::All && !self.header_says_wal()? {
            // As long as somebody reads in WAL mode, all go on in it.
            let _ = self.leave_wal(applier)?;
        }
        Ok(done)
    }

    fn append_to_wal(&self, applier: &mut Applier, pages: &dyn Pages) -> Result<Applied, Error> {
        let Some(mut session) = self.session(applier)? else { return Ok(Applied::Waiting) };
        // After an error the files are opened anew, and looked at as if somebody else had left them so.
        let done = session.append(self, pages)?;
        applier.session = Some(session);
        Ok(done)
    }

    /// Nothing is pending. If an error came between the files and the position, the latter is still to be told.
    fn show(&self, applier: &mut Applier, at: &Logged) -> Result<Applied, Error> {
        let last = self.log.lock().log.last().cloned();
        let Some(last) = last.filter(|_| self.published.read().logged != *at) else {
            return Ok(Applied::All);
        };
        if self.capture.lock().wal.is_some() {
            let Some(mut session) = self.session(applier)? else { return Ok(Applied::Waiting) };
            let shown = session.show(self)?;
            applier.session = Some(session);
            if shown == Applied::Waiting {
                return Ok(Applied::Waiting);
            }
        }
        self.publish_applied(&last);
        Ok(Applied::All)
    }

    /// For the halt lock: keeps SQLite's WRITE lock from now on, if the database is in WAL mode; `false` if somebody
    /// else has it.
    pub(super) fn keep_write(&self, applier: &mut Applier) -> Result<bool, Error> {
        if !self.is_in_wal_mode(&applier.session)? {
            return Ok(true);
        }
        let Some(mut session) = self.session(applier)? else { return Ok(false) };
        if !session.keep_write(self)? {
            return Ok(false);
        }
        applier.session = Some(session);
        Ok(true)
    }

    fn session(&self, applier: &mut Applier) -> Result<Option<WalSession>, Error> {
        applier.session.take().map_or_else(|| WalSession::open(self), |session| Ok(Some(session)))
    }

    /// Goes from WAL mode to rollback mode, if nobody has the database open.
    fn leave_wal(&self, applier: &mut Applier) -> Result<Applied, Error> {
        let wal = self.capture.lock().wal.is_some();
        let session = match applier.session.take() {
            Some(session) => Some(session),
            None if !wal => return Ok(Applied::All),
            None => WalSession::open(self)?,
        };
        let Some(session) = session else { return Ok(Applied::Waiting) };
        match session.close(self)? {
            None => Ok(Applied::All),
            Some(session) => {
                applier.session = Some(session);
                Ok(Applied::Waiting)
            }
        }
    }

    fn apply_drop(&self, applier: &mut Applier, meta: &RecordMeta) -> Result<(), Error> {
        *applier = Applier::default();
        let peer = self.peer();
        // The database file goes first: without it, recovery takes the others for remains.
        for kind in [FileKind::Database, FileKind::Journal, FileKind::Wal, FileKind::Shm] {
            match peer.remove(&self.name, kind) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(self.peer_error(e, "remove", kind));
                }
                _ => {}
            }
        }
        let mut c = self.capture.lock();
        let snapshots = std::mem::take(&mut c.snapshots);
        *c = Capture { logged: logged_by(meta), snapshots, ..Capture::default() };
        Ok(())
    }

    /// Whether the change leads to the checksum that it says.
    fn check_change(&self, from: &Logged, change: &Change) -> Result<(), Error> {
        let to = &change.to;
        let same_size = from.page_size == Some(to.page_size());
        let old_count = if same_size { from.count } else { PageCount::ZERO };
        let got = change.checksum(from, old_count, |pgno, buf| self.page_sum(pgno, to, buf))?;
        if got == to.pos.post_apply {
            return Ok(());
        }
        self.diverged.store(true, Ordering::Release);
        Err(Error::ChecksumMismatch { db: self.name.clone(), got, want: to.pos })
    }

    /// The rolling checksum after a transaction that isn't in the log, from the checksums of its pages.
    pub(super) fn checksum_with(
        &self,
        header: &Header,
        post_apply: Checksum,
        pages: impl Iterator<Item = (Pgno, Checksum)>,
    ) -> Result<Checksum, Error> {
        let to = Target::by(header, post_apply);
        let from = self.capture.lock().logged;
        let same_size = from.page_size == Some(header.page_size);
        let old_count = if same_size { from.count } else { PageCount::ZERO };
        checksum_after(&to, pages, &from, old_count, |pgno, buf| self.page_sum(pgno, &to, buf))
    }

    /// The checksum of a page as it is now.
    fn page_sum(&self, pgno: Pgno, to: &Target, buf: &mut [u8]) -> Result<Checksum, Error> {
        let c = self.capture.lock();
        let none = WalPages::new();
        let wal = c.wal.as_ref().map_or(&none, WalTail::pages);
        let files = self.page_files(to.page_size())?;
        c.view(self, &files, wal, &none, to.count).sum_now(pgno, buf)
    }

    fn is_in_wal_mode(&self, session: &Option<WalSession>) -> Result<bool, Error> {
        Ok(session.is_some() || self.capture.lock().wal.is_some() || self.header_says_wal()?)
    }

    /// Whether the newest page 1 names the WAL as the journal.
    fn header_says_wal(&self) -> Result<bool, Error> {
        let page = self.newest_page(Pgno::FIRST)?;
        let header = DbHeader::decode(&page[..DbHeader::LEN.min(page.len())]);
        Ok(header.is_ok_and(|header| header.is_wal()))
    }

    /// A page as it is now; empty if there are no pages.
    pub(super) fn newest_page(&self, pgno: Pgno) -> Result<Vec<u8>, Error> {
        let c = self.capture.lock();
        let Some(page_size) = c.logged.page_size else { return Ok(Vec::new()) };
        let mut files = self.page_files(page_size)?;
        let frame = c.wal.as_ref().and_then(|tail| tail.pages().get(&pgno));
        let source = frame.map_or(Source::Database, |page| Source::Wal(page.frame));
        if frame.is_some() {
            files.wal = Some(self.file(FileKind::Wal)?);
        }
        let mut page = files.buffer();
        files.read(pgno, source, &mut page).at("read", self.paths.database())?;
        Ok(page)
    }

    fn publish_applied(&self, meta: &RecordMeta) {
        let committed_at = SystemTime::UNIX_EPOCH
            + Duration::from_millis(u64::try_from(meta.timestamp_ms).unwrap_or(0));
        // A primary whose clock is ahead of ours is no reason for a negative lag.
        self.metrics.applied(self.env.now().duration_since(committed_at).unwrap_or_default());
        self.publish_at(logged_by(meta), committed_at);
    }

    fn diverged(&self, from: &Logged, want: Pos) -> Error {
        self.diverged.store(true, Ordering::Release);
        let got = Pos::checksum(from.pos);
        Error::ChecksumMismatch { db: self.name.clone(), got, want }
    }

    /// The way to SQLite's files.
    pub(super) fn peer(&self) -> Arc<dyn Peer> {
        self.peers.get().unwrap_or_else(|| Arc::new(Backing(self.me.clone())))
    }

    pub(super) fn peer_error(
        &self,
        source: std::io::Error,
        op: &'static str,
        kind: FileKind,
    ) -> Error {
        Error::Io { op, path: self.paths.file(kind), source }
    }
}

/// What the log has and the files don't.
#[derive(Debug)]
enum Pending {
    /// The database was dropped.
    Drop(RecordMeta),
    /// The image of a snapshot is to be put in place.
    Image(RecordMeta),
    /// Pages were changed.
    Pages(Change),
}
