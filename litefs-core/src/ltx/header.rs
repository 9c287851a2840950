//! The header of an LTX file, and what makes one valid.
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 4 | magic | `LTX1`; implies version 1 |
//! | 4 | 4 | flags | bit 0: the page block is an LZ4 frame |
//! | 8 | 4 | page size | in bytes; 65536 is stored as such |
//! | 12 | 4 | commit | pages after the transaction; 0 = database deleted |
//! | 16 | 8 | min TXID | |
//! | 24 | 8 | max TXID | |
//! | 32 | 8 | timestamp | signed, ms since 1970 |
//! | 40 | 8 | pre-apply checksum | 0 in snapshots |
//! | 48 | 8 | WAL offset | signed; 0 if not from a WAL |
//! | 56 | 8 | WAL size | signed; 0 if not from a WAL |
//! | 64 | 4 + 4 | WAL salts | |
//! | 72 | 8 | node ID | 0 = unset |
//! | 80 | 20 | reserved | written as 0, not looked at |

use thiserror::Error;

use super::{DecodeError, EncodeError, HEADER_LEN, Timestamp};
use crate::types::{Checksum, PageCount, PageSize, Pos, Txid};

/// What a file holds and where it belongs in the history of its database.
///
/// Plain data: [`Header::encode`] checks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether the page block is compressed by LZ4.
    pub compressed: bool,
    /// Size of all pages.
    pub page_size: PageSize,
    /// Size of the database after the file is applied; none if the database is deleted.
    pub commit: PageCount,
    /// The first transaction contained.
    pub min_txid: Txid,
    /// The last transaction contained.
    pub max_txid: Txid,
    /// When the last transaction was made.
    pub timestamp: Timestamp,
    /// The rolling checksum of the database before the file is applied; `None` for snapshots only.
    pub pre_apply: Option<Checksum>,
    /// Where in a WAL the transaction comes from; `None` if from a rollback journal or compacted.
    pub wal: Option<WalSource>,
    /// The node that made the file; 0 if unknown or compacted.
    pub node_id: u64,
}

/// The frames of a WAL that a transaction was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalSource {
    /// Offset of the first frame.
    pub offset: u64,
    /// Length of all frames of the transaction.
    pub len_bytes: u64,
    /// The salts of the WAL's header.
    pub salt: [u32; 2],
}

impl Header {
    /// Whether the file holds a whole database, so that it can be applied to nothing.
    ///
    /// The very first transaction of a database is always a snapshot.
    pub fn is_snapshot(&self) -> bool {
        self.min_txid == Txid::FIRST
    }

    /// The position that a database must have for the file to be applied; `None` for snapshots.
    pub fn pre_pos(&self) -> Option<Pos> {
        Some(Pos { txid: self.min_txid.prev()?, post_apply: self.pre_apply? })
    }

    /// The bytes of a valid header.
    ///
    /// # Errors
    /// If the header isn't valid.
    pub fn encode(&self) -> Result<[u8; HEADER_LEN], EncodeError> {
        let wal = self.wal.unwrap_or(WalSource { offset: 0, len_bytes: 0, salt: [0, 0] });
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(MAGIC);
        bytes[4..8].copy_from_slice(&u32::from(self.compressed).to_be_bytes());
        bytes[8..12].copy_from_slice(&self.page_size.as_u32().to_be_bytes());
        bytes[12..16].copy_from_slice(&self.commit.as_u32().to_be_bytes());
        bytes[16..24].copy_from_slice(&self.min_txid.as_u64().to_be_bytes());
        bytes[24..32].copy_from_slice(&self.max_txid.as_u64().to_be_bytes());
        bytes[32..40].copy_from_slice(&self.timestamp.as_millis().to_be_bytes());
        bytes[40..48].copy_from_slice(&self.pre_apply.map_or(0, Checksum::as_u64).to_be_bytes());
        bytes[48..56].copy_from_slice(&wal.offset.to_be_bytes());
        bytes[56..64].copy_from_slice(&wal.len_bytes.to_be_bytes());
        bytes[64..68].copy_from_slice(&wal.salt[0].to_be_bytes());
        bytes[68..72].copy_from_slice(&wal.salt[1].to_be_bytes());
        bytes[72..80].copy_from_slice(&self.node_id.to_be_bytes());
        // One set of rules for both directions: what can be read back is what may be written.
        parse(&bytes)?;
        Ok(bytes)
    }

    /// Reads a header from the first 100 bytes.
    ///
    /// # Errors
    /// If there are fewer, or they aren't a valid header.
    pub fn decode(bytes: &[u8]) -> Result<Header, DecodeError> {
        let bytes = bytes.first_chunk().ok_or(DecodeError::ShortBuffer)?;
        if !bytes.starts_with(MAGIC) {
            return Err(DecodeError::NotLtx);
        }
        Ok(parse(bytes)?)
    }
}

/// What is wrong with a header. Some can only be met in bytes: the types of [`Header`] rule them out,
/// and the magic rules out `invalid version`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// A flag that doesn't exist.
    #[error("invalid flags: 0x{0:08x}")]
    Flags(u32),
    /// Not a power of two from 512 to 65536.
    #[error("invalid page size: {0}")]
    PageSize(u32),
    /// Minimum TXID is 0.
    #[error("minimum transaction id required")]
    MinTxidRequired,
    /// Maximum TXID is 0.
    #[error("maximum transaction id required")]
    MaxTxidRequired,
    /// Minimum after maximum.
    #[error("transaction ids out of order: ({},{})", .min.as_u64(), .max.as_u64())]
    TxidOrder {
        /// Minimum.
        min: Txid,
        /// Maximum.
        max: Txid,
    },
    /// The offset doesn't fit a signed 64-bit number.
    #[error("wal offset cannot be negative: {0}")]
    WalOffsetNegative(i64),
    /// The size doesn't fit a signed 64-bit number.
    #[error("wal size cannot be negative: {0}")]
    WalSizeNegative(i64),
    /// Salts without an offset.
    #[error("wal offset required if salt exists")]
    SaltWithoutOffset,
    /// Salts without a size.
    #[error("wal size required if salt exists")]
    SaltWithoutSize,
    /// An offset without a size.
    #[error("wal size required if wal offset exists")]
    OffsetWithoutSize,
    /// A size without an offset.
    #[error("wal offset required if wal size exists")]
    SizeWithoutOffset,
    /// A snapshot depends on nothing.
    #[error("pre-apply checksum must be zero on snapshots")]
    PreApplyOnSnapshot,
    /// All others depend on what was before.
    #[error("pre-apply checksum required on non-snapshot files")]
    PreApplyRequired,
    /// Bit 63 isn't set.
    #[error("invalid pre-apply checksum format")]
    PreApplyFormat,
}

/// All but the magic. The order of the checks is the original's.
fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Header, HeaderError> {
    let flags = u32_at(bytes, 4);
    if flags & !FLAG_LZ4 != 0 {
        return Err(HeaderError::Flags(flags));
    }
    let raw_page_size = u32_at(bytes, 8);
    let page_size = PageSize::new(raw_page_size).ok_or(HeaderError::PageSize(raw_page_size))?;
    let min_txid = Txid::new(u64_at(bytes, 16)).ok_or(HeaderError::MinTxidRequired)?;
    let max_txid = Txid::new(u64_at(bytes, 24)).ok_or(HeaderError::MaxTxidRequired)?;
    if min_txid > max_txid {
        return Err(HeaderError::TxidOrder { min: min_txid, max: max_txid });
    }
    Ok(Header {
        compressed: flags & FLAG_LZ4 != 0,
        page_size,
        commit: PageCount::new(u32_at(bytes, 12)),
        min_txid,
        max_txid,
        timestamp: Timestamp::from_millis(i64_at(bytes, 32)),
        wal: parse_wal(bytes)?,
        pre_apply: parse_pre_apply(min_txid == Txid::FIRST, u64_at(bytes, 40))?,
        node_id: u64_at(bytes, 72),
    })
}

fn parse_wal(bytes: &[u8; HEADER_LEN]) -> Result<Option<WalSource>, HeaderError> {
    let (offset, len) = (i64_at(bytes, 48), i64_at(bytes, 56));
    let salt = [u32_at(bytes, 64), u32_at(bytes, 68)];
    let offset = u64::try_from(offset).map_err(|_| HeaderError::WalOffsetNegative(offset))?;
    let len_bytes = u64::try_from(len).map_err(|_| HeaderError::WalSizeNegative(len))?;
    match (offset, len_bytes, salt != [0, 0]) {
        (0, _, true) => Err(HeaderError::SaltWithoutOffset),
        (_, 0, true) => Err(HeaderError::SaltWithoutSize),
        (0, 0, false) => Ok(None),
        (_, 0, false) => Err(HeaderError::OffsetWithoutSize),
        (0, _, false) => Err(HeaderError::SizeWithoutOffset),
        _ => Ok(Some(WalSource { offset, len_bytes, salt })),
    }
}

fn parse_pre_apply(snapshot: bool, raw: u64) -> Result<Option<Checksum>, HeaderError> {
    match (snapshot, raw) {
        (true, 0) => Ok(None),
        (true, _) => Err(HeaderError::PreApplyOnSnapshot),
        (false, 0) => Err(HeaderError::PreApplyRequired),
        (false, _) => Checksum::new(raw).map(Some).ok_or(HeaderError::PreApplyFormat),
    }
}

fn u32_at(bytes: &[u8; HEADER_LEN], offset: usize) -> u32 {
    u32::from_be_bytes(array_at(bytes, offset))
}

fn u64_at(bytes: &[u8; HEADER_LEN], offset: usize) -> u64 {
    u64::from_be_bytes(array_at(bytes, offset))
}

fn i64_at(bytes: &[u8; HEADER_LEN], offset: usize) -> i64 {
    i64::from_be_bytes(array_at(bytes, offset))
}

fn array_at<const N: usize>(bytes: &[u8; HEADER_LEN], offset: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[offset + i])
}

const MAGIC: &[u8; 4] = b"LTX1";

/// The page block is an LZ4 frame. No other flag exists.
const FLAG_LZ4: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of `02-delta-512-wal.ltx`: valid, with every field set but the flag.
    const DELTA: &[u8] = include_bytes!("../../testdata/ltx/02-delta-512-wal.ltx");

    #[test]
    fn fields_are_where_the_original_puts_them() {
        let header = Header::decode(DELTA).unwrap();
        let want = Header {
            compressed: false,
            page_size: PageSize::new(512).unwrap(),
            commit: PageCount::new(3),
            min_txid: Txid::new(2).unwrap(),
            max_txid: Txid::new(2).unwrap(),
            timestamp: Timestamp::from_millis(1_700_000_001_456),
            pre_apply: Checksum::new(0xff96_55e6_d844_a360),
            wal: Some(WalSource { offset: 32, len_bytes: 1072, salt: [0x1122_3344, 0x5566_7788] }),
            node_id: 0x0123_4567_89ab_cdef,
        };
        assert_eq!(header, want);
        assert!(!header.is_snapshot());
        assert_eq!(header.pre_pos().unwrap().to_string(), "0000000000000001/ff9655e6d844a360");
        assert_eq!(header.encode().unwrap(), DELTA[..HEADER_LEN]);
    }

    #[test]
    fn each_rule_has_its_text() {
        type Changes = &'static [(usize, &'static [u8])];
        let table: [(Changes, &str); 17] = [
            (&[(3, b"2")], "invalid LTX file"),
            (&[(4, &[0x80, 0, 0, 3])], "invalid flags: 0x80000003"),
            (&[(8, &[0, 0, 2, 1])], "invalid page size: 513"),
            (&[(8, &[0, 2, 0, 0])], "invalid page size: 131072"),
            (&[(16, &[0; 8])], "minimum transaction id required"),
            (&[(24, &[0; 8])], "maximum transaction id required"),
            (&[(23, &[9])], "transaction ids out of order: (9,2)"),
            (&[(48, &[0xff; 8])], "wal offset cannot be negative: -1"),
            (&[(56, &[0xff; 8])], "wal size cannot be negative: -1"),
            (&[(48, &[0; 8])], "wal offset required if salt exists"),
            (&[(56, &[0; 8]), (64, &[0; 4])], "wal size required if salt exists"),
            (&[(56, &[0; 8]), (64, &[0; 8])], "wal size required if wal offset exists"),
            (&[(48, &[0; 8]), (64, &[0; 8])], "wal offset required if wal size exists"),
            (&[(23, &[1])], "pre-apply checksum must be zero on snapshots"),
            (&[(40, &[0; 8])], "pre-apply checksum required on non-snapshot files"),
            (&[(40, &[0x7f])], "invalid pre-apply checksum format"),
            // The first rule that is broken decides.
            (&[(4, &[0, 0, 0, 2]), (8, &[0; 4])], "invalid flags: 0x00000002"),
        ];
        for (changes, want) in table {
            let mut bytes = DELTA[..HEADER_LEN].to_vec();
            for (offset, change) in changes {
                bytes[*offset..*offset + change.len()].copy_from_slice(change);
            }
            assert_eq!(Header::decode(&bytes).unwrap_err().to_string(), want);
        }
        assert_eq!(Header::decode(&DELTA[..99]).unwrap_err().to_string(), "short buffer");
    }

    #[test]
    fn encode_refuses_what_decode_refuses() {
        let good = Header::decode(DELTA).unwrap();
        let wal = good.wal.unwrap();
        let table = [
            (
                Header { min_txid: Txid::new(9).unwrap(), ..good },
                "transaction ids out of order: (9,2)",
            ),
            (
                Header { min_txid: Txid::FIRST, ..good },
                "pre-apply checksum must be zero on snapshots",
            ),
            (
                Header { pre_apply: None, ..good },
                "pre-apply checksum required on non-snapshot files",
            ),
            (
                Header { wal: Some(WalSource { offset: 1 << 63, ..wal }), ..good },
                "wal offset cannot be negative: -9223372036854775808",
            ),
            (
                Header { wal: Some(WalSource { len_bytes: 0, ..wal }), ..good },
                "wal size required if salt exists",
            ),
        ];
        for (header, want) in table {
            assert_eq!(header.encode().unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn salts_may_be_zero_and_reserved_bytes_are_ignored() {
        let mut bytes = DELTA[..HEADER_LEN].to_vec();
        bytes[64..72].fill(0);
        bytes[80..].fill(0xee);
        let header = Header::decode(&bytes).unwrap();
        assert_eq!(header.wal.unwrap().salt, [0, 0]);
        assert_eq!(header.encode().unwrap()[..80], bytes[..80]);
    }
}
