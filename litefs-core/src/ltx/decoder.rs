//! Reads one LTX file.
//!
//! As in the original, neither the order of the pages nor their bounds are checked here: who applies a
//! file decides what it needs. What is checked is that the file holds what its writer wrote, and, for
//! snapshots, that the pages are those that the post-apply checksum was made of.

use std::borrow::BorrowMut;
use std::io::{self, Read};

use thiserror::Error;

use super::checksum::{Crc64, page_checksum};
use super::lz4::{FrameReader, Lz4Error, Scratch};
use super::{HEADER_LEN, Header, HeaderError, PAGE_HEADER_LEN, TRAILER_LEN, Trailer};
use crate::types::{Checksum, Pgno};

/// Reads one LTX file: header, pages, trailer; nothing behind it.
///
/// It reads in small pieces: unless other data follows the file in the reader, give it a buffered one.
///
/// A value of this type has read the header; [`Decoder::next_page`] returns `None` once the pages are
/// through; [`Decoder::finish`] then checks the trailer.
#[derive(Debug)]
pub struct Decoder<R, S = Scratch> {
    header: Header,
    body: Body<R, S>,
    /// Whether the end marker was read.
    at_end: bool,
    /// `None` if nobody asks for it.
    crc: Option<Crc64>,
    /// For snapshots: the rolling checksum of the pages so far.
    rolling: Checksum,
}

/// Where the page block comes from.
#[derive(Debug)]
enum Body<R, S> {
    Plain(R),
    Lz4(FrameReader<R, S>),
}

impl<R: Read> Decoder<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// If it isn't valid or the read fails.
    pub fn new(r: R) -> Result<Decoder<R>, DecodeError> {
        Decoder::with_scratch(r, Scratch::default())
    }

    /// As [`Decoder::new`], for a reader that fails at its end unless all its bytes are right, as those of the log do: the
    /// checksums inside the file, which are over the same bytes, aren't calculated again.
    ///
    /// # Errors
    /// As for [`Decoder::new`].
    pub fn of_checked(r: R) -> Result<Decoder<R>, DecodeError> {
        Decoder::begin(r, Scratch::default(), false)
    }
}

impl<R: Read, S: BorrowMut<Scratch>> Decoder<R, S> {
    /// As [`Decoder::new`], with memory that another file has left: pass `&mut scratch`.
    ///
    /// # Errors
    /// As for [`Decoder::new`].
    pub fn with_scratch(r: R, scratch: S) -> Result<Decoder<R, S>, DecodeError> {
        Decoder::begin(r, scratch, true)
    }

    fn begin(mut r: R, scratch: S, checks: bool) -> Result<Decoder<R, S>, DecodeError> {
        let mut bytes = [0; HEADER_LEN];
        read_full(&mut r, &mut bytes)?;
        let header = Header::decode(&bytes)?;
        let mut crc = checks.then(Crc64::new);
        if let Some(crc) = &mut crc {
            crc.update(&bytes);
        }
        let body = if header.compressed {
            Body::Lz4(FrameReader::new(r, scratch, checks))
        } else {
            Body::Plain(r)
        };
        Ok(Decoder { header, body, at_end: false, crc, rolling: Checksum::EMPTY })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Reads the next page into `buf`, which must have the page size. `None` after the last.
    ///
    /// # Errors
    /// If the file is damaged or the read fails. The decoder is of no use then.
    pub fn next_page(&mut self, buf: &mut [u8]) -> Result<Option<Pgno>, DecodeError> {
        let want = self.header.page_size.as_usize();
        if buf.len() != want {
            return Err(DecodeError::PageLen { got: buf.len(), want });
        }
        if self.at_end {
            return Ok(None);
        }
        let mut raw_pgno = [0; PAGE_HEADER_LEN];
        self.take(&mut raw_pgno)?;
        let Some(pgno) = Pgno::new(u32::from_be_bytes(raw_pgno)) else {
            self.body.expect_end()?;
            self.at_end = true;
            return Ok(None);
        };
        self.take(buf)?;
        if self.header.is_snapshot() && pgno != self.header.page_size.lock_page() {
            self.rolling = self.rolling.toggle(page_checksum(pgno, buf));
        }
        Ok(Some(pgno))
    }

    /// Reads the trailer and checks it. All pages must have been read.
    ///
    /// # Errors
    /// If pages are left, a checksum doesn't match or the read fails.
    pub fn finish(mut self) -> Result<Trailer, DecodeError> {
        if !self.at_end {
            return Err(DecodeError::PagesLeft);
        }
        let mut bytes = [0; TRAILER_LEN];
        read_full(self.body.inner(), &mut bytes)?;
        let post_apply = u64::from_be_bytes(std::array::from_fn(|i| bytes[i]));
        let stored = u64::from_be_bytes(std::array::from_fn(|i| bytes[8 + i]));

        if let Some(crc) = &mut self.crc {
            crc.update(&bytes[..8]);
        }
        let calculated = self.crc.map(|crc| crc.checksum());
        let file_checksum = Checksum::new(stored)
            .filter(|stored| calculated.is_none_or(|calculated| calculated == *stored))
            .ok_or(DecodeError::FileChecksum)?;
        if self.header.is_snapshot() && post_apply != self.rolling.as_u64() {
            return Err(DecodeError::PostApply { trailer: post_apply, calculated: self.rolling });
        }
        // Differs from LiteFS: its decoder hands on a post-apply checksum that is none.
        match (Checksum::new(post_apply), post_apply) {
            (Some(post_apply), _) => Ok(Trailer { post_apply, file_checksum }),
            (None, 0) => Err(DecodeError::PostApplyRequired),
            (None, _) => Err(DecodeError::PostApplyFormat),
        }
    }

    /// Fills `buf` from the page block.
    fn take(&mut self, buf: &mut [u8]) -> Result<(), DecodeError> {
        match &mut self.body {
            Body::Plain(r) => read_full(r, buf)?,
            Body::Lz4(frame) => match frame.read(buf)? {
                n if n == buf.len() => {}
                0 => return Err(DecodeError::Eof),
                _ => return Err(DecodeError::UnexpectedEof),
            },
        }
        if let Some(crc) = &mut self.crc {
            crc.update(buf);
        }
        Ok(())
    }
}

impl<R: Read, S: BorrowMut<Scratch>> Body<R, S> {
    /// Reads what the frame has behind the end marker: its own end, and no content.
    fn expect_end(&mut self) -> Result<(), DecodeError> {
        let Body::Lz4(frame) = self else { return Ok(()) };
        match frame.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(DecodeError::ContentAfterEnd),
        }
    }

    fn inner(&mut self) -> &mut R {
        match self {
            Body::Plain(r) => r,
            Body::Lz4(frame) => frame.inner(),
        }
    }
}

/// What is wrong with a file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Fewer bytes than a header has.
    #[error("short buffer")]
    ShortBuffer,
    /// Another kind of file.
    #[error("invalid LTX file")]
    NotLtx,
    /// The header isn't valid.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The input ended where something should begin.
    #[error("EOF")]
    Eof,
    /// The input ended in the middle of something.
    #[error("unexpected EOF")]
    UnexpectedEof,
    /// The caller's buffer hasn't the page size.
    #[error("invalid page buffer size: {got}, expecting {want}")]
    PageLen {
        /// Length of the buffer.
        got: usize,
        /// The page size.
        want: usize,
    },
    /// The LZ4 frame is damaged.
    #[error(transparent)]
    Lz4(#[from] Lz4Error),
    /// The LZ4 frame goes on after the end marker of the page block.
    #[error("expected lz4 end frame")]
    ContentAfterEnd,
    /// The trailer can't be read before the pages.
    #[error("cannot close, expected page")]
    PagesLeft,
    /// The file isn't what its writer wrote.
    #[error("file checksum mismatch")]
    FileChecksum,
    /// A snapshot's pages aren't those that its writer had.
    #[error(
        "post-apply checksum in trailer ({trailer:016x}) does not match calculated checksum ({calculated})"
    )]
    PostApply {
        /// The post-apply checksum of the trailer.
        trailer: u64,
        /// The rolling checksum of the pages.
        calculated: Checksum,
    },
    /// The trailer's post-apply checksum is 0.
    #[error("post-apply checksum required")]
    PostApplyRequired,
    /// Bit 63 of the trailer's post-apply checksum isn't set.
    #[error("invalid post-apply checksum format")]
    PostApplyFormat,
    /// The reader failed. The text is the cause's own, since the errors around this one quote it.
    #[error(transparent)]
    Io(io::Error),
}

/// Fills `buf`. Unlike [`Read::read_exact`] it tells an end before the first byte from one after it.
pub(super) fn read_full(r: &mut impl Read, buf: &mut [u8]) -> Result<(), DecodeError> {
    let mut done = 0;
    while done < buf.len() {
        match r.read(&mut buf[done..]) {
            Ok(0) if done == 0 => return Err(DecodeError::Eof),
            Ok(0) => return Err(DecodeError::UnexpectedEof),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(DecodeError::Io(e)),
        }
    }
    Ok(())
}
