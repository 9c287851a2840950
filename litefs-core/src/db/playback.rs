//! Rolls a database back by a journal: SQLite's own, or the undo file.
//!
//! What isn't here: the journal's format (see [`crate::sqlite::journal`]) and when to roll back (see
//! [`super::recover`]).

use std::sync::Arc;

use crate::env::File;
use crate::error::{Error, IoContext};
use crate::log::{RecordKind, RecordMeta};
use crate::sqlite::journal::{SUPER_JOURNAL_TAIL_LEN, super_journal_name};
use crate::sqlite::{JournalHeader, Playback};
use crate::store::INCOMING_PREFIX;
use crate::types::{PageSize, Pgno};

use super::Database;
use super::capture::Capture;
use super::names::{FileKind, SuperSuffix};
use super::undo::REPLACED;

/// What a journal led to.
pub(super) struct Played {
    /// How many pages were handed out.
    pub(super) pages: u64,
    /// Length of the database file before the transaction.
    pub(super) len: u64,
}

impl Database {
    /// If pages were written without a journal when the process died: puts them back, or, if the whole
    /// file was being replaced, notes that.
    pub(super) fn roll_back_undo(&self, c: &mut Capture) -> Result<(), Error> {
        let path = self.paths.undo();
        let undo = match self.env.open(&path, crate::env::OpenMode::Existing) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e).at("open", path),
        };
        let mut mark = REPLACED.map(|byte| !byte);
        undo.read_at(&mut mark, 0).at("read", &path)?;
        if mark == REPLACED {
            tracing::warn!(db = %self.name, "the database was being replaced when the process ended; taking the file as it is");
            c.dirty.whole = true;
        } else {
            let pages = self.play_back(&undo)?;
            tracing::warn!(db = %self.name, pages, "rolled back what was written without a journal");
        }
        self.env.remove_file(&path).at("remove", &path)
    }

    /// If a transaction was under way when the process died: rolls it back; whether there was one.
    pub(super) fn roll_back_journal(&self, last: Option<&RecordMeta>) -> Result<bool, Error> {
        let Some(journal) = self.open_if_there(FileKind::Journal)? else { return Ok(false) };
        let under_way =
            super::recover::is_hot(journal.as_ref()) && !self.super_journal_is_gone(&journal)?;
        if under_way {
            let mut head = [0; JournalHeader::LEN];
            let n = journal.read_at(&mut head, 0).at("read", self.paths.journal())?;
            let nonce = JournalHeader::decode(&head[..n]).ok().map(|h| h.nonce);
            // The record goes first: once the pages are back, nothing tells that it wasn't committed.
            let staged = last.map(|meta| meta.kind);
            if let (Some(nonce), Some(RecordKind::Staged { journal_nonce })) = (nonce, staged)
                && nonce == journal_nonce
            {
                self.drop_last()?;
            }
            let pages = self.play_back(&journal)?;
            tracing::warn!(db = %self.name, pages, "rolled back a transaction that was under way");
        }
        self.remove(FileKind::Journal)?;
        self.sync_dir()?;
        Ok(under_way)
    }

    /// Removes super-journals, once no journal can name them any more: all databases are rolled back. Also names that
    /// were to be removed at once.
    pub(crate) fn remove_leftovers(&self) -> Result<(), Error> {
        for name in self.env.read_dir(self.paths.dir()).at("read", self.paths.dir())? {
            let left = |n: &str| n.starts_with("super-") || n.starts_with(INCOMING_PREFIX);
            if name.to_str().is_some_and(left) {
                let path = self.paths.dir().join(&name);
                self.env.remove_file(&path).at("remove", path)?;
            }
        }
        Ok(())
    }

    /// Writes a journal's pages back to the database file; returns their number.
    fn play_back(&self, journal: &Arc<dyn File>) -> Result<u64, Error> {
        let Some(file) = self.open_if_there(FileKind::Database)? else { return Ok(0) };
        let path = self.paths.database();
        let write = |page: &[u8], offset| file.write_at(page, offset).at("write", &path);
        let Some(Played { pages, len }) = self.play_back_to(journal, write)? else { return Ok(0) };
        file.set_len(len).at("truncate", &path)?;
        file.sync().at("sync", &path)?;
        Ok(pages)
    }

    /// Hands out a journal's pages, each with its offset in the database file; `None` if there is no valid header.
    pub(super) fn play_back_to(
        &self,
        journal: &Arc<dyn File>,
        mut write: impl FnMut(&[u8], u64) -> Result<(), Error>,
    ) -> Result<Option<Played>, Error> {
        let len = journal.len().at("stat", self.paths.journal())?;
        let mut head = [0; JournalHeader::LEN];
        let n = journal.read_at(&mut head, 0).at("read", self.paths.journal())?;
        let Ok(mut playback) = Playback::new(&head[..n], len, DEFAULT_PAGE_SIZE) else {
            return Ok(None);
        };
        let page_size = playback.page_size();
        let (mut buf, mut pages) = (Vec::new(), 0);
        while let Some((offset, len)) = playback.next_read() {
            buf.resize(len, 0);
            let n = journal.read_at(&mut buf, offset).at("read", self.paths.journal())?;
            if let Some((pgno, page)) = playback.feed(&buf[..n]) {
                write(page, Pgno::offset(pgno, page_size))?;
                pages += 1;
            }
        }
        Ok(Some(Played { pages, len: playback.initial_size().len_bytes(page_size) }))
    }

    /// Whether the journal belongs to a transaction over several databases that was committed: then the
    /// super-journal that it names is gone.
    fn super_journal_is_gone(&self, journal: &Arc<dyn File>) -> Result<bool, Error> {
        let len = journal.len().at("stat", self.paths.journal())?;
        let mut tail =
            vec![0; SUPER_JOURNAL_TAIL_LEN.min(usize::try_from(len).unwrap_or(usize::MAX))];
        let from = len - tail.len() as u64;
        journal.read_exact_at(&mut tail, from).at("read", self.paths.journal())?;
        let Some(name) = super_journal_name(&tail).and_then(|n| std::str::from_utf8(n).ok()) else {
            return Ok(false);
        };
        let file_name = name.rsplit('/').next().unwrap_or(name);
        let ours = SuperSuffix::split(file_name).and_then(|(db, suffix)| {
            let dir = self.paths.dir().parent()?.join(db);
            self.env.metadata(&dir).ok().map(|_| dir.join(format!("super-{}", suffix.as_str())))
        });
        // A super-journal of a database outside of the mount lies beside that one.
        let path = ours.unwrap_or_else(|| name.into());
        Ok(self.env.metadata(&path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound))
    }
}

/// Only for a journal that doesn't say its page size, as very old versions of SQLite wrote them.
const DEFAULT_PAGE_SIZE: PageSize = match PageSize::new(1024) {
    Some(size) => size,
    None => PageSize::MAX,
};
