//! A snapshot from a primary: written aside as a whole database file, its position logged, put in place.
//!
//! ```text
//!  pages ─► image.tmp ─► checked, synced ─► image-<position> ─► position logged ─► in place ─► removed
//!                                                │                   │
//!                        a start removes it ◄────┘                   └────► a start puts it in place
//! ```
//!
//! Where there is no database, the image becomes it. Over an existing one, which applications may have open,
//! only the pages that differ are written: under SQLite's exclusive lock, or, as long as connections in WAL mode
//! keep that from being had, as one transaction in the WAL.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::env::{File, OpenMode};
use crate::error::{Error, IoContext};
use crate::log::{RecordKind, RecordMeta};
use crate::ltx::{Encoder, Header, page_checksum};
use crate::types::{Checksum, PageCount, PageSize, Pgno, Pos};

use super::change::{PageSink, Pages, Target};
use super::direct::PageWriter;
use super::{Applied, Applier};
use crate::db::capture::Capture;
use crate::db::peer::PeerFile;
use crate::db::plan::Logged;
use crate::db::recover::logged_by;
use crate::db::{Database, FileKind, Health};

/// Pages of an image.
struct Differing {
    image: Arc<dyn File>,
    to: Target,
    pages: Vec<Pgno>,
}

impl Pages for Differing {
    fn to(&self) -> &Target {
        &self.to
    }

    fn len(&self) -> usize {
        self.pages.len()
    }

    fn each(&self, db: &Database, page: &mut PageSink<'_>) -> Result<(), Error> {
        let page_size = self.to.page_size();
        let mut buf = vec![0; page_size.as_usize()];
        for pgno in &self.pages {
            let read = self.image.read_exact_at(&mut buf, pgno.offset(page_size));
            read.at("read", db.paths.image(self.to.pos))?;
            page(*pgno, &buf)?;
        }
        Ok(())
    }
}

/// A complete image under its temporary name.
pub(super) struct Image {
    header: Header,
    path: PathBuf,
}

impl Database {
    /// Writes the pages of a snapshot aside.
    pub(super) fn receive_snapshot(
        &self,
        header: Header,
        mut next: impl FnMut(&mut [u8]) -> Result<Option<Pgno>, Error>,
    ) -> Result<Image, Error> {
        let path = self.paths.image_tmp();
        let file = self.env.open(&path, OpenMode::Create).at("create", &path)?;
        file.set_len(0).at("truncate", &path)?;
        let page_size = header.page_size;
        let mut page = vec![0; page_size.as_usize()];
        let (mut buf, mut start) = (Vec::with_capacity(MAX_WRITE), 0);
        while let Some(pgno) = next(&mut page)? {
            let offset = pgno.offset(page_size);
            if offset != start + buf.len() as u64 || buf.len() >= MAX_WRITE {
                file.write_at(&buf, start).at("write", &path)?;
                buf.clear();
                start = offset;
            }
            buf.extend_from_slice(&page);
        }
        file.write_at(&buf, start).at("write", &path)?;
        file.set_len(header.commit.len_bytes(page_size)).at("truncate", &path)?;
        file.sync().at("sync", &path)?;
        Ok(Image { header, path })
    }

    /// Puts the image at `meta`'s position in place.
    pub(super) fn apply_image(
        &self,
        applier: &mut Applier,
        from: &Logged,
        meta: &RecordMeta,
    ) -> Result<Applied, Error> {
        let path = self.paths.image(meta.pos());
        let image = match self.env.open(&path, OpenMode::Existing) {
            Ok(image) => image,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // The log knows the position only, and what it stands for isn't here.
                return Err(self.diverged(from, meta.pos()));
            }
            Err(e) => return Err(e).at("open", path),
        };
        if self.len(FileKind::Database)?.is_none() {
            applier.session = None;
            self.remove_remains()?;
            self.image_becomes_database(&path)?;
            let mut c = self.capture.lock();
            let (snapshots, logged) = (std::mem::take(&mut c.snapshots), logged_by(meta));
            let (page_size, watch) = (logged.page_size, c.watch);
            *c = Capture { logged, page_size, snapshots, watch, ..Capture::default() };
        } else if self.image_over(applier, from, image, &Target::of(meta))? == Applied::Waiting {
            return Ok(Applied::Waiting);
        } else {
            self.env.remove_file(&path).at("remove", path)?;
        }
        Ok(Applied::All)
    }

    /// At a start: puts an image in place that the log counts on, and removes one that it doesn't.
    pub(in crate::db) fn finish_image(&self) -> Result<bool, Error> {
        let first = match self.records()?.next() {
            Some(Ok((meta, _))) if meta.kind == RecordKind::PositionOnly => Some(meta.pos()),
            _ => None,
        };
        // A snapshot begins the log, an import ends it.
        let last = self.log.lock().log.last().map(RecordMeta::pos);
        let wanted: Vec<_> =
            [first, last].into_iter().flatten().map(|pos| self.paths.image(pos)).collect();
        let mut finished = false;
        for name in self.env.read_dir(self.paths.dir()).at("read", self.paths.dir())? {
            if !name.to_str().is_some_and(|name| name.starts_with("image")) {
                continue;
            }
            let path = self.paths.dir().join(name);
            if wanted.contains(&path) {
                tracing::info!(db = %self.name, "puts a database in place that came whole before the last end");
                self.remove_remains()?;
                self.image_becomes_database(&path)?;
                finished = true;
            } else {
                self.env.remove_file(&path).at("remove", path)?;
            }
        }
        Ok(finished)
    }

    fn image_becomes_database(&self, image: &Path) -> Result<(), Error> {
        let mut files = self.files.lock();
        self.env.rename(image, &self.paths.database()).at("rename", image)?;
        files.clear(FileKind::Database);
        drop(files);
        self.env.sync_dir(self.paths.dir()).at("sync", self.paths.dir())
    }

    /// Brings an image to a database that applications may have open.
    fn image_over(
        &self,
        applier: &mut Applier,
        from: &Logged,
        image: Arc<dyn File>,
        to: &Target,
    ) -> Result<Applied, Error> {
        if applier.torn.is_none() && self.leave_wal(applier)? == Applied::Waiting {
            // Connections in WAL mode stay as long as they like, and can follow only in the WAL.
            let same_size = from.page_size == Some(to.page_size()) && !from.count.is_zero();
            if !same_size {
                return Ok(Applied::Waiting);
            }
            let differing = self.differing(image, to, from.count)?;
            return self.append_to_wal(applier, &differing);
        }
        self.write_image(applier, from, image.as_ref(), to)
    }

    /// The pages of an image that aren't what the newest ones here are.
    fn differing(
        &self,
        image: Arc<dyn File>,
        to: &Target,
        old_count: PageCount,
    ) -> Result<Differing, Error> {
        let page_size = to.page_size();
        let (mut new, mut buf) = (vec![0; page_size.as_usize()], vec![0; page_size.as_usize()]);
        let mut pages = Vec::new();
        for pgno in Pgno::all(to.count, page_size) {
            let read = image.read_exact_at(&mut new, pgno.offset(page_size));
            read.at("read", self.paths.image(to.pos))?;
            let same = old_count.contains(pgno)
                && self.page_sum(pgno, to, &mut buf)? == page_checksum(pgno, &new);
            if !same {
                pages.push(pgno);
            }
        }
        Ok(Differing { image, to: *to, pages })
    }

    /// Writes the pages of the image that differ over those of the database.
    fn write_image(
        &self,
        applier: &mut Applier,
        from: &Logged,
        image: &dyn File,
        to: &Target,
    ) -> Result<Applied, Error> {
        let page_size = to.page_size();
        self.write_exclusively(applier, from, to, |old_len, part, writer| {
            let wanted = |offset| part.has(offset, old_len);
            let path = self.paths.image(to.pos);
            self.copy_differing(writer, image, &path, to.count, page_size, wanted)
        })
    }

    /// Writes the pages of an image that differ over those of the database file, which is locked.
    pub(in crate::db) fn copy_image(
        &self,
        file: &dyn PeerFile,
        image: &dyn File,
        path: &Path,
        count: PageCount,
        page_size: PageSize,
    ) -> Result<(), Error> {
        let mut writer = PageWriter::new(file, page_size);
        self.copy_differing(&mut writer, image, path, count, page_size, |_| true)?;
        writer.flush().map_err(|e| self.peer_error(e, "write", FileKind::Database))
    }

    fn copy_differing(
        &self,
        writer: &mut PageWriter<'_>,
        image: &dyn File,
        path: &Path,
        count: PageCount,
        page_size: PageSize,
        wanted: impl Fn(u64) -> bool,
    ) -> Result<(), Error> {
        let old: Arc<dyn File> = self.file(FileKind::Database)?;
        let (mut new, mut now) = (vec![0; page_size.as_usize()], vec![0; page_size.as_usize()]);
        for pgno in Pgno::all(count, page_size).filter(|p| wanted(p.offset(page_size))) {
            let offset = pgno.offset(page_size);
            image.read_exact_at(&mut new, offset).at("read", path)?;
            let n = old.read_at(&mut now, offset).at("read", self.paths.database())?;
            if n < now.len() || now != new {
                let written = writer.page(pgno, &new);
                written.map_err(|e| self.peer_error(e, "write", FileKind::Database))?;
            }
        }
        Ok(())
    }
}

impl Image {
    /// The image is whole: its position goes to the log, in place of all that was there.
    pub(super) fn log(self, db: &Database, post_apply: Checksum) -> Result<Pos, Error> {
        let pos = Pos { txid: self.header.max_txid, post_apply };
        let path = db.paths.image(pos);
        db.keep_diverged(pos)?;
        db.remove_images()?;
        db.env.rename(&self.path, &path).at("rename", &self.path)?;
        db.env.sync_dir(db.paths.dir()).at("sync", db.paths.dir())?;

        let mut writer = db.log.lock();
        let mut append = writer.log.begin().map_err(|e| db.log_error(e))?;
        let failed = |source| Error::Encode { db: db.name.clone(), txid: pos.txid, source };
        let header = Header { compressed: false, wal: None, ..self.header };
        Encoder::new(&mut append, &header)
            .and_then(|encoder| encoder.finish(post_apply))
            .map_err(failed)?;
        append.finish(RecordKind::PositionOnly).map_err(|e| db.log_error(e))?;
        db.note_log(&writer.log);
        drop(writer);
        // Whatever the files hold: the image comes next, even if it is of the same position.
        let mut c = db.capture.lock();
        c.logged.pos = None;
        if c.undo.is_none() {
            // Left by a start that has failed.
            db.remove_undo()?;
        }
        drop(c);
        db.diverged.store(false, Ordering::Release);
        *db.health.write() = Health::Ok;
        Ok(pos)
    }
}

impl Database {
    fn remove_images(&self) -> Result<(), Error> {
        for name in self.env.read_dir(self.paths.dir()).at("read", self.paths.dir())? {
            if name.to_str().is_some_and(|name| name.starts_with("image-")) {
                let path = self.paths.dir().join(name);
                self.env.remove_file(&path).at("remove", path)?;
            }
        }
        Ok(())
    }
}

const MAX_WRITE: usize = 1 << 20;
