//! Any bytes as files to merge, cut at lengths that the input itself gives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litefs_core::ltx::{CompactOptions, compact, verify};

fuzz_target!(|data: &[u8]| {
    let Some((flags, mut data)) = data.split_first() else { return };
    let options =
        CompactOptions { compressed: flags & 1 != 0, allow_non_contiguous: flags & 2 != 0 };
    let mut inputs = Vec::new();
    while let Some((len, rest)) = data.split_first_chunk() {
        let (input, rest) = rest.split_at(rest.len().min(u16::from_le_bytes(*len).into()));
        inputs.push(input);
        data = rest;
    }
    if let Ok((bytes, summary)) = compact(inputs, Vec::new(), options) {
        // A merged snapshot may lack the pages that its checksum was made of.
        assert!(summary.header.is_snapshot() || verify(&bytes[..]).is_ok());
    }
});
