//! The LZ4 frame around the page block of a compressed file.
//!
//! Written here rather than taken from `lz4_flex::frame`: skippable frames are accepted, an end of input
//! inside the frame is always an error, and memory is reused from file to file ([`Scratch`]), which saves a
//! tenth of the time for a file of one page. Compression of a block is `lz4_flex`'s.
//!
//! ```text
//! | 04 22 4d 18 | FLG BD [content size u64] HC | block … | 00 00 00 00 | [content checksum] |
//!                                              | length u32, data, [checksum] |
//!                                                  `- bit 31: stored as it is
//! ```
//!
//! All integers are little-endian; checksums are xxh32. Written: independent blocks of 64 KiB, a content
//! checksum, nothing optional else. Read: everything of the format but dictionaries.
//!
//! Source: "LZ4 Frame Format Description", version 1.6.

use std::borrow::BorrowMut;
use std::fmt;
use std::hash::Hasher;
use std::io::{self, Read, Write};

use lz4_flex::block::{self, CompressTable};
use thiserror::Error;
use twox_hash::XxHash32;

use super::DecodeError;
use super::decoder::read_full;

/// Memory that coding leaves behind for the next file.
///
/// Holds about 150 KiB after a file with many pages; nothing as long as files aren't compressed.
#[derive(Default)]
pub struct Scratch {
    plain: Vec<u8>,
    packed: Vec<u8>,
    table: Option<CompressTable>,
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

/// Writes one frame. Holds back less than a block.
#[derive(Debug)]
pub(super) struct FrameWriter<W, S> {
    w: W,
    scratch: S,
    content_hash: XxHash32,
}

impl<W: Write, S: BorrowMut<Scratch>> FrameWriter<W, S> {
    pub(super) fn new(mut w: W, mut scratch: S) -> io::Result<FrameWriter<W, S>> {
        scratch.borrow_mut().plain.clear();
        w.write_all(&WRITTEN_HEADER)?;
        Ok(FrameWriter { w, scratch, content_hash: XxHash32::with_seed(0) })
    }

    pub(super) fn write_all(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let plain = &mut self.scratch.borrow_mut().plain;
            let (head, rest) = data.split_at(data.len().min(WRITTEN_BLOCK_LEN - plain.len()));
            plain.extend_from_slice(head);
            data = rest;
            if plain.len() == WRITTEN_BLOCK_LEN {
                self.end_block()?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if !self.scratch.borrow_mut().plain.is_empty() {
            self.end_block()?;
        }
        let mut end = [0; 8];
        end[4..].copy_from_slice(&self.content_hash.finish_32().to_le_bytes());
        self.w.write_all(&end)?;
        Ok(self.w)
    }

    fn end_block(&mut self) -> io::Result<()> {
        let Scratch { plain, packed, table } = self.scratch.borrow_mut();
        self.content_hash.write(plain);

        let room = BLOCK_HEADER_LEN + block::get_maximum_output_size(plain.len());
        if packed.len() < room {
            packed.resize(room, 0);
        }
        // The small table would do for short blocks, but be replaced at the first long one: what a file
        // looks like would depend on the files before it.
        let table = table.get_or_insert_with(CompressTable::large);
        match block::compress_into_with_table(plain, &mut packed[BLOCK_HEADER_LEN..], table) {
            Ok(len) if len < plain.len() => {
                packed[..BLOCK_HEADER_LEN].copy_from_slice(&block_header(len, false));
                self.w.write_all(&packed[..BLOCK_HEADER_LEN + len])?;
            }
            // It gained nothing.
            _ => {
                self.w.write_all(&block_header(plain.len(), true))?;
                self.w.write_all(plain)?;
            }
        }
        plain.clear();
        Ok(())
    }
}

/// Reads one frame, to the last byte of its content checksum and not further.
#[derive(Debug)]
pub(super) struct FrameReader<R, S> {
    r: R,
    scratch: S,
    /// Whether the content's checksum is calculated.
    checks: bool,
    /// `None` until the first read.
    frame: Option<Frame>,
}

/// What is known of the frame that is being read.
#[derive(Debug)]
struct Frame {
    descriptor: Descriptor,
    /// Content that wasn't handed out yet: a range of [`Scratch::plain`]. What is before it, up to
    /// [`WINDOW_LEN`], is the window of linked blocks.
    start: usize,
    end: usize,
    content_len: u64,
    /// `None` if nobody asks for it.
    content_hash: Option<XxHash32>,
    ended: bool,
}

#[derive(Debug, Clone, Copy)]
struct Descriptor {
    linked: bool,
    block_checksums: bool,
    content_len: Option<u64>,
    content_checksum: bool,
    max_block_len: usize,
}

impl<R: Read, S: BorrowMut<Scratch>> FrameReader<R, S> {
    pub(super) fn new(r: R, scratch: S, checks: bool) -> FrameReader<R, S> {
        FrameReader { r, scratch, checks, frame: None }
    }

    /// What is behind the frame, once [`read`](Self::read) has returned 0.
    pub(super) fn inner(&mut self) -> &mut R {
        &mut self.r
    }

    /// Fills `buf` as far as the frame goes; returns the number of bytes.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> Result<usize, DecodeError> {
        let scratch = self.scratch.borrow_mut();
        let frame = match &mut self.frame {
            Some(frame) => frame,
            none => none.insert(Frame::begin(&mut self.r, scratch, self.checks)?),
        };
        let mut done = 0;
        while done < buf.len() {
            if frame.start == frame.end {
                if frame.ended {
                    break;
                }
                frame.next_block(&mut self.r, scratch)?;
            }
            let len = (frame.end - frame.start).min(buf.len() - done);
            buf[done..done + len].copy_from_slice(&scratch.plain[frame.start..frame.start + len]);
            frame.start += len;
            done += len;
        }
        Ok(done)
    }
}

impl Frame {
    fn begin(r: &mut impl Read, scratch: &mut Scratch, checks: bool) -> Result<Frame, DecodeError> {
        let descriptor = Descriptor::read(r)?;
        let window = if descriptor.linked { WINDOW_LEN } else { 0 };
        // At most 4 MiB, whatever the frame says.
        grow(&mut scratch.plain, window + descriptor.max_block_len);
        Ok(Frame {
            descriptor,
            start: 0,
            end: 0,
            content_len: 0,
            content_hash: (checks && descriptor.content_checksum).then(|| XxHash32::with_seed(0)),
            ended: false,
        })
    }

    /// Replaces the content, which was handed out, by that of the next block; or ends the frame.
    fn next_block(&mut self, r: &mut impl Read, scratch: &mut Scratch) -> Result<(), DecodeError> {
        let header = read_u32(r)?;
        if header == 0 {
            return self.finish(r);
        }
        let Descriptor { linked, block_checksums, max_block_len, .. } = self.descriptor;
        let len = (header & !STORED) as usize;
        if len > max_block_len {
            return Err(Lz4Error::BlockLen { len, max: max_block_len }.into());
        }
        grow(&mut scratch.packed, len);
        let packed = &mut scratch.packed[..len];
        read_exact(r, packed)?;
        if block_checksums && read_u32(r)? != XxHash32::oneshot(0, packed) {
            return Err(Lz4Error::BlockChecksum.into());
        }

        let window_len = if linked { self.end.min(WINDOW_LEN) } else { 0 };
        scratch.plain.copy_within(self.end - window_len..self.end, 0);
        let (window, rest) = scratch.plain.split_at_mut(window_len);
        let content = &mut rest[..max_block_len];
        let content_len = if header & STORED != 0 {
            content[..len].copy_from_slice(packed);
            len
        } else {
            block::decompress_into_with_dict(packed, content, window)
                .map_err(|_| Lz4Error::Block)?
        };
        if let Some(hash) = &mut self.content_hash {
            hash.write(&content[..content_len]);
        }
        self.content_len += content_len as u64;
        self.start = window_len;
        self.end = window_len + content_len;
        Ok(())
    }

    fn finish(&mut self, r: &mut impl Read) -> Result<(), DecodeError> {
        if self.descriptor.content_checksum {
            let stored = read_u32(r)?;
            if self.content_hash.as_ref().is_some_and(|hash| hash.finish_32() != stored) {
                return Err(Lz4Error::ContentChecksum.into());
            }
        }
        match self.descriptor.content_len {
            Some(want) if want != self.content_len => {
                Err(Lz4Error::ContentLen { got: self.content_len, want }.into())
            }
            _ => {
                self.ended = true;
                Ok(())
            }
        }
    }
}

impl Descriptor {
    /// Skips skippable frames, then reads the header of a frame.
    fn read(r: &mut impl Read) -> Result<Descriptor, DecodeError> {
        let mut magic = [0; 4];
        loop {
            read_full(r, &mut magic)?;
            match u32::from_le_bytes(magic) {
                MAGIC => break,
                SKIPPABLE_FIRST..=SKIPPABLE_LAST => {
                    let len = u64::from(read_u32(r)?);
                    if io::copy(&mut r.take(len), &mut io::sink()).map_err(DecodeError::Io)? < len {
                        return Err(DecodeError::UnexpectedEof);
                    }
                }
                other => return Err(Lz4Error::Magic(other).into()),
            }
        }

        let mut bytes = [0; MAX_DESCRIPTOR_LEN];
        read_exact(r, &mut bytes[..2])?;
        let (flg, bd) = (bytes[0], bytes[1]);
        let block_size = bd >> 4;
        let unknown = flg & FLG_VERSION_MASK != FLG_VERSION
            || flg & (FLG_RESERVED | FLG_DICTIONARY) != 0
            || bd & !BD_MASK != 0
            || block_size < 4;
        if unknown {
            return Err(Lz4Error::Descriptor { flg, bd }.into());
        }
        let len = if flg & FLG_CONTENT_SIZE != 0 { MAX_DESCRIPTOR_LEN } else { 2 };
        read_exact(r, &mut bytes[2..len])?;
        let mut check = [0];
        read_exact(r, &mut check)?;
        if check[0] != XxHash32::oneshot(0, &bytes[..len]).to_le_bytes()[1] {
            return Err(Lz4Error::DescriptorChecksum.into());
        }

        let content_len = u64::from_le_bytes(std::array::from_fn(|i| bytes[2 + i]));
        Ok(Descriptor {
            linked: flg & FLG_INDEPENDENT == 0,
            block_checksums: flg & FLG_BLOCK_CHECKSUMS != 0,
            content_len: (flg & FLG_CONTENT_SIZE != 0).then_some(content_len),
            content_checksum: flg & FLG_CONTENT_CHECKSUM != 0,
            max_block_len: 1 << (8 + 2 * block_size),
        })
    }
}

/// What is wrong with a frame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Lz4Error {
    /// Not the beginning of a frame.
    #[error("lz4: bad magic number 0x{0:08x}")]
    Magic(u32),
    /// A version or feature that isn't known, or a dictionary.
    #[error("lz4: unsupported frame descriptor: flg=0x{flg:02x} bd=0x{bd:02x}")]
    Descriptor {
        /// The byte of flags.
        flg: u8,
        /// The byte of the block size.
        bd: u8,
    },
    /// The descriptor is damaged.
    #[error("lz4: invalid frame header checksum")]
    DescriptorChecksum,
    /// A block longer than the descriptor allows.
    #[error("lz4: block of {len} bytes exceeds {max}")]
    BlockLen {
        /// Length of the block, compressed.
        len: usize,
        /// The most that the frame allows.
        max: usize,
    },
    /// A block that can't be decompressed.
    #[error("lz4: corrupt block")]
    Block,
    /// A block is damaged.
    #[error("lz4: invalid block checksum")]
    BlockChecksum,
    /// The frame is damaged.
    #[error("lz4: invalid content checksum")]
    ContentChecksum,
    /// The descriptor promised another length.
    #[error("lz4: frame holds {got} bytes, expected {want}")]
    ContentLen {
        /// Length of the content.
        got: u64,
        /// Length by the descriptor.
        want: u64,
    },
}

/// Within a frame no end is a good one.
fn read_exact(r: &mut impl Read, buf: &mut [u8]) -> Result<(), DecodeError> {
    match read_full(r, buf) {
        Err(DecodeError::Eof) => Err(DecodeError::UnexpectedEof),
        other => other,
    }
}

fn read_u32(r: &mut impl Read) -> Result<u32, DecodeError> {
    let mut bytes = [0; 4];
    read_exact(r, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn block_header(len: usize, stored: bool) -> [u8; BLOCK_HEADER_LEN] {
    // A block is never longer than WRITTEN_BLOCK_LEN, far below bit 31.
    (len as u32 | if stored { STORED } else { 0 }).to_le_bytes()
}

fn grow(buf: &mut Vec<u8>, len: usize) {
    if buf.len() < len {
        buf.resize(len, 0);
    }
}

const MAGIC: u32 = 0x184d_2204;
const SKIPPABLE_FIRST: u32 = 0x184d_2a50;
const SKIPPABLE_LAST: u32 = 0x184d_2a5f;

const FLG_VERSION_MASK: u8 = 0b1100_0000;
const FLG_VERSION: u8 = 0b0100_0000;
const FLG_INDEPENDENT: u8 = 0b0010_0000;
const FLG_BLOCK_CHECKSUMS: u8 = 0b0001_0000;
const FLG_CONTENT_SIZE: u8 = 0b0000_1000;
const FLG_CONTENT_CHECKSUM: u8 = 0b0000_0100;
const FLG_RESERVED: u8 = 0b0000_0010;
const FLG_DICTIONARY: u8 = 0b0000_0001;
const BD_MASK: u8 = 0b0111_0000;

/// FLG, BD and the content size.
const MAX_DESCRIPTOR_LEN: usize = 10;

const BLOCK_HEADER_LEN: usize = 4;

/// In the header of a block: its data isn't compressed.
const STORED: u32 = 1 << 31;

/// How far back a match may reach.
const WINDOW_LEN: usize = 64 * 1024;

/// Content of each block as written here, except the last.
const WRITTEN_BLOCK_LEN: usize = 64 * 1024;

/// Magic; version 1, independent blocks, content checksum; 64 KiB blocks; checksum of these two bytes.
const WRITTEN_HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7];

#[cfg(test)]
mod tests;
