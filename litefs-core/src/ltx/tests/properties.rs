//! What holds for every file.

use std::fmt;

use super::*;

#[derive(Clone)]
struct File {
    header: Header,
    pages: Pages,
    post_apply: Checksum,
}

impl File {
    fn encode(&self) -> Vec<u8> {
        encode(&self.header, &self.pages, self.post_apply)
    }
}

/// Without content: it would bury the rest.
impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages: Vec<u32> = self.pages.iter().map(|(pgno, _)| pgno.as_u32()).collect();
        write!(f, "{:?}, pages {pages:?}, {:?}", self.header, self.post_apply)
    }
}

fn checksums() -> impl Strategy<Value = Checksum> {
    any::<u64>().prop_map(Checksum::from_crc)
}

fn wal_sources() -> impl Strategy<Value = Option<WalSource>> {
    let number = 1..=i64::MAX as u64;
    prop::option::of(
        (number.clone(), number, any::<[u32; 2]>())
            .prop_map(|(offset, len_bytes, salt)| WalSource { offset, len_bytes, salt }),
    )
}

fn headers() -> impl Strategy<Value = Header> {
    let txids = prop_oneof![Just(1_u64), 1..=u64::MAX];
    (
        any::<bool>(),
        9..12_u32,
        0..40_u32,
        (txids.clone(), txids),
        any::<i64>(),
        checksums(),
        wal_sources(),
        any::<u64>(),
    )
        .prop_map(|(compressed, log_size, commit, (a, b), ms, pre_apply, wal, node_id)| {
            Header {
                compressed,
                page_size: PageSize::new(1 << log_size).unwrap(),
                commit: PageCount::new(commit),
                min_txid: txid(a.min(b)),
                max_txid: txid(a.max(b)),
                timestamp: Timestamp::from_millis(ms),
                pre_apply: (a.min(b) > 1).then_some(pre_apply),
                wal,
                node_id,
            }
        })
}

/// A page of one byte, or of noise.
fn page(len: usize, seed: u32) -> Vec<u8> {
    if seed.is_multiple_of(2) {
        return vec![(seed >> 8) as u8; len];
    }
    let mut x = seed;
    let mut noise = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    };
    (0..len).map(|_| noise()).collect()
}

/// A transaction on a database of `old` pages: all new pages are in it.
fn files_with(header: Header, old: u32) -> impl Strategy<Value = File> {
    let len = header.page_size.as_usize();
    let picks = prop::collection::vec(any::<Option<u32>>(), header.commit.as_u32() as usize);
    (picks, checksums()).prop_map(move |(picks, random)| {
        let pages: Pages = (1..)
            .zip(picks)
            .filter(|(n, pick)| *n > old || pick.is_some())
            .map(|(n, pick)| (pgno(n), page(len, pick.unwrap_or(n))))
            .collect();
        let post_apply = match (header.is_snapshot(), header.commit.is_zero()) {
            (true, _) => rolling(&pages),
            (_, true) => Checksum::EMPTY,
            _ => random,
        };
        File { header, pages, post_apply }
    })
}

fn files() -> impl Strategy<Value = File> {
    (headers(), 0..40_u32).prop_flat_map(|(header, old)| {
        files_with(header, if header.is_snapshot() { 0 } else { old })
    })
}

/// A snapshot and transactions on top of it.
fn chains() -> impl Strategy<Value = Vec<File>> {
    prop::collection::vec((0..12_u32, any::<bool>()), 1..6).prop_flat_map(|steps| {
        let mut old = 0;
        let file = |(n, (commit, compressed))| {
            let file = files_with(Header { compressed, ..header(n, n, commit) }, old);
            old = commit;
            file
        };
        (1..).zip(steps).map(file).collect::<Vec<_>>().prop_map(with_true_checksums)
    })
}

fn with_true_checksums(mut chain: Vec<File>) -> Vec<File> {
    let (mut database, mut last) = (Database::new(), None);
    for file in &mut chain {
        database.extend(file.pages.iter().cloned());
        database.retain(|pgno, _| file.header.commit.contains(*pgno));
        file.header.pre_apply = last;
        file.post_apply = database
            .iter()
            .fold(Checksum::EMPTY, |sum, (pgno, data)| sum.toggle(page_checksum(*pgno, data)));
        last = Some(file.post_apply);
    }
    chain
}

/// The model of a database: its pages.
type Database = BTreeMap<Pgno, Vec<u8>>;

fn apply(database: &mut Database, bytes: &[u8]) {
    let (header, pages, _) = decode(bytes).unwrap();
    database.extend(pages);
    database.retain(|pgno, _| header.commit.contains(*pgno));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn header_round_trips(header in headers()) {
        let bytes = header.encode().unwrap();
        prop_assert_eq!(Header::decode(&bytes).unwrap(), header);
    }

    #[test]
    fn header_bytes_round_trip(header in headers(), flips in prop::collection::vec((0..80_usize, 0..8), 0..3)) {
        let mut bytes = header.encode().unwrap();
        for (offset, bit) in flips {
            bytes[offset] ^= 1_u8 << bit;
        }
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert_eq!(header.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn decode_inverts_encode(file in files()) {
        let bytes = file.encode();
        let (header, pages, trailer) = decode(&bytes).unwrap();
        prop_assert_eq!(header, file.header);
        prop_assert!(pages == file.pages);
        prop_assert_eq!(trailer.post_apply, file.post_apply);
    }

    #[test]
    fn scratch_makes_no_difference(files in prop::collection::vec(files(), 1..4)) {
        let mut scratch = Scratch::default();
        for file in files {
            let mut encoder = Encoder::with_scratch(Vec::new(), &file.header, &mut scratch).unwrap();
            for (pgno, data) in &file.pages {
                encoder.page(*pgno, data).unwrap();
            }
            let (bytes, _) = encoder.finish(file.post_apply).unwrap();
            prop_assert!(bytes == file.encode());

            let mut decoder = Decoder::with_scratch(&bytes[..], &mut scratch).unwrap();
            let mut buf = vec![0; file.header.page_size.as_usize()];
            for (pgno, data) in &file.pages {
                prop_assert_eq!(decoder.next_page(&mut buf).unwrap(), Some(*pgno));
                prop_assert!(*data == buf);
            }
        }
    }

    #[test]
    fn changed_bits_are_found_and_do_not_panic(
        file in files(),
        at in any::<prop::sample::Index>(),
        bit in 0..8,
    ) {
        let mut bytes = file.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        // The content is the same or it is an error: the frame has bits without meaning, such as how
        // far back a match reaches in equal bytes.
        if let Ok((header, pages, trailer)) = decode(&bytes) {
            prop_assert_eq!(header, file.header);
            prop_assert!(pages == file.pages);
            prop_assert_eq!(trailer.post_apply, file.post_apply);
        }
    }

    #[test]
    fn no_prefix_is_a_file(file in files(), at in any::<prop::sample::Index>()) {
        let bytes = file.encode();
        prop_assert!(verify(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn compaction_has_the_effect_of_its_inputs(
        chain in chains(),
        skip in any::<prop::sample::Index>(),
        compressed in any::<bool>(),
        reverse in any::<bool>(),
    ) {
        let mut encoded: Vec<Vec<u8>> = chain.iter().map(File::encode).collect();
        let skip = skip.index(chain.len());
        let (mut one_by_one, mut at_once) = (Database::new(), Database::new());
        for bytes in &encoded {
            apply(&mut one_by_one, bytes);
        }

        for bytes in encoded.drain(..skip) {
            apply(&mut at_once, &bytes);
        }
        if reverse {
            encoded.reverse();
        }
        let inputs = encoded.iter().map(|bytes| &bytes[..]).collect();
        let options = CompactOptions { compressed, allow_non_contiguous: false };
        let (bytes, summary) = compact(inputs, Vec::new(), options).unwrap();
        prop_assert_eq!(verify(&bytes[..]).unwrap(), summary);
        apply(&mut at_once, &bytes);
        prop_assert!(at_once == one_by_one);
    }
}
