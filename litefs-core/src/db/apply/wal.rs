//! Transactions appended to the WAL and entered in the wal-index, as a writer of SQLite does it; checkpoints too.
//!
//! ```text
//!  WRITE lock ─► nobody reads the WAL and all of it is in the database? ─► start it over
//!             ─► frames, the last one with the size ─► hash tables ─► header, second copy first ─► unlock
//! ```
//!
//! A reader believes the wal-index: frames past the `mxFrame` of its header don't exist for it. So everything
//! is in place before the header says so. A reader's snapshot stays, as a frame is overwritten only after the
//! WAL was started over, which takes the exclusive lock of every read mark; and a page of the database file
//! only with a frame that no reader is behind of.
//!
//! While a session is there, the database is locked shared, as by any connection in WAL mode: so the last
//! application that closes doesn't remove the WAL.
//!
//! Source: SQLite `wal.c` (`sqlite3WalFrames`, `walIndexAppend`, `walRestartLog`, `walCheckpoint`), fileformat2,
//! "WAL-Mode File Format".

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::env::File;
use crate::error::{Error, IoContext};
use crate::sqlite::locks::{
    PENDING_BYTE, SHARED_FIRST, SHARED_SIZE, WAL_CKPT_LOCK, WAL_DMS, WAL_NREADER, WAL_RECOVER_LOCK,
    WAL_WRITE_LOCK, wal_read_lock,
};
use crate::sqlite::wal::{FRAME_HEADER_LEN, frame_len, frame_offset};
use crate::sqlite::wal_hash::{BLOCK_LEN, Block};
use crate::sqlite::wal_index::CHECKPOINT_INFO_OFFSET;
use crate::sqlite::{ByteOrder, Chain, CheckpointInfo, FrameHeader, WalHeader, WalIndexHeader};
use crate::types::{PageCount, PageSize, Pgno};

use super::Applied;
use super::change::Pages;
use super::direct::{PATIENCE, PageWriter, lock_by};
use crate::db::capture::{APPLY_SEQ, WalTail};
use crate::db::peer::{ByteLock, PeerFile};
use crate::db::{Database, FileKind};

/// SQLite's files of a database in WAL mode, held open and locked as by a connection.
#[derive(Debug)]
pub(super) struct WalSession {
    database: Box<dyn PeerFile>,
    wal: Box<dyn PeerFile>,
    shm: Box<dyn PeerFile>,
    /// The page of each frame in the WAL.
    frames: Vec<Pgno>,
    /// Salt and checksum where these frames end: applications may have written others.
    frames_end: Option<WalPlace>,
    /// With so many frames a checkpoint is tried next.
    checkpoint_at: usize,
    /// Whether the WRITE lock is kept from one change to the next, for the halt lock.
    keeps_write: bool,
}

/// Salt of a WAL and checksum of one of its frames, which tell what all frames up to there are.
type WalPlace = ([u32; 2], [u32; 2]);

/// Where the next frame goes.
struct End {
    chain: Chain,
    header: WalIndexHeader,
    /// The WAL starts over: this is its header.
    begin: Option<WalHeader>,
}

impl WalSession {
    /// Opens the files as a connection does; `None` if locks are in the way.
    pub(super) fn open(db: &Database) -> Result<Option<WalSession>, Error> {
        let peer = db.peer();
        let open = |kind, create| {
            peer.open(&db.name, kind, create).map_err(|e| db.peer_error(e, "open", kind))
        };
        let database = open(FileKind::Database, false)?;
        let failed = |e| db.peer_error(e, "lock", FileKind::Database);
        if !database.lock(shared(), ByteLock::Shared).map_err(failed)? {
            return Ok(None);
        }
        let (wal, shm) = (open(FileKind::Wal, true)?, open(FileKind::Shm, true)?);
        let mut session = WalSession {
            database,
            wal,
            shm,
            frames: Vec::new(),
            frames_end: None,
            checkpoint_at: CHECKPOINT_FRAMES,
            keeps_write: false,
        };
        let attached = session.attach().map_err(|e| db.peer_error(e, "open", FileKind::Shm))?;
        Ok(attached.then_some(session))
    }

    /// Appends a change, and checkpoints if it is time to.
    pub(super) fn append(&mut self, db: &Database, change: &dyn Pages) -> Result<Applied, Error> {
        let failed = |e| db.peer_error(e, "lock", FileKind::Shm);
        if !self.lock_write().map_err(failed)? {
            return Ok(Applied::Waiting);
        }
        let appended = self.append_locked(db, change);
        self.unlock_write().map_err(failed)?;
        appended?;
        if self.frames.len() >= self.checkpoint_at {
            self.checkpoint(db)?;
            self.checkpoint_at = self.frames.len().max(CHECKPOINT_FRAMES) + CHECKPOINT_FRAMES / 4;
        }
        Ok(Applied::All)
    }

    /// Keeps the WRITE lock until the session ends; whether it is to be had.
    pub(super) fn keep_write(&mut self, db: &Database) -> Result<bool, Error> {
        let failed = |op| move |e| db.peer_error(e, op, FileKind::Shm);
        self.keeps_write = self.lock_write().map_err(failed("lock"))?;
        if !self.keeps_write || self.show(db)? == Applied::Waiting {
            return Ok(false);
        }
        // A reader that finds none would make one, for which it needs the lock.
        if self.read_index().map_err(failed("read"))?.0.is_none() {
            self.reserve(1, 1)
                .and_then(|()| self.write_info(&CheckpointInfo::EMPTY))
                .and_then(|()| self.write_header(&new_index(random_salt(db))))
                .map_err(failed("write"))?;
        }
        Ok(true)
    }

    /// Makes the wal-index say what the WAL holds: another process may have left it otherwise, or none yet.
    pub(super) fn show(&mut self, db: &Database) -> Result<Applied, Error> {
        let page_size = {
            let c = db.capture.lock();
            c.wal.as_ref().filter(|tail| tail.captured() > 0).map(WalTail::page_size)
        };
        let Some(page_size) = page_size else { return Ok(Applied::All) };
        let failed = |e| db.peer_error(e, "lock", FileKind::Shm);
        if !self.lock_write().map_err(failed)? {
            return Ok(Applied::Waiting);
        }
        let shown = self.end(db, page_size);
        self.unlock_write().map_err(failed)?;
        shown.map(|_| Applied::All)
    }

    /// Brings the whole WAL home and removes it, which takes that nobody else has the database open;
    /// the session comes back if somebody has.
    pub(super) fn close(mut self, db: &Database) -> Result<Option<WalSession>, Error> {
        let failed = |e| db.peer_error(e, "lock", FileKind::Database);
        if !self
            .database
            .lock(PENDING_BYTE..PENDING_BYTE + 1, ByteLock::Exclusive)
            .map_err(failed)?
        {
            return Ok(Some(self));
        }
        let alone = self.database.lock(shared(), ByteLock::Exclusive).map_err(failed)?;
        if alone && self.show(db)? == Applied::All && self.checkpoint(db)? {
            let peer = db.peer();
            for kind in [FileKind::Wal, FileKind::Shm] {
                peer.remove(&db.name, kind).map_err(|e| db.peer_error(e, "remove", kind))?;
            }
            return Ok(None);
        }
        self.database.lock(shared(), ByteLock::Shared).map_err(failed)?;
        self.database.lock(PENDING_BYTE..PENDING_BYTE + 1, ByteLock::None).map_err(failed)?;
        Ok(Some(self))
    }

    /// The first to come clears the wal-index; all keep a shared lock, by which the others know.
    fn attach(&mut self) -> io::Result<bool> {
        if self.lock(WAL_DMS, 1, ByteLock::Exclusive)? {
            self.shm.set_len(0)?;
        }
        self.lock(WAL_DMS, 1, ByteLock::Shared)
    }

    fn append_locked(&mut self, db: &Database, change: &dyn Pages) -> Result<(), Error> {
        let in_shm = |e| db.peer_error(e, "write", FileKind::Shm);
        let mut end = self.end(db, change.to().page_size())?;
        if end.begin.is_some() {
            self.frames.clear();
            self.checkpoint_at = CHECKPOINT_FRAMES;
        }
        let first = self.frames.len() as u32 + 1;
        // Before the frames: once they are there, readers must be told of them.
        self.reserve(first, first + change.len().max(1) as u32 - 1).map_err(in_shm)?;
        db.capture.lock().applying = Some(change.to().logged());
        let written = self.write_frames(db, change, &mut end);
        let not_seen = db.capture.lock().applying.take().is_some();
        written?;
        if not_seen {
            return Err(db.peer_error(io::ErrorKind::InvalidData.into(), "follow", FileKind::Wal));
        }
        self.enter(first).map_err(in_shm)?;
        let header = WalIndexHeader {
            change: end.header.change.wrapping_add(1),
            page_size: Some(change.to().page_size()),
            max_frame: self.frames.len() as u32,
            page_count: change.to().count,
            frame_checksum: end.chain.checksum(),
            ..end.header
        };
        self.frames_end = Some((header.salt, header.frame_checksum));
        self.write_header(&header).map_err(in_shm)
    }

    /// Finds out where the WAL ends, and repairs a wal-index that says otherwise.
    fn end(&mut self, db: &Database, page_size: PageSize) -> Result<End, Error> {
        let in_shm = |e| db.peer_error(e, "read", FileKind::Shm);
        let (header, info) = self.read_index().map_err(in_shm)?;
        let captured = {
            let c = db.capture.lock();
            c.wal
                .as_ref()
                .map(|tail| (tail.header(), tail.chain(), tail.captured(), c.logged.count))
        };
        match (header, captured) {
            // Started over by somebody, or never begun. If there are frames of that very WAL nevertheless, its writer
            // died before it could say so.
            (Some(header), captured)
                if header.max_frame == 0
                    && captured.is_none_or(|(h, _, n, _)| n == 0 || h.salt != header.salt) =>
            {
                self.start_over(header, page_size).map_err(in_shm)
            }
            (None, None) | (None, Some((_, _, 0, _))) => {
                let header = new_index(random_salt(db));
                self.write_info(&CheckpointInfo::EMPTY).map_err(in_shm)?;
                self.start_over(header, page_size).map_err(in_shm)
            }
            (header, Some((wal, chain, frames, count))) => {
                self.load_frames(db, frames)?;
                let known = header.filter(|header| {
                    header.max_frame == frames
                        && header.salt == wal.salt
                        && header.frame_checksum == chain.checksum()
                });
                let Some(header) = known else {
                    let header = WalIndexHeader {
                        change: header.map_or(0, |header| header.change).wrapping_add(1),
                        byte_order: wal.byte_order,
                        page_size: Some(wal.page_size),
                        max_frame: frames,
                        page_count: count,
                        frame_checksum: chain.checksum(),
                        salt: wal.salt,
                    };
                    self.rebuild(&header).map_err(in_shm)?;
                    return Ok(End { chain, header, begin: None });
                };
                if info.backfill == header.max_frame && self.lock_readers().map_err(in_shm)? {
                    let restarted = self.restart(header, page_size);
                    self.lock(wal_read_lock(1), READERS, ByteLock::None).map_err(in_shm)?;
                    return restarted.map_err(in_shm);
                }
                Ok(End { chain, header, begin: None })
            }
            (Some(_), None) => {
                // The WAL is gone, and the index doesn't know.
                self.write_info(&CheckpointInfo::EMPTY).map_err(in_shm)?;
                self.start_over(new_index(random_salt(db)), page_size).map_err(in_shm)
            }
        }
    }

    /// Tells readers that the WAL holds nothing, while none of them reads it.
    fn restart(&mut self, header: WalIndexHeader, page_size: PageSize) -> io::Result<End> {
        let end = self.start_over(header, page_size)?;
        self.write_header(&end.header)?;
        let mut info = CheckpointInfo::EMPTY;
        info.read_marks[1] = 0;
        self.write_info(&info)?;
        Ok(end)
    }

    fn start_over(&mut self, before: WalIndexHeader, page_size: PageSize) -> io::Result<End> {
        let salt = [before.salt[0].wrapping_add(1), before.salt[1].wrapping_mul(SPREAD) ^ 1];
        let wal = WalHeader::new(ByteOrder::NATIVE, page_size, APPLY_SEQ, salt);
        let header = WalIndexHeader {
            change: before.change.wrapping_add(1),
            byte_order: wal.byte_order,
            max_frame: 0,
            frame_checksum: wal.checksum,
            salt,
            ..before
        };
        Ok(End { chain: Chain::start(&wal), header, begin: Some(wal) })
    }

    fn write_frames(
        &mut self,
        db: &Database,
        change: &dyn Pages,
        end: &mut End,
    ) -> Result<(), Error> {
        let failed = |e| db.peer_error(e, "write", FileKind::Wal);
        let page_size = change.to().page_size();
        let mut buf = Vec::new();
        let mut offset = frame_offset(self.frames.len() as u32, page_size);
        if let Some(header) = end.begin.take() {
            buf.extend_from_slice(&header.encode());
            offset = 0;
        }
        let mut left = change.len();
        let mut frame = |session: &mut WalSession, pgno, page: &[u8], commit: PageCount| {
            let (head, chain) = end.chain.append(pgno, commit, page);
            end.chain = chain;
            buf.extend_from_slice(&head);
            buf.extend_from_slice(page);
            session.frames.push(pgno);
            if buf.len() >= MAX_WRITE || !commit.is_zero() {
                session.wal.write_at(&buf, offset).map_err(failed)?;
                offset += buf.len() as u64;
                buf.clear();
            }
            Ok(())
        };
        if left == 0 {
            // Only the size changes, which takes a frame to say.
            let page = db.newest_page(Pgno::FIRST)?;
            return frame(self, Pgno::FIRST, &page, change.to().count);
        }
        change.each(db, &mut |pgno, page| {
            left -= 1;
            let commit = if left == 0 { change.to().count } else { PageCount::ZERO };
            frame(self, pgno, page, commit)
        })
    }

    /// Makes room in the wal-index for the frames `first ..= last`.
    fn reserve(&self, first: u32, last: u32) -> io::Result<()> {
        for index in Block::of_frame(first)..=Block::of_frame(last) {
            let offset = Block::offset(index);
            if self.shm.read_at(&mut [0], offset + BLOCK_LEN as u64 - 1)? == 0 {
                let used = if index == 0 { HEADERS_LEN } else { 0 };
                self.shm.write_at(&vec![0; BLOCK_LEN - used], offset + used as u64)?;
            }
        }
        Ok(())
    }

    /// Enters the frames from `first` on in the hash tables.
    fn enter(&mut self, first: u32) -> io::Result<()> {
        let last = self.frames.len() as u32;
        let mut frame = first;
        while frame <= last {
            let index = Block::of_frame(frame);
            let mut bytes = vec![0; BLOCK_LEN];
            let n = self.shm.read_at(&mut bytes, Block::offset(index))?;
            bytes.truncate(n);
            let mut block = Block::new(index, bytes);
            let mut whole = block.forget_after(frame - 1) || n < BLOCK_LEN;
            let mut inserted = Vec::new();
            while frame <= last && Block::of_frame(frame) == index {
                let pgno = self.frames[frame as usize - 1];
                inserted.push(block.insert(frame, pgno).ok_or(io::ErrorKind::InvalidData)?);
                frame += 1;
            }
            whole |= inserted.len() > MANY;
            if whole {
                let (offset, table) = block.table();
                self.shm.write_at(table, offset)?;
            } else {
                for entry in inserted {
                    self.shm.write_at(&entry.page.1, entry.page.0)?;
                    self.shm.write_at(&entry.slot.1, entry.slot.0)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the wal-index anew, as SQLite's recovery does, from the frames that are known.
    fn rebuild(&mut self, header: &WalIndexHeader) -> io::Result<()> {
        let locks = WAL_CKPT_LOCK..WAL_RECOVER_LOCK + 1;
        if !self.shm.lock(locks.clone(), ByteLock::Exclusive)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let rebuilt = self.enter(1).and_then(|()| {
            self.write_header(header)?;
            let mut info = CheckpointInfo::EMPTY;
            info.backfill_attempted = header.max_frame;
            info.read_marks[1] = header.max_frame;
            self.write_info(&info)
        });
        self.shm.lock(locks, ByteLock::None)?;
        rebuilt
    }

    fn load_frames(&mut self, db: &Database, count: u32) -> Result<(), Error> {
        let wal: Arc<dyn File> = db.file(FileKind::Wal)?;
        let tail = {
            let c = db.capture.lock();
            let place = |tail: &WalTail| (tail.salt(), tail.chain().checksum());
            c.wal.as_ref().map(|tail| (tail.page_size(), tail.captured(), place(tail)))
        };
        let place = tail.filter(|(_, captured, _)| *captured == count).map(|(.., place)| place);
        if place.is_some() && place == self.frames_end && self.frames.len() == count as usize {
            return Ok(());
        }
        self.frames.clear();
        self.frames_end = place;
        let Some((page_size, ..)) = tail else { return Ok(()) };
        for index in 0..count {
            let mut head = [0; FRAME_HEADER_LEN];
            let offset = frame_offset(index, page_size);
            wal.read_exact_at(&mut head, offset).at("read", db.paths.wal())?;
            let head = FrameHeader::decode(&head).ok_or(io::ErrorKind::InvalidData);
            self.frames.push(head.map_err(io::Error::from).at("read", db.paths.wal())?.pgno);
        }
        Ok(())
    }

    /// Brings to the database file what no reader needs in its older version. Returns whether that was all.
    pub(super) fn checkpoint(&mut self, db: &Database) -> Result<bool, Error> {
        let in_shm = |e| db.peer_error(e, "checkpoint", FileKind::Shm);
        if !self.lock(WAL_CKPT_LOCK, 1, ByteLock::Exclusive).map_err(in_shm)? {
            return Ok(false);
        }
        let done = self.checkpoint_locked(db);
        self.lock(WAL_CKPT_LOCK, 1, ByteLock::None).map_err(in_shm)?;
        done
    }

    fn checkpoint_locked(&mut self, db: &Database) -> Result<bool, Error> {
        let in_shm = |e| db.peer_error(e, "checkpoint", FileKind::Shm);
        let (Some(header), mut info) = self.read_index().map_err(in_shm)? else {
            // Nobody has begun a WAL; one that is there would have been shown.
            return Ok(db.capture.lock().wal.as_ref().is_none_or(|tail| tail.captured() == 0));
        };
        let safe = self.safe_frame(header.max_frame, &mut info).map_err(in_shm)?;
        db.metrics.held_frames.set(i64::from(header.max_frame - safe));
        if info.backfill >= safe {
            return Ok(info.backfill == header.max_frame);
        }
        let Some(page_size) = header.page_size else { return Ok(false) };
        self.load_frames(db, header.max_frame)?;
        // Those who read the database file only don't want it changed.
        if !self.lock(wal_read_lock(0), 1, ByteLock::Exclusive).map_err(in_shm)? {
            return Ok(false);
        }
        let copied = (|| {
            self.write_number(BACKFILL_ATTEMPTED, safe).map_err(in_shm)?;
            let sync = || self.wal.sync().map_err(|e| db.peer_error(e, "sync", FileKind::Wal));
            db.sync_with_log(sync)?;
            self.copy_home(db, info.backfill, safe, &header)?;
            if safe == header.max_frame {
                self.database
                    .set_len(header.page_count.len_bytes(page_size))
                    .map_err(|e| db.peer_error(e, "truncate", FileKind::Database))?;
            }
            self.database.sync().map_err(|e| db.peer_error(e, "sync", FileKind::Database))?;
            self.write_number(BACKFILL, safe).map_err(in_shm)
        })();
        self.lock(wal_read_lock(0), 1, ByteLock::None).map_err(in_shm)?;
        copied?;
        Ok(safe == header.max_frame)
    }

    /// Up to which frame no reader needs what the database file has. Marks that nobody uses are moved on.
    fn safe_frame(&self, max_frame: u32, info: &mut CheckpointInfo) -> io::Result<u32> {
        let mut safe = max_frame;
        for (index, mark) in info.read_marks.into_iter().enumerate().skip(1) {
            if mark >= safe {
                continue;
            }
            if self.lock(wal_read_lock(index), 1, ByteLock::Exclusive)? {
                let unused = if index == 1 { safe } else { CheckpointInfo::READ_MARK_UNUSED };
                self.write_number(READ_MARKS + index as u64 * 4, unused)?;
                self.lock(wal_read_lock(index), 1, ByteLock::None)?;
            } else {
                safe = mark;
            }
        }
        Ok(safe)
    }

    /// Copies the newest version of each page in the frames after `from`, up to `to`.
    fn copy_home(
        &self,
        db: &Database,
        from: u32,
        to: u32,
        header: &WalIndexHeader,
    ) -> Result<(), Error> {
        let Some(page_size) = header.page_size else { return Ok(()) };
        let frames = (from..).zip(&self.frames[from as usize..to as usize]);
        let frames = frames.filter(|(_, pgno)| header.page_count.contains(**pgno));
        let newest: BTreeMap<Pgno, u32> = frames.map(|(frame, pgno)| (*pgno, frame)).collect();
        let newest: Vec<_> = newest.into_iter().collect();
        let wal = db.file(FileKind::Wal)?;
        let mut writer = PageWriter::new(self.database.as_ref(), page_size);
        let failed = |e| db.peer_error(e, "write", FileKind::Database);
        let frame_len = frame_len(page_size) as usize;
        let mut buf = Vec::new();
        let runs = newest.chunk_by(|(_, frame), (_, next)| frame + 1 == *next);
        for run in runs.flat_map(|run| run.chunks(MAX_WRITE / frame_len)) {
            buf.resize(run.len() * frame_len, 0);
            let offset = frame_offset(run[0].1, page_size);
            wal.read_exact_at(&mut buf, offset).at("read", db.paths.wal())?;
            for ((pgno, _), frame) in run.iter().zip(buf.chunks(frame_len)) {
                writer.page(*pgno, &frame[FRAME_HEADER_LEN..]).map_err(failed)?;
            }
        }
        writer.flush().map_err(failed)
    }

    fn read_index(&self) -> io::Result<(Option<WalIndexHeader>, CheckpointInfo)> {
        let mut bytes = [0; CHECKPOINT_INFO_OFFSET as usize + CheckpointInfo::LEN];
        let n = self.shm.read_at(&mut bytes, 0)?;
        let info = CheckpointInfo::decode(&bytes[CHECKPOINT_INFO_OFFSET as usize..]);
        Ok((WalIndexHeader::decode(&bytes[..n]), info.unwrap_or(CheckpointInfo::EMPTY)))
    }

    /// Second copy first: a reader that sees both equal sees the new one.
    fn write_header(&self, header: &WalIndexHeader) -> io::Result<()> {
        let bytes = header.encode();
        self.shm.write_at(&bytes, WalIndexHeader::LEN as u64)?;
        self.shm.write_at(&bytes, 0)
    }

    fn write_info(&self, info: &CheckpointInfo) -> io::Result<()> {
        self.shm.write_at(&info.encode(), CHECKPOINT_INFO_OFFSET)
    }

    fn write_number(&self, offset: u64, number: u32) -> io::Result<()> {
        self.shm.write_at(&number.to_ne_bytes(), offset)
    }

    fn lock_write(&self) -> io::Result<bool> {
        lock_by(Instant::now() + PATIENCE, self.shm.as_ref(), WAL_WRITE_LOCK..WAL_WRITE_LOCK + 1)
    }

    fn unlock_write(&self) -> io::Result<()> {
        if self.keeps_write {
            return Ok(());
        }
        self.lock(WAL_WRITE_LOCK, 1, ByteLock::None).map(drop)
    }

    fn lock_readers(&self) -> io::Result<bool> {
        self.lock(wal_read_lock(1), READERS, ByteLock::Exclusive)
    }

    fn lock(&self, first: u64, len: u64, lock: ByteLock) -> io::Result<bool> {
        self.shm.lock(first..first + len, lock)
    }
}

fn shared() -> std::ops::Range<u64> {
    SHARED_FIRST..SHARED_FIRST + SHARED_SIZE
}

fn new_index(salt: [u32; 2]) -> WalIndexHeader {
    WalIndexHeader {
        change: 0,
        byte_order: ByteOrder::NATIVE,
        page_size: None,
        max_frame: 0,
        page_count: PageCount::ZERO,
        frame_checksum: [0; 2],
        salt,
    }
}

fn random_salt(db: &Database) -> [u32; 2] {
    let random = db.env.random();
    [random as u32, (random >> 32) as u32]
}

/// Both headers and the checkpoint information.
const HEADERS_LEN: usize = CHECKPOINT_INFO_OFFSET as usize + CheckpointInfo::LEN;
const READERS: u64 = WAL_NREADER as u64 - 1;
/// As SQLite's default.
const CHECKPOINT_FRAMES: usize = 1000;
/// With more new frames than that a hash table is written as a whole.
const MANY: usize = 64;
const MAX_WRITE: usize = 256 * 1024;
/// Makes the second salt another one each time.
const SPREAD: u32 = 0x9e37_79b1;
const BACKFILL: u64 = CHECKPOINT_INFO_OFFSET;
const READ_MARKS: u64 = CHECKPOINT_INFO_OFFSET + 4;
const BACKFILL_ATTEMPTED: u64 = CHECKPOINT_INFO_OFFSET + 32;
