//! What a follower needs next: transactions from the log, or a snapshot.
//!
//! ```text
//!  follower's position                   answer
//!  ─────────────────────────────────────────────────────────────────────
//!  ours                                  UpToDate
//!  earlier, the log goes on from there   Records, unless a snapshot is less
//!  anything else                         Snapshot
//! ```
//!
//! Anything else is: none; ahead of ours; one of another history (its checksum differs); one that the log no longer
//! reaches back to; one that is followed by a transaction which is logged as a position only.
//!
//! What isn't here: how a snapshot is taken (see [`super::snapshot`]), and frames on a wire.
//!
//! Invariants: a record that comes out of [`History`] is committed, and begins where the one before it ends, the
//! first one where the follower is. Nothing waits for who reads it: no lock is held, and the files it reads stay open
//! whatever retention removes.

use crate::error::{Error, chain};
use crate::log::{BlobReader, RecordKind, RecordMeta, Records};
use crate::types::{DbName, Pos, Txid};

use super::Database;
use super::snapshot::Snapshot;

/// What a follower needs next.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made once per catch-up and not kept")]
pub enum Next {
    /// Nothing.
    UpToDate,
    /// Transactions, the first of which follows its position.
    Records(History),
    /// The whole database, in place of all that it has.
    Snapshot(Snapshot),
}

/// Logged transactions, oldest first: what the log says of each, and its LTX file.
///
/// Ends at the position that the database had when it was made, or earlier, before a transaction that has no
/// pages in the log: ask again then. An error is the last item.
#[derive(Debug)]
pub struct History {
    db: DbName,
    first: Option<(RecordMeta, BlobReader)>,
    /// `None` once it has ended.
    rest: Option<Records>,
    /// Later ones may be staged.
    last: Txid,
}

impl Database {
    /// What a follower at `pos` needs next.
    ///
    /// # Errors
    /// As [`Database::snapshot`]; the log's, if it can't be written.
    pub fn next_after(&self, pos: Option<Pos>) -> Result<Next, Error> {
        let Some(ours) = self.logged_pos()? else { return Ok(Next::UpToDate) };
        if pos == Some(ours) {
            return Ok(Next::UpToDate);
        }
        let behind = pos.filter(|pos| pos.txid < ours.txid);
        match behind.and_then(|pos| self.history(pos, ours.txid)) {
            Some(history) => Ok(Next::Records(history)),
            None => self.snapshot().map(Next::Snapshot),
        }
    }

    /// The position, once the log has come as far.
    fn logged_pos(&self) -> Result<Option<Pos>, Error> {
        use std::sync::atomic::Ordering::Acquire;

        let pos = self.pos();
        let behind = || pos.is_some_and(|pos| self.appended.load(Acquire) < pos.txid.as_u64());
        if behind() {
            self.drain()?;
        }
        if behind() {
            // It was published a moment ago and isn't queued yet.
            let _capture = self.capture.lock();
            self.drain()?;
        }
        Ok(pos)
    }

    /// The transactions after `from`, unless a snapshot serves better.
    fn history(&self, from: Pos, last: Txid) -> Option<History> {
        let records = self.log.lock().log.records(from.txid.next()?);
        let first =
            records.and_then(|mut records| Ok(records.next().transpose()?.zip(Some(records))));
        let ((meta, blob), rest) = first
            .inspect_err(|err| {
                tracing::info!(db = %self.name, txid = %from.txid, err = chain(err), "history is gone, a snapshot serves instead");
            })
            .ok()??;
        if meta.pre() != Some(from) || meta.kind == RecordKind::PositionOnly {
            return None;
        }
        let logged = self.published.read().logged;
        let snapshot_len = logged.page_size.map_or(0, |size| logged.count.len_bytes(size));
        if blob.remaining() + rest.remaining_len() > snapshot_len + SNAPSHOT_HANDICAP {
            return None;
        }
        Some(History { db: self.name.clone(), first: Some((meta, blob)), rest: Some(rest), last })
    }
}

impl Iterator for History {
    type Item = Result<(RecordMeta, BlobReader), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.as_mut()?;
        let item = match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => rest.next(),
        };
        let item = item.filter(|item| match item {
            Ok((meta, _)) => meta.max_txid <= self.last && meta.kind != RecordKind::PositionOnly,
            Err(_) => true,
        });
        if !matches!(item, Some(Ok(_))) {
            self.rest = None;
        }
        item.map(|item| item.map_err(|source| Error::Log { db: self.db.clone(), source }))
    }
}

/// So much longer may the history be before a snapshot serves better: that replaces the follower's own history.
const SNAPSHOT_HANDICAP: u64 = 1 << 20;
