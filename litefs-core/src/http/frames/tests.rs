use std::io::{Read, Write};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::ltx;
use crate::types::Pos;

macro_rules! captured {
    ($name:literal) => {
        include_bytes!(concat!("../../../testdata/http/", $name, ".bin")).as_slice()
    };
}

/// An event that owns its bytes; runs of LTX bytes are joined, so that splits don't show.
#[derive(Debug, Clone, PartialEq)]
enum Item {
    Frame(Frame),
    File(Vec<u8>),
}

fn decode(pieces: &[&[u8]]) -> Result<Vec<Item>, FrameError> {
    let (mut decoder, mut items, mut file) = (FrameDecoder::new(), Vec::new(), Vec::new());
    for piece in pieces {
        let mut input = *piece;
        while let Some(event) = decoder.next(&mut input)? {
            match event {
                Event::Frame(frame) => items.push(Item::Frame(frame)),
                Event::LtxBytes(bytes) => file.extend_from_slice(bytes),
                Event::LtxEnd => items.push(Item::File(std::mem::take(&mut file))),
            }
        }
        assert!(input.is_empty(), "the decoder takes all input");
    }
    decoder.finish()?;
    Ok(items)
}

fn encode(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        match item {
            Item::Frame(frame) => frame.encode(&mut out),
            Item::File(bytes) => {
                let mut chunks = ChunkWriter::new(&mut out);
                chunks.write_all(bytes).unwrap();
                chunks.finish().unwrap();
            }
        }
    }
    out
}

fn name(text: &str) -> DbName {
    DbName::new(text).unwrap()
}

#[test]
fn the_originals_position_map_round_trips() {
    let bytes = captured!("posmap-db3-gone7");
    let map = PositionMap::decode(bytes).unwrap();
    let text: Vec<_> =
        map.0.iter().map(|(name, pos)| format!("{name} {}", Pos::text(*pos))).collect();
    assert_eq!(
        text,
        ["db 0000000000000003/a7dd8f28ea1b904d", "gone 0000000000000007/8000000000000001"]
    );
    assert_eq!(map.encode(), bytes);
}

#[test]
fn a_position_map_is_refused_wherever_it_is_cut() {
    let bytes = captured!("posmap-db3-gone7");
    assert_eq!(PositionMap::decode(b""), Err(PositionMapError::Empty));
    for len in 1..bytes.len() {
        let cut = PositionMap::decode(&bytes[..len]);
        assert_eq!(cut, Err(PositionMapError::Entry(FrameError::Truncated)), "{len}");
    }
}

#[test]
fn lengths_that_lie_are_refused_before_they_cost_memory() {
    let endless = [0xff; 4];
    assert_eq!(PositionMap::decode(&endless), Err(PositionMapError::Entry(FrameError::Truncated)));
    for (frame, max) in [("00000004 ffffffff", 255), ("00000005 ffffffff", 4096)] {
        let want = FrameError::TooLong { len: u32::MAX, max };
        assert_eq!(decode(&[&hex(frame)]), Err(want), "{frame}");
    }
}

#[test]
fn a_position_that_cannot_be_is_none() {
    let bytes = hex("00000001 00000002 6462 0000000000000003 0000000000000001");
    assert_eq!(PositionMap::decode(&bytes).unwrap().0[&name("db")], None);
}

#[test]
fn the_originals_stream_is_understood() {
    let items = decode(&[captured!("stream-client-db3-gone7")]).unwrap();
    let text: Vec<_> = items
        .iter()
        .map(|item| match item {
            Item::Frame(frame) => format!("{frame:?}"),
            Item::File(bytes) => {
                let file = ltx::verify(bytes.as_slice()).unwrap();
                format!("{}-{}", file.header.min_txid, file.header.max_txid)
            }
        })
        .collect();
    let ltx = |db: &str| format!("{:?}", Frame::Ltx { name: name(db) });
    let hwm = format!("{:?}", Frame::Hwm { txid: None, name: name("db") });
    let span = |min, max| format!("{min:016x}-{max:016x}");
    let mut want = vec![ltx("imp"), text[1].clone()];
    want.push(format!("{:?}", Frame::DropDb { name: name("gone") }));
    want.extend([ltx("db"), span(4, 4), hwm.clone(), ltx("db"), span(5, 5), hwm]);
    want.push("Ready".into());
    assert_eq!(text[..want.len()], want);
    assert_eq!(text.len(), want.len() + 3, "three heartbeats");
}

#[test]
fn what_the_original_wrote_in_one_chunk_is_written_alike() {
    for bytes in [captured!("stream-client-db3-gone7"), captured!("stream-empty-client-filter-db")]
    {
        let items = decode(&[bytes]).unwrap();
        // Its snapshots are many small chunks; ours are few large ones with the same content.
        assert_eq!(decode(&[&encode(&items)]).unwrap(), items);
        assert!(encode(&items).len() < bytes.len());
    }
    let tail = hex("00000007 000001a2 0cdf722d");
    assert!(captured!("stream-client-db3-gone7").ends_with(&tail));
    assert_eq!(encode(&decode(&[&tail]).unwrap()), tail);
}

#[test]
fn a_stream_may_end_between_frames_only() {
    let bytes = captured!("stream-client-db3-gone7");
    let whole = decode(&[bytes]).unwrap();
    let mut ends = 0;
    for len in 0..=bytes.len() {
        match decode(&[&bytes[..len]]) {
            Ok(items) => {
                assert_eq!(items, whole[..items.len()]);
                assert!(!matches!(items.last(), Some(Item::Frame(Frame::Ltx { .. }))));
                ends += 1;
            }
            Err(err) => assert_eq!(err, FrameError::Truncated, "{len}"),
        }
    }
    // The start, and the end of each frame: three LTX, DropDB, two HWM, Ready, three heartbeats.
    assert_eq!(ends, 1 + 3 + 1 + 2 + 1 + 3);
}

#[test]
fn unknown_frames_and_names_are_refused() {
    let cases: [(&str, FrameError); 4] = [
        ("00000000", FrameError::Kind(0)),
        ("00000008", FrameError::Kind(8)),
        ("00000004 00000001 ff", FrameError::NotText),
        ("00000004 00000001 2f", FrameError::Name(ParseError::DbName("/".into()))),
    ];
    for (bytes, want) in cases {
        assert_eq!(decode(&[&hex(bytes)]), Err(want), "{bytes}");
    }
    assert_eq!(FrameError::Kind(0x73).to_string(), "invalid stream frame type: 0x73");
}

#[test]
fn small_writes_share_a_chunk_and_large_ones_are_split() {
    let mut out = Vec::new();
    let mut chunks = ChunkWriter::new(&mut out);
    chunks.write_all(b"ab").unwrap();
    chunks.write_all(b"").unwrap();
    chunks.copy(b"c".as_slice()).unwrap();
    chunks.finish().unwrap();
    assert_eq!(out, hex("0003 616263 0000"));

    let mut out = Vec::new();
    let mut chunks = ChunkWriter::new(&mut out);
    chunks.copy(std::io::repeat(7).take(65536)).unwrap();
    chunks.finish().unwrap();
    assert_eq!(out.len(), 2 + 65535 + 2 + 1 + 2);
    assert_eq!((&out[..2], &out[65537..]), (&[0xff; 2][..], &hex("0001 07 0000")[..]));
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap())
        .collect()
}

fn any_name() -> impl Strategy<Value = DbName> {
    "[a-z]{1,12}".prop_map(|text| name(&text))
}

fn any_items() -> impl Strategy<Value = Vec<Item>> {
    let item = prop_oneof![
        (any_name(), vec(any::<u8>(), 0..300))
            .prop_map(|(name, file)| vec![Item::Frame(Frame::Ltx { name }), Item::File(file)]),
        Just(vec![Item::Frame(Frame::Ready)]),
        Just(vec![Item::Frame(Frame::End)]),
        any_name().prop_map(|name| vec![Item::Frame(Frame::DropDb { name })]),
        ".{0,40}".prop_map(|lease_id| vec![Item::Frame(Frame::Handoff { lease_id })]),
        (any::<u64>(), any_name())
            .prop_map(|(txid, name)| vec![Item::Frame(Frame::Hwm { txid: Txid::new(txid), name })]),
        any::<i64>().prop_map(|ms| {
            vec![Item::Frame(Frame::Heartbeat { timestamp: Timestamp::from_millis(ms) })]
        }),
    ];
    vec(item, 0..12).prop_map(|items| items.concat())
}

/// Cuts bytes at the given places.
fn split(bytes: &[u8], mut cuts: Vec<usize>) -> Vec<&[u8]> {
    cuts.iter_mut().for_each(|cut| *cut %= bytes.len() + 1);
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect()
}

proptest! {
    #[test]
    fn any_stream_round_trips_however_it_is_split(items in any_items(), cuts in vec(any::<usize>(), 0..40)) {
        let bytes = encode(&items);
        prop_assert_eq!(decode(&split(&bytes, cuts)).unwrap(), items);
    }

    #[test]
    fn garbage_and_flipped_bytes_never_panic(
        mut bytes in vec(any::<u8>(), 0..400),
        at in any::<usize>(),
        flip in any::<u8>(),
        cuts in vec(any::<usize>(), 0..10),
    ) {
        let _ = decode(&[&bytes]);
        let _ = PositionMap::decode(&bytes);
        bytes = captured!("stream-client-db3-gone7").to_vec();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        let _ = decode(&split(&bytes, cuts));
    }

    #[test]
    fn any_position_map_round_trips(entries in vec((any_name(), any::<u64>(), any::<u64>()), 0..20)) {
        let map = PositionMap(entries.into_iter().map(|(name, txid, sum)| {
            let pos = Txid::new(txid).map(|txid| Pos { txid, post_apply: crate::types::Checksum::from_crc(sum) });
            (name, pos)
        }).collect());
        prop_assert_eq!(PositionMap::decode(&map.encode()), Ok(map));
    }
}
