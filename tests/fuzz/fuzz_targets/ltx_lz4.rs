//! Any bytes as the page block of a compressed file: no need to guess a valid header first.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litefs_core::ltx::{Header, Timestamp, verify};
use litefs_core::types::{PageCount, PageSize, Txid};

fuzz_target!(|data: &[u8]| {
    let header = Header {
        compressed: true,
        page_size: PageSize::new(512).expect("a power of two"),
        commit: PageCount::new(9),
        min_txid: Txid::FIRST,
        max_txid: Txid::FIRST,
        timestamp: Timestamp::from_millis(0),
        pre_apply: None,
        wal: None,
        node_id: 0,
    };
    let mut bytes = header.encode().expect("valid").to_vec();
    bytes.extend_from_slice(data);
    let _ = verify(&bytes[..]);
});
