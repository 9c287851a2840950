//! Snapshots: the whole database at a position, read while SQLite goes on, by copy-on-write.
//!
//! ```text
//!  SQLite ─► files ─► before_change ─► the file          reader ─► the page's place
//!                          │ old page, if still needed               │ then
//!                          ▼                                         ▼
//!                        Kept: memory, spill file ◄───────────── was it kept?
//! ```
//!
//! A snapshot locks nobody out: writers, checkpoints, WAL restarts, truncations, a drop and retention go on,
//! however slowly it is read. It costs them one branch while none is open, and at most one read and one copy
//! for each page that they are the first to overwrite before the snapshot has read it. If that copy can't be
//! kept (disk full), the snapshot fails with [`Error::SnapshotLost`], the writer never notices.
//!
//! | file | holds |
//! |---|---|
//! | `image` | which bytes hold which page, the writer's hook, the reader's batch |
//! | `kept` | old pages, in memory and spilled |
//! | `originals` | pages that were already written when the snapshot began |
//!
//! # What the image is
//! The position is the capture's (`logged`): the last committed transaction, never a staged one, and the
//! log has it before the snapshot begins. Its pages, at that moment, under the capture lock: the latest
//! captured frame of the WAL, else the database file (zeros past its end). The capture's own invariant says that
//! this has the logged checksum, except for dirty pages, whose old content is looked for elsewhere.
//!
//! # Why it stays exact
//! *Invariant: for each page not yet read, either it is kept, or its place still holds it* (or it is
//! missing, and then no reader is there yet).
//! * Both files change under the capture lock only, and before each change [`Snapshots::before_change`]
//!   keeps the pages whose place it touches. Files are known by handle, not by name: after a drop, a removed
//!   WAL, a database made anew, the snapshot goes on with the nameless file, and so may an app with an old handle.
//! * A page in the WAL has its place there: that a checkpoint writes it to the database file doesn't matter.
//! * The reader takes no lock while it reads places. It looks *afterwards*, under the lock of [`kept::Kept`],
//!   which pages were kept, and believes those. If a page isn't kept at that moment, nobody had begun to
//!   overwrite it, so what was read is the old content. In the same step the pages count as read.
//!
//! At the end the checksum of what was read must be that of the position.
//!
//! Memory: one batch of pages, 4 MiB of kept pages, and a bit per page once something is spilled. A transaction
//! under way when the snapshot begins adds a checksum for each page that it has written so far.

mod image;
mod kept;
mod originals;

use std::io::{BufWriter, Write};
use std::sync::Arc;

use crate::error::Error;
use crate::ltx::{Encoder, Header, Timestamp, page_checksum};
use crate::types::{Checksum, DbName, PageCount, PageSize, Pgno, Pos, Txid};

use super::capture::{Capture, WalTail};
use super::names::FileKind;
use super::{Database, DbOptions};

use image::Image;
use kept::{Kept, SpillPlace};

pub(super) use image::Snapshots;

/// The whole database at a position. Dropping it ends it.
#[derive(Debug)]
pub struct Snapshot {
    db: DbName,
    options: Arc<DbOptions>,
    pos: Pos,
    page_size: PageSize,
    commit: PageCount,
    timestamp: Timestamp,
    /// `None` if there are no pages.
    image: Option<Arc<Image>>,
}

impl Database {
    /// Begins a snapshot at the last committed transaction. Nothing waits for it.
    ///
    /// # Errors
    /// `NotFound` if there was no transaction yet; `Busy` ([`Error::Unsettled`]) if the database is being replaced
    /// and its next position isn't there yet: try again after the next transaction; I/O errors.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        let mut capture = self.capture.lock();
        let c = &mut *capture;
        let pos = c.logged.pos.ok_or_else(|| match self.last_pos() {
            // A snapshot from the primary is about to be put in place.
            Some(_) => Error::Unsettled { db: self.name.clone() },
            None => Error::NotFound { db: self.name.clone() },
        })?;
        self.drain()?;
        let snapshot = Snapshot {
            db: self.name.clone(),
            options: Arc::clone(&self.options),
            pos,
            page_size: c.logged.page_size.unwrap_or(DROPPED_PAGE_SIZE),
            commit: c.logged.count,
            timestamp: Timestamp::from_system_time(self.env.now()),
            image: self.image(c)?.map(Arc::new),
        };
        if let Some(image) = &snapshot.image {
            c.snapshots.add(image);
            let journals = self.journals(c)?;
            // From here on the writer keeps what it overwrites.
            drop(capture);
            self.find_originals(image, &journals)?;
        }
        Ok(snapshot)
    }

    /// Where each page is now; `None` if there are none.
    fn image(&self, c: &Capture) -> Result<Option<Image>, Error> {
        let commit = c.logged.count;
        let Some(page_size) = c.logged.page_size.filter(|_| !commit.is_zero()) else {
            return Ok(None);
        };
        if c.dirty.whole || c.rewriting {
            return Err(Error::Unsettled { db: self.name.clone() });
        }
        let mut files = self.page_files(page_size)?;
        let in_wal = c.wal.iter().flat_map(WalTail::pages).map(|(pgno, page)| (*pgno, page.frame));
        let frames = in_wal.filter(|(pgno, _)| commit.contains(*pgno)).collect();
        if c.wal.is_some() {
            files.wal = Some(self.file(FileKind::Wal)?);
        }
        let dirty = c.dirty.pages.iter().filter_map(|(pgno, sum)| Some((*pgno, (*sum)?)));
        let missing = dirty.filter(|(pgno, _)| commit.contains(*pgno)).collect();
        let place = SpillPlace { env: Arc::clone(&self.env), path: self.paths.spill() };
        let kept = Kept::new(page_size, commit, place, missing);
        Ok(Some(Image::new(self.name.clone(), files, commit, frames, kept)))
    }
}

impl Snapshot {
    /// The position whose image it is.
    pub fn pos(&self) -> Pos {
        self.pos
    }

    /// The page size.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Pages in the database; 0 if it was dropped.
    pub fn commit(&self) -> PageCount {
        self.commit
    }

    /// Writes it as one LTX file, which needs no other before it.
    ///
    /// # Errors
    /// [`Error::SnapshotLost`] if a page couldn't be kept; `Corrupt` if the pages don't have the position's
    /// checksum; what `out` says. The file isn't complete then and no reader takes it for complete.
    pub fn write_ltx(self, out: &mut dyn Write) -> Result<(), Error> {
        let header = Header {
            compressed: self.options.compress,
            page_size: self.page_size,
            commit: self.commit,
            min_txid: Txid::FIRST,
            max_txid: self.pos.txid,
            timestamp: self.timestamp,
            pre_apply: None,
            wal: None,
            node_id: self.options.node_id,
        };
        let failed = |source| Error::Encode { db: self.db.clone(), txid: self.pos.txid, source };
        let out = BufWriter::with_capacity(OUT_BUFFER_LEN, out);
        let mut encoder = Encoder::new(out, &header).map_err(failed)?;
        let lock_page = self.page_size.lock_page();
        self.each_page(|pgno, page| {
            if pgno == lock_page { Ok(()) } else { encoder.page(pgno, page).map_err(failed) }
        })?;
        let (mut out, _) = encoder.finish(self.pos.post_apply).map_err(failed)?;
        out.flush().map_err(|source| self.refused(source))
    }

    /// Writes the database file itself, byte for byte, the lock page as it is stored.
    ///
    /// # Errors
    /// As for [`Snapshot::write_ltx`]. Here nothing but the error tells that what was written is of no use.
    pub fn write_database(self, out: &mut dyn Write) -> Result<(), Error> {
        let mut out = BufWriter::with_capacity(OUT_BUFFER_LEN, out);
        self.each_page(|_, page| out.write_all(page).map_err(|source| self.refused(source)))?;
        out.flush().map_err(|source| self.refused(source))
    }

    /// Reads all pages, in order, and checks that they have the position's checksum.
    fn each_page(
        &self,
        mut page: impl FnMut(Pgno, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (page_len, lock_page) = (self.page_size.as_usize(), self.page_size.lock_page());
        let (mut buf, mut sum) = (Vec::new(), Checksum::EMPTY);
        let Some(image) = &self.image else { return self.check(sum) };
        for (first, last) in self.batches() {
            buf.resize((last.as_u32() - first.as_u32() + 1) as usize * page_len, 0);
            image.read(first, last, &mut buf)?;
            for (pgno, content) in kept::pages(first, last).zip(buf.chunks(page_len)) {
                if pgno != lock_page {
                    sum = sum.toggle(page_checksum(pgno, content));
                }
                page(pgno, content)?;
            }
        }
        self.check(sum)
    }

    fn check(&self, got: Checksum) -> Result<(), Error> {
        if got == self.pos.post_apply {
            return Ok(());
        }
        Err(Error::ChecksumMismatch { db: self.db.clone(), got, want: self.pos })
    }

    /// First and last pages of what is read at once.
    fn batches(&self) -> impl Iterator<Item = (Pgno, Pgno)> {
        let len = MAX_BATCH_PAGES.min(MAX_BATCH_BYTES / self.page_size.as_u32());
        let commit = self.commit.as_u32();
        (0..commit).step_by(len as usize).filter_map(move |read| {
            Pgno::new(read + 1).zip(Pgno::new(read + len.min(commit - read)))
        })
    }

    fn refused(&self, source: std::io::Error) -> Error {
        Error::Output { db: self.db.clone(), source }
    }
}

/// What the LTX header of a dropped database says; no page follows.
const DROPPED_PAGE_SIZE: PageSize = match PageSize::new(4096) {
    Some(size) => size,
    None => PageSize::MAX,
};

/// What is read at once, before the writer is asked what it kept.
const MAX_BATCH_PAGES: u32 = 64;
const MAX_BATCH_BYTES: u32 = 256 * 1024;

/// Pages go out in larger pieces.
const OUT_BUFFER_LEN: usize = 64 * 1024;
