//! What the position has of pages that were already written when a snapshot began.
//!
//! While a transaction writes the database file, or after an orphan in the WAL was overwritten, pages are
//! *dirty*: their place holds something newer than the position, or something that SQLite went back to.
//! Of each the capture knows the logged checksum, so a candidate proves itself, wherever it comes from and
//! whatever a writer does meanwhile:
//!
//! | candidate | has it when |
//! |---|---|
//! | the page's place | it was written back: a rollback |
//! | SQLite's journal | a transaction is under way, or its app died |
//! | the undo file | pages are written without a journal |
//! | the log | an orphan; a free page, whose content SQLite doesn't journal |
//!
//! If none has it, as when a file is being copied over the database, the position can't be read any more and
//! the next one isn't there yet: [`Error::Unsettled`].

use std::sync::Arc;

use crate::env::File;
use crate::error::{Error, IoContext};
use crate::sqlite::{JournalHeader, Playback};
use crate::types::Txid;

use crate::db::Database;
use crate::db::capture::Capture;
use crate::db::names::FileKind;
use crate::db::undo::Undo;

use super::image::Image;

impl Database {
    /// The journals that hold pages as they were.
    pub(super) fn journals(&self, c: &Capture) -> Result<Vec<Arc<dyn File>>, Error> {
        let journal = if c.journal_hot { self.open_if_there(FileKind::Journal)? } else { None };
        let undo = c.undo.as_ref().map(Undo::file).map(Arc::clone);
        Ok(journal.into_iter().chain(undo).collect())
    }

    /// Finds the old content of all missing pages.
    pub(super) fn find_originals(
        &self,
        image: &Image,
        journals: &[Arc<dyn File>],
    ) -> Result<(), Error> {
        let mut buf = image.files.buffer();
        let missing = image.kept.lock().missing();
        for pgno in missing {
            // A frame may be cut off, and the page is then elsewhere.
            if image.read_place(pgno, &mut buf).is_ok() {
                image.kept.lock().offer(pgno, &buf);
            }
        }
        for journal in journals {
            if !is_complete(image) {
                self.offer_journal(image, journal.as_ref())?;
            }
        }
        if !is_complete(image) {
            self.each_logged_page(Txid::FIRST..=Txid::MAX, |_, pgno, page| {
                image.kept.lock().offer(pgno, page);
                Ok(())
            })?;
        }
        image.check(&mut image.kept.lock())?;
        if is_complete(image) { Ok(()) } else { Err(Error::Unsettled { db: self.name.clone() }) }
    }

    fn offer_journal(&self, image: &Image, journal: &dyn File) -> Result<(), Error> {
        let len = journal.len().at("stat", self.paths.journal())?;
        let mut head = [0; JournalHeader::LEN];
        let n = journal.read_at(&mut head, 0).at("read", self.paths.journal())?;
        let page_size = image.files.page_size;
        let Ok(mut playback) = Playback::new(&head[..n], len, page_size) else { return Ok(()) };
        let mut buf = Vec::new();
        while let Some((offset, len)) = playback.next_read() {
            buf.resize(len, 0);
            let n = journal.read_at(&mut buf, offset).at("read", self.paths.journal())?;
            if let Some((pgno, page)) = playback.feed(&buf[..n]) {
                image.kept.lock().offer(pgno, page);
            }
        }
        Ok(())
    }
}

fn is_complete(image: &Image) -> bool {
    image.kept.lock().missing().is_empty()
}
