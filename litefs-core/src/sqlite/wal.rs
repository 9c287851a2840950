//! The write-ahead log: its header, its frames, and the chain of checksums that says which frames count.
//!
//! ```text
//! | header 32 | frame 0: header 24, page | frame 1: header 24, page | …
//! ```
//!
//! All numbers are big-endian.
//!
//! | header | frame header | size | field |
//! |---|---|---|---|
//! | 0 | | 4 | magic `377f_0682`; its last bit says that checksums add up big-endian words |
//! | 4 | | 4 | version, 3007000 |
//! | 8 | | 4 | page size |
//! | 12 | | 4 | checkpoint sequence number |
//! | | 0 | 4 | page number |
//! | | 4 | 4 | size of the database after the transaction, in its last frame; else 0 |
//! | 16 | 8 | 8 | salt: another one each time the WAL starts over |
//! | 24 | 16 | 8 | checksum |
//!
//! What isn't here: files, and what follows from a commit frame; see the capture of a WAL.
//!
//! Invariant: a frame is valid only if all before it are. Frames past the last valid one are left from
//! before the WAL started over, or torn.
//!
//! Source: SQLite fileformat2, "WAL File Format" and "Checksum Algorithm".

use thiserror::Error;

use super::be_u32;
use crate::types::{PageCount, PageSize, Pgno};

/// Length of [`WalHeader`] in bytes.
pub const WAL_HEADER_LEN: usize = 32;

/// Length of [`FrameHeader`] in bytes.
pub const FRAME_HEADER_LEN: usize = 24;

/// The state of the checksums after the header and any number of frames.
///
/// A chain never goes wrong by itself: a frame that doesn't continue it gives no new chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    byte_order: ByteOrder,
    page_size: PageSize,
    salt: [u32; 2],
    checksum: [u32; 2],
}

impl Chain {
    /// Before the first frame.
    pub fn start(header: &WalHeader) -> Chain {
        Chain::resume(header, header.checksum)
    }

    /// After the frame that stores `checksum`, which the caller knows to be valid.
    pub fn resume(header: &WalHeader, checksum: [u32; 2]) -> Chain {
        Chain {
            byte_order: header.byte_order,
            page_size: header.page_size,
            salt: header.salt,
            checksum,
        }
    }

    /// The checksum of the last frame, or of the header if there is none.
    pub fn checksum(&self) -> [u32; 2] {
        self.checksum
    }

    /// The frame and the chain after it, if it is the next valid one.
    pub fn check(
        &self,
        frame_header: &[u8; FRAME_HEADER_LEN],
        page: &[u8],
    ) -> Option<(FrameHeader, Chain)> {
        let frame = FrameHeader::decode(frame_header)?;
        if frame.salt != self.salt || page.len() != self.page_size.as_usize() {
            return None;
        }
        let next = self.after(frame_header, page);
        (next.checksum == frame.checksum).then_some((frame, next))
    }

    /// The frame that would be the next valid one, and the chain after it. `commit` is zero but for the
    /// last frame of a transaction. A page that isn't of the WAL's page size gives a frame that no
    /// chain accepts.
    pub fn append(
        &self,
        pgno: Pgno,
        commit: PageCount,
        page: &[u8],
    ) -> ([u8; FRAME_HEADER_LEN], Chain) {
        let mut frame = FrameHeader { pgno, commit, salt: self.salt, checksum: [0; 2] };
        let next = self.after(&frame.encode(), page);
        frame.checksum = next.checksum;
        (frame.encode(), next)
    }

    fn after(&self, frame_header: &[u8; FRAME_HEADER_LEN], page: &[u8]) -> Chain {
        let sum = checksum(self.byte_order, self.checksum, &frame_header[..8]);
        Chain { checksum: checksum(self.byte_order, sum, page), ..*self }
    }
}

/// The header of a WAL, its checksum verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalHeader {
    /// How checksums read the words that they add up.
    pub byte_order: ByteOrder,
    /// Size of every page.
    pub page_size: PageSize,
    /// Counts how often the WAL started over.
    pub checkpoint_seq: u32,
    /// What the frames of this run of the WAL carry.
    pub salt: [u32; 2],
    /// The checksum of this header, seed of the first frame's.
    pub checksum: [u32; 2],
}

impl WalHeader {
    /// A header with its checksum.
    pub fn new(
        byte_order: ByteOrder,
        page_size: PageSize,
        checkpoint_seq: u32,
        salt: [u32; 2],
    ) -> WalHeader {
        let mut header =
            WalHeader { byte_order, page_size, checkpoint_seq, salt, checksum: [0; 2] };
        header.checksum = checksum(byte_order, [0; 2], &header.encode()[..24]);
        header
    }

    /// Decodes the beginning of a WAL.
    ///
    /// # Errors
    /// See [`WalHeaderError`]; the checks come in SQLite's order.
    pub fn decode(bytes: &[u8]) -> Result<WalHeader, WalHeaderError> {
        let b: &[u8; WAL_HEADER_LEN] =
            bytes.first_chunk().ok_or(WalHeaderError::Short { len: bytes.len() })?;
        let byte_order = match be_u32(b, 0) {
            MAGIC_LITTLE => ByteOrder::Little,
            MAGIC_BIG => ByteOrder::Big,
            raw => return Err(WalHeaderError::Magic { raw }),
        };
        let raw = be_u32(b, 8);
        let header = WalHeader {
            byte_order,
            page_size: PageSize::new(raw).ok_or(WalHeaderError::PageSize { raw })?,
            checkpoint_seq: be_u32(b, 12),
            salt: [be_u32(b, 16), be_u32(b, 20)],
            checksum: [be_u32(b, 24), be_u32(b, 28)],
        };
        if checksum(byte_order, [0; 2], &b[..24]) != header.checksum {
            return Err(WalHeaderError::Checksum);
        }
        match be_u32(b, 4) {
            VERSION => Ok(header),
            raw => Err(WalHeaderError::Version { raw }),
        }
    }

    /// Encodes the header.
    pub fn encode(&self) -> [u8; WAL_HEADER_LEN] {
        let magic = match self.byte_order {
            ByteOrder::Little => MAGIC_LITTLE,
            ByteOrder::Big => MAGIC_BIG,
        };
        let [salt1, salt2] = self.salt;
        let [sum1, sum2] = self.checksum;
        let page_size = self.page_size.as_u32();
        concat([magic, VERSION, page_size, self.checkpoint_seq, salt1, salt2, sum1, sum2])
    }
}

/// The header of a frame. Only a [`Chain`] knows whether it is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The page that the frame holds.
    pub pgno: Pgno,
    /// In the last frame of a transaction the size of the database after it, else zero.
    pub commit: PageCount,
    /// The salt of the WAL's header, unless the frame is left from before the WAL started over.
    pub salt: [u32; 2],
    /// The checksum of all up to here.
    pub checksum: [u32; 2],
}

impl FrameHeader {
    /// Decodes a header; `None` for page number 0, which no frame has.
    pub fn decode(b: &[u8; FRAME_HEADER_LEN]) -> Option<FrameHeader> {
        Some(FrameHeader {
            pgno: Pgno::new(be_u32(b, 0))?,
            commit: PageCount::new(be_u32(b, 4)),
            salt: [be_u32(b, 8), be_u32(b, 12)],
            checksum: [be_u32(b, 16), be_u32(b, 20)],
        })
    }

    /// Encodes the header.
    pub fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let [salt1, salt2] = self.salt;
        let [sum1, sum2] = self.checksum;
        concat([self.pgno.as_u32(), self.commit.as_u32(), salt1, salt2, sum1, sum2])
    }

    /// Whether this is the last frame of its transaction.
    pub fn is_commit(&self) -> bool {
        !self.commit.is_zero()
    }
}

/// The byte order in which checksums read their input: that of the machine which made the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

impl ByteOrder {
    /// This machine's.
    pub const NATIVE: ByteOrder =
        if cfg!(target_endian = "big") { ByteOrder::Big } else { ByteOrder::Little };
}

/// Where frame `index`, counted from 0, begins.
pub fn frame_offset(index: u32, page_size: PageSize) -> u64 {
    WAL_HEADER_LEN as u64 + u64::from(index) * frame_len(page_size)
}

/// The frame, counted from 0, that holds the byte at `offset`. `None` for the header, and past what SQLite can count.
pub fn frame_index_at(offset: u64, page_size: PageSize) -> Option<u32> {
    let past_header = offset.checked_sub(WAL_HEADER_LEN as u64)?;
    u32::try_from(past_header / frame_len(page_size)).ok()
}

/// Length of a frame: header and page.
pub fn frame_len(page_size: PageSize) -> u64 {
    FRAME_HEADER_LEN as u64 + u64::from(page_size.as_u32())
}

/// Continues the checksum `seed` over `data`, whose length is a multiple of 8; a remainder is ignored.
///
/// It runs over every page written in WAL mode, so it is one loop per byte order, free of bounds checks.
pub fn checksum(byte_order: ByteOrder, seed: [u32; 2], data: &[u8]) -> [u32; 2] {
    match byte_order {
        ByteOrder::Little => checksum_words(seed, data, u32::from_le_bytes),
        ByteOrder::Big => checksum_words(seed, data, u32::from_be_bytes),
    }
}

#[inline]
fn checksum_words(seed: [u32; 2], data: &[u8], word: impl Fn([u8; 4]) -> u32) -> [u32; 2] {
    let (pairs, _) = data.as_chunks::<8>();
    pairs.iter().fold(seed, |[s0, s1], [a, b, c, d, e, f, g, h]| {
        let s0 = s0.wrapping_add(word([*a, *b, *c, *d])).wrapping_add(s1);
        let s1 = s1.wrapping_add(word([*e, *f, *g, *h])).wrapping_add(s0);
        [s0, s1]
    })
}

/// Numbers as big-endian bytes; `LEN` is 4 for each.
fn concat<const N: usize, const LEN: usize>(numbers: [u32; N]) -> [u8; LEN] {
    const { assert!(LEN == 4 * N) };
    let mut bytes = [0; LEN];
    for (chunk, number) in bytes.as_chunks_mut().0.iter_mut().zip(numbers) {
        *chunk = number.to_be_bytes();
    }
    bytes
}

/// A WAL in which nothing counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WalHeaderError {
    /// Fewer than 32 bytes.
    #[error("wal header is {len} bytes, need {WAL_HEADER_LEN}")]
    Short {
        /// What there was.
        len: usize,
    },
    /// Not a WAL.
    #[error("invalid wal magic: {raw:08x}")]
    Magic {
        /// As stored.
        raw: u32,
    },
    /// Not a power of two from 512 to 65536.
    #[error("invalid page size in wal header: {raw}")]
    PageSize {
        /// As stored.
        raw: u32,
    },
    /// Torn, or never written out.
    #[error("wal header checksum mismatch")]
    Checksum,
    /// The only error that SQLite reports; with the others it takes the WAL as empty.
    #[error("unsupported wal version: {raw}")]
    Version {
        /// As stored.
        raw: u32,
    },
}

const MAGIC_LITTLE: u32 = 0x377f_0682;
const MAGIC_BIG: u32 = 0x377f_0683;
const VERSION: u32 = 3_007_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sqlite::golden;

    /// The valid frames of a WAL and the chain after them.
    fn scan(wal: &[u8]) -> (WalHeader, Vec<FrameHeader>, Chain) {
        let header = WalHeader::decode(wal).unwrap();
        let mut chain = Chain::start(&header);
        let mut frames = Vec::new();
        for frame in wal[WAL_HEADER_LEN..].chunks_exact(frame_len(header.page_size) as usize) {
            let (frame_header, page) = frame.split_first_chunk().unwrap();
            let Some((frame, next)) = chain.check(frame_header, page) else { break };
            frames.push(frame);
            chain = next;
        }
        (header, frames, chain)
    }

    /// A WAL of as many frames as `pages` has bytes, each page filled with its byte.
    fn build(header: &WalHeader, pages: &[u8]) -> Vec<u8> {
        let mut wal = header.encode().to_vec();
        let mut chain = Chain::start(header);
        for (i, fill) in pages.iter().enumerate() {
            let page = vec![*fill; header.page_size.as_usize()];
            let pgno = Pgno::new(i as u32 + 1).unwrap();
            let (frame, next) = chain.append(pgno, PageCount::new(i as u32 % 2), &page);
            wal.extend(frame);
            wal.extend(page);
            chain = next;
        }
        wal
    }

    #[test]
    fn reads_every_frame_that_sqlite_wrote() {
        for (name, wal, transactions) in [
            (512, golden!("two-tx-512.db-wal"), 2),
            (4096, golden!("two-tx-4096.db-wal"), 2),
            (65536, golden!("one-tx-65536.db-wal"), 1),
        ] {
            let (header, frames, chain) = scan(wal);
            assert_eq!(header.page_size.as_u32(), name);
            assert_eq!(header.encode()[..], wal[..WAL_HEADER_LEN], "{name}");
            assert_eq!(frame_offset(frames.len() as u32, header.page_size), wal.len() as u64);
            assert_eq!(frames.iter().filter(|f| f.is_commit()).count(), transactions, "{name}");
            assert_eq!(chain.checksum(), frames.last().unwrap().checksum, "{name}");

            for (i, frame) in frames.iter().enumerate() {
                let at = frame_offset(i as u32, header.page_size) as usize;
                assert_eq!(frame.encode()[..], wal[at..at + FRAME_HEADER_LEN], "{name}");
            }
        }
    }

    #[test]
    fn chain_resumes_from_a_stored_checksum() {
        let wal = golden!("two-tx-512.db-wal");
        let (header, frames, end) = scan(wal);
        let mut chain = Chain::resume(&header, frames[0].checksum);
        let rest = &wal[frame_offset(1, header.page_size) as usize..];
        for frame in rest.chunks_exact(frame_len(header.page_size) as usize) {
            let (frame_header, page) = frame.split_first_chunk().unwrap();
            chain = chain.check(frame_header, page).unwrap().1;
        }
        assert_eq!(chain, end);
    }

    #[test]
    fn refuses_what_is_no_header() {
        let valid =
            WalHeader::new(ByteOrder::Little, PageSize::new(512).unwrap(), 1, [2, 3]).encode();
        let with = |at: usize, number: u32| {
            let mut bytes = valid;
            bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
            WalHeader::decode(&bytes)
        };
        assert_eq!(WalHeader::decode(&valid[..31]), Err(WalHeaderError::Short { len: 31 }));
        assert_eq!(with(0, 0x377f_0681), Err(WalHeaderError::Magic { raw: 0x377f_0681 }));
        assert_eq!(with(8, 1), Err(WalHeaderError::PageSize { raw: 1 }));
        assert_eq!(with(24, 0), Err(WalHeaderError::Checksum));
        // The version is covered by the checksum, which SQLite checks first.
        assert_eq!(with(4, 1), Err(WalHeaderError::Checksum));
        let mut future = valid;
        future[4..8].copy_from_slice(&1u32.to_be_bytes());
        let sum = checksum(ByteOrder::Little, [0; 2], &future[..24]);
        future[24..].copy_from_slice(&concat::<2, 8>(sum));
        assert_eq!(WalHeader::decode(&future), Err(WalHeaderError::Version { raw: 1 }));
    }

    #[test]
    fn chain_refuses_page_zero_old_salt_and_wrong_page_length() {
        let header = WalHeader::new(ByteOrder::Big, PageSize::new(512).unwrap(), 0, [1, 2]);
        let chain = Chain::start(&header);
        let page = [7; 512];
        let (frame, _) = chain.append(Pgno::FIRST, PageCount::ZERO, &page);
        assert!(chain.check(&frame, &page).is_some());
        assert!(chain.check(&frame, &page[..504]).is_none());

        let old = WalHeader { salt: [1, 1], ..header };
        assert!(Chain::start(&old).check(&frame, &page).is_none());

        let mut zero = frame;
        zero[..4].fill(0);
        let sum = chain.after(&zero, &page).checksum;
        zero[16..].copy_from_slice(&concat::<2, 8>(sum));
        assert!(chain.check(&zero, &page).is_none());
    }

    #[test]
    fn offsets_and_indexes_agree() {
        for page_size in [512, 4096, 65536].map(|n| PageSize::new(n).unwrap()) {
            assert_eq!(frame_index_at(31, page_size), None);
            for index in [0, 1, 1000, u32::MAX] {
                let first = frame_offset(index, page_size);
                let last = first + frame_len(page_size) - 1;
                assert_eq!(frame_index_at(first, page_size), Some(index));
                assert_eq!(frame_index_at(last, page_size), Some(index));
            }
            assert_eq!(frame_index_at(u64::MAX, page_size), None);
        }
    }

    fn any_header() -> impl Strategy<Value = WalHeader> {
        (any::<bool>(), 9u32..=12, any::<u32>(), any::<[u32; 2]>()).prop_map(
            |(big, log2, seq, salt)| {
                let order = if big { ByteOrder::Big } else { ByteOrder::Little };
                WalHeader::new(order, PageSize::new(1 << log2).unwrap(), seq, salt)
            },
        )
    }

    proptest! {
        #[test]
        fn header_survives_encoding(header in any_header()) {
            prop_assert_eq!(WalHeader::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = WalHeader::decode(&bytes);
            if let Some(frame) = bytes.first_chunk() {
                let _ = FrameHeader::decode(frame);
            }
        }

        /// The checksum is no CRC: two flips may cancel out, one never does.
        #[test]
        fn one_changed_byte_ends_the_chain_at_its_frame(
            header in any_header(),
            pages in prop::collection::vec(any::<u8>(), 1..5),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let mut wal = build(&header, &pages);
            prop_assert_eq!(scan(&wal).1.len(), pages.len());

            let at = WAL_HEADER_LEN + at.index(wal.len() - WAL_HEADER_LEN);
            wal[at] ^= flip;
            let frame = frame_index_at(at as u64, header.page_size).unwrap();
            prop_assert_eq!(scan(&wal).1.len(), frame as usize);
        }
    }
}
