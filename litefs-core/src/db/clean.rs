//! The mark of a clean shutdown: it lets the next start skip the full check.
//!
//! The mark says where log and files stood when the database was closed. It is trusted only if they still
//! stand there, by position, length and time of change, and is removed, durably, before the first change.
//! If the removal was lost with the power, what was changed since has another length or time.
//!
//! ```text
//!  0  magic "LFCLEAN1"
//!  8  txid, checksum       u64 ×2, zeros if there is no transaction
//! 24  database length      u64
//! 32  database changed     u64, ns since the epoch
//! 40  WAL salts            u32 ×2
//! 48  WAL frames           u32, 0: no WAL
//! 52  tail hint            see the log
//!     check                u64, page checksum of all above
//! ```

use std::io;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use crate::env::{Env, OpenMode};
use crate::error::{Error, IoContext};
use crate::log::TailHint;
use crate::ltx::page_checksum;
use crate::store::DbPaths;
use crate::types::{Pgno, Pos};

use super::Database;
use super::capture::Capture;
use super::names::FileKind;

/// What the mark says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) pos: Option<Pos>,
    pub(super) file: FileState,
    pub(super) wal: WalState,
    pub(super) tail: TailHint,
}

/// By what a changed database file is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileState {
    len_bytes: u64,
    modified_ns: u64,
}

/// Which part of the WAL was captured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WalState {
    pub(super) salt: [u32; 2],
    pub(super) frames: u32,
}

impl Mark {
    /// Reads the mark, if there is a valid one.
    pub(super) fn read(env: &dyn Env, paths: &DbPaths) -> Result<Option<Mark>, Error> {
        let file = match env.open(&paths.clean(), OpenMode::Existing) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).at("open", paths.clean()),
        };
        let mut bytes = [0; Mark::LEN + 1];
        let n = file.read_at(&mut bytes, 0).at("read", paths.clean())?;
        Ok(Mark::decode(&bytes[..n]))
    }

    fn encode(&self) -> [u8; Mark::LEN] {
        let mut bytes = [0; Mark::LEN];
        let (txid, sum) = self.pos.map_or((0, 0), |p| (p.txid.as_u64(), p.post_apply.as_u64()));
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&txid.to_be_bytes());
        bytes[16..24].copy_from_slice(&sum.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.file.len_bytes.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.file.modified_ns.to_be_bytes());
        bytes[40..44].copy_from_slice(&self.wal.salt[0].to_be_bytes());
        bytes[44..48].copy_from_slice(&self.wal.salt[1].to_be_bytes());
        bytes[48..52].copy_from_slice(&self.wal.frames.to_be_bytes());
        bytes[52..Mark::LEN - 8].copy_from_slice(&self.tail.encode());
        let check = page_checksum(Pgno::FIRST, &bytes[..Mark::LEN - 8]).as_u64();
        bytes[Mark::LEN - 8..].copy_from_slice(&check.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Mark> {
        let bytes: &[u8; Mark::LEN] = bytes.try_into().ok()?;
        let u64_at = |at: usize| bytes[at..].first_chunk().map(|b| u64::from_be_bytes(*b));
        let u32_at = |at: usize| bytes[at..].first_chunk().map(|b| u32::from_be_bytes(*b));
        let check = page_checksum(Pgno::FIRST, &bytes[..Mark::LEN - 8]).as_u64();
        if bytes[..8] != MAGIC || u64_at(Mark::LEN - 8)? != check {
            return None;
        }
        let pos = crate::types::Txid::new(u64_at(8)?)
            .zip(crate::types::Checksum::new(u64_at(16)?))
            .map(|(txid, post_apply)| Pos { txid, post_apply });
        Some(Mark {
            pos,
            file: FileState { len_bytes: u64_at(24)?, modified_ns: u64_at(32)? },
            wal: WalState { salt: [u32_at(40)?, u32_at(44)?], frames: u32_at(48)? },
            tail: TailHint::decode(&bytes[52..Mark::LEN - 8])?,
        })
    }

    const LEN: usize = 52 + TailHint::LEN + 8;
}

impl Database {
    /// What the database file looks like from outside; `None` if it doesn't exist.
    pub(super) fn file_state(&self) -> Result<Option<FileState>, Error> {
        if self.len(FileKind::Database)?.is_none() {
            return Ok(None);
        }
        let file = self.file(FileKind::Database)?;
        let len_bytes = file.len().at("stat", self.paths.database())?;
        let modified = file.modified().at("stat", self.paths.database())?;
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let modified_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        Ok(Some(FileState { len_bytes, modified_ns }))
    }

    /// Writes the mark, if nothing is under way: no journal decides, no page is dirty.
    pub(super) fn mark_clean(&self, c: &Capture) -> Result<(), Error> {
        let quiet = !c.journal_hot && c.undo.is_none() && c.dirty.is_empty();
        let tail = self.log.lock().log.tail_hint();
        let (true, Some(tail), Some(file)) = (quiet, tail, self.file_state()?) else {
            return Ok(());
        };
        let wal = c.wal.as_ref().map_or(WalState::default(), |tail| WalState {
            salt: tail.salt(),
            frames: tail.captured(),
        });
        let mark = Mark { pos: c.logged.pos, file, wal, tail };
        let path = self.paths.clean();
        let out = self.env.open(&path, OpenMode::Create).at("create", &path)?;
        self.file(FileKind::Database)?.sync().at("sync", self.paths.database())?;
        out.write_at(&mark.encode(), 0).at("write", &path)?;
        out.sync().at("sync", &path)?;
        self.env.sync_dir(self.paths.dir()).at("sync", self.paths.dir())?;
        self.marked_clean.store(true, Ordering::Release);
        Ok(())
    }

    /// Removes the mark, durably.
    pub(super) fn unmark_clean(&self) -> Result<(), Error> {
        match self.env.remove_file(&self.paths.clean()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).at("remove", self.paths.clean());
            }
            _ => {}
        }
        self.env.sync_dir(self.paths.dir()).at("sync", self.paths.dir())?;
        self.marked_clean.store(false, Ordering::Release);
        Ok(())
    }
}

const MAGIC: [u8; 8] = *b"LFCLEAN1";
