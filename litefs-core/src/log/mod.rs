//! The transaction log of one database: append-only segment files of LTX blobs.
//!
//! A blob is opaque: who appends encodes it ([`crate::ltx`]), who reads decodes it. The log knows of a transaction
//! what a [`RecordMeta`] says, and never looks at an SQLite file; comparing the two is the recovery of the database.
//!
//! ```text
//! <db dir>/log/0000000000000001.seg      records 1…99      sealed: durable, never changed again
//!              0000000000000064.seg      records 100…      open: appended to, cut, synced
//!              snapshot.tmp, snapshot    a snapshot on its way to replace all the rest (see `writer`)
//! <db dir>/ltx/<min>-<max>.ltx           files of the original, each a sealed segment of one record (see `legacy`)
//!
//!            finish                 sync_target … mark_synced        roll
//! (nothing) ────────▶ appended ───────────────────────────▶ durable ─────▶ sealed ──retain──▶ (gone)
//!     ▲                   │ drop_last (durable on return)      │
//!     └───────────────────┴────────────────────────────────────┘
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `segment` | the bytes (pure) |
//! | `writer` | appending, and putting back what a failed append left |
//! | `reader` | hopping, iterating, reading a blob |
//! | `recover` | opening: cutting a torn tail |
//! | `sync` | durability without holding the caller's lock |
//! | `retention`, `legacy`, `extent` | removing old files; the original's files; a file that outlives its name |
//!
//! # Crash argument
//!
//! *What is durable when.* A record is durable once a [`SyncTarget`] taken after its `finish` was synced. Before a segment
//! is sealed and the next one created, it is synced, with its name. So only the newest segment may hold bytes that a
//! crash can take or tear.
//!
//! *What a torn tail looks like.* After a power failure the unsynced part of the newest segment may hold any mix of sectors:
//! written, zero, or missing, in any order, even a whole record behind a torn one. A record counts only if its
//! header check (bound to file and offset), the check over its whole blob, and the chain (it begins at the position
//! where the record before ends) all fit. The first that fails ends the log; what is behind it is cut off.
//!
//! *Why the cut loses nothing that was promised.* Each header says how many bytes before it weren't known to be
//! durable when it was written. If a valid header behind the flaw says that the flawed bytes *were* durable, they
//! are not torn but rotten: an error, and nothing is cut. Otherwise nobody was ever told that they were durable:
//! where the log isn't synced at commit, the SQLite WAL or journal still holds the transaction, by design.
//! The cut is synced before anything is appended, so what was cut can't come back behind new records.
//!
//! *What a failed append leaves.* The header is written last (a small record in one write), so a process that dies
//! leaves no valid record it didn't finish. A failure sets the file back at once; if that fails too, the next
//! [`TxLog::begin`] does it, or fails.
//!
//! # Locks
//!
//! None inside but the one of a file handle: the caller wraps a [`TxLog`] in its own mutex. [`Records`], [`BlobReader`] and
//! [`SyncTarget`] are used outside of it.

mod extent;
mod legacy;
mod reader;
mod recover;
mod retention;
mod segment;
mod sync;
mod writer;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use thiserror::Error;

pub use self::reader::{BlobReader, Records};
pub use self::retention::{RetainReport, Retention};
pub use self::segment::{RecordKind, RecordMeta, TailHint, WalEnd};
pub use self::sync::{SyncTarget, Synced};
pub use self::writer::Append;

use self::extent::{Extent, Format, Segment};
use self::writer::Residue;
use crate::env::{Env, File};
use crate::types::{Pos, Txid};

/// When a segment is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// A new segment begins when the open one has reached this length.
    pub segment_len: u64,
    /// A new segment begins when the open one is older than this, so that retention by age can remove it whole.
    pub segment_age: Duration,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions { segment_len: 4 << 20, segment_age: Duration::from_secs(60) }
    }
}

/// What the log takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of files.
    pub files: u64,
    /// Their length together.
    pub bytes: u64,
}

/// The transaction log of one database.
#[derive(Debug)]
pub struct TxLog {
    env: Arc<dyn Env>,
    db_dir: PathBuf,
    options: LogOptions,
    /// Legacy files outside of the history.
    strays: VecDeque<Extent>,
    /// Oldest first; all durable.
    sealed: VecDeque<Extent>,
    /// Newer than all sealed ones. `None`: the next append creates it.
    open: Option<OpenSegment>,
    last: Option<RecordMeta>,
    cut: bool,
    synced: Option<Txid>,
    /// Directories with names that aren't durable yet.
    unsynced_dirs: Vec<PathBuf>,
    residue: Residue,
    epoch: u64,
    failed: Arc<AtomicBool>,
    /// Kept from append to append.
    buffer: Vec<u8>,
}

/// The segment that is appended to.
#[derive(Debug)]
struct OpenSegment {
    segment: Arc<Segment>,
    file: Arc<dyn File>,
    /// Where the last record ends. Invariant: at least one record.
    len: u64,
    /// Up to here the file is durable.
    synced_len: u64,
    last_offset: u64,
    created: SystemTime,
    index: Index,
}

impl OpenSegment {
    fn extent(&self) -> Extent {
        Extent { segment: Arc::clone(&self.segment), len: self.len }
    }
}

/// Where records begin: one entry per 64 KiB of a segment, so that finding a record takes one read.
#[derive(Debug, Clone, Default)]
struct Index(Vec<(Txid, u64)>);

impl Index {
    const SPACING: u64 = 64 * 1024;

    fn add(&mut self, min_txid: Txid, offset: u64) {
        if self.0.last().is_none_or(|(_, last)| offset - last >= Index::SPACING) {
            self.0.push((min_txid, offset));
        }
    }

    /// Offset of a record from which hopping leads to `txid`.
    fn seek(&self, txid: Txid) -> u64 {
        let after = self.0.partition_point(|(min, _)| *min <= txid);
        after.checked_sub(1).map_or(0, |i| self.0[i].1)
    }
}

/// All records of a log that another process may be appending to. Changes nothing.
///
/// # Errors
/// [`LogError::Io`]. A record that is being written comes as [`LogError::Corrupt`], last.
pub fn read(env: Arc<dyn Env>, db_dir: &Path) -> Result<Records, LogError> {
    recover::read(env, db_dir)
}

impl TxLog {
    /// Opens the log of the database in `db_dir`, cutting a torn tail. Creates nothing: that is the first append's.
    ///
    /// A `hint` that fits spares reading the newest segment through.
    ///
    /// # Errors
    /// [`LogError::Io`]; [`LogError::Corrupt`] if bytes that once were durable are not what they were.
    pub fn open(
        env: Arc<dyn Env>,
        db_dir: &Path,
        options: LogOptions,
        hint: Option<TailHint>,
    ) -> Result<TxLog, LogError> {
        recover::open(env, db_dir, options, hint)
    }

    /// A log without records, whatever the directory holds: stands in for one that can't be opened.
    pub(crate) fn empty(env: Arc<dyn Env>, db_dir: &Path, options: LogOptions) -> TxLog {
        TxLog {
            env,
            db_dir: db_dir.to_path_buf(),
            options,
            strays: VecDeque::new(),
            sealed: VecDeque::new(),
            open: None,
            last: None,
            cut: false,
            synced: None,
            unsynced_dirs: Vec::new(),
            residue: Residue::None,
            epoch: 0,
            failed: Arc::default(),
            buffer: Vec::new(),
        }
    }

    /// Whether bytes were cut off its end when it was opened.
    pub fn was_cut(&self) -> bool {
        self.cut
    }

    /// The newest record.
    pub fn last(&self) -> Option<&RecordMeta> {
        self.last.as_ref()
    }

    /// The oldest transaction that can be read.
    pub fn first_txid(&self) -> Option<Txid> {
        let first = self.sealed.front().map(|e| &e.segment);
        first.or(self.open.as_ref().map(|o| &o.segment)).map(|s| s.first)
    }

    /// The newest transaction.
    pub fn appended(&self) -> Option<Txid> {
        self.last.as_ref().map(|m| m.max_txid)
    }

    /// The newest transaction that is known to be durable, with all before it.
    ///
    /// After a start without a hint it says less than is true until the first sync.
    pub fn synced(&self) -> Option<Txid> {
        self.synced
    }

    /// Begins a record. Nothing is in the log before [`Append::finish`].
    ///
    /// # Errors
    /// If an earlier sync failed, or if what a failed append left can't be removed.
    pub fn begin(&mut self) -> Result<Append<'_>, LogError> {
        self.check()?;
        self.clean()?;
        Ok(Append::new(self))
    }

    /// The records from the one that contains `from`, as of now. None if `from` comes after the newest.
    ///
    /// # Errors
    /// [`LogError::Missing`] if the log begins later; [`LogError::Io`], [`LogError::Corrupt`].
    pub fn records(&self, from: Txid) -> Result<Records, LogError> {
        let first = self.first_txid();
        if first.is_some_and(|first| from < first) {
            return Err(LogError::Missing { from, first });
        }
        let (mut extents, mut start) = (Vec::new(), 0);
        if self.appended().is_some_and(|last| from <= last) {
            let skip = self.sealed.partition_point(|e| e.segment.first <= from).saturating_sub(1);
            match &self.open {
                Some(open) if open.segment.first <= from => {
                    let newest = self.last.as_ref().is_some_and(|last| last.min_txid <= from);
                    start = if newest { open.last_offset } else { open.index.seek(from) };
                }
                _ => extents.extend(self.sealed.iter().skip(skip).cloned()),
            }
            extents.extend(self.open.as_ref().map(OpenSegment::extent));
        }
        Ok(Records::new(Arc::clone(&self.env), from, extents, start))
    }

    /// Takes the newest record away: a staged one that was rolled back. Durable on return.
    ///
    /// # Errors
    /// [`LogError::NothingToDrop`] if the log is empty or the newest record is in a legacy file; [`LogError::Io`].
    pub fn drop_last(&mut self) -> Result<(), LogError> {
        self.check()?;
        self.clean()?;
        let open = self.open.as_mut().ok_or(LogError::NothingToDrop)?;
        if open.last_offset > 0 {
            // Everything that can fail harmlessly comes first.
            let rest = Extent { len: open.last_offset, ..open.extent() };
            let tail = recover::tail(&*self.env, &rest)?;
            open.file.set_len(rest.len).map_err(LogError::io("truncate", &open.segment.path))?;
            open.len = rest.len;
            open.synced_len = open.synced_len.min(rest.len);
            open.last_offset = tail.last_offset;
            open.index = tail.index;
            self.last = tail.last;
        } else {
            let before = self.sealed.back().map(|e| recover::tail(&*self.env, e)).transpose()?;
            let reopened = match self.sealed.back() {
                Some(e) if e.segment.format == Format::Records => {
                    let tail = before.clone().unwrap_or_default();
                    Some(recover::reopen(&*self.env, e, tail)?)
                }
                _ => None,
            };
            open.extent().remove(&*self.env)?;
            if reopened.is_some() {
                self.sealed.pop_back();
            }
            self.open = reopened;
            self.last = before.and_then(|tail| tail.last);
            let log_dir = self.log_dir();
            self.unsynced_dirs.push(log_dir);
        }
        self.epoch += 1;
        self.synced = self.synced.min(self.appended());
        // Here the record is gone but may come back: not a log to go on with.
        self.sync_all().inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    /// Makes everything appended durable.
    ///
    /// # Errors
    /// [`LogError::Io`], after which the log accepts nothing more.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check()?;
        if self.synced == self.appended() { Ok(()) } else { self.sync_all() }
    }

    /// What has to be synced so that everything appended is durable; `None` if it is. See [`SyncTarget`].
    pub fn sync_target(&self) -> Option<SyncTarget> {
        if self.synced == self.appended() { None } else { self.make_target() }
    }

    /// Takes note that a target was synced. Does nothing if the log has been cut or has rolled since it was taken.
    pub fn mark_synced(&mut self, Synced(target): Synced) {
        if target.epoch != self.epoch {
            return;
        }
        let Some(open) = &mut self.open else { return };
        open.synced_len = open.synced_len.max(target.len);
        self.synced = self.synced.max(Some(target.txid));
        self.unsynced_dirs.retain(|dir| !target.dirs.contains(dir));
    }

    /// Removes everything. Not needed before a snapshot is appended: that replaces all by itself.
    ///
    /// After a crash in the middle the log ends as before or is empty.
    ///
    /// # Errors
    /// [`LogError::Io`]. What was removed before the error stays removed.
    pub fn reset(&mut self) -> Result<(), LogError> {
        self.clean()?;
        // The newest file goes last, once the others are durably gone: an older one left alone would pass for the newest.
        self.epoch += 1;
        for queue in [&mut self.strays, &mut self.sealed] {
            let keep = usize::from(self.open.is_none());
            while queue.len() > keep {
                let Some(extent) = queue.front() else { break };
                extent.remove(&*self.env)?;
                queue.pop_front();
            }
        }
        self.sync_removals()?;
        let newest = self.open.as_ref().map(OpenSegment::extent);
        for extent in self.strays.iter().chain(&self.sealed).chain(&newest) {
            extent.remove(&*self.env)?;
        }
        self.strays.clear();
        self.sealed.clear();
        self.open = None;
        self.last = None;
        self.synced = None;
        self.sync_removals()?;
        // Nothing is left that a failed sync could have lost.
        self.failed = Arc::default();
        Ok(())
    }

    /// What the log takes on disk.
    pub fn usage(&self) -> Usage {
        let open = self.open.as_ref().map(OpenSegment::extent);
        let all = self.strays.iter().chain(&self.sealed).chain(&open);
        all.fold(Usage::default(), |sum, e| Usage {
            files: sum.files + 1,
            bytes: sum.bytes + e.len,
        })
    }

    /// What the next start should know; `None` unless everything is durable and in a segment.
    pub fn tail_hint(&self) -> Option<TailHint> {
        let open = self.open.as_ref()?;
        if self.synced != self.appended() || !matches!(self.residue, Residue::None) {
            return None;
        }
        recover::hint(open)
    }

    fn sync_all(&mut self) -> Result<(), LogError> {
        if let Some(target) = self.make_target() {
            let synced = target.sync()?;
            self.mark_synced(synced);
        } else {
            // Nothing but names: the log is empty or ends with a sealed file.
            self.sync_names()?;
            self.synced = self.appended();
        }
        Ok(())
    }

    fn make_target(&self) -> Option<SyncTarget> {
        let open = self.open.as_ref()?;
        Some(SyncTarget {
            env: Arc::clone(&self.env),
            file: Arc::clone(&open.file),
            path: open.segment.path.clone(),
            dirs: self.unsynced_dirs.clone(),
            failed: Arc::clone(&self.failed),
            epoch: self.epoch,
            len: open.len,
            txid: self.appended()?,
        })
    }

    /// Whether a sync has failed: the log accepts nothing more until it is opened anew.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    fn check(&self) -> Result<(), LogError> {
        if self.has_failed() {
            return Err(LogError::Failed { path: self.log_dir() });
        }
        Ok(())
    }

    fn sync_names(&mut self) -> Result<(), LogError> {
        while let Some(dir) = self.unsynced_dirs.last() {
            self.env.sync_dir(dir).map_err(LogError::io("sync directory", dir))?;
            self.unsynced_dirs.pop();
        }
        Ok(())
    }

    /// Makes removals durable in both directories, either of which may not exist.
    fn sync_removals(&self) -> Result<(), LogError> {
        for dir in [self.ltx_dir(), self.log_dir()] {
            match self.env.sync_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                result => result.map_err(LogError::io("sync directory", &dir))?,
            }
        }
        Ok(())
    }

    fn log_dir(&self) -> PathBuf {
        self.db_dir.join("log")
    }

    fn ltx_dir(&self) -> PathBuf {
        self.db_dir.join("ltx")
    }
}

/// What can go wrong with a log.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// The disk said no.
    #[error("{op} {path}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Bytes that were durable are not what they were, or files don't fit together.
    #[error("{path}: {what} at offset {offset}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the record begins.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The record doesn't begin where the log ends.
    #[error("transaction {min_txid} doesn't follow {}", Pos::text(*.last))]
    NotContiguous {
        /// Where the log ends.
        last: Option<Pos>,
        /// The record's first transaction.
        min_txid: Txid,
    },
    /// What was appended is no LTX file.
    #[error("appended bytes are not an ltx file: {what}")]
    NotLtx {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A write of this append failed before.
    #[error("append has failed before")]
    AppendFailed,
    /// The log begins after the transaction that was asked for.
    #[error("transaction {from} is no longer in the log, which begins at {first:?}")]
    Missing {
        /// What was asked for.
        from: Txid,
        /// The oldest there is.
        first: Option<Txid>,
    },
    /// There is no newest record, or it is in a file of the original.
    #[error("no record to drop")]
    NothingToDrop,
    /// A sync has failed; the log must be opened anew.
    #[error("{path}: a sync has failed before")]
    Failed {
        /// The log's directory.
        path: PathBuf,
    },
}

impl LogError {
    fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
        let path = path.to_path_buf();
        move |source| LogError::Io { op, path, source }
    }

    fn corrupt(path: &Path, offset: u64, what: &'static str) -> LogError {
        LogError::Corrupt { path: path.to_path_buf(), offset, what }
    }
}

/// For [`io::Write`]: the disk's own error stays as it is, with its number.
impl From<LogError> for io::Error {
    fn from(e: LogError) -> io::Error {
        match e {
            LogError::Io { source, .. } => source,
            other => io::Error::other(other),
        }
    }
}

#[cfg(test)]
mod tests;
