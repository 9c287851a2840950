//! Making the log durable without holding anybody up: the fsync runs outside the caller's lock.
//!
//! ```text
//! under the lock   target = log.sync_target()
//! no lock          synced = target.sync()?          fsync file, then new names
//! under the lock   log.mark_synced(synced)
//! ```
//!
//! Invariants:
//! - Only a [`Synced`], which only a successful [`SyncTarget::sync`] gives, moves the durable position.
//! - It counts only in the epoch it was taken in. A new epoch begins when the newest record goes away or the
//!   open segment changes, so "TXID 7 is durable" never speaks of another TXID 7.
//! - A log whose fsync failed once stays failed until it is opened anew: the kernel may have marked the lost pages
//!   clean, and the next fsync would then lie.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::LogError;
use crate::env::{Env, File};
use crate::types::Txid;

/// What must be synced for everything appended so far to be durable.
#[derive(Debug)]
#[must_use]
pub struct SyncTarget {
    pub(super) env: Arc<dyn Env>,
    pub(super) file: Arc<dyn File>,
    pub(super) path: PathBuf,
    /// Directories with new names.
    pub(super) dirs: Vec<PathBuf>,
    pub(super) failed: Arc<AtomicBool>,
    pub(super) epoch: u64,
    pub(super) len: u64,
    pub(super) txid: Txid,
}

impl SyncTarget {
    /// The newest transaction that is durable once this is synced.
    pub fn txid(&self) -> Txid {
        self.txid
    }

    /// Syncs. Needs no lock; other threads may append meanwhile.
    ///
    /// # Errors
    /// [`LogError::Io`]. The log then accepts nothing more.
    pub fn sync(self) -> Result<Synced, LogError> {
        let run = || {
            self.file.sync().map_err(LogError::io("sync", &self.path))?;
            self.dirs.iter().try_for_each(|dir| {
                self.env.sync_dir(dir).map_err(LogError::io("sync directory", dir))
            })
        };
        match run() {
            Ok(()) => Ok(Synced(self)),
            Err(e) => {
                self.failed.store(true, Ordering::Release);
                Err(e)
            }
        }
    }
}

/// Proof that a [`SyncTarget`] was synced, for [`super::TxLog::mark_synced`].
#[derive(Debug)]
#[must_use]
pub struct Synced(pub(super) SyncTarget);
