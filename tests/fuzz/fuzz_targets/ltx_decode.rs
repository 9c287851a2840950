//! Any bytes as a file. Seeds: `litefs-core/testdata/ltx`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litefs_core::ltx::{Decoder, Header, verify, write_database};

fuzz_target!(|data: &[u8]| {
    if let Ok(header) = Header::decode(data) {
        let bytes = header.encode().expect("a decoded header is valid");
        assert_eq!(bytes[..80], data[..80]);
        if let Ok(decoder) = Decoder::new(data) {
            let _ = write_database(decoder, std::io::sink());
        }
    }
    let _ = verify(data);
});
