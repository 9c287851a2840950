//! Reading: from file to records ([`Cursor`]), over all files ([`Records`]), and the bytes of one blob ([`BlobReader`]).
//!
//! A cursor goes from header to header through a window of 256 KiB. A blob that fits the window comes out of it, so that
//! many small records cost few reads; a longer one is skipped, and read in the pieces that its reader asks for.
//! Nothing here decides what a flaw means: recovery cuts, a reader reports.
//!
//! There is no index on disk. Finding a transaction in a sealed segment of 4 MiB means hopping over some
//! 8000 records, which takes about a millisecond from the page cache (`hopping_a_segment`, below the tests),
//! once per catch-up, not once per record. The open segment, which subscribers ask for at each commit, has a
//! sparse index in memory.
//!
//! Invariant: a [`Records`] sees the log as it was when it was made. Later appends, retention and segment changes
//! don't disturb it. Only a long record that [`super::TxLog::drop_last`] takes away while it is read fails, by its check.

use std::io;
use std::sync::Arc;
use std::vec;

use super::LogError;
use super::extent::{Extent, Format, Segment};
use super::segment::{BlobCheck, LtxHead, Place, RecordHeader, RecordKind, RecordMeta};
use crate::env::{Env, File};
use crate::types::Txid;

/// The records of a log from some transaction on, oldest first.
#[derive(Debug)]
pub struct Records {
    env: Arc<dyn Env>,
    from: Txid,
    extents: vec::IntoIter<Extent>,
    /// Where to begin in the first extent; 0 in all others.
    start: u64,
    cursor: Option<Cursor>,
    previous: Option<RecordMeta>,
}

impl Records {
    pub(super) fn new(env: Arc<dyn Env>, from: Txid, extents: Vec<Extent>, start: u64) -> Records {
        let extents = extents.into_iter();
        Records { env, from, extents, start, cursor: None, previous: None }
    }

    fn step(&mut self) -> Result<Option<(RecordMeta, BlobReader)>, LogError> {
        loop {
            let Some(cursor) = &mut self.cursor else {
                let Some(extent) = self.extents.next() else { return Ok(None) };
                let start = std::mem::take(&mut self.start);
                self.cursor = Some(Cursor::open(&*self.env, &extent, start)?);
                continue;
            };
            let Some(frame) = cursor.next_frame()? else {
                self.cursor = None;
                continue;
            };
            if frame.ltx.max_txid < self.from {
                continue;
            }
            let ahead = cursor.ahead(&frame)?;
            let meta = cursor.meta(&frame)?;
            if self.previous.as_ref().is_some_and(|last| meta.pre() != Some(last.pos())) {
                return Err(cursor.corrupt(frame.offset, "record doesn't follow the one before it"));
            }
            self.previous = Some(meta.clone());
            return Ok(Some((meta, cursor.blob(&frame, ahead))));
        }
    }
}

impl Records {
    /// An upper bound of the bytes in the records that are still to come.
    pub fn remaining_len(&self) -> u64 {
        let here = self.cursor.as_ref().map_or(0, |c| c.window.end.saturating_sub(c.offset));
        let begun = if self.cursor.is_none() { self.start } else { 0 };
        let rest: u64 = self.extents.as_slice().iter().map(|extent| extent.len).sum();
        here + rest.saturating_sub(begun)
    }
}

impl Iterator for Records {
    type Item = Result<(RecordMeta, BlobReader), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.step().transpose();
        if !matches!(item, Some(Ok(_))) {
            self.cursor = None;
            self.extents = Vec::new().into_iter();
        }
        item
    }
}

/// The bytes of one blob.
///
/// The read that would return the last byte fails with `InvalidData` if the blob isn't what was appended.
#[derive(Debug)]
pub struct BlobReader {
    file: Arc<dyn File>,
    /// The whole blob, if it was read along with others.
    ahead: io::Cursor<Vec<u8>>,
    offset: u64,
    remaining: u64,
    check: BlobCheck,
    /// The check to arrive at; `None` for a legacy file, which has its own inside.
    want: Option<u32>,
}

impl BlobReader {
    /// How many bytes are left to read.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Whether its own check finds each flaw: not in a legacy file.
    pub fn is_checked(&self) -> bool {
        self.want.is_some()
    }
}

impl io::Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let n = match self.ahead.read(&mut buf[..want])? {
            0 => self.file.read_at(&mut buf[..want], self.offset)?,
            n => n,
        };
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.check.update(&buf[..n]);
        if n as u64 == self.remaining && self.want.is_some_and(|crc| crc != self.check.finish()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "log record fails its check"));
        }
        self.offset += n as u64;
        self.remaining -= n as u64;
        Ok(n)
    }
}

/// One record in its file.
#[derive(Debug)]
pub(super) struct Frame {
    /// Offset of the record.
    pub(super) offset: u64,
    /// Offset of the byte after the record.
    pub(super) end: u64,
    pub(super) blob_len: u64,
    /// `None` in a legacy file.
    pub(super) blob_crc: Option<u32>,
    pub(super) kind: RecordKind,
    pub(super) ltx: LtxHead,
}

impl Frame {
    fn blob_offset(&self) -> u64 {
        self.end - self.blob_len
    }
}

/// Hops over the records of one file.
#[derive(Debug)]
pub(super) struct Cursor {
    segment: Arc<Segment>,
    window: Window,
    offset: u64,
}

impl Cursor {
    pub(super) fn open(env: &dyn Env, extent: &Extent, offset: u64) -> Result<Cursor, LogError> {
        let window = Window::new(extent.segment.open(env)?, extent.len);
        Ok(Cursor { segment: Arc::clone(&extent.segment), window, offset })
    }

    /// The next record; `None` at the end. Its blob is not checked.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, LogError> {
        let at_end = self.offset >= self.window.end;
        let frame = match self.segment.format {
            Format::Records if at_end => return Ok(None),
            Format::Records => self.record_frame()?,
            // An empty one isn't at its end but damaged.
            Format::Legacy(_) if at_end && self.offset > 0 => return Ok(None),
            Format::Legacy(max) => self.legacy_frame(max)?,
        };
        self.offset = frame.end;
        Ok(Some(frame))
    }

    fn record_frame(&mut self) -> Result<Frame, LogError> {
        const BOTH: usize = RecordHeader::LEN + LtxHead::LEN;
        let offset = self.offset;
        let place = Place { segment: self.segment.first, offset };
        let flaw = |what| LogError::corrupt(&self.segment.path, offset, what);
        let bytes: [u8; BOTH] = self
            .window
            .read(offset)
            .map_err(LogError::io("read", &self.segment.path))?
            .ok_or_else(|| flaw("record is cut off"))?;
        let (header, ltx) = bytes.split_at(RecordHeader::LEN);
        let header = header.try_into().ok().and_then(|b| RecordHeader::decode(b, place));
        let header = header.ok_or_else(|| flaw("no record header"))?;
        let ltx = ltx.try_into().ok().and_then(LtxHead::decode);
        let ltx = ltx.ok_or_else(|| flaw("no LTX header"))?;
        if offset == 0 && ltx.min_txid != self.segment.first {
            return Err(flaw("first record isn't the one the file is named after"));
        }
        let end = (offset + RecordHeader::LEN as u64)
            .checked_add(header.blob_len)
            .filter(|end| *end <= self.window.end)
            .ok_or_else(|| flaw("record is cut off"))?;
        let RecordHeader { kind, blob_len, blob_crc, .. } = header;
        Ok(Frame { offset, end, blob_len, blob_crc: Some(blob_crc), kind, ltx })
    }

    fn legacy_frame(&mut self, max: Txid) -> Result<Frame, LogError> {
        let flaw = |what| LogError::corrupt(&self.segment.path, 0, what);
        let end = self.window.end;
        let bytes = self.window.read(0).map_err(LogError::io("read", &self.segment.path))?;
        let ltx = bytes.as_ref().and_then(LtxHead::decode);
        let ltx =
            ltx.filter(|_| end >= LtxHead::MIN_BLOB_LEN).ok_or_else(|| flaw("no LTX file"))?;
        if (ltx.min_txid, ltx.max_txid) != (self.segment.first, max) {
            return Err(flaw("transactions differ from those of the file name"));
        }
        let kind = RecordKind::Plain;
        Ok(Frame { offset: 0, end, blob_len: end, blob_crc: None, kind, ltx })
    }

    /// What a record says about its transaction.
    pub(super) fn meta(&mut self, frame: &Frame) -> Result<RecordMeta, LogError> {
        let trailer = self
            .window
            .read(frame.end - LtxHead::TRAILER_LEN as u64)
            .map_err(LogError::io("read", &self.segment.path))?;
        trailer
            .and_then(|b| frame.ltx.clone().with_trailer(&b, frame.kind))
            .ok_or_else(|| self.corrupt(frame.offset, "no LTX trailer"))
    }

    /// The record's blob, if the window can hold the record.
    fn ahead(&mut self, frame: &Frame) -> Result<Vec<u8>, LogError> {
        let (len, head) = (frame.end - frame.offset, (frame.end - frame.blob_len) - frame.offset);
        if len > Window::LEN {
            return Ok(Vec::new());
        }
        let record = self.window.slice(frame.offset, len);
        let record = record.map_err(LogError::io("read", &self.segment.path))?;
        Ok(record.map_or_else(Vec::new, |bytes| bytes[head as usize..].to_vec()))
    }

    fn blob(&self, frame: &Frame, ahead: Vec<u8>) -> BlobReader {
        BlobReader {
            ahead: io::Cursor::new(ahead),
            file: Arc::clone(&self.window.file),
            offset: frame.blob_offset(),
            remaining: frame.blob_len,
            check: BlobCheck::new(),
            want: frame.blob_crc,
        }
    }

    /// Reads a record's blob through; an error if it isn't what was appended.
    pub(super) fn verify(&mut self, frame: &Frame) -> Result<(), LogError> {
        let mut check = BlobCheck::new();
        let mut at = frame.blob_offset();
        while at < frame.end {
            let len = (frame.end - at).min(Window::LEN);
            let bytes =
                self.window.slice(at, len).map_err(LogError::io("read", &self.segment.path))?;
            let Some(bytes) = bytes else {
                return Err(self.corrupt(frame.offset, "record is cut off"));
            };
            check.update(bytes);
            at += len;
        }
        if frame.blob_crc.is_some_and(|crc| crc != check.finish()) {
            return Err(self.corrupt(frame.offset, "record fails its check"));
        }
        Ok(())
    }

    pub(super) fn corrupt(&self, offset: u64, what: &'static str) -> LogError {
        LogError::corrupt(&self.segment.path, offset, what)
    }
}

/// A stretch of a file in memory.
#[derive(Debug)]
pub(super) struct Window {
    file: Arc<dyn File>,
    end: u64,
    start: u64,
    buf: Vec<u8>,
}

impl Window {
    pub(super) const LEN: u64 = 256 * 1024;

    pub(super) fn new(file: Arc<dyn File>, end: u64) -> Window {
        Window { file, end, start: 0, buf: Vec::new() }
    }

    fn read<const N: usize>(&mut self, offset: u64) -> io::Result<Option<[u8; N]>> {
        Ok(self.slice(offset, N as u64)?.and_then(|b| b.try_into().ok()))
    }

    /// `len` bytes (at most [`Window::LEN`]) at `offset`; `None` if the file ends before.
    pub(super) fn slice(&mut self, offset: u64, len: u64) -> io::Result<Option<&[u8]>> {
        if self.end.checked_sub(offset).is_none_or(|rest| rest < len) {
            return Ok(None);
        }
        let held = self.start..=self.start + self.buf.len() as u64;
        if !held.contains(&offset) || !held.contains(&(offset + len)) {
            let want = (self.end - offset).min(Window::LEN);
            self.start = offset;
            self.buf.resize(want as usize, 0);
            let got = self.file.read_at(&mut self.buf, offset);
            self.buf.truncate(*got.as_ref().unwrap_or(&0));
            got?;
        }
        let from = (offset - self.start) as usize;
        Ok(self.buf.get(from..from + len as usize))
    }
}
