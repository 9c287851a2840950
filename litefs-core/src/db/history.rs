//! Stands in for the real one until it is merged: what a follower needs next, from the log alone.

use crate::error::Error;
use crate::log::{BlobReader, RecordMeta, Records};
use crate::types::{DbName, Pos, Txid};

use super::Database;
use super::snapshot::Snapshot;

/// What a follower needs next.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "until the real one is merged")]
pub enum Next {
    /// Nothing.
    UpToDate,
    /// Transactions, the first of which follows its position.
    Records(History),
    /// The whole database, in place of all that it has.
    Snapshot(Snapshot),
}

/// Logged transactions, oldest first.
#[derive(Debug)]
pub struct History {
    db: DbName,
    records: Records,
    last: Txid,
}

impl Database {
    /// What a follower at `pos` needs next.
    ///
    /// # Errors
    /// The log's.
    pub fn next_after(&self, pos: Option<Pos>) -> Result<Next, Error> {
        let Some(ours) = self.pos() else { return Ok(Next::UpToDate) };
        if pos == Some(ours) {
            return Ok(Next::UpToDate);
        }
        self.drain()?;
        let from = pos.and_then(|p| p.txid.next()).filter(|from| *from <= ours.txid);
        let records = self.log.lock().log.records(from.unwrap_or(Txid::FIRST));
        let records = records.map_err(|e| self.log_error(e))?;
        Ok(Next::Records(History { db: self.name.clone(), records, last: ours.txid }))
    }
}

impl Iterator for History {
    type Item = Result<(RecordMeta, BlobReader), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.records.next()?;
        let item = item.map_err(|source| Error::Log { db: self.db.clone(), source });
        Some(item).filter(|item| !matches!(item, Ok((meta, _)) if meta.max_txid > self.last))
    }
}
