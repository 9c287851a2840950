//! A second opinion on what nodes say to each other: HTTP/2, the frames of a replication stream, and LTX files, decoded in the
//! plainest way from the formats' descriptions.
//!
//! Shares no code with the engine, and panics at whatever isn't as described. LTX files must be uncompressed
//! (`data.compress: false`).

use std::collections::BTreeMap;

use crate::scan::{CRC64, FLAG, page_checksum};

/// What a client of HTTP/2 with prior knowledge says first. Source: RFC 9113, "HTTP/2 Connection Preface".
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame of a replication stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A database's transactions.
    Ltx {
        /// The database.
        name: String,
        /// The file, without chunks.
        file: Vec<u8>,
    },
    /// All that the primary had at the beginning was sent.
    Ready,
    /// The primary ends the stream.
    End,
    /// The high-water mark of a database's backup.
    Hwm {
        /// Up to where it is backed up.
        txid: u64,
        /// The database.
        name: String,
    },
    /// The primary lives: its clock, in milliseconds.
    Heartbeat(i64),
}

/// An uncompressed LTX file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ltx {
    /// The size of a page.
    pub page_size: u32,
    /// Pages after it.
    pub commit: u32,
    /// First and last transaction.
    pub txids: (u64, u64),
    /// The checksum of all pages before it.
    pub pre_apply: u64,
    /// And after it.
    pub post_apply: u64,
    /// Whether it tells where it was in a WAL.
    pub in_wal: bool,
    /// Who made it.
    pub node_id: u64,
    /// Page number and content.
    pub pages: BTreeMap<u32, Vec<u8>>,
}

/// Bytes that are taken one field after the other.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(len);
        self.0 = rest;
        head
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take(8).try_into().expect("eight bytes"))
    }

    /// A length and as many bytes of text.
    fn text(&mut self) -> String {
        let len = self.u32() as usize;
        String::from_utf8(self.take(len).to_vec()).unwrap()
    }
}

/// The body in a client's half of a connection that carries one request.
pub fn request_body(bytes: &[u8]) -> Vec<u8> {
    let frames = bytes.strip_prefix(PREFACE).expect("HTTP/2 with prior knowledge");
    body(frames)
}

/// The payload of all DATA frames of a connection that carries one request; a frame that was cut off is left out.
pub fn body(bytes: &[u8]) -> Vec<u8> {
    let (mut bytes, mut body) = (Bytes(bytes), Vec::new());
    while let [a, b, c, kind, flags, ..] = *bytes.0 {
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        if bytes.0.len() < 9 + len {
            break;
        }
        bytes.take(9);
        let payload = bytes.take(len);
        if kind == 0 {
            assert_eq!(flags & 8, 0, "padding");
            body.extend(payload);
        }
    }
    body
}

/// The positions that a replica reports: name, TXID, checksum.
pub fn positions(body: &[u8]) -> Vec<(String, u64, u64)> {
    let mut bytes = Bytes(body);
    let count = bytes.u32();
    let positions = (0..count).map(|_| (bytes.text(), bytes.u64(), bytes.u64())).collect();
    assert!(bytes.0.is_empty(), "{} bytes after the position map", bytes.0.len());
    positions
}

/// The frames of a stream that has come to its end.
pub fn frames(body: &[u8]) -> Vec<Frame> {
    let (mut bytes, mut frames) = (Bytes(body), Vec::new());
    while !bytes.0.is_empty() {
        frames.push(match bytes.u32() {
            1 => {
                assert_eq!(bytes.u64(), 0, "the size is always sent as 0");
                let (name, mut file) = (bytes.text(), Vec::new());
                loop {
                    match usize::from(bytes.u16()) {
                        0 => break Frame::Ltx { name, file },
                        len => file.extend(bytes.take(len)),
                    }
                }
            }
            2 => Frame::Ready,
            3 => Frame::End,
            6 => Frame::Hwm { txid: bytes.u64(), name: bytes.text() },
            7 => Frame::Heartbeat(bytes.u64().cast_signed()),
            kind => panic!("frame of type {kind}"),
        });
    }
    frames
}

impl Ltx {
    /// Decodes a whole file and checks its own checksum.
    pub fn decode(file: &[u8]) -> Ltx {
        let (content, sum) = file.split_at(file.len() - 8);
        let want = CRC64.checksum(content) | FLAG;
        assert_eq!(sum, want.to_be_bytes(), "checksum of the file");
        let mut bytes = Bytes(content);
        assert_eq!(bytes.take(4), b"LTX1");
        assert_eq!(bytes.u32(), 0, "flags: uncompressed");
        let (page_size, commit) = (bytes.u32(), bytes.u32());
        let txids = (bytes.u64(), bytes.u64());
        let _timestamp = bytes.u64();
        let pre_apply = bytes.u64();
        let (offset, len, _salts) = (bytes.u64(), bytes.u64(), bytes.u64());
        let in_wal = offset != 0;
        assert_eq!(in_wal, len != 0, "{len} bytes of the WAL at {offset}");
        let node_id = bytes.u64();
        assert_eq!(bytes.take(20), [0; 20], "reserved");
        let mut pages = BTreeMap::new();
        loop {
            match bytes.u32() {
                0 => break,
                pgno => {
                    assert!(pages.keys().all(|before| *before < pgno), "page {pgno} out of order");
                    pages.insert(pgno, bytes.take(page_size as usize).to_vec());
                }
            }
        }
        let post_apply = bytes.u64();
        assert!(bytes.0.is_empty(), "{} bytes too many", bytes.0.len());
        Ltx { page_size, commit, txids, pre_apply, post_apply, in_wal, node_id, pages }
    }

    /// Applies it to the pages of a database, and checks what it says of them before and after.
    pub fn apply(&self, image: &mut Vec<u8>) {
        let page_size = self.page_size as usize;
        // A file that begins with the first transaction says nothing of what was before.
        let before = if self.txids.0 == 1 { 0 } else { checksum(image, page_size) };
        assert_eq!(self.pre_apply, before, "before {:?}", self.txids);
        image.resize(self.commit as usize * page_size, 0);
        for (pgno, page) in &self.pages {
            let at = (*pgno as usize - 1) * page_size;
            image[at..at + page_size].copy_from_slice(page);
        }
        assert_eq!(self.post_apply, checksum(image, page_size), "after {:?}", self.txids);
    }
}

/// The rolling checksum of a small database.
fn checksum(image: &[u8], page_size: usize) -> u64 {
    let pages = (1..).zip(image.chunks(page_size));
    FLAG | pages.fold(0, |sum, (number, page)| sum ^ page_checksum(number, page))
}
