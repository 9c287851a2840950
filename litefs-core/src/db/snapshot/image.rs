//! The pages at a position, wherever they are by now: in their place, or kept.
//!
//! Both sides of the copy-on-write meet here: [`Snapshots::before_change`] is the writer's,
//! [`Image::read`] the reader's. See [`super`] for why they agree.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::env::File;
use crate::error::{Error, IoContext};
use crate::sqlite::wal::{WAL_HEADER_LEN, frame_len};
use crate::types::{DbName, PageCount, Pgno};

use crate::db::pages::{PageFiles, Source};

use super::kept::{Kept, slot};

/// The open snapshots of a database. Part of its capture state: whoever changes a file holds that lock.
#[derive(Debug, Default)]
pub(in crate::db) struct Snapshots(Vec<Weak<Image>>);

/// The pages of a database at a position.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) db: DbName,
    pub(super) files: PageFiles,
    pub(super) commit: PageCount,
    /// The pages that the WAL held, each with its frame; and the other way round.
    frames: BTreeMap<Pgno, u32>,
    by_frame: BTreeMap<u32, Pgno>,
    pub(super) kept: Mutex<Kept>,
}

impl Snapshots {
    /// Must be called before any byte of a database file or WAL changes: `bytes` are about to be overwritten, or
    /// cut off (`len..u64::MAX`). Keeps what open snapshots need of them. `file` is the handle from
    /// [`crate::db::Database::file`], by which the snapshots know it, even when its name is gone.
    ///
    /// Can't fail: a snapshot that can't keep a page fails its reader, not the writer.
    pub(in crate::db) fn before_change(&mut self, file: &Arc<dyn File>, bytes: Range<u64>) {
        if self.0.is_empty() {
            return;
        }
        self.0.retain(|image| match image.upgrade() {
            Some(image) => {
                image.before_change(file, &bytes);
                true
            }
            None => false,
        });
    }

    pub(super) fn add(&mut self, image: &Arc<Image>) {
        self.0.push(Arc::downgrade(image));
    }
}

impl Image {
    pub(super) fn new(
        db: DbName,
        files: PageFiles,
        commit: PageCount,
        frames: BTreeMap<Pgno, u32>,
        kept: Kept,
    ) -> Image {
        let by_frame = frames.iter().map(|(pgno, frame)| (*frame, *pgno)).collect();
        Image { db, files, commit, frames, by_frame, kept: Mutex::new(kept) }
    }

    /// Reads pages `first ..= last` into `buf`; all before `first` have been read.
    pub(super) fn read(&self, first: Pgno, last: Pgno, buf: &mut [u8]) -> Result<(), Error> {
        let page_size = self.files.page_size;
        let in_file = self.files.database.read_at(buf, first.offset(page_size));
        buf[in_file.at("read", self.db.as_str())?..].fill(0);
        let mut unread = Vec::new();
        for (pgno, frame) in self.frames.range(first..=last) {
            let buf = slot(buf, first, *pgno, page_size);
            if let Err(err) = self.files.read(*pgno, Source::Wal(*frame), buf) {
                unread.push((*pgno, err));
            }
        }
        let spilled = {
            let mut kept = self.kept.lock();
            self.check(&mut kept)?;
            // A frame that was cut off has been kept before.
            if let Some((_, err)) = unread.into_iter().find(|(pgno, _)| !kept.has(*pgno)) {
                return Err(err).at("read", self.db.as_str());
            }
            kept.take(first, last, buf)
        };
        let Some(spilled) = spilled else { return Ok(()) };
        for pgno in spilled.pages {
            let buf = slot(buf, first, pgno, page_size);
            let read = spilled.file.read_exact_at(buf, pgno.offset(page_size));
            read.map_err(|source| self.lost(source))?;
        }
        Ok(())
    }

    /// An error if a page couldn't be kept.
    pub(super) fn check(&self, kept: &mut Kept) -> Result<(), Error> {
        kept.take_lost().map_or(Ok(()), |source| Err(self.lost(source)))
    }

    /// Reads a page from its place, which may hold something newer.
    pub(super) fn read_place(&self, pgno: Pgno, buf: &mut [u8]) -> io::Result<()> {
        self.files.read(pgno, self.source(pgno), buf)
    }

    fn before_change(&self, file: &Arc<dyn File>, bytes: &Range<u64>) {
        let is = |other: &Arc<dyn File>| Arc::ptr_eq(other, file);
        let mut kept = self.kept.lock();
        let done = if is(&self.files.database) {
            let pages = self.pages_in(bytes, kept.read());
            self.keep(&mut kept, pages.filter(|pgno| !self.frames.contains_key(pgno)))
        } else if self.files.wal.as_ref().is_some_and(is) {
            self.keep(&mut kept, self.frames_in(bytes))
        } else {
            Ok(())
        };
        if let Err(err) = done {
            tracing::warn!(db = %self.db, err = &err as &dyn std::error::Error,
                "a snapshot failed: a page that it needs is overwritten and couldn't be kept");
            kept.lose(err);
        }
    }

    fn keep(&self, kept: &mut Kept, pages: impl Iterator<Item = Pgno>) -> io::Result<()> {
        let mut buf = Vec::new();
        for pgno in pages {
            if kept.needs(pgno) {
                buf.resize(self.files.page_size.as_usize(), 0);
                self.read_place(pgno, &mut buf)?;
                kept.put(pgno, &buf)?;
            }
        }
        Ok(())
    }

    fn source(&self, pgno: Pgno) -> Source {
        self.frames.get(&pgno).map_or(Source::Database, |frame| Source::Wal(*frame))
    }

    /// The pages after the first `read` whose place in the database file overlaps `bytes`.
    fn pages_in(&self, bytes: &Range<u64>, read: PageCount) -> impl Iterator<Item = Pgno> + use<> {
        let page_size = u64::from(self.files.page_size.as_u32());
        let first = (bytes.start / page_size).max(u64::from(read.as_u32()));
        let end = bytes.end.div_ceil(page_size).min(u64::from(self.commit.as_u32()));
        (first..end).filter_map(|index| Pgno::new(u32::try_from(index + 1).ok()?))
    }

    /// The pages whose frames overlap `bytes` of the WAL.
    fn frames_in(&self, bytes: &Range<u64>) -> impl Iterator<Item = Pgno> {
        let frame_len = frame_len(self.files.page_size);
        let frame = |index: u64| u32::try_from(index).unwrap_or(u32::MAX);
        let first = bytes.start.saturating_sub(WAL_HEADER_LEN as u64) / frame_len;
        let end = bytes.end.saturating_sub(WAL_HEADER_LEN as u64).div_ceil(frame_len);
        self.by_frame.range(frame(first)..frame(end.max(first))).map(|(_, pgno)| *pgno)
    }

    fn lost(&self, source: io::Error) -> Error {
        Error::SnapshotLost { db: self.db.clone(), source }
    }
}
