//! Any bytes as a replication stream, whole and in pieces, and as a position map. Seeds: `litefs-core/testdata/http`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litefs_core::http::frames::{Event, FrameDecoder, FrameError, PositionMap};

/// The events as text, with runs of LTX bytes joined.
fn decode(data: &[u8], piece: usize) -> Result<String, FrameError> {
    let (mut decoder, mut text, mut file) = (FrameDecoder::new(), String::new(), Vec::new());
    for mut input in data.chunks(piece) {
        while let Some(event) = decoder.next(&mut input)? {
            match event {
                Event::Frame(frame) => text += &format!("{frame:?} "),
                Event::LtxBytes(bytes) => file.extend_from_slice(bytes),
                Event::LtxEnd => text += &format!("{:?} ", std::mem::take(&mut file)),
            }
        }
    }
    decoder.finish().map(|()| text)
}

fuzz_target!(|data: &[u8]| {
    assert_eq!(decode(data, usize::MAX), decode(data, 3));
    if let Ok(map) = PositionMap::decode(data) {
        assert_eq!(PositionMap::decode(&map.encode()), Ok(map));
    }
});
