//! The wal-index (`<db>-shm`): its header, twice, and the checkpoint information after it.
//!
//! | offset | size | field (native byte order) |
//! |---|---|---|
//! | 0 | 4 | version, 3007000 |
//! | 4 | 4 | unused |
//! | 8 | 4 | counts the transactions |
//! | 12 | 1 | 1 once initialized |
//! | 13 | 1 | 1 if the WAL's checksums are big-endian |
//! | 14 | 2 | page size; 1 stands for 65536, 0 for "no transaction in the WAL yet" |
//! | 16 | 4 | number of valid frames |
//! | 20 | 4 | size of the database in pages |
//! | 24 | 8 | checksum of the last valid frame |
//! | 32 | 8 | salt, byte by byte as in the WAL |
//! | 40 | 8 | checksum over the first 40 bytes |
//! | 48 | 48 | the same again |
//! | 96 | 4 | frames that are checkpointed |
//! | 100 | 20 | five read marks |
//! | 120 | 8 | bytes that are only locked |
//! | 128 | 4 | frames of which the checkpoint has begun |
//! | 132 | 4 | unused |
//!
//! The hash tables that follow aren't decoded. Nothing here orders memory: a writer stores the second
//! copy first, a reader believes a header only if both copies agree.
//!
//! Source: SQLite fileformat2, "WAL-Index Format".

use super::wal::{ByteOrder, checksum};
use crate::types::{PageCount, PageSize};

/// Where the checkpoint information begins.
pub const CHECKPOINT_INFO_OFFSET: u64 = 2 * WalIndexHeader::LEN as u64;

/// What readers and writers of a WAL know in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalIndexHeader {
    /// Counts the transactions, so that a reader sees that there was one.
    pub change: u32,
    /// How the WAL's checksums read their input.
    pub byte_order: ByteOrder,
    /// `None` until the WAL holds a transaction.
    pub page_size: Option<PageSize>,
    /// Number of valid frames.
    pub max_frame: u32,
    /// Size of the database after the last of them.
    pub page_count: PageCount,
    /// Checksum of the last of them.
    pub frame_checksum: [u32; 2],
    /// Salt of the WAL's header.
    pub salt: [u32; 2],
}

impl WalIndexHeader {
    /// Length of one copy in bytes.
    pub const LEN: usize = 48;

    /// Decodes the beginning of the file, both copies. `None` where SQLite would look again or recover:
    /// they differ, a checksum is wrong, or the index isn't initialized.
    pub fn decode(bytes: &[u8]) -> Option<WalIndexHeader> {
        let (b, rest) = bytes.split_first_chunk::<{ WalIndexHeader::LEN }>()?;
        let sum = [ne_u32(b, 40), ne_u32(b, 44)];
        let valid = rest.starts_with(b)
            && ne_u32(b, 0) == VERSION
            && b[12] == 1
            && checksum(ByteOrder::NATIVE, [0; 2], &b[..40]) == sum;
        if !valid {
            return None;
        }
        Some(WalIndexHeader {
            change: ne_u32(b, 8),
            byte_order: if b[13] == 0 { ByteOrder::Little } else { ByteOrder::Big },
            page_size: match u16::from_ne_bytes([b[14], b[15]]) {
                0 => None,
                raw => Some(PageSize::from_db_header(raw)?),
            },
            max_frame: ne_u32(b, 16),
            page_count: PageCount::new(ne_u32(b, 20)),
            frame_checksum: [ne_u32(b, 24), ne_u32(b, 28)],
            salt: [super::be_u32(b, 32), super::be_u32(b, 36)],
        })
    }

    /// Encodes one copy, to be stored at [`WalIndexHeader::LEN`] and then at 0.
    pub fn encode(&self) -> [u8; WalIndexHeader::LEN] {
        // 65536 doesn't fit and is stored as 1, its upper half.
        let size = self.page_size.map_or(0, PageSize::as_u32);
        let stored_size = (size & 0xff00 | size >> 16) as u16;

        let mut b = [0; WalIndexHeader::LEN];
        b[0..4].copy_from_slice(&VERSION.to_ne_bytes());
        b[8..12].copy_from_slice(&self.change.to_ne_bytes());
        b[12] = 1;
        b[13] = u8::from(self.byte_order == ByteOrder::Big);
        b[14..16].copy_from_slice(&stored_size.to_ne_bytes());
        b[16..20].copy_from_slice(&self.max_frame.to_ne_bytes());
        b[20..24].copy_from_slice(&self.page_count.as_u32().to_ne_bytes());
        put_ne(&mut b[24..32], &self.frame_checksum);
        b[32..36].copy_from_slice(&self.salt[0].to_be_bytes());
        b[36..40].copy_from_slice(&self.salt[1].to_be_bytes());
        let sum = checksum(ByteOrder::NATIVE, [0; 2], &b[..40]);
        put_ne(&mut b[40..48], &sum);
        b
    }
}

/// How far the WAL is checkpointed, and what readers still need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// So many frames are in the database.
    pub backfill: u32,
    /// For each read lock the number of frames that its holders see, or [`CheckpointInfo::READ_MARK_UNUSED`].
    /// The first is always 0: its holders ignore the WAL.
    pub read_marks: [u32; 5],
    /// So many frames a checkpoint has begun to write.
    pub backfill_attempted: u32,
}

impl CheckpointInfo {
    /// Length in bytes.
    pub const LEN: usize = 40;

    /// The mark of a read lock that nobody uses.
    pub const READ_MARK_UNUSED: u32 = u32::MAX;

    /// Nothing checkpointed, no readers.
    pub const EMPTY: CheckpointInfo = CheckpointInfo {
        backfill: 0,
        read_marks: [
            0,
            CheckpointInfo::READ_MARK_UNUSED,
            CheckpointInfo::READ_MARK_UNUSED,
            CheckpointInfo::READ_MARK_UNUSED,
            CheckpointInfo::READ_MARK_UNUSED,
        ],
        backfill_attempted: 0,
    };

    /// Decodes the bytes at [`CHECKPOINT_INFO_OFFSET`]; `None` if there are too few.
    pub fn decode(bytes: &[u8]) -> Option<CheckpointInfo> {
        let b: &[u8; CheckpointInfo::LEN] = bytes.first_chunk()?;
        Some(CheckpointInfo {
            backfill: ne_u32(b, 0),
            read_marks: std::array::from_fn(|i| ne_u32(b, 4 + 4 * i)),
            backfill_attempted: ne_u32(b, 32),
        })
    }

    /// Encodes the information.
    pub fn encode(&self) -> [u8; CheckpointInfo::LEN] {
        let mut b = [0; CheckpointInfo::LEN];
        b[0..4].copy_from_slice(&self.backfill.to_ne_bytes());
        put_ne(&mut b[4..24], &self.read_marks);
        b[32..36].copy_from_slice(&self.backfill_attempted.to_ne_bytes());
        b
    }
}

/// The native-endian number at `at`, which callers keep inside a slice of fixed length.
fn ne_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put_ne(bytes: &mut [u8], numbers: &[u32]) {
    for (chunk, number) in bytes.as_chunks_mut().0.iter_mut().zip(numbers) {
        *chunk = number.to_ne_bytes();
    }
}

const VERSION: u32 = 3_007_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sqlite::golden;
    use crate::sqlite::wal::{FrameHeader, WalHeader, frame_index_at, frame_offset};

    /// The golden files come from a little-endian machine.
    #[cfg(target_endian = "little")]
    #[test]
    fn agrees_with_the_wal_that_sqlite_wrote() {
        for (name, wal, shm) in [
            (512, golden!("two-tx-512.db-wal"), golden!("two-tx-512.db-shm")),
            (4096, golden!("two-tx-4096.db-wal"), golden!("two-tx-4096.db-shm")),
            (65536, golden!("one-tx-65536.db-wal"), golden!("one-tx-65536.db-shm")),
        ] {
            let wal_header = WalHeader::decode(wal).unwrap();
            let page_size = wal_header.page_size;
            let frames = frame_index_at(wal.len() as u64, page_size).unwrap();
            let last = frame_offset(frames - 1, page_size) as usize;
            let last = FrameHeader::decode(wal[last..].first_chunk().unwrap()).unwrap();

            let header = WalIndexHeader::decode(shm).unwrap();
            let want = WalIndexHeader {
                change: header.change,
                byte_order: wal_header.byte_order,
                page_size: Some(page_size),
                max_frame: frames,
                page_count: last.commit,
                frame_checksum: last.checksum,
                salt: wal_header.salt,
            };
            assert_eq!(header, want, "{name}");
            assert_eq!(header.encode()[..], shm[..WalIndexHeader::LEN], "{name}");

            let info = CheckpointInfo::decode(&shm[CHECKPOINT_INFO_OFFSET as usize..]).unwrap();
            assert_eq!((info.backfill, info.backfill_attempted), (0, 0), "{name}");
            assert_eq!(info.read_marks[0], 0, "{name}");
            assert_eq!(info.encode()[..], shm[96..], "{name}");
        }
    }

    #[test]
    fn believes_only_two_equal_initialized_copies() {
        let one = WalIndexHeader {
            change: 1,
            byte_order: ByteOrder::Big,
            page_size: None,
            max_frame: 0,
            page_count: PageCount::ZERO,
            frame_checksum: [2, 3],
            salt: [4, 5],
        }
        .encode();
        let twice = [one, one].concat();
        assert!(WalIndexHeader::decode(&twice).is_some());
        assert_eq!(WalIndexHeader::decode(&twice[..95]), None);
        assert_eq!(WalIndexHeader::decode(&[0; 96]), None);
        for at in 0..twice.len() {
            let mut torn = twice.clone();
            torn[at] ^= 1;
            assert_eq!(WalIndexHeader::decode(&torn), None, "byte {at} of one copy");
            torn[(at + 48) % 96] ^= 1;
            assert_eq!(WalIndexHeader::decode(&torn), None, "byte {at} of both copies");
        }
    }

    proptest! {
        #[test]
        fn header_survives_encoding(
            change: u32, big: bool, log2 in 9u32..=16, max_frame: u32, pages: u32,
            frame_checksum: [u32; 2], salt: [u32; 2],
        ) {
            let header = WalIndexHeader {
                change,
                byte_order: if big { ByteOrder::Big } else { ByteOrder::Little },
                page_size: PageSize::new(1 << log2),
                max_frame,
                page_count: PageCount::new(pages),
                frame_checksum,
                salt,
            };
            let one = header.encode();
            prop_assert_eq!(WalIndexHeader::decode(&[one, one].concat()), Some(header));
        }

        #[test]
        fn checkpoint_info_survives_encoding(
            backfill: u32, read_marks: [u32; 5], backfill_attempted: u32,
        ) {
            let info = CheckpointInfo { backfill, read_marks, backfill_attempted };
            prop_assert_eq!(CheckpointInfo::decode(&info.encode()), Some(info));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = WalIndexHeader::decode(&bytes);
            let _ = CheckpointInfo::decode(&bytes);
        }
    }
}
