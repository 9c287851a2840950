//! Turns a snapshot back into the database it was made of.

use std::borrow::BorrowMut;
use std::io::{self, Read, Write};

use thiserror::Error;

use super::{DecodeError, Decoder, Scratch, Trailer};
use crate::types::{PageCount, Pgno};

/// Writes the whole database file that a snapshot holds; returns the snapshot's trailer.
///
/// Here, unlike in the decoder, all pages must be there. The lock page is written as zeros.
///
/// # Errors
/// If the file is no snapshot, lacks pages or is damaged, or reading or writing fails. Part of the
/// database may have been written then.
pub fn write_database<R: Read, S: BorrowMut<Scratch>>(
    mut decoder: Decoder<R, S>,
    mut out: impl Write,
) -> Result<Trailer, DatabaseError> {
    let header = *decoder.header();
    if !header.is_snapshot() {
        return Err(DatabaseError::NotSnapshot);
    }
    let lock_page = header.page_size.lock_page();
    let mut page = vec![0; header.page_size.as_usize()];
    for expected in (1..=header.commit.as_u32()).filter_map(Pgno::new) {
        if expected == lock_page {
            page.fill(0);
        } else {
            let read = next_page(&mut decoder, &mut page, expected)?
                .ok_or(DatabaseError::Page { pgno: expected, cause: DecodeError::Eof })?;
            if read != expected {
                return Err(DatabaseError::UnexpectedPage { read, expected });
            }
        }
        out.write_all(&page)?;
    }
    let commit = header.commit;
    let behind = Pgno::new(commit.as_u32().saturating_add(1)).unwrap_or(Pgno::FIRST);
    if let Some(pgno) = next_page(&mut decoder, &mut page, behind)? {
        return Err(DatabaseError::PageAfterCommit { pgno, commit });
    }
    decoder.finish().map_err(DatabaseError::Close)
}

fn next_page<R: Read, S: BorrowMut<Scratch>>(
    decoder: &mut Decoder<R, S>,
    buf: &mut [u8],
    pgno: Pgno,
) -> Result<Option<Pgno>, DatabaseError> {
    decoder.next_page(buf).map_err(|cause| DatabaseError::Page { pgno, cause })
}

/// Why a snapshot can't be turned into a database.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// The file needs another one before it.
    #[error("cannot decode non-snapshot LTX file to SQLite database")]
    NotSnapshot,
    /// A page is missing or stands at another place.
    #[error("unexpected pgno while decoding page: read {read}, expected {expected}")]
    UnexpectedPage {
        /// The page that is there.
        read: Pgno,
        /// The page that should be.
        expected: Pgno,
    },
    /// More pages than the header says.
    #[error("unexpected page {pgno} after commit {commit}")]
    PageAfterCommit {
        /// The first page too many.
        pgno: Pgno,
        /// Size of the database.
        commit: PageCount,
    },
    /// The page block is damaged, or ends too early ([`DecodeError::Eof`]).
    #[error("decode page {pgno}: {cause}")]
    Page {
        /// The page that was expected.
        pgno: Pgno,
        /// What is wrong.
        cause: DecodeError,
    },
    /// In the trailer.
    #[error("close reader: {0}")]
    Close(DecodeError),
    /// The writer failed.
    #[error("cannot write database")]
    Io(#[from] io::Error),
}
