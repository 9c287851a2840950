//! Page contents as SQLite sees them: the WAL's frame, else the database file, else zeros.
//!
//! What isn't here: which frame is the latest of a page (see [`super::capture`]), and what a page's
//! content means.

use std::io;
use std::sync::Arc;

use crate::env::File;
use crate::ltx::page_checksum;
use crate::sqlite::wal::{FRAME_HEADER_LEN, frame_offset};
use crate::types::{Checksum, PageSize, Pgno};

/// Where a page's content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// In the database file, at the page's own place.
    Database,
    /// In the WAL, in the frame of this index (0 is the first).
    Wal(u32),
}

/// The files that hold a database's pages.
#[derive(Debug, Clone)]
pub(super) struct PageFiles {
    pub(super) database: Arc<dyn File>,
    pub(super) wal: Option<Arc<dyn File>>,
    pub(super) page_size: PageSize,
}

impl PageFiles {
    /// Reads a page; `buf` is one page long.
    pub(super) fn read(&self, pgno: Pgno, source: Source, buf: &mut [u8]) -> io::Result<()> {
        match (source, &self.wal) {
            (Source::Database, _) => {
                let n = self.database.read_at(buf, pgno.offset(self.page_size))?;
                // SQLite reads pages past the end of the file as zeros: a page that was allocated and
                // freed within one transaction is never written.
                buf[n..].fill(0);
                Ok(())
            }
            (Source::Wal(frame), Some(wal)) => {
                let offset = frame_offset(frame, self.page_size) + FRAME_HEADER_LEN as u64;
                wal.read_exact_at(buf, offset)
            }
            (Source::Wal(_), None) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The checksum of a page; `buf` is one page long.
    pub(super) fn sum(&self, pgno: Pgno, source: Source, buf: &mut [u8]) -> io::Result<Checksum> {
        self.read(pgno, source, buf)?;
        Ok(page_checksum(pgno, buf))
    }

    /// A buffer for one page.
    pub(super) fn buffer(&self) -> Vec<u8> {
        vec![0; self.page_size.as_usize()]
    }
}
