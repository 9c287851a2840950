//! A WAL never panics, and each frame that counts is encoded to the same bytes again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litefs_core::sqlite::wal::{WAL_HEADER_LEN, frame_len};
use litefs_core::sqlite::{Chain, WalHeader};

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = WalHeader::decode(bytes) else { return };
    assert_eq!(header.encode()[..], bytes[..WAL_HEADER_LEN]);
    let mut chain = Chain::start(&header);
    for frame in bytes[WAL_HEADER_LEN..].chunks_exact(frame_len(header.page_size) as usize) {
        let Some((frame_header, page)) = frame.split_first_chunk() else { return };
        let Some((decoded, next)) = chain.check(frame_header, page) else { return };
        assert_eq!(chain.append(decoded.pgno, decoded.commit, page), (*frame_header, next));
        chain = next;
    }
});
