//! The thread that makes a stream's transactions those of this node.
//!
//! ```text
//! LTX ─► receive (log) ─┬─ another complete one waits, and the first isn't old ─► go on
//!                       └─ else ─► apply all that was received, as one per database
//! ```
//!
//! A database that fails doesn't stop the others: the rest of its transactions is skipped, and after a while the
//! stream is left, so that a new one tries again. While one fails the node doesn't become ready. One whose position doesn't fit gets a new stream at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::queue::{Inbox, Step};
use crate::db::{Applied, Database};
use crate::error::{Error, chain};
use crate::http::frames::Frame;
use crate::ltx::Timestamp;
use crate::store::Store;
use crate::types::DbName;

/// What a stream changes.
pub(super) trait Target {
    /// Logs an LTX file.
    fn receive(&mut self, db: &DbName, ltx: &mut dyn Read) -> Result<(), Error>;
    /// Brings SQLite's files to the end of the log, if nobody's locks are in the way.
    fn apply(&mut self, db: &DbName) -> Result<Applied, Error>;
    /// Databases with transactions that an earlier stream has brought and that aren't applied yet.
    fn pending(&self) -> BTreeSet<DbName>;
    /// All that the primary had when the stream began is there.
    fn ready(&mut self);
    /// What the primary had at that time is there.
    fn heard(&mut self, timestamp: Timestamp);
}

/// The databases of a node.
#[derive(Debug)]
pub(super) struct StoreTarget {
    pub(super) store: Arc<Store>,
    pub(super) ready: watch::Sender<bool>,
    pub(super) caught_up: watch::Sender<bool>,
    /// The primary's.
    pub(super) reign: Option<u64>,
}

impl Target for StoreTarget {
    fn receive(&mut self, db: &DbName, ltx: &mut dyn Read) -> Result<(), Error> {
        self.store.replica_database(db)?.receive(ltx).map(drop)
    }

    fn apply(&mut self, db: &DbName) -> Result<Applied, Error> {
        self.store.database(db).map_or(Ok(Applied::All), |db| db.apply_pending())
    }

    fn pending(&self) -> BTreeSet<DbName> {
        let behind = |db: &Arc<Database>| db.received_pos() != db.pos();
        self.store.databases().iter().filter(|db| behind(db)).map(|db| db.name().clone()).collect()
    }

    fn ready(&mut self) {
        if let Some(Err(err)) = self.reign.map(|reign| self.store.enter_reign(reign)) {
            tracing::error!(err = chain(&err), "cannot note the reign of the primary");
        }
        self.caught_up.send_replace(true);
        self.ready.send_replace(true);
    }

    fn heard(&mut self, timestamp: Timestamp) {
        self.store.heard_from_primary(timestamp);
    }
}

/// Runs until the stream ends or must be left. What was received is applied in either case. The result is the lease, if the
/// primary hands it over.
pub(super) fn run(inbox: Inbox, target: impl Target) -> Result<Option<String>, Error> {
    // The primary doesn't send again what is in the log, even if locks or an error kept it from being applied.
    let (received, failed) = (target.pending(), BTreeMap::new());
    let readiness = Readiness::Unknown;
    let mut run = Run { inbox, target, received, latest: None, since: None, failed, readiness };
    let ended = run.all();
    run.apply();
    ended
}

struct Run<T> {
    inbox: Inbox,
    target: T,
    /// Databases with transactions that aren't applied, and the time of the latest.
    received: BTreeSet<DbName>,
    latest: Option<Timestamp>,
    /// When the oldest of these came.
    since: Option<Instant>,
    failed: BTreeMap<DbName, Failed>,
    readiness: Readiness,
}

/// Whether all is there that the primary had when the stream began.
#[derive(PartialEq)]
enum Readiness {
    Unknown,
    /// It has been sent, but isn't applied.
    Due,
    Told,
}

struct Failed {
    when: Instant,
    error: Error,
}

impl<T: Target> Run<T> {
    fn all(&mut self) -> Result<Option<String>, Error> {
        while let Some(step) = self.inbox.next() {
            // Bytes outside of a file don't come from the decoder.
            let Step::Frame(frame) = step else { continue };
            match frame {
                Frame::Ltx { name } => {
                    self.receive(name)?;
                    let old = self.since.is_some_and(|since| since.elapsed() > MAX_DELAY);
                    if old || !self.inbox.has_file() {
                        self.apply();
                        // Before, others may still be missing.
                        if self.readiness == Readiness::Told
                            && let Some(latest) = self.latest.take()
                        {
                            self.heard(latest);
                        }
                    }
                }
                Frame::Ready => {
                    self.readiness = Readiness::Due;
                    self.apply();
                }
                Frame::Heartbeat { timestamp } => {
                    self.apply();
                    self.heard(timestamp);
                    self.leave_for_failed()?;
                }
                Frame::DropDb { name } => {
                    tracing::debug!(db = %name, "deprecated drop db frame received, skipping");
                }
                // It comes after all transactions: a node that lacks some of them lets the primary go on.
                Frame::Handoff { lease_id } if self.failed.is_empty() => return Ok(Some(lease_id)),
                Frame::Handoff { .. } => {
                    tracing::warn!(
                        "the primary offers its lease, but not all of its databases are here"
                    );
                }
                // There is no backup that would need it.
                Frame::Hwm { .. } => {}
                // The task that reads doesn't pass it on.
                Frame::End => {}
            }
        }
        Ok(None)
    }

    fn receive(&mut self, name: DbName) -> Result<(), Error> {
        let mut file = self.inbox.file();
        let skip = self.failed.contains_key(&name);
        let received = if skip { Ok(()) } else { self.target.receive(&name, &mut file) };
        let is_whole = file.skip().is_ok();
        let timestamp = file.timestamp();
        match received {
            // It may be logged, and then won't come again, though the stream has ended before its last chunk.
            Ok(()) if !skip => {
                self.latest = timestamp.or(self.latest);
                self.since.get_or_insert_with(Instant::now);
                self.received.insert(name);
            }
            // The stream has ended within the file: whoever reads it says why.
            _ if !is_whole => {}
            Err(error @ Error::PositionMismatch { .. }) => return Err(error),
            Err(error) => note(&mut self.failed, name, error),
            Ok(()) => {}
        }
        Ok(())
    }

    fn apply(&mut self) {
        self.since = None;
        for name in std::mem::take(&mut self.received) {
            match self.target.apply(&name) {
                Ok(Applied::All) => {}
                // The next frame comes within a second: a heartbeat, if nothing else.
                Ok(Applied::Waiting) => drop(self.received.insert(name)),
                Err(error) => note(&mut self.failed, name, error),
            }
        }
        let all = self.received.is_empty() && self.failed.is_empty();
        if all && self.readiness == Readiness::Due {
            self.readiness = Readiness::Told;
            self.target.ready();
        }
    }

    /// What isn't applied yet shows as lag.
    fn heard(&mut self, timestamp: Timestamp) {
        if self.received.is_empty() {
            self.target.heard(timestamp);
        }
    }

    /// Ends the stream if a database failed a while ago.
    fn leave_for_failed(&mut self) -> Result<(), Error> {
        let due = |failed: &Failed| {
            // Only a snapshot helps, or the same once more, and a new stream asks for it.
            matches!(failed.error, Error::ChecksumMismatch { .. } | Error::Received { .. })
                || failed.when.elapsed() > RETRY_DELAY
        };
        let old = self.failed.iter().find(|(_, failed)| due(failed));
        let Some(name) = old.map(|(name, _)| name.clone()) else { return Ok(()) };
        self.failed.remove(&name).map_or(Ok(()), |failed| Err(failed.error))
    }
}

fn note(failed: &mut BTreeMap<DbName, Failed>, name: DbName, error: Error) {
    tracing::error!(db = %name, err = chain(&error), "cannot follow the primary, trying again later");
    failed.insert(name, Failed { when: Instant::now(), error });
}

/// A replica that is flooded still shows what it has got at least this often.
const MAX_DELAY: Duration = Duration::from_millis(50);
const RETRY_DELAY: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests;
