//! Appending a record, and putting back what a failed append left.
//!
//! A record that fits the buffer of 64 KiB goes out in one write, check and all. A longer one goes out in pieces behind the
//! place of its header, which is written last.
//!
//! Where it goes depends on its LTX header, so nothing is touched before the first 100 bytes are there:
//!
//! | the record | goes to | counts from |
//! |---|---|---|
//! | follows the newest one | the open segment, or a new one if that is full (the full one is synced first) | its header |
//! | is a snapshot, log empty | a new segment | its header |
//! | is a snapshot, log not empty | `snapshot.tmp`, synced, renamed to `snapshot`; then all other files go, and it becomes `0…01.seg` | the rename |
//!
//! Invariant: what is on disk beyond the log's good end is named by a [`Residue`] *before* it is written, and the
//! residue is gone before anything else is appended.

use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;

use super::extent::{Extent, Format, Segment, list, remove_if_exists};
use super::segment::{BlobCheck, LtxHead, Place, RecordHeader, RecordKind, RecordMeta};
use super::segment::{file_name, parse_file_name, parse_ltx_name};
use super::{Index, LogError, OpenSegment, TxLog};
use crate::env::{Env, File, OpenMode};
use crate::types::Txid;

/// A record on its way into the log: write the blob to it, then [`Append::finish`].
///
/// Dropped without that, it leaves no trace.
#[derive(Debug)]
pub struct Append<'a> {
    log: &'a mut TxLog,
    /// Room for the header, then the bytes of the blob that aren't written yet. The last 16 always stay here: the trailer.
    buf: Vec<u8>,
    dest: Option<Dest>,
    /// How many bytes of the blob are written.
    spilled: u64,
    check: BlobCheck,
    failed: bool,
}

/// Where a record goes.
#[derive(Debug)]
struct Dest {
    ltx: LtxHead,
    segment: Arc<Segment>,
    file: Arc<dyn File>,
    offset: u64,
    role: Role,
}

/// What the record's file is to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The open segment.
    Continue,
    /// A new segment behind it.
    Roll,
    /// A new segment in place of all others.
    Replace,
}

/// What may be on disk and isn't part of the log.
#[derive(Debug)]
pub(super) enum Residue {
    /// Nothing.
    None,
    /// Bytes behind the last record of the open segment.
    Tail,
    /// A file.
    File(PathBuf),
    /// A snapshot that doesn't count.
    Snapshot,
    /// Files that a snapshot has replaced.
    Replaced(Vec<Extent>),
}

impl<'a> Append<'a> {
    pub(super) fn new(log: &'a mut TxLog) -> Append<'a> {
        let mut buf = mem::take(&mut log.buffer);
        buf.clear();
        buf.resize(RecordHeader::LEN, 0);
        Append { log, buf, dest: None, spilled: 0, check: BlobCheck::new(), failed: false }
    }

    /// Puts the record into the log. It isn't durable before a sync; a snapshot that replaces other records is.
    ///
    /// # Errors
    /// [`LogError::NotContiguous`] unless it follows the newest record or is a snapshot; [`LogError::NotLtx`];
    /// [`LogError::Io`]. The log is then as it was before [`TxLog::begin`].
    pub fn finish(mut self, kind: RecordKind) -> Result<RecordMeta, LogError> {
        if self.failed {
            return Err(LogError::AppendFailed);
        }
        let dest = match self.dest.take() {
            Some(dest) => dest,
            None => self.prepare()?,
        };
        let trailer = self.pending().last_chunk();
        let blob_len = self.spilled + self.pending().len() as u64;
        let meta = trailer
            .filter(|_| blob_len >= LtxHead::MIN_BLOB_LEN)
            .and_then(|trailer| dest.ltx.clone().with_trailer(trailer, kind))
            .ok_or(LogError::NotLtx { what: "no trailer" })?;

        self.check.update(&self.buf[RecordHeader::LEN..]);
        let synced_len = match (dest.role, &self.log.open) {
            (Role::Continue, Some(open)) => open.synced_len,
            _ => 0,
        };
        let unsynced_len = u32::try_from(dest.offset - synced_len).unwrap_or(u32::MAX);
        let header = RecordHeader { kind, blob_len, unsynced_len, blob_crc: self.check.finish() };
        let header = header.encode(Place { segment: dest.segment.first, offset: dest.offset });
        if self.spilled == 0 {
            self.buf[..RecordHeader::LEN].copy_from_slice(&header);
            write(&dest, &self.buf, 0)?;
        } else {
            write(&dest, self.pending(), RecordHeader::LEN as u64 + self.spilled)?;
            write(&dest, &header, 0)?;
        }
        if dest.role == Role::Replace {
            self.log.commit_replacement(&*dest.file)?;
        }
        let end = dest.offset + RecordHeader::LEN as u64 + blob_len;
        self.log.add(dest, end, meta.clone());
        Ok(meta)
    }

    fn pending(&self) -> &[u8] {
        &self.buf[RecordHeader::LEN..]
    }

    /// Chooses the file, by the first bytes of the blob.
    fn prepare(&mut self) -> Result<Dest, LogError> {
        let ltx = self.pending().first_chunk().and_then(LtxHead::decode);
        let ltx = ltx.ok_or(LogError::NotLtx { what: "no header" })?;
        self.log.place(ltx)
    }

    /// Writes all but the last 16 bytes.
    fn spill(&mut self) -> Result<(), LogError> {
        let dest = match self.dest.take() {
            Some(dest) => dest,
            None => self.prepare()?,
        };
        let split = self.buf.len() - LtxHead::TRAILER_LEN;
        let ready = &self.buf[RecordHeader::LEN..split];
        write(&dest, ready, RecordHeader::LEN as u64 + self.spilled)?;
        self.check.update(ready);
        self.spilled += ready.len() as u64;
        self.buf.copy_within(split.., RecordHeader::LEN);
        self.buf.truncate(RecordHeader::LEN + LtxHead::TRAILER_LEN);
        self.dest = Some(dest);
        Ok(())
    }
}

impl io::Write for Append<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.failed {
            return Err(LogError::AppendFailed.into());
        }
        if self.buf.len() >= BUFFER_LEN
            && let Err(e) = self.spill()
        {
            self.failed = true;
            return Err(e.into());
        }
        let n = data.len().min(BUFFER_LEN - self.buf.len());
        self.buf.extend_from_slice(&data[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Append<'_> {
    fn drop(&mut self) {
        self.log.buffer = mem::take(&mut self.buf);
        // If it fails, the next `begin` tries again, and reports it.
        let _ = self.log.clean();
    }
}

impl TxLog {
    /// Removes what isn't part of the log.
    pub(super) fn clean(&mut self) -> Result<(), LogError> {
        let (env, log_dir) = (Arc::clone(&self.env), self.db_dir.join("log"));
        match &mut self.residue {
            Residue::None => return Ok(()),
            Residue::Tail => {
                if let Some(open) = &self.open {
                    let path = &open.segment.path;
                    open.file.set_len(open.len).map_err(LogError::io("truncate", path))?;
                }
            }
            Residue::File(path) => remove_if_exists(&*env, path)?,
            Residue::Snapshot => {
                remove_if_exists(&*env, &log_dir.join(SNAPSHOT_TMP))?;
                remove_if_exists(&*env, &log_dir.join(SNAPSHOT))?;
                // Were it to come back after a crash, it would replace what is appended from now on.
                env.sync_dir(&log_dir).map_err(LogError::io("sync directory", &log_dir))?;
            }
            Residue::Replaced(files) => {
                while let Some(extent) = files.last() {
                    extent.remove(&*env)?;
                    files.pop();
                }
                finish_replacement(&*env, &self.db_dir)?;
            }
        }
        self.residue = Residue::None;
        Ok(())
    }

    /// Chooses and opens the file for a record.
    fn place(&mut self, ltx: LtxHead) -> Result<Dest, LogError> {
        let last = self.last.as_ref().map(RecordMeta::pos);
        let follows = last.is_some_and(|last| {
            last.txid.next() == Some(ltx.min_txid) && ltx.pre_apply == Some(last.post_apply)
        });
        let snapshot = ltx.min_txid == Txid::FIRST;
        if !snapshot && !follows {
            return Err(LogError::NotContiguous { last, min_txid: ltx.min_txid });
        }
        if snapshot && last.is_some() {
            self.residue = Residue::Snapshot;
            let path = self.log_dir().join(SNAPSHOT_TMP);
            return self.create(ltx, &path, Role::Replace);
        }
        if let Some(open) = self.open.as_ref().filter(|open| !self.is_full(open)) {
            self.residue = Residue::Tail;
            let (segment, file) = (Arc::clone(&open.segment), Arc::clone(&open.file));
            return Ok(Dest { ltx, segment, file, offset: open.len, role: Role::Continue });
        }
        // Invariant: everything in a sealed segment is durable.
        self.sync()?;
        let path = self.log_dir().join(file_name(ltx.min_txid));
        self.residue = Residue::File(path.clone());
        self.create(ltx, &path, Role::Roll)
    }

    fn is_full(&self, open: &OpenSegment) -> bool {
        let age = self.env.now().duration_since(open.created).unwrap_or_default();
        open.len >= self.options.segment_len || age >= self.options.segment_age
    }

    fn create(&mut self, ltx: LtxHead, path: &Path, role: Role) -> Result<Dest, LogError> {
        let file = match self.env.open(path, OpenMode::Create) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let log_dir = self.log_dir();
                self.env.create_dir_all(&log_dir).map_err(LogError::io("create", &log_dir))?;
                self.unsynced_dirs.push(self.db_dir.clone());
                self.env.open(path, OpenMode::Create)
            }
            result => result,
        };
        let file = file.map_err(LogError::io("create", path))?;
        if !file.is_empty().map_err(LogError::io("stat", path))? {
            file.set_len(0).map_err(LogError::io("truncate", path))?;
        }
        let path = self.log_dir().join(file_name(ltx.min_txid));
        let segment = Segment::new(path, ltx.min_txid, Format::Records);
        segment.pin(Arc::clone(&file));
        Ok(Dest { ltx, segment, file, offset: 0, role })
    }

    /// Makes the snapshot in `snapshot.tmp` count instead of everything else.
    fn commit_replacement(&mut self, file: &dyn File) -> Result<(), LogError> {
        let log_dir = self.log_dir();
        let (tmp, snapshot) = (log_dir.join(SNAPSHOT_TMP), log_dir.join(SNAPSHOT));
        self.sync_names()?;
        file.sync().map_err(LogError::io("sync", &tmp))?;
        self.env.rename(&tmp, &snapshot).map_err(LogError::io("rename", &tmp))?;
        self.env.sync_dir(&log_dir).map_err(LogError::io("sync directory", &log_dir))
    }

    /// Takes note of a record that has been written. Can't fail: the record is on disk.
    fn add(&mut self, dest: Dest, end: u64, meta: RecordMeta) {
        let Dest { segment, file, offset, role, .. } = dest;
        self.residue = Residue::None;
        if role != Role::Continue {
            self.epoch += 1;
            let open = OpenSegment {
                segment,
                file,
                len: end,
                synced_len: 0,
                last_offset: 0,
                created: self.env.now(),
                index: Index::default(),
            };
            if let Some(full) = self.open.replace(open) {
                full.segment.unpin();
                self.sealed.push_back(full.extent());
            }
        }
        if role == Role::Roll && !self.unsynced_dirs.contains(&self.log_dir()) {
            self.unsynced_dirs.push(self.log_dir());
        }
        if role == Role::Replace {
            self.residue =
                Residue::Replaced(self.strays.drain(..).chain(self.sealed.drain(..)).collect());
            self.synced = Some(meta.max_txid);
        }
        if let Some(open) = &mut self.open {
            open.len = end;
            open.last_offset = offset;
            open.index.add(meta.min_txid, offset);
            if role == Role::Replace {
                open.synced_len = end;
            }
        }
        self.last = Some(meta);
        if let Err(err) = self.clean() {
            warn!(dir = %self.db_dir.display(), %err, "files that a snapshot replaced are still there");
        }
    }
}

/// Finishes what a renamed `snapshot` has begun: all other files go, and it becomes the first segment.
pub(super) fn finish_replacement(env: &dyn Env, db_dir: &Path) -> Result<(), LogError> {
    let (log_dir, ltx_dir) = (db_dir.join("log"), db_dir.join("ltx"));
    let names = list(env, &log_dir)?;
    if names.iter().any(|name| name == SNAPSHOT) {
        for name in names.iter().filter(|name| parse_file_name(name).is_some()) {
            remove_if_exists(env, &log_dir.join(name))?;
        }
        for name in list(env, &ltx_dir)?.iter().filter(|name| parse_ltx_name(name).is_some()) {
            remove_if_exists(env, &ltx_dir.join(name))?;
        }
        // Without the marker, a segment that came back would pass for the newest. A legacy file wouldn't.
        env.sync_dir(&log_dir).map_err(LogError::io("sync directory", &log_dir))?;
        let (from, to) = (log_dir.join(SNAPSHOT), log_dir.join(file_name(Txid::FIRST)));
        env.rename(&from, &to).map_err(LogError::io("rename", &from))?;
    }
    env.sync_dir(&log_dir).map_err(LogError::io("sync directory", &log_dir))
}

fn write(dest: &Dest, bytes: &[u8], at: u64) -> Result<(), LogError> {
    dest.file
        .write_at(bytes, dest.offset + at)
        .map_err(LogError::io("append to", &dest.segment.path))
}

/// The most that is held in memory of a record.
const BUFFER_LEN: usize = 64 * 1024;

/// A snapshot being written.
pub(super) const SNAPSHOT_TMP: &str = "snapshot.tmp";
/// A whole and durable snapshot that replaces every other file.
pub(super) const SNAPSHOT: &str = "snapshot";
