//! Writes one LTX file.
//!
//! Types rule out some errors of the original, so they have no variant here: a page before the header
//! (`cannot encode page header, expected header`), anything after the end (`ltx encoder closed`,
//! `cannot close, expected …`), page 0 (`page number required`), and a missing or malformed checksum in the
//! trailer (`post-apply checksum required`, `invalid post-apply checksum format`, likewise for the file's).

use std::borrow::BorrowMut;
use std::io::{self, Write};

use thiserror::Error;

use super::checksum::Crc64;
use super::lz4::{FrameWriter, Scratch};
use super::{Header, HeaderError, PAGE_HEADER_LEN, Trailer};
use crate::types::{Checksum, PageCount, Pgno};

/// Writes one LTX file: header, pages in ascending order, trailer.
///
/// ```
/// use litefs_core::ltx::{Encoder, Header, Timestamp, page_checksum};
/// use litefs_core::types::{PageCount, PageSize, Pgno, Txid};
///
/// let page = [0; 4096];
/// let header = Header {
///     compressed: true,
///     page_size: PageSize::new(4096).unwrap(),
///     commit: PageCount::new(1),
///     min_txid: Txid::FIRST,
///     max_txid: Txid::FIRST,
///     timestamp: Timestamp::from_millis(1_700_000_000_000),
///     pre_apply: None,
///     wal: None,
///     node_id: 0,
/// };
/// let mut encoder = Encoder::new(Vec::new(), &header)?;
/// encoder.page(Pgno::FIRST, &page)?;
/// let (file, trailer) = encoder.finish(page_checksum(Pgno::FIRST, &page))?;
/// assert!(file.len() < 300);
/// # Ok::<(), litefs_core::ltx::EncodeError>(())
/// ```
#[derive(Debug)]
pub struct Encoder<W, S = Scratch> {
    header: Header,
    body: Body<W, S>,
    /// The last page written.
    prev: Option<Pgno>,
    crc: Crc64,
}

/// Where the page block goes.
#[derive(Debug)]
enum Body<W, S> {
    Plain(W),
    Lz4(FrameWriter<W, S>),
}

impl<W: Write> Encoder<W> {
    /// Writes the header. Without compression every page is a write of its own: `w` should be buffered.
    ///
    /// # Errors
    /// If the header isn't valid or the write fails.
    pub fn new(w: W, header: &Header) -> Result<Encoder<W>, EncodeError> {
        Encoder::with_scratch(w, header, Scratch::default())
    }
}

impl<W: Write, S: BorrowMut<Scratch>> Encoder<W, S> {
    /// As [`Encoder::new`], with memory that another file has left: pass `&mut scratch`.
    ///
    /// # Errors
    /// As for [`Encoder::new`].
    pub fn with_scratch(
        mut w: W,
        header: &Header,
        scratch: S,
    ) -> Result<Encoder<W, S>, EncodeError> {
        let bytes = header.encode()?;
        w.write_all(&bytes)?;
        let mut crc = Crc64::new();
        crc.update(&bytes);
        let body = if header.compressed {
            Body::Lz4(FrameWriter::new(w, scratch)?)
        } else {
            Body::Plain(w)
        };
        Ok(Encoder { header: *header, body, prev: None, crc })
    }

    /// Writes a page.
    ///
    /// # Errors
    /// If the page may not stand here or the write fails.
    pub fn page(&mut self, pgno: Pgno, data: &[u8]) -> Result<(), EncodeError> {
        self.check_page(pgno, data.len())?;
        self.put(&pgno.as_u32().to_be_bytes())?;
        self.put(data)?;
        self.prev = Some(pgno);
        Ok(())
    }

    /// Ends the page block and writes the trailer.
    ///
    /// That a snapshot holds all pages isn't checked: see [`super::write_database`].
    ///
    /// # Errors
    /// If the checksum can't be right or the write fails.
    pub fn finish(mut self, post_apply: Checksum) -> Result<(W, Trailer), EncodeError> {
        if self.header.commit.is_zero() && post_apply != Checksum::EMPTY {
            return Err(EncodeError::PostApplyNotEmpty);
        }
        self.put(&[0; PAGE_HEADER_LEN])?;
        let mut w = match self.body {
            Body::Plain(w) => w,
            Body::Lz4(frame) => frame.finish()?,
        };
        let post_apply_bytes = post_apply.as_u64().to_be_bytes();
        self.crc.update(&post_apply_bytes);
        let file_checksum = self.crc.checksum();
        w.write_all(&post_apply_bytes)?;
        w.write_all(&file_checksum.as_u64().to_be_bytes())?;
        Ok((w, Trailer { post_apply, file_checksum }))
    }

    /// The order of the checks is the original's.
    fn check_page(&self, pgno: Pgno, len: usize) -> Result<(), EncodeError> {
        let Header { page_size, commit, .. } = self.header;
        if !commit.contains(pgno) {
            return Err(EncodeError::PageOutOfBounds { pgno, commit });
        }
        if len != page_size.as_usize() {
            return Err(EncodeError::PageLen { got: len, want: page_size.as_usize() });
        }
        let lock_page = page_size.lock_page();
        if pgno == lock_page {
            return Err(EncodeError::LockPage(pgno));
        }
        let (prev, next) = (self.prev.map_or(0, Pgno::as_u32), pgno.as_u32());
        if !self.header.is_snapshot() {
            if next > prev { Ok(()) } else { Err(EncodeError::PageOrder { prev, next }) }
        } else if prev == 0 {
            if next == 1 { Ok(()) } else { Err(EncodeError::SnapshotStart) }
        } else if prev == lock_page.as_u32() - 1 {
            if next == prev + 2 { Ok(()) } else { Err(EncodeError::SnapshotLockGap { prev, next }) }
        } else if next != prev + 1 {
            Err(EncodeError::SnapshotGap { prev, next })
        } else {
            Ok(())
        }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        match &mut self.body {
            Body::Plain(w) => w.write_all(bytes),
            Body::Lz4(frame) => frame.write_all(bytes),
        }
    }
}

/// Why a file can't be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The header isn't valid.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The page lies behind the end of the database.
    #[error("page number {pgno} out-of-bounds for commit size {commit}")]
    PageOutOfBounds {
        /// The page.
        pgno: Pgno,
        /// Size of the database.
        commit: PageCount,
    },
    /// Not the page size of the header.
    #[error("invalid page buffer size: {got}, expecting {want}")]
    PageLen {
        /// Length of the page.
        got: usize,
        /// The page size.
        want: usize,
    },
    /// The lock page is never stored.
    #[error("cannot encode lock page: pgno={0}")]
    LockPage(Pgno),
    /// A snapshot that doesn't begin with page 1.
    #[error("snapshot transaction file must start with page number 1")]
    SnapshotStart,
    /// A snapshot leaves out another page than the lock page, beside it.
    #[error("nonsequential page numbers in snapshot transaction (skip lock page): {prev},{next}")]
    SnapshotLockGap {
        /// The page before.
        prev: u32,
        /// The page.
        next: u32,
    },
    /// A snapshot leaves out a page.
    #[error("nonsequential page numbers in snapshot transaction: {prev},{next}")]
    SnapshotGap {
        /// The page before.
        prev: u32,
        /// The page.
        next: u32,
    },
    /// Pages must ascend.
    #[error("out-of-order page numbers: {prev},{next}")]
    PageOrder {
        /// The page before.
        prev: u32,
        /// The page.
        next: u32,
    },
    /// A deleted database has no pages to make a checksum of.
    #[error("post-apply checksum must be empty for zero-length database")]
    PostApplyNotEmpty,
    /// The writer failed.
    #[error("cannot write ltx file")]
    Io(#[from] io::Error),
}
