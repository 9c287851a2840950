//! CRC-64/GO-ISO: the checksum of a page and that of a file.
//!
//! Rolling checksums over pages are [`Checksum`]'s own arithmetic.
//!
//! Source: Go's `hash/crc64` with the ISO table (reflected, x^64+x^4+x^3+x+1, all ones in and out).

use std::sync::LazyLock;

use crc_fast::{CrcParams, Digest};

use crate::types::{Checksum, Pgno};

/// The checksum of one page: over its number and its content. Allocates nothing.
pub fn page_checksum(pgno: Pgno, page: &[u8]) -> Checksum {
    let mut digest = Crc64::new();
    digest.update(&pgno.as_u32().to_be_bytes());
    digest.update(page);
    digest.checksum()
}

/// A running CRC-64.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crc64(Digest);

impl Crc64 {
    pub(super) fn new() -> Crc64 {
        Crc64(Digest::new_with_params(*PARAMS))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn checksum(&self) -> Checksum {
        Checksum::from_crc(self.0.finalize())
    }
}

/// Built once: making them takes a global lock.
static PARAMS: LazyLock<CrcParams> = LazyLock::new(|| {
    CrcParams::new("CRC-64/GO-ISO", 64, 0x1b, u64::MAX, true, u64::MAX, 0xb909_56c7_75a4_1001)
});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn page_checksums_match_the_original() {
        let table = [
            (1, 512, 0xefb1_f44f_ecd9_9000),
            (2, 512, 0xef63_e89f_ecd9_9000),
            (1, 4096, 0xd932_8f59_2d9e_733d),
        ];
        for (pgno, len, want) in table {
            let got = page_checksum(Pgno::new(pgno).unwrap(), &vec![0; len]);
            assert_eq!(got.as_u64(), want, "page {pgno} of {len} zeros");
        }
    }

    #[test]
    fn check_value_of_the_algorithm() {
        let mut crc = Crc64::new();
        crc.update(b"123456789");
        assert_eq!(crc.checksum().as_u64(), 0xb909_56c7_75a4_1001);
        assert_eq!(Crc64::new().checksum(), Checksum::EMPTY);
    }

    proptest! {
        /// The fast implementation has other code for each length, alignment and kind of CPU.
        #[test]
        fn equals_the_reference(
            data in prop::collection::vec(any::<u8>(), 0..5000),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|i| i.index(data.len() + 1)).collect();
            cuts.extend([0, data.len()]);
            cuts.sort_unstable();

            let mut ours = Crc64::new();
            for pair in cuts.windows(2) {
                ours.update(&data[pair[0]..pair[1]]);
            }
            let reference = crc::Crc::<u64>::new(&crc::CRC_64_GO_ISO);
            prop_assert_eq!(ours.checksum(), Checksum::from_crc(reference.checksum(&data)));
        }
    }
}
