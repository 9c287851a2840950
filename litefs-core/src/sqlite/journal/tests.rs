use proptest::prelude::*;

use super::*;
use crate::sqlite::golden;

/// What a playback did: the database after it, and how many pages it restored.
struct Outcome {
    database: Vec<u8>,
    restored: usize,
}

fn play_back(journal: &[u8], database: &[u8]) -> Result<Outcome, JournalError> {
    let mut playback = Playback::new(journal, journal.len() as u64, PageSize::new(512).unwrap())?;
    let page_size = playback.page_size();
    let len = playback.initial_size().len_bytes(page_size) as usize;
    let mut outcome = Outcome { database: database.to_vec(), restored: 0 };
    outcome.database.resize(len, 0);
    while let Some((offset, len)) = playback.next_read() {
        let Some((pgno, page)) = playback.feed(&journal[offset as usize..][..len]) else {
            continue;
        };
        let at = pgno.offset(page_size) as usize;
        outcome.database[at..at + page.len()].copy_from_slice(page);
        outcome.restored += 1;
    }
    Ok(outcome)
}

/// A journal in the making.
struct Writer {
    sector_size: u32,
    page_size: u32,
    initial_size: u32,
    bytes: Vec<u8>,
}

impl Writer {
    fn new(sector_size: u32, page_size: u32, initial_size: u32) -> Writer {
        Writer { sector_size, page_size, initial_size, bytes: Vec::new() }
    }

    fn header(&mut self, records: u32, nonce: u32) {
        self.pad();
        let numbers = [records, nonce, self.initial_size, self.sector_size, self.page_size];
        self.bytes.extend(JournalHeader::MAGIC);
        self.bytes.extend(numbers.map(u32::to_be_bytes).concat());
        self.pad();
    }

    fn record(&mut self, pgno: u32, nonce: u32, page: &[u8]) {
        self.bytes.extend(pgno.to_be_bytes());
        self.bytes.extend(page);
        self.bytes.extend(record_checksum(nonce, page).to_be_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(self.sector_size as usize), 0);
    }
}

/// One segment of three records in a database of five pages, each page filled with its number.
fn three_records() -> Writer {
    let mut journal = Writer::new(512, 512, 5);
    journal.header(3, 77);
    for pgno in 1..=3 {
        journal.record(pgno, 77, &[pgno as u8; 512]);
    }
    journal
}

const FIRST_RECORD: usize = 512;
const RECORD_LEN: usize = 4 + 512 + 4;

fn restored(journal: &[u8]) -> usize {
    play_back(journal, &[0; 5 * 512]).unwrap().restored
}

#[test]
fn undoes_what_sqlite_wrote() {
    for (name, before, dirty, journal) in [
        (
            "several segments",
            golden!("segments-512.before.db"),
            golden!("segments-512.db"),
            golden!("segments-512.db-journal"),
        ),
        (
            "never synced",
            golden!("nosync-4096.before.db"),
            golden!("nosync-4096.db"),
            golden!("nosync-4096.db-journal"),
        ),
    ] {
        assert_ne!(before, dirty, "{name}");
        let outcome = play_back(journal, dirty).unwrap();
        assert_eq!(outcome.database, before, "{name}");
    }
    let journal = golden!("segments-512.db-journal");
    let first = JournalHeader::decode(journal).unwrap();
    assert!(restored(journal) > first.records as usize, "only one segment was played back");

    let outcome = play_back(golden!("one-page-65536.db-journal"), &[]).unwrap();
    assert_eq!((outcome.restored, outcome.database.len()), (1, 65536));
    assert!(outcome.database.starts_with(b"SQLite format 3\0"));
}

#[test]
fn journal_that_is_not_hot_is_refused() {
    let valid = three_records().bytes;
    let with = |at: usize, number: u32| {
        let mut bytes = valid.clone();
        bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
        play_back(&bytes, &[]).map(|_| ())
    };
    for (name, got, want) in [
        ("magic", with(0, 0), JournalError::Magic),
        ("sector too small", with(20, 16), JournalError::SectorSize { raw: 16 }),
        ("sector too large", with(20, 1 << 17), JournalError::SectorSize { raw: 1 << 17 }),
        ("odd sector", with(20, 513), JournalError::SectorSize { raw: 513 }),
        ("sector past the end", with(20, 4096), JournalError::Short { len: valid.len() as u64 }),
        ("page size", with(24, 100), JournalError::PageSize { raw: 100 }),
        ("empty", play_back(&[], &[]).map(|_| ()), JournalError::Short { len: 0 }),
        ("short", play_back(&valid[..27], &[]).map(|_| ()), JournalError::Short { len: 27 }),
    ] {
        assert_eq!(got, Err(want), "{name}");
    }
    assert_eq!(with(24, 0), Ok(()), "the default page size serves");
}

#[test]
fn header_is_hot_by_its_magic_and_tells_the_page_size_before() {
    let mut header = three_records().bytes;
    assert!(is_hot_header(&header));
    assert!(!is_hot_header(&header[..7]));
    header[..12].fill(0);
    assert!(!is_hot_header(&header));
    assert_eq!(JournalHeader::unsynced_page_size(&header), PageSize::new(512));
    assert_eq!(JournalHeader::unsynced_page_size(&header[..27]), None);
}

#[test]
fn playback_ends_at_the_first_wrong_record() {
    let journal = three_records().bytes;
    assert_eq!(restored(&journal), 3);

    let second = FIRST_RECORD + RECORD_LEN;
    for (name, at, bytes, want) in [
        ("page number 0", second, 0u32, 1),
        ("lock page", second, 2_097_153, 1),
        ("checksum", second + 4 + 512, 0, 1),
        ("page past the initial size is skipped", second, 6, 2),
        ("fewer records counted", 8, 2, 2),
        ("no records counted", 8, 0, 0),
        ("more records counted", 8, 4, 3),
        ("records not counted", 8, u32::MAX, 3),
    ] {
        let mut journal = journal.clone();
        journal[at..at + 4].copy_from_slice(&bytes.to_be_bytes());
        assert_eq!(restored(&journal), want, "{name}");
    }
    assert_eq!(restored(&journal[..journal.len() - 1]), 2, "cut short");
}

#[test]
fn later_segments_begin_at_sectors_and_have_their_own_nonce() {
    let mut journal = three_records();
    journal.header(1, 78);
    journal.record(4, 78, &[4; 512]);
    assert_eq!(restored(&journal.bytes), 4);

    let header = (FIRST_RECORD + 3 * RECORD_LEN).next_multiple_of(512);
    for (name, at, want) in [("magic", 0, 3), ("nonce", 15, 3), ("sector size", 20, 4)] {
        let mut bytes = journal.bytes.clone();
        bytes[header + at] ^= 1;
        assert_eq!(restored(&bytes), want, "{name}");
    }
    // A wrong record ends the playback, not just its segment.
    journal.bytes[FIRST_RECORD + RECORD_LEN] = 0xff;
    journal.bytes[FIRST_RECORD + 4 + 512] ^= 1;
    assert_eq!(restored(&journal.bytes), 0);
}

#[test]
fn fewer_bytes_than_asked_for_end_the_playback() {
    let journal = three_records().bytes;
    let mut playback = Playback::new(&journal, journal.len() as u64, PageSize::MAX).unwrap();
    let (offset, len) = playback.next_read().unwrap();
    assert_eq!(playback.feed(&journal[offset as usize..][..len - 1]), None);
    assert_eq!(playback.next_read(), None);
    assert_eq!(playback.feed(&journal), None);
}

#[test]
fn journal_names_its_super_journal() {
    let journal = golden!("super.db-journal");
    let name = super_journal_name(journal).unwrap();
    assert_eq!(super_journal_name(&journal[journal.len() - 60..]), Some(name));
    let name = std::str::from_utf8(name).unwrap();
    assert_eq!(super_journal_base(name), Some("/tmp/golden/super.db"));
    assert_eq!(restored(journal), 2, "the name is no record");

    for (name, at_from_end) in [("length", 16), ("checksum", 12), ("magic", 8), ("name", 17)] {
        let mut broken = journal.to_vec();
        let at = broken.len() - at_from_end;
        broken[at] ^= 1;
        assert_eq!(super_journal_name(&broken), None, "{name}");
    }
    assert_eq!(super_journal_name(golden!("segments-512.db-journal")), None);
    assert_eq!(super_journal_name(&journal[journal.len() - 40..]), None, "cut inside the name");
}

#[test]
fn super_journal_name_is_limited_and_not_empty() {
    let tail = |len: u32| {
        let sum = u32::from(b'x') * len;
        let mut tail = vec![b'x'; len as usize];
        tail.extend([len.to_be_bytes(), sum.to_be_bytes()].concat());
        tail.extend(JournalHeader::MAGIC);
        tail
    };
    assert_eq!(super_journal_name(&tail(0)), None);
    assert_eq!(super_journal_name(&tail(512)).map(<[u8]>::len), Some(512));
    assert_eq!(super_journal_name(&tail(513)), None);
    assert_eq!(tail(512).len(), SUPER_JOURNAL_TAIL_LEN);
}

#[test]
fn super_journal_is_known_by_its_file_name() {
    for (name, want) in [
        ("app.db-mj0123AB9FF", Some("app.db")),
        ("a-mj0123AB9FF-mj0123AB9FF", Some("a-mj0123AB9FF")),
        ("app.db-mj0123AB8FF", None),
        ("app.db-mj0123ab9FF", None),
        ("app.db-mj0123AB9FFF", None),
        ("app.db-mj0123AB9F", None),
        ("-mj0123AB9FF", None),
        ("app.db-mj0123A\u{e9}9F", None),
        ("app.db", None),
    ] {
        assert_eq!(super_journal_base(name), want, "{name}");
    }
}

proptest! {
    #[test]
    fn playback_restores_every_journaled_page(
        sector_log2 in 5u32..=12,
        page_log2 in 9u32..=12,
        segments in prop::collection::vec((any::<u32>(), 0usize..4), 1..4),
        counted: bool,
        grown in 0usize..3,
        mut old in prop::collection::vec(any::<[u8; 8]>(), 12),
    ) {
        let page_size = 1usize << page_log2;
        let before: Vec<u8> = old.drain(..).flat_map(|b| b.repeat(page_size / 8)).collect();
        let mut journal = Writer::new(1 << sector_log2, page_size as u32, 12);
        let mut pages = before.chunks_exact(page_size).zip(1u32..);
        let last = segments.len() - 1;
        for (i, (nonce, records)) in segments.iter().enumerate() {
            // Only the last count may be left open, else the next header would be read as a record.
            let count = if counted || i < last { *records as u32 } else { u32::MAX };
            journal.header(count, *nonce);
            for (page, pgno) in pages.by_ref().take(*records) {
                journal.record(pgno, *nonce, page);
            }
        }
        let journaled = 12 - pages.count();

        let mut dirty = before.clone();
        dirty[..journaled * page_size].fill(0xee);
        dirty.resize(dirty.len() + grown * page_size, 0xee);
        let outcome = play_back(&journal.bytes, &dirty).unwrap();
        prop_assert_eq!(outcome.restored, journaled);
        prop_assert!(outcome.database == before);
    }

    #[test]
    fn no_bytes_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        header: bool,
        journal_len: u64,
    ) {
        let _ = super_journal_name(&bytes);
        let _ = JournalHeader::unsynced_page_size(&bytes);
        let mut journal = if header { three_records().bytes[..512].to_vec() } else { Vec::new() };
        journal.extend(&bytes);
        if let Ok(outcome) = play_back(&journal, &bytes) {
            prop_assert!(outcome.restored <= 3);
        }
        // A length that isn't the file's asks for bytes that aren't there, but doesn't panic.
        if let Ok(mut playback) = Playback::new(&journal, journal_len, PageSize::MAX) {
            for _ in 0..5 {
                let Some((_, len)) = playback.next_read() else { break };
                playback.feed(&vec![0xd9; len]);
            }
        }
    }
}
