//! Whole files: those of the original's library, and random ones.

use std::collections::BTreeMap;
use std::io;

use proptest::prelude::*;

use super::*;
use crate::types::{PageCount, PageSize, Pgno, Txid};

mod properties;

macro_rules! vector {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../testdata/ltx/", $name, ".ltx")).as_slice())
    };
}

const SNAPSHOT: &[u8] = vector!("01-snapshot-512-2p").1;
const DELTA: &[u8] = vector!("02-delta-512-wal").1;
const SHRINK: &[u8] = vector!("03-delta-512-shrink").1;
const SNAPSHOT_LZ4: &[u8] = vector!("05-snapshot-512-2p-lz4").1;

type Pages = Vec<(Pgno, Vec<u8>)>;

fn pgno(raw: u32) -> Pgno {
    Pgno::new(raw).unwrap()
}

fn txid(raw: u64) -> Txid {
    Txid::new(raw).unwrap()
}

fn header(min: u64, max: u64, commit: u32) -> Header {
    Header {
        compressed: false,
        page_size: PageSize::new(512).unwrap(),
        commit: PageCount::new(commit),
        min_txid: txid(min),
        max_txid: txid(max),
        timestamp: Timestamp::from_millis(7),
        pre_apply: (min > 1).then_some(Checksum::EMPTY),
        wal: None,
        node_id: 0,
    }
}

fn decode(bytes: &[u8]) -> Result<(Header, Pages, Trailer), DecodeError> {
    decode_all(Decoder::new(bytes)?)
}

fn decode_all(mut decoder: Decoder<&[u8]>) -> Result<(Header, Pages, Trailer), DecodeError> {
    let header = *decoder.header();
    let (mut pages, mut buf) = (Vec::new(), vec![0; header.page_size.as_usize()]);
    while let Some(pgno) = decoder.next_page(&mut buf)? {
        pages.push((pgno, buf.clone()));
    }
    Ok((header, pages, decoder.finish()?))
}

fn encode(header: &Header, pages: &Pages, post_apply: Checksum) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    for (pgno, data) in pages {
        encoder.page(*pgno, data).unwrap();
    }
    encoder.finish(post_apply).unwrap().0
}

fn rolling(pages: &Pages) -> Checksum {
    pages.iter().fold(Checksum::EMPTY, |sum, (pgno, data)| sum.toggle(page_checksum(*pgno, data)))
}

#[test]
fn files_of_the_original_verify() {
    #[rustfmt::skip]
    let table = [
        // name, compressed, page size, commit, min, max, timestamp, post-apply, file checksum, pages
        (vector!("01-snapshot-512-2p"), false, 512, 2, 1, 1, 1_700_000_000_123, 0xff9655e6d844a360, 0x8c73862779ce65aa, 2),
        (vector!("02-delta-512-wal"), false, 512, 3, 2, 2, 1_700_000_001_456, 0xb9fb700013266fff, 0x81a66bf6776250f1, 2),
        (vector!("03-delta-512-shrink"), false, 512, 1, 3, 3, 1_700_000_002_789, 0xea29d2ee0f066e26, 0xe5494d958da33db5, 1),
        (vector!("04-delete-512"), false, 512, 0, 4, 4, 1_700_000_003_000, 0x8000000000000000, 0x8e5c248d3d4f9413, 0),
        (vector!("05-snapshot-512-2p-lz4"), true, 512, 2, 1, 1, 1_700_000_000_123, 0xff9655e6d844a360, 0xf9681f84127fa36b, 2),
        (vector!("06-delete-512-lz4"), true, 512, 0, 4, 4, 1_700_000_003_000, 0x8000000000000000, 0x8f0c30dc785bc406, 0),
        (vector!("07-snapshot-4096-40p-lz4"), true, 4096, 40, 1, 9, 1_700_000_009_000, 0x824d879df1e1764a, 0xc5aaa1f68e1e9324, 40),
        (vector!("08-compact-1-3"), false, 512, 1, 1, 3, 1_700_000_002_789, 0xea29d2ee0f066e26, 0xca7a52ca8ef758bd, 1),
        (vector!("09-compact-1-3-lz4"), true, 512, 1, 1, 3, 1_700_000_002_789, 0xea29d2ee0f066e26, 0x8117e4488f0b21af, 1),
        (vector!("10-compact-2-3"), false, 512, 1, 2, 3, 1_700_000_002_789, 0xea29d2ee0f066e26, 0xa644c5ebdfdab84a, 1),
        (vector!("11-empty-snapshot"), false, 512, 0, 1, 1, 5, 0x8000000000000000, 0x8553ab86c9346655, 0),
    ];
    for ((name, bytes), lz4, page_size, commit, min, max, ms, post_apply, file, pages) in table {
        let got = verify(bytes).expect(name);
        assert_eq!(got.header.compressed, lz4, "{name}");
        assert_eq!(got.header.page_size.as_u32(), page_size, "{name}");
        assert_eq!(got.header.commit.as_u32(), commit, "{name}");
        assert_eq!((got.header.min_txid, got.header.max_txid), (txid(min), txid(max)), "{name}");
        assert_eq!(got.header.timestamp.as_millis(), ms, "{name}");
        assert_eq!(got.trailer.post_apply.as_u64(), post_apply, "{name}");
        assert_eq!(got.trailer.file_checksum.as_u64(), file, "{name}");
        assert_eq!(got.pages, pages, "{name}");

        // Written again, the file is the same; the compressor may differ, so only what it packs.
        let (header, pages, trailer) = decode(bytes).unwrap();
        let again = encode(&header, &pages, trailer.post_apply);
        if lz4 {
            assert_eq!(decode(&again).unwrap(), (header, pages, trailer), "{name}");
        } else {
            assert!(again == bytes, "{name}");
        }
    }
}

#[test]
fn pages_of_the_original_have_their_content() {
    let (_, pages, _) = decode(vector!("07-snapshot-4096-40p-lz4").1).unwrap();
    for (n, (pgno, data)) in (1_u32..).zip(&pages) {
        let mut seed = n;
        let want: Vec<u8> = (0..4096_u32)
            .map(|j| match n {
                _ if n % 3 == 0 => 0,
                17..36 => {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                }
                _ => (j / 16) as u8 ^ n as u8,
            })
            .collect();
        assert_eq!(pgno.as_u32(), n);
        assert!(*data == want, "page {n}");
    }
}

#[test]
fn damaged_files_are_refused_with_the_original_text() {
    #[rustfmt::skip]
    let table = [
        (vector!("90-bad-page-bit"), "close reader: file checksum mismatch"),
        (vector!("91-bad-truncated-trailer"), "close reader: unexpected EOF"),
        (vector!("92-bad-truncated-page"), "decode page 0: unexpected EOF"),
        (vector!("93-bad-magic"), "decode header: unmarshal header: invalid LTX file"),
        (vector!("94-bad-flags"), "decode header: invalid flags: 0x00000002"),
        (vector!("95-bad-snapshot-postapply"), "close reader: post-apply checksum in trailer (ff9655e6d844a360) does not match calculated checksum (c6f13286cb62cc9f)"),
        (("nothing", &[]), "decode header: EOF"),
        (("half a header", &SNAPSHOT[..50]), "decode header: unexpected EOF"),
        (("no page", &SNAPSHOT[..100]), "decode page 0: EOF"),
        (("page number only", &SNAPSHOT[..104]), "decode page 0: EOF"),
        (("no end marker", &SNAPSHOT[..100 + 2 * 516]), "decode page 2: EOF"),
        (("no trailer", &SNAPSHOT[..100 + 2 * 516 + 4]), "close reader: EOF"),
        (("no frame", &SNAPSHOT_LZ4[..100]), "decode page 0: EOF"),
        (("part of a frame", &SNAPSHOT_LZ4[..200]), "decode page 0: unexpected EOF"),
        (("no frame end", &SNAPSHOT_LZ4[..SNAPSHOT_LZ4.len() - 20]), "decode page 2: unexpected EOF"),
    ];
    for ((name, bytes), want) in table {
        assert_eq!(verify(bytes).expect_err(name).to_string(), want, "{name}");
    }
}

#[test]
fn trailer_needs_a_post_apply_checksum() {
    for (raw, want) in
        [(0_u64, "post-apply checksum required"), (1, "invalid post-apply checksum format")]
    {
        let mut bytes = DELTA[..DELTA.len() - TRAILER_LEN].to_vec();
        bytes.extend(raw.to_be_bytes());
        let mut crc = checksum::Crc64::new();
        crc.update(&bytes);
        bytes.extend(crc.checksum().as_u64().to_be_bytes());
        assert_eq!(decode(&bytes).unwrap_err().to_string(), want);
    }
}

#[test]
fn of_a_checked_file_no_checksum_is_calculated_but_that_of_a_snapshot() {
    for file in [SNAPSHOT, DELTA, SNAPSHOT_LZ4] {
        let checked = || decode_all(Decoder::of_checked(file).unwrap()).unwrap();
        assert_eq!(checked(), decode(file).unwrap());

        let mut other = file.to_vec();
        *other.last_mut().unwrap() ^= 1;
        assert_eq!(decode(&other).unwrap_err().to_string(), "file checksum mismatch");
        let (.., trailer) = decode_all(Decoder::of_checked(&other[..]).unwrap()).unwrap();
        assert_ne!(trailer.file_checksum, checked().2.file_checksum);
    }
    let mut other = SNAPSHOT.to_vec();
    other[HEADER_LEN + PAGE_HEADER_LEN + 200] ^= 1;
    let err = decode_all(Decoder::of_checked(&other[..]).unwrap()).unwrap_err();
    assert!(matches!(err, DecodeError::PostApply { .. }), "{err}");
}

#[test]
fn frame_must_end_with_the_page_block() {
    let mut frame = lz4::FrameWriter::new(
        Header { compressed: true, ..header(1, 1, 0) }.encode().unwrap().to_vec(),
        Scratch::default(),
    )
    .unwrap();
    frame.write_all(&[0; 5]).unwrap();
    let bytes = frame.finish().unwrap();
    let err = verify(&bytes[..]).unwrap_err();
    assert_eq!(err.to_string(), "decode page 0: expected lz4 end frame");
}

#[test]
fn decoder_leaves_what_follows_the_file() {
    for bytes in [SNAPSHOT, SNAPSHOT_LZ4] {
        let mut both = [bytes, b"behind"].concat();
        let mut rest = &both[..];
        verify(&mut rest).unwrap();
        assert_eq!(rest, b"behind");

        // A reader that gives single bytes yields the same.
        both.truncate(bytes.len());
        struct OneByOne<'a>(&'a [u8]);
        impl io::Read for OneByOne<'_> {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                let len = buf.len().min(1);
                self.0.read(&mut buf[..len])
            }
        }
        assert_eq!(verify(OneByOne(&both)).unwrap(), verify(bytes).unwrap());
    }
}

#[test]
fn decoder_refuses_misuse() {
    let mut decoder = Decoder::new(SNAPSHOT).unwrap();
    assert_eq!(
        decoder.next_page(&mut [0; 511]).unwrap_err().to_string(),
        "invalid page buffer size: 511, expecting 512"
    );
    assert_eq!(decoder.next_page(&mut [0; 512]).unwrap(), Some(Pgno::FIRST));
    assert_eq!(decoder.finish().unwrap_err().to_string(), "cannot close, expected page");

    let mut decoder = Decoder::new(SNAPSHOT).unwrap();
    while decoder.next_page(&mut [0; 512]).unwrap().is_some() {}
    assert_eq!(decoder.next_page(&mut [0; 512]).unwrap(), None);
    assert!(decoder.finish().is_ok());
}

#[test]
fn encoder_refuses_pages_out_of_place() {
    let lock = PageSize::MAX.lock_page().as_u32();
    let big = |min| Header { page_size: PageSize::MAX, ..header(min, min, lock + 9) };
    #[rustfmt::skip]
    let table: [(Header, u32, u32, usize, &str); 11] = [
        // header, page before or 0, page, its length
        (header(1, 1, 2), 0, 3, 1, "page number 3 out-of-bounds for commit size 2"),
        (header(1, 1, 2), 0, 1, 511, "invalid page buffer size: 511, expecting 512"),
        (big(2), 0, lock, 65536, "cannot encode lock page: pgno=16385"),
        (header(1, 1, 2), 0, 2, 512, "snapshot transaction file must start with page number 1"),
        (header(1, 1, 9), 1, 1, 512, "nonsequential page numbers in snapshot transaction: 1,1"),
        (header(1, 1, 9), 1, 3, 512, "nonsequential page numbers in snapshot transaction: 1,3"),
        (header(2, 2, 9), 4, 4, 512, "out-of-order page numbers: 4,4"),
        (header(2, 2, 9), 4, 3, 512, "out-of-order page numbers: 4,3"),
        (header(1, 1, 9), 1, 2, 512, ""),
        (header(2, 2, 9), 0, 5, 512, ""),
        (header(2, 2, 9), 4, 9, 512, ""),
    ];
    for (header, before, page, len, want) in table {
        let mut encoder = Encoder::new(io::sink(), &header).unwrap();
        if before != 0 {
            let data = vec![0; header.page_size.as_usize()];
            encoder.page(pgno(before), &data).unwrap();
        }
        match encoder.page(pgno(page), &vec![0; len]) {
            Ok(()) => assert_eq!("", want),
            Err(e) => assert_eq!(e.to_string(), want),
        }
    }
}

#[test]
fn snapshot_skips_the_lock_page() {
    let lock = PageSize::MAX.lock_page();
    let count = lock.as_u32() + 1;
    let header = Header { page_size: PageSize::MAX, ..header(1, 1, count) };
    let page = vec![0; 65536];

    let mut encoder = Encoder::new(io::sink(), &header).unwrap();
    for pgno in Pgno::all(PageCount::new(lock.as_u32() - 1), header.page_size) {
        encoder.page(pgno, &page).unwrap();
    }
    assert_eq!(
        encoder.page(pgno(count + 1), &page).unwrap_err().to_string(),
        "page number 16387 out-of-bounds for commit size 16386"
    );
    assert_eq!(
        encoder.page(pgno(1), &page).unwrap_err().to_string(),
        "nonsequential page numbers in snapshot transaction (skip lock page): 16384,1"
    );
    encoder.page(pgno(count), &page).unwrap();
}

#[test]
fn deleted_database_has_the_empty_checksum() {
    let encoder = Encoder::new(Vec::new(), &header(2, 2, 0)).unwrap();
    let err = encoder.finish(Checksum::from_crc(1)).unwrap_err();
    assert_eq!(err.to_string(), "post-apply checksum must be empty for zero-length database");
}

#[test]
fn error_of_the_writer_is_kept() {
    struct Full(usize);
    impl io::Write for Full {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::from_raw_os_error(28)); // ENOSPC
            }
            let len = buf.len().min(self.0);
            self.0 -= len;
            Ok(len)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let pages = vec![(Pgno::FIRST, vec![0xa5; 512])];
    for compressed in [false, true] {
        let header = Header { compressed, ..header(2, 2, 1) };
        let len = encode(&header, &pages, Checksum::EMPTY).len();
        for room in 0..len {
            let write = || {
                let mut encoder = Encoder::new(Full(room), &header)?;
                encoder.page(Pgno::FIRST, &pages[0].1)?;
                encoder.finish(Checksum::EMPTY).map(drop)
            };
            let err: &dyn std::error::Error = &write().unwrap_err();
            let io = err.source().unwrap().downcast_ref::<io::Error>().unwrap();
            assert_eq!(io.raw_os_error(), Some(28), "{room}");
        }
    }
}

#[test]
fn compaction_writes_what_the_original_writes() {
    let options = CompactOptions::default();
    let (out, summary) = compact(vec![SNAPSHOT, DELTA, SHRINK], Vec::new(), options).unwrap();
    assert!(out == vector!("08-compact-1-3").1);
    assert_eq!(summary, verify(&out[..]).unwrap());

    // In any order.
    let (out, _) = compact(vec![SHRINK, DELTA], Vec::new(), options).unwrap();
    assert!(out == vector!("10-compact-2-3").1);

    let options = CompactOptions { compressed: true, ..options };
    let (out, summary) = compact(vec![SNAPSHOT_LZ4, DELTA, SHRINK], Vec::new(), options).unwrap();
    assert_eq!(summary, verify(vector!("09-compact-1-3-lz4").1).unwrap());
    assert_eq!(decode(&out).unwrap(), decode(vector!("09-compact-1-3-lz4").1).unwrap());
}

#[test]
fn compaction_refuses_what_does_not_fit() {
    let big = encode(
        &Header { page_size: PageSize::MAX, ..header(2, 2, 1) },
        &Vec::new(),
        Checksum::EMPTY,
    );
    let bad = vector!("90-bad-page-bit").1;
    #[rustfmt::skip]
    let table: [(Vec<&[u8]>, &str); 8] = [
        (vec![], "at least one input reader required"),
        (vec![SNAPSHOT, &[]], "decode header of reader 1: EOF"),
        (vec![DELTA, vector!("93-bad-magic").1], "decode header of reader 1: invalid LTX file"),
        (vec![SNAPSHOT, &big], "input files have mismatched page sizes: 512 != 65536"),
        (vec![SNAPSHOT, SHRINK], "non-contiguous transaction ids in input files: (0000000000000001,0000000000000001) -> (0000000000000003,0000000000000003)"),
        (vec![SNAPSHOT, SNAPSHOT], "non-contiguous transaction ids in input files: (0000000000000001,0000000000000001) -> (0000000000000001,0000000000000001)"),
        (vec![DELTA, &SNAPSHOT[..200]], "decode page of reader 1: unexpected EOF"),
        (vec![DELTA, bad], "close reader 1: file checksum mismatch"),
    ];
    for (inputs, want) in table {
        let err = compact(inputs, io::sink(), CompactOptions::default()).unwrap_err();
        assert_eq!(err.to_string(), want);
    }

    let gaps = CompactOptions { allow_non_contiguous: true, ..Default::default() };
    let (_, summary) = compact(vec![SNAPSHOT, SHRINK], io::sink(), gaps).unwrap();
    assert_eq!((summary.header.max_txid, summary.pages), (txid(3), 1));
}

#[test]
fn snapshot_becomes_a_database() {
    for bytes in [SNAPSHOT, SNAPSHOT_LZ4] {
        let mut out = Vec::new();
        write_database(Decoder::new(bytes).unwrap(), &mut out).unwrap();
        let page_1: Vec<u8> = (0..512).map(|i| i as u8).collect();
        assert!(out == [page_1, vec![0xa5; 512]].concat());
    }
}

#[test]
fn lock_page_of_a_database_is_zero() {
    /// Keeps the first byte of each page only.
    struct FirstBytes(Vec<u8>);
    impl io::Write for FirstBytes {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            assert_eq!(buf.len(), 65536);
            self.0.push(buf[0]);
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let lock = PageSize::MAX.lock_page().as_u32();
    let commit = PageCount::new(lock + 1);
    let header = Header { page_size: PageSize::MAX, compressed: true, ..header(1, 1, lock + 1) };
    let page = vec![1; 65536];
    let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
    let mut post_apply = Checksum::EMPTY;
    for pgno in Pgno::all(commit, PageSize::MAX) {
        encoder.page(pgno, &page).unwrap();
        post_apply = post_apply.toggle(page_checksum(pgno, &page));
    }
    let (file, _) = encoder.finish(post_apply).unwrap();

    let mut out = FirstBytes(Vec::new());
    write_database(Decoder::new(&file[..]).unwrap(), &mut out).unwrap();
    assert_eq!(out.0.len(), lock as usize + 1);
    assert_eq!(out.0.iter().position(|b| *b == 0), Some(lock as usize - 1));
    assert_eq!(out.0[lock as usize], 1);
}

#[test]
fn incomplete_snapshot_is_no_database() {
    let page = vec![7; 512];
    let snapshot = |pages: &[u32], commit: u32| {
        let mut bytes = header(1, 1, commit).encode().unwrap().to_vec();
        let mut sum = Checksum::EMPTY;
        for n in pages {
            bytes.extend(n.to_be_bytes());
            bytes.extend(&page);
            sum = sum.toggle(page_checksum(pgno(*n), &page));
        }
        bytes.extend([0; 4]);
        bytes.extend(sum.as_u64().to_be_bytes());
        let mut crc = checksum::Crc64::new();
        crc.update(&bytes);
        bytes.extend(crc.checksum().as_u64().to_be_bytes());
        bytes
    };
    #[rustfmt::skip]
    let table = [
        (DELTA.to_vec(), "cannot decode non-snapshot LTX file to SQLite database"),
        (snapshot(&[1, 3], 3), "unexpected pgno while decoding page: read 3, expected 2"),
        (snapshot(&[1], 3), "decode page 2: EOF"),
        (snapshot(&[1, 2, 3], 2), "unexpected page 3 after commit 2"),
        (vector!("90-bad-page-bit").1.to_vec(), "close reader: file checksum mismatch"),
    ];
    for (bytes, want) in table {
        let err = write_database(Decoder::new(&bytes[..]).unwrap(), io::sink()).unwrap_err();
        assert_eq!(err.to_string(), want);
    }
}
