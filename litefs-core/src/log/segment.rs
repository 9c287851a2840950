//! The bytes of a segment: record headers, what a record says about its transaction, file names, the tail hint.
//!
//! Pure: opens no file (see the sibling modules), and knows of LTX only the fields that make up a
//! [`RecordMeta`]; pages, compression and the LTX file checksum are [`crate::ltx`]'s.
//!
//! A segment `<first txid>.seg` is nothing but records, one after the other:
//!
//! ```text
//! offset  size  field           all integers big-endian
//!      0     4  magic           "LFSR"
//!      4     4  kind            0 plain, 1 staged, 2 position only
//!      8     8  blob length
//!     16     4  unsynced bytes  directly before this record, in this segment, when it was appended (capped)
//!     20     4  journal nonce   staged records; else 0
//!     24     4  blob check      CRC-32C of the blob
//!     28     4  header check    CRC-32C of the bytes above ‖ the segment's first TXID (8) ‖ this record's offset (8)
//!     32     …  blob            an LTX file: header (100), …, trailer (16)
//! ```
//!
//! Invariants:
//! - A header is valid only where it was written: its check covers segment and offset. So a page of user
//!   data that holds a copy of a segment, or what an earlier life of the file left behind, is never taken for a record.
//! - What the LTX header and trailer say isn't said again: 32 bytes per record, under 11 % of a small transaction.
//! - "Unsynced bytes" bounds what a crash may have torn: see [`super::recover`].
//!
//! Source: LTX format, "Header", "Trailer".

use crc_fast::{CrcAlgorithm, Digest};

use crate::types::{Checksum, PageCount, PageSize, Pos, Txid};

/// What the log knows of one transaction (or of a snapshot: many in one).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordMeta {
    /// The first transaction contained; 1 for a snapshot.
    pub min_txid: Txid,
    /// The last transaction contained.
    pub max_txid: Txid,
    /// The rolling checksum before; `None` for a snapshot.
    pub pre_apply: Option<Checksum>,
    /// The rolling checksum after.
    pub post_apply: Checksum,
    /// Size of the database after; 0 if it was dropped.
    pub commit: PageCount,
    /// The page size of the database.
    pub page_size: PageSize,
    /// When it was committed, in milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Where its frames stand in the WAL it came from.
    pub wal: Option<WalEnd>,
    /// How it got here and what the blob holds.
    pub kind: RecordKind,
}

impl RecordMeta {
    /// The position after this record.
    pub fn pos(&self) -> Pos {
        Pos { txid: self.max_txid, post_apply: self.post_apply }
    }

    /// The position before this record; `None` for a snapshot, which needs none.
    pub fn pre(&self) -> Option<Pos> {
        Some(Pos { txid: self.min_txid.prev()?, post_apply: self.pre_apply? })
    }

    /// Whether it needs no record before it.
    pub fn is_snapshot(&self) -> bool {
        self.min_txid == Txid::FIRST
    }
}

/// The frames of a transaction in the WAL that it was captured from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalEnd {
    /// Both salts of the WAL header.
    pub salt: [u32; 2],
    /// Offset of the first frame.
    pub offset: u64,
    /// Length of the frames in bytes.
    pub len: u64,
}

impl WalEnd {
    /// Offset of the byte after the last frame.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// How a record got into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// Committed when it was appended.
    Plain,
    /// Appended while its rollback journal still decided. The record keeps this kind for good: whoever recovers compares the nonce.
    Staged {
        /// The nonce of that journal's header.
        journal_nonce: u32,
    },
    /// The blob has the LTX header and trailer but no pages: who needs them takes a snapshot.
    PositionOnly,
}

/// Where a record stands; part of its header check.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The segment's first transaction.
    pub(super) segment: Txid,
    /// Offset of the record's header.
    pub(super) offset: u64,
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: RecordKind,
    pub(super) blob_len: u64,
    pub(super) unsynced_len: u32,
    pub(super) blob_crc: u32,
}

impl RecordHeader {
    pub(super) const LEN: usize = 32;
    pub(super) const MAGIC: [u8; 4] = *b"LFSR";

    pub(super) fn encode(&self, place: Place) -> [u8; RecordHeader::LEN] {
        let (kind, nonce) = match self.kind {
            RecordKind::Plain => (0, 0),
            RecordKind::Staged { journal_nonce } => (1, journal_nonce),
            RecordKind::PositionOnly => (2, 0),
        };
        let mut b = [0; RecordHeader::LEN];
        b[0..4].copy_from_slice(&RecordHeader::MAGIC);
        b[4..8].copy_from_slice(&u32::to_be_bytes(kind));
        b[8..16].copy_from_slice(&self.blob_len.to_be_bytes());
        b[16..20].copy_from_slice(&self.unsynced_len.to_be_bytes());
        b[20..24].copy_from_slice(&nonce.to_be_bytes());
        b[24..28].copy_from_slice(&self.blob_crc.to_be_bytes());
        let check = header_crc(&b, place);
        b[28..32].copy_from_slice(&check.to_be_bytes());
        b
    }

    /// `None` unless exactly this header was written at `place`.
    pub(super) fn decode(b: &[u8; RecordHeader::LEN], place: Place) -> Option<RecordHeader> {
        if b[0..4] != RecordHeader::MAGIC || be32(b, 28) != header_crc(b, place) {
            return None;
        }
        let kind = match (be32(b, 4), be32(b, 20)) {
            (0, 0) => RecordKind::Plain,
            (1, journal_nonce) => RecordKind::Staged { journal_nonce },
            (2, 0) => RecordKind::PositionOnly,
            _ => return None,
        };
        let (blob_len, unsynced_len) = (be64(b, 8), be32(b, 16));
        let ok = blob_len >= LtxHead::MIN_BLOB_LEN && u64::from(unsynced_len) <= place.offset;
        ok.then_some(RecordHeader { kind, blob_len, unsynced_len, blob_crc: be32(b, 24) })
    }
}

/// The fields of an LTX header that the log needs.
///
/// Stands in for the decoder of [`crate::ltx`]: the one place to change should the two be joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LtxHead {
    pub(super) min_txid: Txid,
    pub(super) max_txid: Txid,
    pub(super) pre_apply: Option<Checksum>,
    commit: PageCount,
    page_size: PageSize,
    timestamp_ms: i64,
    wal: Option<WalEnd>,
}

impl LtxHead {
    pub(super) const LEN: usize = 100;
    pub(super) const TRAILER_LEN: usize = 16;
    pub(super) const MIN_BLOB_LEN: u64 = (LtxHead::LEN + LtxHead::TRAILER_LEN) as u64;

    /// `None` if these bytes don't begin an LTX file.
    pub(super) fn decode(b: &[u8; LtxHead::LEN]) -> Option<LtxHead> {
        let head = LtxHead {
            min_txid: Txid::new(be64(b, 16))?,
            max_txid: Txid::new(be64(b, 24))?,
            pre_apply: match be64(b, 40) {
                0 => None,
                raw => Some(Checksum::new(raw)?),
            },
            commit: PageCount::new(be32(b, 12)),
            page_size: PageSize::new(be32(b, 8))?,
            timestamp_ms: be64(b, 32).cast_signed(),
            wal: match be64(b, 56) {
                0 => None,
                len => Some(WalEnd { salt: [be32(b, 64), be32(b, 68)], offset: be64(b, 48), len }),
            },
        };
        let ok = b[0..4] == *b"LTX1"
            && head.min_txid <= head.max_txid
            && head.pre_apply.is_none() == (head.min_txid == Txid::FIRST);
        ok.then_some(head)
    }

    /// Joins it with the blob's last bytes; `None` if these aren't an LTX trailer.
    pub(super) fn with_trailer(
        self,
        trailer: &[u8; LtxHead::TRAILER_LEN],
        kind: RecordKind,
    ) -> Option<RecordMeta> {
        let LtxHead { min_txid, max_txid, pre_apply, commit, page_size, timestamp_ms, wal } = self;
        let post_apply = Checksum::new(be64(trailer, 0))?;
        Some(RecordMeta {
            min_txid,
            max_txid,
            pre_apply,
            post_apply,
            commit,
            page_size,
            timestamp_ms,
            wal,
            kind,
        })
    }
}

/// What a clean shutdown remembers of the newest segment, so that the next start needn't read it through.
///
/// Only a log whose every byte is durable has one. It is checked against the segment, and ignored if it doesn't fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailHint {
    pub(super) segment: Txid,
    pub(super) len: u64,
    pub(super) last_offset: u64,
    pub(super) last_crc: u32,
}

impl TailHint {
    /// Length of the encoding.
    pub const LEN: usize = 36;
    const MAGIC: [u8; 4] = *b"LFSH";

    /// Encodes the hint. Whoever stores it protects it with a checksum of their own.
    pub fn encode(&self) -> [u8; TailHint::LEN] {
        let mut b = [0; TailHint::LEN];
        b[0..4].copy_from_slice(&TailHint::MAGIC);
        b[4..12].copy_from_slice(&self.segment.as_u64().to_be_bytes());
        b[12..20].copy_from_slice(&self.len.to_be_bytes());
        b[20..28].copy_from_slice(&self.last_offset.to_be_bytes());
        b[28..32].copy_from_slice(&self.last_crc.to_be_bytes());
        let check = crc32c(&b[..32]);
        b[32..36].copy_from_slice(&check.to_be_bytes());
        b
    }

    /// `None` if the bytes aren't what [`TailHint::encode`] gave.
    pub fn decode(b: &[u8]) -> Option<TailHint> {
        let b: &[u8; TailHint::LEN] = b.try_into().ok()?;
        if b[0..4] != TailHint::MAGIC || be32(b, 32) != crc32c(&b[..32]) {
            return None;
        }
        Some(TailHint {
            segment: Txid::new(be64(b, 4))?,
            len: be64(b, 12),
            last_offset: be64(b, 20),
            last_crc: be32(b, 28),
        })
    }
}

/// `<first txid>.seg`.
pub(super) fn file_name(first: Txid) -> String {
    format!("{first}.seg")
}

/// The first transaction of the segment of this name.
pub(super) fn parse_file_name(name: &str) -> Option<Txid> {
    parse_lower_hex(name.strip_suffix(".seg")?)
}

/// The transactions of an LTX file `<min>-<max>.ltx`, as the original names it.
pub(super) fn parse_ltx_name(name: &str) -> Option<(Txid, Txid)> {
    let (min, max) = name.strip_suffix(".ltx")?.split_once('-')?;
    Some((parse_lower_hex(min)?, parse_lower_hex(max)?))
}

/// A running check over a blob.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlobCheck(Digest);

impl BlobCheck {
    pub(super) fn new() -> BlobCheck {
        BlobCheck(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(&self) -> u32 {
        // A 32-bit CRC in 64 bits.
        self.0.finalize() as u32
    }
}

fn header_crc(b: &[u8; RecordHeader::LEN], place: Place) -> u32 {
    let mut covered = [0; 44];
    covered[..28].copy_from_slice(&b[..28]);
    covered[28..36].copy_from_slice(&place.segment.as_u64().to_be_bytes());
    covered[36..].copy_from_slice(&place.offset.to_be_bytes());
    crc32c(&covered)
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// File names are lower case: two spellings of one TXID would be two files.
fn parse_lower_hex(s: &str) -> Option<Txid> {
    s.parse().ok().filter(|_| !s.bytes().any(|b| b.is_ascii_uppercase()))
}

/// The caller's arrays are longer than any offset asked for.
fn be32(b: &[u8], at: usize) -> u32 {
    b[at..at + 4].iter().fold(0, |n, &byte| n << 8 | u32::from(byte))
}

fn be64(b: &[u8], at: usize) -> u64 {
    u64::from(be32(b, at)) << 32 | u64::from(be32(b, at + 4))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn txid(n: u64) -> Txid {
        Txid::new(n).unwrap()
    }

    fn kinds() -> impl Strategy<Value = RecordKind> {
        prop_oneof![
            Just(RecordKind::Plain),
            any::<u32>().prop_map(|journal_nonce| RecordKind::Staged { journal_nonce }),
            Just(RecordKind::PositionOnly),
        ]
    }

    proptest! {
        #[test]
        fn header_decodes_only_where_it_was_written(
            kind in kinds(), blob_len in 116u64.., unsynced_len: u32, blob_crc: u32,
            segment in 1u64.., offset in u64::from(u32::MAX)..u64::MAX, bit in 0usize..256,
        ) {
            let header = RecordHeader { kind, blob_len, unsynced_len, blob_crc };
            let place = Place { segment: txid(segment), offset };
            let mut bytes = header.encode(place);
            prop_assert_eq!(RecordHeader::decode(&bytes, place), Some(header));
            let elsewhere = [
                Place { offset: offset - 1, ..place },
                Place { segment: txid(segment ^ 2), ..place },
            ];
            for other in elsewhere {
                prop_assert_eq!(RecordHeader::decode(&bytes, other), None);
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(RecordHeader::decode(&bytes, place), None);
        }

        #[test]
        fn hint_survives_encoding_and_nothing_else_decodes(
            segment in 1u64.., len: u64, last_offset: u64, last_crc: u32, bit in 0usize..TailHint::LEN * 8,
        ) {
            let hint = TailHint { segment: txid(segment), len, last_offset, last_crc };
            let mut bytes = hint.encode();
            prop_assert_eq!(TailHint::decode(&bytes), Some(hint));
            prop_assert_eq!(TailHint::decode(&bytes[1..]), None);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(TailHint::decode(&bytes), None);
        }

        #[test]
        fn any_bytes_decode_without_panic(
            header: [u8; 32], ltx in proptest::collection::vec(any::<u8>(), 100), name: String,
        ) {
            RecordHeader::decode(&header, Place { segment: Txid::FIRST, offset: 0 });
            let mut ltx: [u8; 100] = ltx.try_into().unwrap();
            LtxHead::decode(&ltx);
            ltx[..4].copy_from_slice(b"LTX1");
            LtxHead::decode(&ltx);
            parse_file_name(&name);
            parse_ltx_name(&name);
        }
    }

    #[test]
    fn file_names_round_trip_and_are_lower_case() {
        assert_eq!(parse_file_name(&file_name(txid(0xab))), Some(txid(0xab)));
        for bad in
            ["00000000000000AB.seg", "0000000000000000.seg", "ab.seg", "00000000000000ab.seg.tmp"]
        {
            assert_eq!(parse_file_name(bad), None, "{bad}");
        }
        let (one, four) = (txid(1), txid(4));
        assert_eq!(parse_ltx_name("0000000000000001-0000000000000004.ltx"), Some((one, four)));
        for bad in ["0000000000000001-0000000000000004.ltx.tmp", "0000000000000001.ltx"] {
            assert_eq!(parse_ltx_name(bad), None, "{bad}");
        }
    }
}
