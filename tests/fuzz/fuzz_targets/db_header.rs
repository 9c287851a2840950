//! A database header never panics, and gives a size that fits the file or is the stored one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litefs_core::sqlite::DbHeader;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = DbHeader::decode(bytes) {
        let size = header.database_size(bytes.len() as u64);
        assert!(
            size == header.page_count || size.len_bytes(header.page_size) >= bytes.len() as u64
        );
    }
});
