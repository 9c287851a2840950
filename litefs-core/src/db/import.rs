//! Import: a database file that came whole from elsewhere replaces the database, as one transaction.
//!
//! ```text
//!  bytes ─► import-… ─► checked ─► SQLite's exclusive lock ─► image-<position> ─► log ─► in place ─► removed
//!                                                                    │             │
//!                              a start removes it: the old database ◄┘             └► a start puts it in place
//! ```
//!
//! Nothing is touched before all bytes are there and were checked. Then the engine locks the database as SQLite
//! does to commit, which takes that nobody reads, and nobody has it open in WAL mode. The record in the log
//! decides: before it the old database stands, from then on the new one, whatever happens to the process.
//!
//! Page 1 gets the next change counter and schema cookie, so that connections that are open read anew what
//! they have cached. A database that wasn't there before is taken as it is, byte for byte.
//!
//! What isn't here: the request (see `http::import`), putting an image in place at a start (see `apply::image`),
//! and copies of files by way of the mount, which SQLite's locks don't protect (see `capture::rollback`).
//!
//! Differs from LiteFS: a body that can't be imported changes nothing; counter and cookie go on instead of being
//! set to 0, which a second import would not be noticed by.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::env::{Env, File, OpenMode};
use crate::error::{Error, IoContext, chain};
use crate::log::RecordKind;
use crate::ltx::page_checksum;
use crate::sqlite::DbHeader;
use crate::types::{Checksum, DbName, PageCount, Pgno, Pos, Txid};

use super::capture::Capture;
use super::encode::Job;
use super::pages::{PageFiles, Source};
use super::peer::PeerFile;
use super::plan::{Logged, Plan};
use super::{Applier, Database, FileKind, Right};

/// A checked database file under a temporary name, which goes with this value.
#[derive(Debug)]
pub(crate) struct Spooled {
    env: Arc<dyn Env>,
    path: PathBuf,
    file: Arc<dyn File>,
    header: DbHeader,
    count: PageCount,
    first_page: Vec<u8>,
    /// Of all pages but the first.
    rest: Checksum,
    /// The log counts on it.
    logged: bool,
}

/// Why bytes aren't a database that can be imported.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// There are none.
    #[error("read database header: EOF")]
    Empty,
    /// They don't begin with a header.
    #[error("read database header: invalid database header")]
    Header,
    /// They end too early.
    #[error("read page {pgno}: unexpected EOF")]
    Short {
        /// The first page that isn't there as a whole.
        pgno: u32,
    },
    /// They don't end where the header says.
    #[error("database has {} pages by its header, but more bytes follow", count.as_u32())]
    Long {
        /// By the header.
        count: PageCount,
    },
    /// They didn't come as a whole.
    #[error("read database: {0}")]
    Body(#[source] io::Error),
}

impl Spooled {
    /// Reads a database to `path`.
    pub(crate) fn read(
        env: &Arc<dyn Env>,
        path: PathBuf,
        db: &DbName,
        from: &mut dyn Read,
    ) -> Result<Spooled, Error> {
        let refuse = |source| Error::Import { db: db.clone(), source };
        let mut buf = vec![0; CHUNK_LEN];
        let mut len = fill(from, &mut buf).map_err(|e| refuse(ImportError::Body(e)))?;
        let header = decode_header(&buf[..len]).map_err(refuse)?;
        let page_len = header.page_size.as_usize();
        let file = env.open(&path, OpenMode::CreateNew).at("create", &path)?;
        let mut spooled = Spooled {
            env: Arc::clone(env),
            path,
            file,
            header,
            count: PageCount::ZERO,
            first_page: buf[..page_len.min(len)].to_vec(),
            rest: Checksum::EMPTY,
            logged: false,
        };
        let mut offset = 0;
        while len > 0 {
            spooled.take(&buf[..len]).map_err(refuse)?;
            spooled.file.write_at(&buf[..len], offset).at("write", &spooled.path)?;
            offset += len as u64;
            len = fill(from, &mut buf).map_err(|e| refuse(ImportError::Body(e)))?;
        }
        if spooled.count != header.database_size(offset) {
            return Err(refuse(ImportError::Short { pgno: spooled.count.as_u32() + 1 }));
        }
        spooled.file.sync().at("sync", &spooled.path)?;
        Ok(spooled)
    }

    /// Counts the next pages in.
    fn take(&mut self, pages: &[u8]) -> Result<(), ImportError> {
        let page_size = self.header.page_size;
        for page in pages.chunks(page_size.as_usize()) {
            let raw = self.count.as_u32().saturating_add(1);
            let pgno = Pgno::new(raw).filter(|_| page.len() == page_size.as_usize());
            let pgno = pgno.ok_or(ImportError::Short { pgno: raw })?;
            let count = self.header.database_size(u64::MAX);
            if !count.contains(pgno) {
                return Err(ImportError::Long { count });
            }
            if pgno != Pgno::FIRST && pgno != page_size.lock_page() {
                self.rest = self.rest.toggle(page_checksum(pgno, page));
            }
            self.count = PageCount::new(raw);
        }
        Ok(())
    }

    /// Makes it the successor of the database with the header `before`.
    fn follow(&mut self, before: Option<DbHeader>) -> Result<(), Error> {
        let next = |own, before: Option<u32>| before.map_or(own, |n: u32| n.wrapping_add(1));
        let counter = next(self.header.change_counter, before.map(|b| b.change_counter));
        let cookie = next(self.header.schema_cookie, before.map(|b| b.schema_cookie));
        let fields = [(24, counter), (28, self.count.as_u32()), (40, cookie), (92, counter)];
        for (offset, value) in fields {
            self.first_page[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
        }
        self.file.write_at(&self.first_page, 0).at("write", &self.path)?;
        self.file.sync().at("sync", &self.path)
    }

    /// The transaction that replaces the database.
    fn plan(&self, logged: &Logged, db: &DbName) -> Result<Plan, Error> {
        let page_size = self.header.page_size;
        Ok(Plan {
            txid: Txid::after(logged.pos.map(|pos| pos.txid))
                .ok_or_else(|| Error::TxidsExhausted { db: db.clone() })?,
            pre: logged.pos,
            post: self.rest.toggle(page_checksum(Pgno::FIRST, &self.first_page)),
            page_size,
            commit: self.count,
            pages: Pgno::all(self.count, page_size).map(|p| (p, Source::Database)).collect(),
            wal: None,
        })
    }

    fn rename(&mut self, to: PathBuf) -> Result<(), Error> {
        self.env.rename(&self.path, &to).at("rename", &self.path)?;
        self.path = to;
        Ok(())
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        if !self.logged {
            // The next start removes what can't be removed now.
            let _ = self.env.remove_file(&self.path);
        }
    }
}

impl Database {
    /// Replaces the database.
    pub(crate) fn import(&self, mut image: Spooled) -> Result<Pos, Error> {
        let mut applier = self.apply.lock();
        self.check_not_halted()?;
        // What a replica held open would be in the way.
        *applier = Applier::default();
        let Right::Own(_) = self.writable()? else {
            return Err(Error::Replica { db: self.name.clone() });
        };
        let is_new = self.len(FileKind::Database)?.is_none();
        let file = self.wait_for_exclusive()?;
        let before = self.newest_page(Pgno::FIRST)?;
        let plan = image
            .follow(DbHeader::decode(&before).ok())
            .and_then(|()| self.log_import(&mut image))
            .inspect_err(|_| {
                if is_new {
                    // An empty file at worst, which is an empty database.
                    let _ = self.peer().remove(&self.name, FileKind::Database);
                }
            })?;
        let replaced = self.replace(file.as_ref(), image, &plan);
        if let Err(err) = &replaced {
            self.fail(format!(
                "an import was interrupted, the next start completes it: {}",
                chain(err)
            ));
        }
        replaced.map(|()| plan.pos())
    }

    fn wait_for_exclusive(&self) -> Result<Box<dyn PeerFile>, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(file) = self.open_exclusively(false)? {
                return Ok(file);
            }
            if Instant::now() >= deadline {
                return Err(Error::InUse { db: self.name.clone() });
            }
            // Those who wait for the locks get their turn.
            std::thread::sleep(PAUSE);
        }
    }

    /// Makes the image what the database is from now on. On error all is as before.
    fn log_import(&self, image: &mut Spooled) -> Result<Plan, Error> {
        let mut capture = self.capture.lock();
        let c = &mut *capture;
        self.writable()?;
        // Its journal was left behind, so it was never committed.
        self.unstage(c)?;
        let plan = image.plan(&c.logged, &self.name)?;
        image.rename(self.paths.image(plan.pos()))?;
        self.env.sync_dir(self.paths.dir()).at("sync", self.paths.dir())?;
        let files =
            PageFiles { database: Arc::clone(&image.file), wal: None, page_size: plan.page_size };
        let job = Job { plan, files, timestamp: self.env.now(), kind: RecordKind::Plain };
        self.append_now(&job)?;
        image.logged = true;
        c.rewriting = true;
        Ok(job.plan)
    }

    /// Brings the image to the database file, under the exclusive lock of `file`.
    fn replace(&self, file: &dyn PeerFile, image: Spooled, plan: &Plan) -> Result<(), Error> {
        self.sync_log()?;
        for kind in [FileKind::Journal, FileKind::Wal, FileKind::Shm] {
            match self.peer().remove(&self.name, kind) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(self.peer_error(e, "remove", kind));
                }
                _ => {}
            }
        }
        let failed = |op| move |e| self.peer_error(e, op, FileKind::Database);
        self.copy_image(file, image.file.as_ref(), &image.path, plan.commit, plan.page_size)?;
        file.set_len(plan.commit.len_bytes(plan.page_size)).map_err(failed("truncate"))?;
        file.sync().map_err(failed("sync"))?;
        let mut c = self.capture.lock();
        if let Some(undo) = c.undo.take() {
            undo.remove(self.env.as_ref()).at("remove", self.paths.undo())?;
        }
        self.env.remove_file(&image.path).at("remove", &image.path)?;
        let snapshots = std::mem::take(&mut c.snapshots);
        let (logged, page_size) = (plan.logged(), Some(plan.page_size));
        *c = Capture { logged, page_size, snapshots, ..Capture::default() };
        self.publish(&c);
        self.strict_check(&c)
    }
}

fn decode_header(bytes: &[u8]) -> Result<DbHeader, ImportError> {
    if bytes.is_empty() {
        return Err(ImportError::Empty);
    }
    let header = DbHeader::decode(bytes).map_err(|_| ImportError::Header)?;
    let known = |version| matches!(version, 1 | 2);
    if known(header.write_version) && known(header.read_version) {
        Ok(header)
    } else {
        Err(ImportError::Header)
    }
}

/// Reads until the buffer is full or the source ends.
pub(super) fn fill(from: &mut dyn Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buf.len() {
        match from.read(&mut buf[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(len)
}

/// Removes what imports have left that didn't come to their end.
pub(crate) fn remove_spooled(env: &dyn Env, dir: &Path) -> Result<(), Error> {
    for name in env.read_dir(dir).at("read", dir)? {
        if name.to_str().is_some_and(|name| name.starts_with(SPOOL_PREFIX)) {
            let path = dir.join(name);
            env.remove_file(&path).at("remove", path)?;
        }
    }
    Ok(())
}

/// How the names of such files begin.
pub(crate) const SPOOL_PREFIX: &str = "import-";
/// A multiple of every page size.
const CHUNK_LEN: usize = 1 << 20;
/// How long applications may keep the database locked.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);
