//! A transaction whose writer is gone, under a hot journal or without one: rolled back before anything is applied, as a reader of SQLite would do it.
//!
//! It is left by an application that died, or that can't get rid of it, while it was writing as a primary or under the halt
//! lock. The start has rolled back what was there before (see [`crate::db::recover`]).

use std::sync::Arc;

use super::Applied;
use crate::db::{Database, FileKind};
use crate::error::{Error, IoContext};

impl Database {
    /// Rolls back what was left half-way, if anything was, unless its writer still has its locks.
    ///
    /// # Errors
    /// `Corrupt` if the whole file was being replaced: only a snapshot helps. I/O errors.
    pub(in crate::db) fn roll_back_abandoned(&self, reserved: bool) -> Result<Applied, Error> {
        if !self.capture.lock().is_half_way() {
            return Ok(Applied::All);
        }
        let Some(file) = self.open_exclusively(reserved)? else { return Ok(Applied::Waiting) };
        // Who had the lock before may have rolled it back.
        let (journal, from) = {
            let c = self.capture.lock();
            match &c.undo {
                _ if c.journal_hot => (self.file(FileKind::Journal)?, c.logged),
                Some(undo) => (Arc::clone(undo.file()), c.logged),
                None => return Ok(Applied::All),
            }
        };
        // The record goes first: once the pages are back, nothing tells that it wasn't committed.
        self.unstage(&mut self.capture.lock())?;
        let failed = |e| self.peer_error(e, "roll back", FileKind::Database);
        let write = |page: &[u8], offset| file.write_at(page, offset).map_err(failed);
        let played = self.play_back_to(&journal, write)?;
        if let Some(played) = &played {
            file.set_len(played.len).map_err(failed)?;
        }
        if self.capture.lock().journal_hot {
            let removed = self.peer().remove(&self.name, FileKind::Journal);
            removed.map_err(|e| self.peer_error(e, "remove", FileKind::Journal))?;
        }
        let mut c = self.capture.lock();
        if let Some(undo) = c.undo.take() {
            undo.remove(self.env.as_ref()).at("remove", self.paths.undo())?;
        }
        let replaced = c.dirty.whole;
        c.journal_hot = false;
        c.dirty = Default::default();
        drop(c);
        if let (true, Some(pos)) = (replaced, from.pos) {
            return Err(self.diverged(&from, pos));
        }
        tracing::warn!(db = %self.name, pages = played.map_or(0, |played| played.pages),
            "rolled back a transaction that its writer has left behind");
        Ok(Applied::All)
    }
}
