//! A hot journal whose writer is gone: rolled back before anything is applied, as a reader of SQLite would do it.
//!
//! It is left by an application that died, or that can't get rid of it, while it was writing as a primary or under the halt
//! lock. The start has rolled back what was there before (see [`crate::db::recover`]).

use std::sync::Arc;

use super::Applied;
use crate::db::{Database, FileKind};
use crate::env::File;
use crate::error::{Error, IoContext};
use crate::sqlite::{JournalHeader, Playback};
use crate::types::{PageSize, Pgno};

use crate::db::peer::PeerFile;

impl Database {
    /// Rolls back a hot journal, if there is one, unless its writer still has its locks.
    pub(in crate::db) fn roll_back_abandoned(&self, reserved: bool) -> Result<Applied, Error> {
        if !self.capture.lock().journal_hot {
            return Ok(Applied::All);
        }
        let Some(file) = self.open_exclusively(reserved)? else { return Ok(Applied::Waiting) };
        // Who had the lock before may have rolled it back.
        if !self.capture.lock().journal_hot {
            return Ok(Applied::All);
        }
        let journal = self.file(FileKind::Journal)?;
        // The record goes first: once the pages are back, nothing tells that it wasn't committed.
        self.unstage(&mut self.capture.lock())?;
        let pages = self.play_back_to(file.as_ref(), &journal)?;
        let removed = self.peer().remove(&self.name, FileKind::Journal);
        removed.map_err(|e| self.peer_error(e, "remove", FileKind::Journal))?;
        let mut c = self.capture.lock();
        c.journal_hot = false;
        c.dirty = Default::default();
        tracing::warn!(db = %self.name, pages, "rolled back a transaction that its writer has left behind");
        Ok(Applied::All)
    }

    fn play_back_to(&self, file: &dyn PeerFile, journal: &Arc<dyn File>) -> Result<u64, Error> {
        let path = self.paths.journal();
        let failed = |e| self.peer_error(e, "roll back", FileKind::Database);
        let len = journal.len().at("stat", &path)?;
        let mut head = [0; JournalHeader::LEN];
        let n = journal.read_at(&mut head, 0).at("read", &path)?;
        let default = self.capture.lock().page_size.unwrap_or(PageSize::MAX);
        let Ok(mut playback) = Playback::new(&head[..n], len, default) else { return Ok(0) };
        let page_size = playback.page_size();
        let (mut buf, mut pages) = (Vec::new(), 0);
        while let Some((offset, len)) = playback.next_read() {
            buf.resize(len, 0);
            let n = journal.read_at(&mut buf, offset).at("read", &path)?;
            if let Some((pgno, page)) = playback.feed(&buf[..n]) {
                file.write_at(page, Pgno::offset(pgno, page_size)).map_err(failed)?;
                pages += 1;
            }
        }
        file.set_len(playback.initial_size().len_bytes(page_size)).map_err(failed)?;
        Ok(pages)
    }
}
