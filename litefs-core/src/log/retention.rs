//! Which files are old enough to go, and removing them.
//!
//! Whole files, oldest first. Two records that are durable always stay: a crash may take what isn't, the recovery may then drop
//! the newest one, and even so the log must not lose the position. Readers that hold a removed file go on.
//!
//! If the power fails in the middle, some files may be back with a gap among them; a reader that meets the gap is told
//! ([`LogError::Corrupt`] or [`LogError::Missing`]) and takes a snapshot, and the next run removes the rest.

use std::io;
use std::time::{Duration, SystemTime};

use super::extent::Extent;
use super::{LogError, TxLog};
use crate::types::Txid;

/// What to keep. By default everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// A file may go when its last record is older than this; `None`: age is no reason.
    pub min_age: Option<Duration>,
    /// While the log is longer than this, its oldest file may go whatever its age; `None`: size is no reason.
    pub max_len_bytes: Option<u64>,
    /// Records from this transaction on stay, whatever their age and size: a backup doesn't have them yet.
    pub keep_from: Option<Txid>,
}

/// What a retention run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetainReport {
    /// How many files went.
    pub removed_files: u64,
    /// How many bytes went.
    pub removed_bytes: u64,
}

impl TxLog {
    /// Removes what the policy no longer keeps.
    ///
    /// # Errors
    /// [`LogError::Io`]. What was removed before the error stays removed.
    pub fn retain(
        &mut self,
        policy: &Retention,
        now: SystemTime,
    ) -> Result<RetainReport, LogError> {
        let mut report = RetainReport::default();
        let mut len_bytes = self.usage().bytes;
        while let Some((extent, end)) = self.oldest() {
            let held = policy.keep_from.is_some_and(|keep| end.is_some_and(|end| end >= keep));
            let too_long = policy.max_len_bytes.is_some_and(|max| len_bytes > max);
            if held || !(too_long || self.is_old(extent, policy.min_age, now)?) {
                break;
            }
            extent.remove(&*self.env)?;
            let removed = extent.len;
            if self.strays.pop_front().is_none() {
                self.sealed.pop_front();
            }
            len_bytes = len_bytes.saturating_sub(removed);
            report.removed_files += 1;
            report.removed_bytes += removed;
        }
        if report.removed_files > 0 {
            self.sync_removals()?;
        }
        Ok(report)
    }

    /// The oldest file that may go, and the last transaction in it; a stray has none that counts.
    fn oldest(&self) -> Option<(&Extent, Option<Txid>)> {
        if let Some(stray) = self.strays.front() {
            return Some((stray, None));
        }
        let durable = match &self.open {
            // The newest is a legacy file, which can't be dropped: it is enough.
            None => 1,
            Some(open) if open.last_offset > 0 && open.synced_len > open.last_offset => 2,
            Some(open) => usize::from(open.synced_len > 0),
        };
        // Each sealed file holds one record at least.
        if self.sealed.len() + durable < 3 {
            return None;
        }
        let next = self.sealed.get(1).map(|e| &e.segment);
        let next = next.or(self.open.as_ref().map(|open| &open.segment))?;
        Some((self.sealed.front()?, next.first.prev()))
    }

    fn is_old(
        &self,
        extent: &Extent,
        min_age: Option<Duration>,
        now: SystemTime,
    ) -> Result<bool, LogError> {
        let Some(min_age) = min_age else { return Ok(false) };
        let path = &extent.segment.path;
        match self.env.metadata(path) {
            // A file from the future is not old.
            Ok(m) => Ok(now.duration_since(m.modified).is_ok_and(|age| age >= min_age)),
            // Somebody removed it by hand.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(e) => Err(LogError::io("stat", path)(e)),
        }
    }
}
