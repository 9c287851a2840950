//! Frames of another writer, and damaged ones.

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use proptest::prelude::*;

use super::*;

/// Repeats itself, at distances within and beyond a block.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i / 7 % 251) ^ (i / 70_000)) as u8).collect()
}

fn write(content: &[u8]) -> Vec<u8> {
    let mut frame = FrameWriter::new(Vec::new(), Scratch::default()).unwrap();
    frame.write_all(content).unwrap();
    frame.finish().unwrap()
}

/// Returns the content of the frame and what is behind it.
fn read(bytes: &[u8]) -> Result<(Vec<u8>, &[u8]), DecodeError> {
    let mut frame = FrameReader::new(bytes, Scratch::default(), true);
    let (mut content, mut buf) = (Vec::new(), [0; 1000]);
    loop {
        match frame.read(&mut buf)? {
            0 => return Ok((content, *frame.inner())),
            n => content.extend_from_slice(&buf[..n]),
        }
    }
}

#[test]
fn reads_every_standard_form_and_stops_behind_it() {
    let content = content(300_000);
    let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    for linked in [false, true] {
        for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB]
        {
            for bits in 0..8 {
                let mode = if linked { BlockMode::Linked } else { BlockMode::Independent };
                let info = FrameInfo::new()
                    .block_mode(mode)
                    .block_size(size)
                    .block_checksums(bits & 1 != 0)
                    .content_checksum(bits & 2 != 0)
                    .content_size((bits & 4 != 0).then_some(content.len() as u64));
                let mut other = FrameEncoder::with_frame_info(info, skippable.clone());
                // Writes of odd length, with short blocks in between.
                for chunk in content.chunks(99_991) {
                    other.write_all(chunk).unwrap();
                    other.flush().unwrap();
                }
                let mut bytes = other.finish().unwrap();
                bytes.extend_from_slice(b"behind");

                let (got, rest) = read(&bytes).unwrap();
                assert!(got == content, "linked {linked}, {size:?}, {bits:03b}");
                assert_eq!(rest, b"behind");
            }
        }
    }
}

#[test]
fn empty_blocks_are_no_end() {
    let mut bytes = WRITTEN_HEADER.to_vec();
    bytes.extend(block_header(0, true));
    bytes.extend(block_header(1, true));
    bytes.extend(b"x");
    bytes.extend([0; 4]);
    bytes.extend(XxHash32::oneshot(0, b"x").to_le_bytes());
    assert_eq!(read(&bytes).unwrap().0, b"x");
}

#[test]
fn each_kind_of_damage_has_its_error() {
    let good = write(&content(1000));
    let end = good.len();
    let table: [(usize, u8, &str); 9] = [
        (0, 0x02, "lz4: bad magic number 0x184d2202"),
        (4, 0xe4, "lz4: unsupported frame descriptor: flg=0xe4 bd=0x40"),
        (4, 0x66, "lz4: unsupported frame descriptor: flg=0x66 bd=0x40"),
        (4, 0x65, "lz4: unsupported frame descriptor: flg=0x65 bd=0x40"),
        (5, 0x30, "lz4: unsupported frame descriptor: flg=0x64 bd=0x30"),
        (5, 0x50, "lz4: invalid frame header checksum"),
        (9, 0x01, "lz4: block of "),
        (end - 1, !good[end - 1], "lz4: invalid content checksum"),
        (11, 0x0f, "lz4: "),
    ];
    for (offset, value, want) in table {
        let mut bad = good.clone();
        bad[offset] = value;
        let got = read(&bad).unwrap_err().to_string();
        assert!(got.starts_with(want), "{offset}: {got}");
    }
}

#[test]
fn no_prefix_is_a_frame() {
    let good = write(&content(70_000));
    assert!(matches!(read(&[]), Err(DecodeError::Eof)));
    for len in 1..good.len() {
        assert!(matches!(read(&good[..len]), Err(DecodeError::UnexpectedEof)), "{len}");
    }
}

#[test]
fn blocks_are_full_but_the_last() {
    for (len, want) in [(0, vec![]), (1, vec![1]), (65536, vec![65536]), (65537, vec![65536, 1])] {
        let bytes = write(&vec![0; len]);
        let mut info = lz4_flex::frame::FrameDecoder::new(&bytes[..]);
        let mut blocks = Vec::new();
        loop {
            let block = io::BufRead::fill_buf(&mut info).unwrap().len();
            if block == 0 {
                break;
            }
            blocks.push(block);
            io::BufRead::consume(&mut info, block);
        }
        assert_eq!(blocks, want);
    }
}

proptest! {
    #[test]
    fn scratch_carries_nothing_over(
        contents in prop::collection::vec((0_usize..140_000, any::<u8>()), 1..4),
    ) {
        let (mut write_scratch, mut read_scratch) = (Scratch::default(), Scratch::default());
        for (len, salt) in contents {
            let content: Vec<u8> = content(len).iter().map(|b| b ^ salt).collect();
            let mut frame = FrameWriter::new(Vec::new(), &mut write_scratch).unwrap();
            frame.write_all(&content).unwrap();
            let bytes = frame.finish().unwrap();
            prop_assert!(bytes == write(&content));

            let mut frame = FrameReader::new(&bytes[..], &mut read_scratch, true);
            let mut got = vec![0; len + 1];
            prop_assert_eq!(frame.read(&mut got).unwrap(), len);
            prop_assert!(got[..len] == content);
        }
    }

    #[test]
    fn no_input_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes);
        // Past the descriptor, where there is more to go wrong.
        bytes.splice(0..0, WRITTEN_HEADER);
        let _ = read(&bytes);
    }
}
