//! Pre-images of pages that are written without a journal, so that a killed daemon leaves no half transaction.
//!
//! With `journal_mode=MEMORY` or `OFF`, or when a file is copied over a database, SQLite keeps nothing on disk
//! to roll back to. This file does, in the form of a rollback journal, until the change is in the log:
//!
//! | content | meaning at start |
//! |---|---|
//! | header, records | play it back: the database is as the log says; a new one is empty |
//! | [`REPLACED`] | the whole file was being replaced: take it as it is |
//! | anything else | nothing was changed yet, or the power went and took it: no help |
//!
//! It is never synced: these modes ask for no safety from power loss, only the daemon's own death is
//! answered for. The format is SQLite's, "The Rollback Journal", with the record count left to the file's size.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::env::{Env, File, OpenMode};
use crate::sqlite::JournalHeader;
use crate::sqlite::journal::record_checksum;
use crate::types::{PageCount, PageSize, Pgno};

/// An open undo file.
#[derive(Debug)]
pub(super) struct Undo {
    path: PathBuf,
    file: Arc<dyn File>,
    /// Where the next record goes; `None` if the file only marks a replacement.
    end: Option<u64>,
    record: Vec<u8>,
}

impl Undo {
    /// Begins to keep pages of a database of `count` pages.
    pub(super) fn begin(
        env: &dyn Env,
        path: &Path,
        page_size: PageSize,
        count: PageCount,
    ) -> io::Result<Undo> {
        let file = env.open(path, OpenMode::Create)?;
        file.set_len(0)?;
        let mut header = vec![0; SECTOR_SIZE as usize];
        header[..8].copy_from_slice(&JournalHeader::MAGIC);
        header[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
        header[12..16].copy_from_slice(&NONCE.to_be_bytes());
        header[16..20].copy_from_slice(&count.as_u32().to_be_bytes());
        header[20..24].copy_from_slice(&SECTOR_SIZE.to_be_bytes());
        header[24..28].copy_from_slice(&page_size.as_u32().to_be_bytes());
        file.write_at(&header, 0)?;
        Ok(Undo { path: path.into(), file, end: Some(header.len() as u64), record: Vec::new() })
    }

    /// Marks that the whole file is being replaced: there is nothing to go back to.
    pub(super) fn give_up(env: &dyn Env, path: &Path) -> io::Result<Undo> {
        let file = env.open(path, OpenMode::Create)?;
        file.set_len(0)?;
        file.write_at(&REPLACED, 0)?;
        Ok(Undo { path: path.into(), file, end: None, record: Vec::new() })
    }

    /// Keeps a page's old content.
    pub(super) fn save(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        let Some(end) = self.end else { return Ok(()) };
        self.record.clear();
        self.record.extend_from_slice(&pgno.as_u32().to_be_bytes());
        self.record.extend_from_slice(page);
        self.record.extend_from_slice(&record_checksum(NONCE, page).to_be_bytes());
        self.file.write_at(&self.record, end)?;
        self.end = Some(end + self.record.len() as u64);
        Ok(())
    }

    /// The file, in the form of a rollback journal.
    pub(super) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// The change is in the log.
    pub(super) fn remove(self, env: &dyn Env) -> io::Result<()> {
        env.remove_file(&self.path)
    }
}

/// All that the file holds while the whole database file is being replaced.
pub(super) const REPLACED: [u8; 8] = *b"REPLACED";

const SECTOR_SIZE: u32 = 512;
const NONCE: u32 = 0x6c66_7301;
