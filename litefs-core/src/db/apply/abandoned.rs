//! A hot journal whose writer is gone: rolled back before anything is applied, as a reader of SQLite would do it.
//!
//! It is left by an application that died, or that can't get rid of it, while it was writing as a primary or under the halt
//! lock. The start has rolled back what was there before (see [`crate::db::recover`]).

use super::Applied;
use crate::db::{Database, FileKind};
use crate::error::Error;

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
        let failed = |e| self.peer_error(e, "roll back", FileKind::Database);
        let write = |page: &[u8], offset| file.write_at(page, offset).map_err(failed);
        let played = self.play_back_to(&journal, write)?;
        if let Some(played) = &played {
            file.set_len(played.len).map_err(failed)?;
        }
        let removed = self.peer().remove(&self.name, FileKind::Journal);
        removed.map_err(|e| self.peer_error(e, "remove", FileKind::Journal))?;
        let mut c = self.capture.lock();
        c.journal_hot = false;
        c.dirty = Default::default();
        tracing::warn!(db = %self.name, pages = played.map_or(0, |played| played.pages),
            "rolled back a transaction that its writer has left behind");
        Ok(Applied::All)
    }
}
