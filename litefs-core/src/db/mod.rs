//! One database: its files, its capture state, its log.
//!
//! ```text
//!  frontend ─► files ─► capture ─► plan ─► encode ─► log
//!                 │                          ▲
//!                 └─► SQLite's files         └── worker thread (WAL transactions)
//! ```
//!
//! # Locks
//! Taken by rising number. SQLite's own byte locks stay in the kernel and are above all of these: a
//! thread that holds one of them may call in here, nothing in here ever waits for one.
//!
//! | # | lock | guards | blocks on disk? |
//! |---|---|---|---|
//! | 0 | `halt_turn` | asking for the halt lock | yes, and on the network |
//! | 0 | `apply` | receiving and applying, and the halt lock; taken by those who work on behalf of another node, never by a frontend | yes, and on SQLite's locks |
//! | 1 | `capture` | what SQLite has done since the last transaction, and every change of the files | yes; under the halt lock, on the primary |
//! | 2 | `files` | the open backing files | only for open and remove |
//! | 3 | `log` | the log, and taking jobs out of the queue | yes |
//! | 4 | `queue` | jobs that wait for the log | no |
//! | 5 | `published`, `health`, what is `lent` | what others see | no |
//! | 6 | a snapshot's `kept` | old pages that it still needs | writing them, if there are many |
//!
//! Reads of pages take none. Never touch the mount or await while holding one: a frontend's callback may
//! be what we wait for.

mod apply;
mod beside;
mod capture;
mod clean;
mod diverged;
mod encode;
mod files;
mod halt;
mod handover;
mod history;
mod import;
mod known;
mod names;
mod pages;
mod peer;
mod plan;
mod playback;
mod recover;
mod snapshot;
mod spool;
mod undo;
mod verify;
mod worker;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use parking_lot::{Condvar, Mutex, RwLock};

use crate::authority::{Authority, WriteAuthority};
use crate::env::{Env, File};
use crate::error::{Error, IoContext, chain};
use crate::log::{LogError, LogOptions, RecordKind, Retention, TxLog};
use crate::metrics::{DbMetrics, Metrics};
use crate::sqlite::DbHeader;
use crate::store::{Changes, DbPaths, Event};
use crate::types::{Checksum, DbName, PageCount, PageSize, Pos};

use apply::Applier;
use capture::Capture;
use encode::{Job, LogWriter, Queue};
use halt::Lent;
use pages::PageFiles;
use plan::{Logged, Plan, WalPages};

pub use apply::Applied;
pub(crate) use beside::Beside;
pub use files::{OpenFile, OpenHow};
pub(crate) use halt::{Forward, ForwardError, HaltError, HaltLock, HaltTurn};
pub(crate) use handover::HeldWriters;
pub use history::{History, Next};
pub use import::ImportError;
pub(crate) use import::{SPOOL_PREFIX, Spooled, remove_spooled};
pub use names::{FileKind, MountName, SuperSuffix};
pub(crate) use peer::PeerSlot;
pub use peer::{ByteLock, Peer, PeerFile};
pub use snapshot::Snapshot;
pub(crate) use spool::Spool;
pub use verify::VerifyReport;
pub(crate) use worker::Worker;

/// When a commit is durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// When the app asked SQLite for it: `PRAGMA synchronous` decides.
    #[default]
    Normal,
    /// At each commit, whatever the app asked for.
    Always,
}

/// What all databases of a store share.
#[derive(Debug)]
pub(crate) struct DbOptions {
    pub(crate) compress: bool,
    pub(crate) durability: Durability,
    pub(crate) strict_verify: bool,
    pub(crate) node_id: u64,
    pub(crate) log: LogOptions,
    pub(crate) changes: Arc<Changes>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) beside: Beside,
}

/// One database of a store.
#[derive(Debug)]
pub struct Database {
    me: Weak<Database>,
    name: DbName,
    paths: DbPaths,
    env: Arc<dyn Env>,
    options: Arc<DbOptions>,
    metrics: DbMetrics,
    authority: Arc<Authority>,
    worker: Worker,
    peers: Arc<PeerSlot>,
    apply: Mutex<Applier>,
    /// Told when the halt lock that the applier holds has changed.
    halt_changed: Condvar,
    /// Whether it holds one: then no application commits.
    halted: AtomicBool,
    lent: Lent,
    halt_turn: Mutex<HaltTurn>,
    /// Whether files and log were found to differ, so that only a snapshot helps.
    diverged: AtomicBool,
    /// Whether transactions that were received while the node was a replica aren't applied yet.
    behind: AtomicBool,
    /// Whether the note of own transactions is there.
    own_noted: AtomicBool,
    capture: Mutex<Capture>,
    files: Mutex<OpenFiles>,
    log: Mutex<LogWriter>,
    queue: Mutex<Queue>,
    published: RwLock<Published>,
    health: RwLock<Health>,
    /// TXIDs that the log has, and has durably; 0 for none.
    appended: AtomicU64,
    synced: AtomicU64,
    log_blocked: AtomicBool,
    /// Damaged pages that the start repaired from the log.
    repaired: AtomicU64,
    /// Whether names in the directory changed since it was last synced.
    names_changed: AtomicBool,
    /// Whether the mark of a clean shutdown is (or may be) there.
    marked_clean: AtomicBool,
}

/// By what right a node commits.
#[derive(Debug)]
enum Right<'a> {
    /// It is the primary.
    Own(WriteAuthority<'a>),
    /// The primary has lent it the right, and gets each transaction first.
    Lent(Arc<dyn Forward>),
}

/// Whether a database takes writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Health {
    /// All is well.
    #[default]
    Ok,
    /// Going on would risk data: the database can be read, not written.
    ReadOnly {
        /// What happened, and what to do.
        reason: String,
    },
}

/// What a log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogUsage {
    pub(crate) transactions: u64,
    pub(crate) bytes: u64,
}

/// What others may see of a database without its locks.
#[derive(Debug, Clone, Copy, Default)]
struct Published {
    logged: Logged,
    committed_at: Option<SystemTime>,
}

/// The backing files that are open, each at most once.
#[derive(Debug, Default)]
struct OpenFiles(Vec<(FileKind, Arc<dyn File>)>);

impl Database {
    /// Opens a database's directory, which must exist, and recovers it from whatever ended its last use.
    /// If that fails, the database is there nevertheless, read-only: its name must not be free.
    pub(crate) fn open(
        name: DbName,
        paths: DbPaths,
        env: Arc<dyn Env>,
        options: Arc<DbOptions>,
        authority: Arc<Authority>,
        worker: Worker,
        peers: Arc<PeerSlot>,
    ) -> Arc<Database> {
        let mark = clean::Mark::read(env.as_ref(), &paths).ok().flatten();
        let has_own = env.metadata(&paths.own()).is_ok();
        let hint = mark.as_ref().map(|m| m.tail);
        let log = TxLog::open(Arc::clone(&env), paths.dir(), options.log, hint);
        let (log, broken) = match log {
            Ok(log) => (log, None),
            Err(err) => (TxLog::empty(Arc::clone(&env), paths.dir(), options.log), Some(err)),
        };
        let db = Arc::new_cyclic(|me| Database {
            me: Weak::clone(me),
            marked_clean: AtomicBool::new(mark.is_some()),
            metrics: options.metrics.database(&name),
            name,
            paths,
            env,
            options,
            authority,
            worker,
            peers,
            apply: Mutex::default(),
            halt_changed: Condvar::new(),
            halted: AtomicBool::new(false),
            lent: Lent::default(),
            halt_turn: Mutex::default(),
            diverged: AtomicBool::new(false),
            behind: AtomicBool::new(false),
            own_noted: AtomicBool::new(has_own),
            capture: Mutex::default(),
            files: Mutex::default(),
            log: Mutex::new(LogWriter::new(log)),
            queue: Mutex::default(),
            published: RwLock::default(),
            health: RwLock::default(),
            appended: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            log_blocked: AtomicBool::new(false),
            repaired: AtomicU64::new(0),
            names_changed: AtomicBool::new(false),
        });
        let recovered = match broken {
            Some(err) => Err(db.log_error(err)),
            None => db.recover(mark),
        };
        if let Err(err) = recovered {
            db.fail(chain(&err));
            if let Err(err) = db.take_as_it_is() {
                tracing::error!(db = %db.name, err = chain(&err), "cannot look at the files");
            }
        }
        db
    }

    /// Its name.
    pub fn name(&self) -> &DbName {
        &self.name
    }

    /// Its position: the last committed transaction.
    pub fn pos(&self) -> Option<Pos> {
        self.published.read().logged.pos
    }

    /// Pages after the last committed transaction; 0 if there was none or it was dropped.
    pub fn page_count(&self) -> PageCount {
        self.published.read().logged.count
    }

    /// Bytes after the last committed transaction; 0 if there was none or it was dropped.
    pub fn size(&self) -> u64 {
        let Logged { page_size, count, .. } = self.published.read().logged;
        page_size.map_or(0, |page_size| count.len_bytes(page_size))
    }

    /// When the last transaction was committed.
    pub fn last_commit_time(&self) -> Option<SystemTime> {
        self.published.read().committed_at
    }

    /// Whether it takes writes.
    pub fn health(&self) -> Health {
        self.health.read().clone()
    }

    /// How many damaged pages were repaired from the log when the database was opened.
    pub fn repaired_pages(&self) -> u64 {
        self.repaired.load(Ordering::Relaxed)
    }

    /// What its log holds.
    pub(crate) fn log_usage(&self) -> LogUsage {
        let log = &self.log.lock().log;
        LogUsage { transactions: transactions(log), bytes: log.usage().bytes }
    }

    /// Its directory in the data directory.
    pub fn dir(&self) -> &Path {
        self.paths.dir()
    }

    /// Deletes logged transactions by age and size.
    ///
    /// # Errors
    /// If the file system fails; what could be deleted is.
    pub fn enforce_retention(&self, retention: &Retention) -> Result<(), Error> {
        if self.health() != Health::Ok {
            return Ok(());
        }
        let mut writer = self.log.lock();
        let before = transactions(&writer.log);
        let report = writer.log.retain(retention, self.env.now()).map_err(|e| self.log_error(e))?;
        if report.removed_files > 0 {
            self.metrics.reaped.inc_by(before - transactions(&writer.log).min(before));
            tracing::debug!(db = %self.name, files = report.removed_files, bytes = report.removed_bytes, "retention");
        }
        Ok(())
    }

    /// Brings everything to disk and, if nothing is under way, marks the shutdown as clean.
    pub(crate) fn close(&self) -> Result<(), Error> {
        let c = self.capture.lock();
        if self.health() != Health::Ok {
            return Ok(());
        }
        self.drain()?;
        self.sync_log()?;
        self.mark_clean(&c)
    }

    /// The right to change the database now. Any change makes the next start a start after a crash,
    /// until the database is closed.
    fn writable(&self) -> Result<Right<'_>, Error> {
        let right = self.right().ok_or_else(|| {
            self.metrics.refused.inc();
            Error::Replica { db: self.name.clone() }
        })?;
        if let Health::ReadOnly { reason } = &*self.health.read() {
            return Err(Error::Failed { db: self.name.clone(), reason: reason.clone() });
        }
        if self.behind.load(Ordering::Acquire) {
            return Err(Error::InUse { db: self.name.clone() });
        }
        if self.log_blocked.load(Ordering::Acquire) {
            self.drain()?;
        }
        if self.marked_clean.load(Ordering::Acquire) {
            self.unmark_clean()?;
        }
        if let Right::Own(_) = right {
            self.note_own()?;
        }
        Ok(right)
    }

    /// By what right this node may commit now.
    fn right(&self) -> Option<Right<'_>> {
        let own = self.authority.check().map(Right::Own);
        own.or_else(|| self.lent.forward().map(Right::Lent))
    }

    /// Whether a page may be written to the database file. What a hot journal protects may also be put back by whoever
    /// may write no more: what becomes of it is decided at the journal's end. Without one nothing but the old content may be
    /// put back.
    fn check_page_write(&self, c: &Capture, puts_back: impl FnOnce() -> bool) -> Result<(), Error> {
        if self.right().is_none() && (c.journal_hot || puts_back()) {
            return Ok(());
        }
        match self.writable()? {
            Right::Lent(_) if !c.journal_hot && c.wal.is_none() => {
                Err(Error::Unprotected { db: self.name.clone() })
            }
            Right::Lent(_) | Right::Own(_) => Ok(()),
        }
    }

    /// Whether the database file may be cut or extended. SQLite cuts off what a commit has left over when its journal
    /// has ended already: that is no change.
    fn check_truncate(&self, c: &Capture, now: u64, len: u64) -> Result<(), Error> {
        let logged = c.logged.page_size.map_or(0, |size| c.logged.count.len_bytes(size));
        let is_rest = logged > 0 && c.wal.is_none() && (logged..now).contains(&len);
        if is_rest && !matches!(self.right(), Some(Right::Own(_))) {
            return Ok(());
        }
        self.check_page_write(c, || c.cuts_back(len))
    }

    /// Nothing is committed here while a replica has the database to itself.
    fn check_not_halted(&self) -> Result<(), Error> {
        match self.halted.load(Ordering::Acquire) {
            true => Err(Error::InUse { db: self.name.clone() }),
            false => Ok(()),
        }
    }

    /// Sets the database read-only for good.
    fn fail(&self, reason: String) {
        tracing::error!(db = %self.name, reason, "database is read-only now");
        *self.health.write() = Health::ReadOnly { reason };
    }

    fn publish(&self, c: &Capture) {
        self.metrics.committed();
        self.publish_at(c.logged, self.env.now());
    }

    fn publish_at(&self, logged: Logged, committed_at: SystemTime) {
        *self.published.write() = Published { logged, committed_at: Some(committed_at) };
        let Logged { pos: Some(pos), page_size, count: commit } = logged else { return };
        self.options.changes.emit(|| Event::Tx {
            db: self.name.clone(),
            pos,
            page_size,
            commit,
            timestamp: committed_at,
        });
        // A transaction that the log lacks is told by whoever appends it.
        if self.appended.load(Ordering::Acquire) == pos.txid.as_u64() {
            self.options.changes.logged(&self.name);
        }
    }

    /// The log has a new record: tells subscribers, unless a journal still decides about it.
    fn announce(&self) {
        let appended = self.appended.load(Ordering::Acquire);
        if self.pos().is_some_and(|pos| pos.txid.as_u64() >= appended) {
            self.options.changes.logged(&self.name);
        }
    }

    /// With `strict-verify`, reads every page after each commit.
    fn strict_check(&self, c: &Capture) -> Result<(), Error> {
        if !self.options.strict_verify {
            return Ok(());
        }
        let checked = self.check_pages(c);
        if let Err(err) = &checked {
            self.fail(format!("strict verification: {err}"));
        }
        checked
    }

    fn check_pages(&self, c: &Capture) -> Result<(), Error> {
        let (Some(pos), Some(page_size)) = (c.logged.pos, c.logged.page_size) else {
            return Ok(());
        };
        if c.logged.count.is_zero() {
            return Ok(());
        }
        let none = WalPages::new();
        let mut files = self.page_files(page_size)?;
        let wal = match &c.wal {
            Some(tail) => {
                files.wal = Some(self.file(FileKind::Wal)?);
                tail.pages()
            }
            None => &none,
        };
        let got = c.view(self, &files, wal, &none, c.logged.count).checksum()?;
        if got == pos.post_apply {
            return Ok(());
        }
        Err(Error::ChecksumMismatch { db: self.name.clone(), got, want: pos })
    }

    /// The database file's pages; a WAL is for the caller to add.
    fn page_files(&self, page_size: PageSize) -> Result<PageFiles, Error> {
        Ok(PageFiles { database: self.file(FileKind::Database)?, wal: None, page_size })
    }

    /// The header of the database file and the number of its pages; `None` if the file is empty.
    fn read_header(&self, file: &dyn File) -> Result<Option<(DbHeader, PageCount)>, Error> {
        let mut bytes = [0; DbHeader::LEN];
        let n = file.read_at(&mut bytes, 0).at("read", self.paths.database())?;
        if n == 0 {
            return Ok(None);
        }
        let header = DbHeader::decode(&bytes[..n])
            .map_err(|source| Error::Header { db: self.name.clone(), source })?;
        let len = file.len().at("stat", self.paths.database())?;
        Ok(Some((header, header.database_size(len))))
    }

    /// Runs an fsync of SQLite's file beside one of the log, if the log needs it.
    fn sync_with_log(&self, sync_file: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        if self.appended.load(Ordering::Acquire) == self.synced.load(Ordering::Acquire) {
            return sync_file();
        }
        let Some(db) = self.me.upgrade() else { return sync_file().and_then(|()| self.sync_log()) };
        let (log, file) = self.options.beside.run(move || db.sync_log(), sync_file);
        // A panic of the log's fsync is an error like any other.
        file.and(log.at("sync", self.paths.dir()).flatten())
    }

    /// Removes the database: a transaction without pages, then the files.
    fn drop_database(&self, c: &mut Capture) -> Result<(), Error> {
        self.check_not_halted()?;
        let Right::Own(_) = self.writable()? else {
            return Err(Error::Replica { db: self.name.clone() });
        };
        let exists = self.len(FileKind::Database)?.is_some();
        if !exists {
            return Err(Error::NotFound { db: self.name.clone() });
        }
        self.unstage(c)?;
        if let (Some(page_size), false) = (c.logged.page_size, c.logged.count.is_zero()) {
            let txid = crate::types::Txid::after(c.logged.pos.map(|p| p.txid))
                .ok_or_else(|| Error::TxidsExhausted { db: self.name.clone() })?;
            let plan = Plan {
                txid,
                pre: c.logged.pos,
                post: Checksum::EMPTY,
                page_size,
                commit: PageCount::ZERO,
                pages: Vec::new(),
                wal: None,
            };
            let logged = plan.logged();
            let files = self.page_files(page_size)?;
            let job = Job { plan, files, timestamp: self.env.now(), kind: RecordKind::Plain };
            self.append_now(&job)?;
            self.sync_log()?;
            c.logged = Logged { page_size: None, ..logged };
        }
        // The database file goes first: without it, recovery takes the others for remains.
        self.remove(FileKind::Database)?;
        self.remove_remains()?;
        let snapshots = std::mem::take(&mut c.snapshots);
        *c = Capture { logged: c.logged, snapshots, watch: c.watch, ..Capture::default() };
        self.publish(c);
        self.sync_dir()
    }

    /// Removes what may be left of a database that has no database file.
    fn remove_remains(&self) -> Result<(), Error> {
        for kind in [FileKind::Journal, FileKind::Wal, FileKind::Shm] {
            match self.remove(kind) {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(err) => return Err(err),
            }
        }
        self.remove_undo()
    }

    fn remove_undo(&self) -> Result<(), Error> {
        match self.env.remove_file(&self.paths.undo()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).at("remove", self.paths.undo())
            }
            _ => Ok(()),
        }
    }

    fn log_error(&self, source: LogError) -> Error {
        Error::Log { db: self.name.clone(), source }
    }
}

fn transactions(log: &TxLog) -> u64 {
    let ends = log.first_txid().zip(log.appended());
    ends.map_or(0, |(first, last)| last.as_u64() - first.as_u64() + 1)
}

impl OpenFiles {
    fn get(&self, kind: FileKind) -> Option<Arc<dyn File>> {
        self.0.iter().find(|(k, _)| *k == kind).map(|(_, file)| Arc::clone(file))
    }

    fn set(&mut self, kind: FileKind, file: Arc<dyn File>) {
        self.clear(kind);
        self.0.push((kind, file));
    }

    fn clear(&mut self, kind: FileKind) {
        self.0.retain(|(k, _)| *k != kind);
    }
}
