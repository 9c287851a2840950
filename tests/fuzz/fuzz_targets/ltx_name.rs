//! Any text as the name of a file or a time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litefs_core::ltx::{FileName, Timestamp};

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<FileName>() {
        assert_eq!(name.to_string(), text);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        let text = time.to_string();
        // A zone can move the time out of the years 0 to 9999, which alone can be read back.
        if text.len() == 24 && !text.starts_with('-') {
            assert_eq!(text.parse(), Ok(time), "{text}");
        }
    }
});
