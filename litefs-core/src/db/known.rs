//! Finds, after a crash, the last state of the pages that the log knows.
//!
//! The WAL is followed from its start. After each of its transactions the database had some checksum; the
//! last one that a record of the log ends with tells how far log and files agree:
//!
//! ```text
//!  log:   1 ── 2 ── 3 ── 4           4 is an orphan: SQLite forgot it and overwrote its frames with 4'
//!  WAL:        2 ── 3 ── 4'          known: 3, overtaken
//!  WAL:        2 ── 3                known: 3, not overtaken: 4 was never made durable
//! ```
//!
//! Reads only. What follows from it is [`super::recover`]'s to decide.

use std::collections::HashMap;
use std::sync::Arc;

use crate::env::File;
use crate::error::{Error, IoContext};
use crate::log::RecordMeta;
use crate::types::{Checksum, PageCount, Pos, Txid};

use super::Database;
use super::capture::{Capture, WalTail};
use super::names::FileKind;
use super::pages::PageFiles;
use super::plan::{Logged, WalPages};

/// The last state that the log knows.
#[derive(Debug)]
pub(super) struct Known {
    /// The record that ends with it.
    pub(super) at: RecordMeta,
    /// The WAL up to there.
    pub(super) tail: Option<WalTail>,
    /// The WAL has transactions after it.
    pub(super) overtaken: bool,
}

impl Database {
    /// The checksum of the pages as SQLite would see them, and the last state that the log knows.
    pub(super) fn find_known(
        &self,
        wal: Option<&Arc<dyn File>>,
    ) -> Result<(Option<Checksum>, Option<Known>), Error> {
        let Some((mut c, files, tail)) = self.before_wal(wal)? else { return Ok((None, None)) };
        let records = self.known_states()?;
        let state = |c: &Capture| records.get(&(Pos::checksum(c.logged.pos), c.logged.count));
        let mut found = state(&c).map(|meta| (meta.clone(), 0));
        let mut frames = 0;
        if let (Some(wal), Some(mut tail)) = (wal, tail) {
            while let Some(tx) = tail.advance(wal.as_ref()).at("read", self.paths.wal())? {
                let plan = c.view(self, &files, tail.pages(), &tx.pages, tx.commit).plan()?;
                c.logged = plan.map_or(c.logged, |plan| plan.logged());
                tail.accept(tx);
                frames = tail.captured();
                found = state(&c).map(|meta| (meta.clone(), frames)).or(found);
            }
        }
        let now = c.logged.pos.map(|pos| pos.post_apply);
        let Some((at, known_frames)) = found else { return Ok((now, None)) };
        let tail = self.tail_up_to(wal, known_frames)?;
        Ok((now, Some(Known { at, tail, overtaken: known_frames < frames })))
    }

    /// The state of the database file alone, and the WAL's start; `None` if there is no database.
    ///
    /// While the WAL is checkpointed that state is none that ever was; no record has its checksum then.
    fn before_wal(
        &self,
        wal: Option<&Arc<dyn File>>,
    ) -> Result<Option<(Capture, PageFiles, Option<WalTail>)>, Error> {
        let Some(file) = self.open_if_there(FileKind::Database)? else { return Ok(None) };
        let tail = self.tail_up_to(wal, 0)?;
        let header = match self.read_header(file.as_ref()) {
            Ok(header) => header,
            Err(Error::Header { .. }) => None,
            Err(err) => return Err(err),
        };
        let page_size = tail.as_ref().map(WalTail::page_size);
        let Some(page_size) = page_size.or(header.map(|(header, _)| header.page_size)) else {
            return Ok(None);
        };
        let count = header.map_or(PageCount::ZERO, |(_, count)| count);
        let (none, mut files) = (WalPages::new(), self.page_files(page_size)?);
        let mut c = Capture::default();
        let post_apply = c.view(self, &files, &none, &none, count).checksum()?;
        let pos = Some(Pos { txid: Txid::FIRST, post_apply });
        c.logged = Logged { pos, page_size: Some(page_size), count };
        files.wal = wal.cloned();
        Ok(Some((c, files, tail)))
    }

    /// The WAL up to its first `frames` frames.
    fn tail_up_to(
        &self,
        wal: Option<&Arc<dyn File>>,
        frames: u32,
    ) -> Result<Option<WalTail>, Error> {
        let Some(wal) = wal else { return Ok(None) };
        let mut tail = WalTail::open(wal.as_ref()).at("read", self.paths.wal())?;
        while let Some(tail) = tail.as_mut().filter(|tail| tail.captured() < frames) {
            match tail.advance(wal.as_ref()).at("read", self.paths.wal())? {
                Some(tx) => tail.accept(tx),
                None => break,
            }
        }
        Ok(tail)
    }

    /// The newest record of each state.
    fn known_states(&self) -> Result<HashMap<(Checksum, PageCount), RecordMeta>, Error> {
        let mut states = HashMap::new();
        for record in self.records()? {
            let (meta, _) = record.map_err(|e| self.log_error(e))?;
            states.insert((meta.post_apply, meta.commit), meta);
        }
        Ok(states)
    }
}
