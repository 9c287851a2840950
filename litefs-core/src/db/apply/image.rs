//! A snapshot from a primary: written aside as a whole database file, its position logged, put in place.
//!
//! ```text
//!  pages ─► image.tmp ─► checked, synced ─► image-<position> ─► position logged ─► in place ─► removed
//!                                                │                   │
//!                        a start removes it ◄────┘                   └────► a start puts it in place
//! ```
//!
//! Where there is no database, the image becomes it. Over an existing one, which applications may have open,
//! only the pages that differ are written, under SQLite's exclusive lock.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::env::{File, OpenMode};
use crate::error::{Error, IoContext};
use crate::log::{RecordKind, RecordMeta};
use crate::ltx::{Encoder, Header};
use crate::types::{Checksum, Pgno, Pos};

use super::change::Target;
use super::{Applied, Applier};
use crate::db::plan::Logged;
use crate::db::recover::logged_by;
use crate::db::{Database, FileKind, Health};

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
            self.image_becomes_database(&path)?;
            let mut c = self.capture.lock();
            c.logged = logged_by(meta);
            c.page_size = c.logged.page_size;
        } else if self.leave_wal(applier)? == Applied::Waiting
            || self.write_image(applier, from, image.as_ref(), &Target::of(meta))?
                == Applied::Waiting
        {
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
        let wanted = first.map(|pos| self.paths.image(pos));
        let mut finished = false;
        for name in self.env.read_dir(self.paths.dir()).at("read", self.paths.dir())? {
            if !name.to_str().is_some_and(|name| name.starts_with("image")) {
                continue;
            }
            let path = self.paths.dir().join(name);
            if Some(&path) == wanted.as_ref() {
                tracing::info!(db = %self.name, "puts a snapshot in place that was received before the last end");
                for kind in [FileKind::Journal, FileKind::Wal] {
                    self.remove_if_there(kind)?;
                }
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

    /// Writes the pages of the image that differ over those of the database.
    fn write_image(
        &self,
        applier: &mut Applier,
        from: &Logged,
        image: &dyn File,
        to: &Target,
    ) -> Result<Applied, Error> {
        let page_size = to.page_size();
        let old: Arc<dyn File> = self.file(FileKind::Database)?;
        let (mut new, mut now) = (vec![0; page_size.as_usize()], vec![0; page_size.as_usize()]);
        self.write_exclusively(applier, from, to, |old_len, part, writer| {
            let pages = Pgno::all(to.count, page_size);
            for pgno in pages.filter(|pgno| part.has(pgno.offset(page_size), old_len)) {
                let offset = pgno.offset(page_size);
                image.read_exact_at(&mut new, offset).at("read", self.paths.image(to.pos))?;
                let n = old.read_at(&mut now, offset).at("read", self.paths.database())?;
                if n < now.len() || now != new {
                    let written = writer.page(pgno, &new);
                    written.map_err(|e| self.peer_error(e, "write", FileKind::Database))?;
                }
            }
            Ok(())
        })
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
        db.capture.lock().logged.pos = None;
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
