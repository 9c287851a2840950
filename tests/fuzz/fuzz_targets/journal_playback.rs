//! A journal never panics, never asks for bytes outside of it, restores no page outside of the database, and ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litefs_core::sqlite::{Playback, journal};
use litefs_core::types::PageSize;

fuzz_target!(|bytes: &[u8]| {
    let _ = journal::super_journal_name(bytes);
    let Ok(mut playback) = Playback::new(bytes, bytes.len() as u64, PageSize::MAX) else { return };
    let (page_size, initial_size) = (playback.page_size(), playback.initial_size());
    let mut end = 0;
    while let Some((offset, len)) = playback.next_read() {
        assert!(offset >= end, "went back");
        end = offset + len as u64;
        if let Some((pgno, page)) = playback.feed(&bytes[offset as usize..end as usize]) {
            assert!(initial_size.contains(pgno));
            assert_ne!(pgno, page_size.lock_page());
            assert_eq!(page.len(), page_size.as_usize());
        }
    }
});
