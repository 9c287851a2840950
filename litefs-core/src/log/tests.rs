//! The log on a disk that fails, tears and forgets. What is compared is always the whole history.

mod disk;
mod faults;

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::disk::{Disk, Fail};
use super::*;
use crate::types::Checksum;

const DIR: &str = "/db";
const FIRST_SEG: &str = "/db/log/0000000000000001.seg";

/// A small segment, so that a few records fill it.
const OPTIONS: LogOptions =
    LogOptions { segment_len: 1500, segment_age: Duration::from_secs(3600) };

fn txid(n: u64) -> Txid {
    Txid::new(n).unwrap()
}

fn new_disk() -> Disk {
    Disk::new(&[DIR])
}

fn open_with(disk: &Disk, hint: Option<TailHint>) -> Result<TxLog, LogError> {
    TxLog::open(Arc::new(disk.clone()), Path::new(DIR), OPTIONS, hint)
}

fn open(disk: &Disk) -> TxLog {
    open_with(disk, None).unwrap()
}

/// An LTX file as far as the log looks: header, filler, trailer.
fn ltx(min: u64, max: u64, pre: Option<Checksum>, post: Checksum, len: usize) -> Vec<u8> {
    let mut b = vec![(max % 251) as u8; len];
    b[..100].fill(0);
    b[0..4].copy_from_slice(b"LTX1");
    b[8..12].copy_from_slice(&512u32.to_be_bytes());
    b[12..16].copy_from_slice(&7u32.to_be_bytes());
    b[16..24].copy_from_slice(&min.to_be_bytes());
    b[24..32].copy_from_slice(&max.to_be_bytes());
    b[40..48].copy_from_slice(&pre.map_or(0, Checksum::as_u64).to_be_bytes());
    b[len - 16..len - 8].copy_from_slice(&post.as_u64().to_be_bytes());
    b
}

/// The blob of a transaction that follows `last`; `salt` tells two of the same TXID apart.
fn next_ltx(last: Option<Pos>, salt: u64, len: usize) -> Vec<u8> {
    let n = last.map_or(0, |p| p.txid.as_u64()) + 1;
    ltx(n, n, last.map(|p| p.post_apply), Checksum::from_crc(n << 20 | salt), len)
}

fn append_blob(log: &mut TxLog, blob: &[u8], kind: RecordKind) -> Result<RecordMeta, LogError> {
    let mut append = log.begin()?;
    // The error of a write is the disk's; `finish` then repeats that it failed.
    let _ = append.write_all(blob);
    append.finish(kind)
}

fn append(log: &mut TxLog, len: usize) -> Result<Vec<u8>, LogError> {
    let blob = next_ltx(log.last().map(RecordMeta::pos), 0, len);
    append_blob(log, &blob, RecordKind::Plain).map(|_| blob)
}

fn append_many(log: &mut TxLog, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| append(log, 300 + i).unwrap()).collect()
}

fn read_from(log: &TxLog, from: u64) -> Result<Vec<Vec<u8>>, LogError> {
    log.records(txid(from))?
        .map(|item| {
            let (meta, mut reader) = item?;
            let mut blob = Vec::new();
            assert_eq!(meta.max_txid.as_u64(), {
                reader.read_to_end(&mut blob).map_err(LogError::io("read", Path::new("blob")))?;
                u64::from_be_bytes(blob[24..32].try_into().unwrap())
            });
            Ok(blob)
        })
        .collect()
}

fn read_all(log: &TxLog) -> Vec<Vec<u8>> {
    log.first_txid().map_or(Vec::new(), |first| read_from(log, first.as_u64()).unwrap())
}

#[test]
fn opening_creates_nothing() {
    let disk = new_disk();
    let log = open(&disk);
    assert_eq!((log.last(), log.first_txid(), log.usage()), (None, None, Usage::default()));
    assert_eq!(log.records(txid(1)).unwrap().count(), 0);
    assert!(disk.names().is_empty());
}

#[test]
fn records_survive_reopening_in_order_and_with_their_meta() {
    let disk = new_disk();
    let mut log = open(&disk);
    let mut want = append_many(&mut log, 3);
    want.push(append(&mut log, 200_000).unwrap());
    let staged = RecordKind::Staged { journal_nonce: 0xabcd };
    let blob = next_ltx(log.last().map(RecordMeta::pos), 0, 116);
    let meta = append_blob(&mut log, &blob, staged).unwrap();
    want.push(blob);
    assert_eq!(meta.kind, staged);

    let again = open(&disk);
    assert_eq!(again.last(), Some(&meta));
    assert_eq!(read_all(&again), want);
    for from in 1..=6 {
        assert_eq!(read_from(&again, from).unwrap(), want[from as usize - 1..]);
        assert_eq!(read_from(&log, from).unwrap(), want[from as usize - 1..]);
    }
}

#[test]
fn small_record_is_one_write_and_costs_32_bytes() {
    let disk = new_disk();
    let mut log = open(&disk);
    let blobs = append_many(&mut log, 3);
    assert_eq!(disk.counts(), (3, 0));
    let bytes: usize = blobs.iter().map(|b| b.len() + 32).sum();
    assert_eq!(log.usage(), Usage { files: 1, bytes: bytes as u64 });
}

#[test]
fn any_record_of_many_segments_is_found() {
    let disk = new_disk();
    let mut log = open(&disk);
    let want = append_many(&mut log, 60);
    assert!(disk.names().len() > 10);
    for from in 1..=60 {
        assert_eq!(read_from(&log, from).unwrap().len(), 61 - from as usize);
    }
    assert_eq!(read_all(&open(&disk)), want);
}

#[test]
fn any_record_of_a_long_open_segment_is_found() {
    let disk = new_disk();
    let options = LogOptions::default();
    let mut log = TxLog::open(Arc::new(disk), Path::new(DIR), options, None).unwrap();
    append_many(&mut log, 1000);
    assert!(log.open.as_ref().unwrap().index.0.len() > 4);
    for from in 1..=1000 {
        let (meta, _) = log.records(txid(from)).unwrap().next().unwrap().unwrap();
        assert_eq!(meta.min_txid, txid(from));
    }
}

#[test]
fn segment_rolls_by_length_and_by_age() {
    let disk = new_disk();
    let mut log = open(&disk);
    append_many(&mut log, 5);
    assert_eq!(log.usage().files, 1);
    append(&mut log, 300).unwrap();
    assert_eq!(log.usage().files, 2);
    assert_eq!(log.synced(), Some(txid(5)), "a full segment is synced before the next begins");
    disk.advance(OPTIONS.segment_age);
    append(&mut log, 300).unwrap();
    assert_eq!(log.usage().files, 3);
}

#[test]
fn record_that_does_not_follow_is_refused() {
    let disk = new_disk();
    let mut log = open(&disk);
    let sum = Checksum::from_crc;
    let refused = |log: &mut TxLog, blob: &[u8]| {
        let got = append_blob(log, blob, RecordKind::Plain);
        assert!(matches!(got, Err(LogError::NotContiguous { .. })), "{got:?}");
    };
    refused(&mut log, &ltx(2, 2, Some(sum(1)), sum(2), 300));
    let want = append_many(&mut log, 2);
    let last = log.last().unwrap().pos();
    refused(&mut log, &ltx(2, 2, Some(last.post_apply), sum(9), 300));
    refused(&mut log, &ltx(4, 4, Some(last.post_apply), sum(9), 300));
    refused(&mut log, &ltx(3, 3, Some(sum(9)), sum(9), 300));
    assert_eq!(read_all(&open(&disk)), want);
}

#[test]
fn bytes_that_are_no_ltx_file_are_refused() {
    let disk = new_disk();
    let mut log = open(&disk);
    let good = next_ltx(None, 0, 300);
    let mut bad_trailer = good.clone();
    bad_trailer[284] = 0;
    for blob in [&b""[..], &[0; 300], &good[..99], &good[..115], &bad_trailer] {
        let got = append_blob(&mut log, blob, RecordKind::Plain);
        assert!(matches!(got, Err(LogError::NotLtx { .. })), "{got:?}");
    }
    drop(log.begin().unwrap());
    assert!(disk.names().is_empty());
    append(&mut log, 300).unwrap();
}

#[test]
fn append_dropped_half_way_leaves_no_trace() {
    let disk = new_disk();
    let mut log = open(&disk);
    let mut want = append_many(&mut log, 2);
    let before = disk.content(FIRST_SEG);
    let blob = next_ltx(log.last().map(RecordMeta::pos), 0, 300_000);
    let mut append_half = log.begin().unwrap();
    append_half.write_all(&blob[..200_000]).unwrap();
    drop(append_half);
    assert_eq!(disk.content(FIRST_SEG), before);
    want.push(append(&mut log, 300).unwrap());
    assert_eq!(read_all(&log), want);
}

#[test]
fn drop_last_takes_records_away_across_segments() {
    let disk = new_disk();
    let mut log = open(&disk);
    let mut want = append_many(&mut log, 11);
    while !want.is_empty() {
        log.drop_last().unwrap();
        want.pop();
        assert_eq!(read_all(&log), want);
        assert_eq!(log.synced(), log.appended());
        let lost_power = disk.crash(|_| 0);
        assert_eq!(read_all(&open(&lost_power)), want, "durable on return");
    }
    assert!(matches!(log.drop_last(), Err(LogError::NothingToDrop)));
    append_many(&mut log, 3);
}

#[test]
fn sync_target_of_a_dropped_record_claims_nothing() {
    let disk = new_disk();
    let mut log = open(&disk);
    append_many(&mut log, 2);
    log.sync().unwrap();
    append(&mut log, 300).unwrap();
    let synced = log.sync_target().unwrap().sync().unwrap();
    log.drop_last().unwrap();
    let blob = next_ltx(log.last().map(RecordMeta::pos), 1, 300);
    append_blob(&mut log, &blob, RecordKind::Plain).unwrap();
    log.mark_synced(synced);
    assert_eq!((log.synced(), log.appended()), (Some(txid(2)), Some(txid(3))));
}

#[test]
fn sync_target_covers_what_was_appended_before_it_and_no_more() {
    let disk = new_disk();
    let mut log = open(&disk);
    append_many(&mut log, 2);
    let target = log.sync_target().unwrap();
    assert_eq!(target.txid(), txid(2));
    append(&mut log, 300).unwrap();
    let synced = target.sync().unwrap();
    log.mark_synced(synced);
    assert_eq!(log.synced(), Some(txid(2)));
    log.sync().unwrap();
    assert!(log.sync_target().is_none());
    assert_eq!(
        open(&disk.crash(|_| 0)).appended(),
        Some(txid(3)),
        "the file's name is durable too"
    );
}

#[test]
fn failed_sync_stops_the_log_until_it_is_opened_anew() {
    let disk = new_disk();
    let mut log = open(&disk);
    let want = append_many(&mut log, 2);
    let target = log.sync_target().unwrap();
    disk.fail(Some(Fail::Once(1)));
    assert!(target.sync().is_err());
    assert!(matches!(log.begin(), Err(LogError::Failed { .. })));
    assert!(matches!(log.sync(), Err(LogError::Failed { .. })));
    assert_eq!((log.synced(), read_all(&log)), (None, want));
    append(&mut open(&disk), 300).unwrap();
    log.reset().unwrap();
    append(&mut log, 300).unwrap();
}

#[test]
fn reader_goes_on_while_the_log_is_appended_and_retained() {
    let disk = new_disk();
    let mut log = open(&disk);
    let want = append_many(&mut log, 30);
    let mut records = log.records(txid(1)).unwrap();
    let first = records.next().unwrap().unwrap();
    append_many(&mut log, 30);
    log.sync().unwrap();
    let all = Retention { min_age: Some(Duration::ZERO), ..Retention::default() };
    log.retain(&all, disk.now()).unwrap();
    assert_eq!(log.usage().files, 1);
    let rest: Vec<_> = std::iter::once(first)
        .chain(records.map(Result::unwrap))
        .map(|(_, mut blob)| {
            let mut bytes = Vec::new();
            blob.read_to_end(&mut bytes).unwrap();
            bytes
        })
        .collect();
    assert_eq!(rest, want);
}

#[test]
fn reader_notices_that_its_record_was_dropped() {
    let disk = new_disk();
    let mut log = open(&disk);
    append_many(&mut log, 1);
    // Longer than what is read along with others.
    append(&mut log, 300_000).unwrap();
    let (_, mut blob) = log.records(txid(2)).unwrap().next().unwrap().unwrap();
    log.drop_last().unwrap();
    let other = next_ltx(log.last().map(RecordMeta::pos), 1, 301);
    append_blob(&mut log, &other, RecordKind::Plain).unwrap();
    assert!(blob.read_to_end(&mut Vec::new()).is_err());
}

#[test]
fn snapshot_replaces_everything() {
    let disk = new_disk();
    disk.create_dir_all(Path::new("/db/ltx")).unwrap();
    for name in ["0000000000000001-0000000000000003.ltx", "0000000000000007-0000000000000007.ltx"] {
        disk.put(&format!("/db/ltx/{name}"), b"stray");
    }
    disk.put("/db/ltx/other", b"");
    disk.fail(None);
    let (one, nine) = (Checksum::from_crc(1), Checksum::from_crc(9));
    disk.put("/db/ltx/0000000000000008-0000000000000008.ltx", &ltx(8, 8, Some(one), nine, 300));
    let mut log = open(&disk);
    assert_eq!(log.appended(), Some(txid(8)));
    append_many(&mut log, 20);
    let old = log.records(txid(8)).unwrap();
    let snapshot = ltx(1, 5, None, nine, 100_000);
    append_blob(&mut log, &snapshot, RecordKind::Plain).unwrap();
    assert_eq!(disk.names(), ["/db/log/0000000000000001.seg", "/db/ltx/other"]);
    assert_eq!(log.synced(), Some(txid(5)));
    let next = append(&mut log, 300).unwrap();
    assert_eq!(read_all(&log), [snapshot.clone(), next.clone()]);
    assert_eq!(read_from(&log, 3).unwrap(), [snapshot.clone(), next.clone()]);
    assert_eq!(read_all(&open(&disk)), [snapshot, next]);
    assert_eq!(old.filter(Result::is_ok).count(), 21, "readers of the old history go on");
}

#[test]
fn reset_leaves_nothing() {
    let disk = new_disk();
    let mut log = open(&disk);
    append_many(&mut log, 20);
    log.reset().unwrap();
    assert!(disk.names().is_empty());
    assert_eq!((log.last(), log.synced(), log.first_txid()), (None, None, None));
    assert!(open(&disk.crash(|_| 0)).last().is_none());
    append_many(&mut log, 2);
}

#[test]
fn retention_goes_by_age_by_size_and_spares_what_a_backup_lacks() {
    let hour = Duration::from_secs(3600);
    let keep = Retention::default();
    let table = [
        ("nothing", keep, 12),
        ("too young", Retention { min_age: Some(hour * 13), ..keep }, 12),
        ("older than half", Retention { min_age: Some(hour * 6), ..keep }, 6),
        ("all old", Retention { min_age: Some(Duration::ZERO), ..keep }, 2),
        ("too long", Retention { max_len_bytes: Some(999), ..keep }, 3),
        ("far too long", Retention { max_len_bytes: Some(0), ..keep }, 2),
        (
            "backup lacks 5",
            Retention { max_len_bytes: Some(0), keep_from: Some(txid(5)), ..keep },
            8,
        ),
        (
            "backup lacks all",
            Retention { max_len_bytes: Some(0), keep_from: Some(txid(1)), ..keep },
            12,
        ),
    ];
    for (name, policy, files) in table {
        let disk = new_disk();
        let mut log = open(&disk);
        for _ in 0..12 {
            disk.advance(hour);
            append(&mut log, 300).unwrap();
        }
        log.sync().unwrap();
        disk.advance(Duration::from_secs(1));
        let before = log.usage();
        let report = log.retain(&policy, disk.now()).unwrap();
        let after = log.usage();
        assert_eq!(after.files, files, "{name}");
        assert_eq!(report.removed_files, before.files - after.files, "{name}");
        assert_eq!(report.removed_bytes, before.bytes - after.bytes, "{name}");
        let first = log.first_txid().unwrap();
        assert_eq!(first, txid(13 - files), "{name}");
        assert_eq!(read_all(&open(&disk)), read_all(&log), "{name}");
        if let Some(gone) = first.prev() {
            assert!(matches!(log.records(gone), Err(LogError::Missing { .. })), "{name}");
        }
    }
}

/// The vectors 01 to 04 of the LTX library: a chain of the transactions 1 to 4.
fn legacy_chain() -> Vec<(String, Vec<u8>)> {
    let sums = [0xff96_55e6_d844_a360, 0xb9fb_7000_1326_6fff, 0xea29_d2ee_0f06_6e26, 1 << 63];
    let sum = |i: usize| Checksum::new(sums[i]);
    (0..4usize)
        .map(|i| {
            let n = i as u64 + 1;
            let pre = i.checked_sub(1).and_then(sum);
            (format!("/db/ltx/{n:016x}-{n:016x}.ltx"), ltx(n, n, pre, sum(i).unwrap(), 200 + i))
        })
        .collect()
}

#[test]
fn legacy_directory_opens_as_it_is_and_grows_segments() {
    let disk = Disk::new(&[DIR, "/db/ltx"]);
    let chain = legacy_chain();
    chain.iter().for_each(|(name, bytes)| disk.put(name, bytes));
    disk.put("/db/ltx/0000000000000005-0000000000000005.ltx.tmp", b"in progress");
    let mut want: Vec<_> = chain.into_iter().map(|(_, bytes)| bytes).collect();
    let mut log = open(&disk);
    assert_eq!((log.first_txid(), log.synced()), (Some(txid(1)), Some(txid(4))));
    assert_eq!(read_all(&log), want);
    assert!(matches!(log.drop_last(), Err(LogError::NothingToDrop)));
    assert!(log.tail_hint().is_none());

    want.push(append(&mut log, 300).unwrap());
    assert_eq!(read_all(&log), want);
    assert_eq!(read_all(&open(&disk)), want);
    assert_eq!(read_from(&log, 3).unwrap(), want[2..]);
    log.drop_last().unwrap();
    assert_eq!(log.appended(), Some(txid(4)));
    append(&mut log, 300).unwrap();

    let all = Retention { max_len_bytes: Some(0), ..Retention::default() };
    log.retain(&all, disk.now()).unwrap();
    assert_eq!(log.first_txid(), Some(txid(3)), "a crash may take 5, a rollback 4");
    append(&mut log, 300).unwrap();
    log.retain(&all, disk.now()).unwrap();
    assert_eq!(log.first_txid(), Some(txid(3)));
    log.sync().unwrap();
    log.retain(&all, disk.now()).unwrap();
    assert_eq!(
        disk.names(),
        ["/db/log/0000000000000005.seg", "/db/ltx/0000000000000005-0000000000000005.ltx.tmp"]
    );
}

#[test]
fn newest_legacy_file_is_never_removed() {
    let disk = Disk::new(&[DIR, "/db/ltx"]);
    legacy_chain().iter().for_each(|(name, bytes)| disk.put(name, bytes));
    let mut log = open(&disk);
    let all = Retention { max_len_bytes: Some(0), ..Retention::default() };
    log.retain(&all, disk.now()).unwrap();
    assert_eq!(disk.names(), ["/db/ltx/0000000000000004-0000000000000004.ltx"]);
    log.reset().unwrap();
    assert!(disk.names().is_empty());
}

#[test]
fn legacy_files_outside_of_the_chain_are_not_history_and_go_with_retention() {
    let disk = Disk::new(&[DIR, "/db/ltx"]);
    let chain = legacy_chain();
    for i in [0, 2, 3] {
        disk.put(&chain[i].0, &chain[i].1);
    }
    let mut log = open(&disk);
    assert_eq!(log.first_txid(), Some(txid(3)));
    assert_eq!(read_all(&log).len(), 2);
    let old = Retention {
        min_age: Some(Duration::from_secs(9)),
        keep_from: Some(txid(1)),
        ..Retention::default()
    };
    disk.advance(Duration::from_secs(10));
    assert_eq!(log.retain(&old, disk.now()).unwrap().removed_files, 1);
    assert_eq!(log.first_txid(), Some(txid(3)));
}

#[test]
fn damaged_newest_legacy_file_is_an_error() {
    let chain = legacy_chain();
    let good = &chain[3].1;
    for bad in [&b""[..], &good[..50], &good[..110], &chain[2].1, &[0; 200]] {
        let disk = Disk::new(&[DIR, "/db/ltx"]);
        disk.put(&chain[3].0, bad);
        let got = open_with(&disk, None);
        assert!(matches!(got, Err(LogError::Corrupt { .. })), "{got:?}");
    }
}

#[test]
fn hint_spares_the_scan_only_if_it_fits() {
    let disk = new_disk();
    let mut log = open(&disk);
    append_many(&mut log, 3);
    assert!(log.tail_hint().is_none(), "not durable yet");
    log.sync().unwrap();
    let hint = log.tail_hint().and_then(|h| TailHint::decode(&h.encode()));
    assert!(hint.is_some());

    let hinted = open_with(&disk, hint).unwrap();
    assert_eq!((hinted.last(), hinted.synced()), (log.last(), Some(txid(3))));
    assert_eq!(read_all(&hinted), read_all(&log));
    assert_eq!(hinted.tail_hint(), hint);
    assert_eq!(open(&disk).synced(), None, "without a hint nothing is known");

    append(&mut log, 300).unwrap();
    let late = open_with(&disk, hint).unwrap();
    assert_eq!((late.appended(), late.synced()), (Some(txid(4)), None));
    log.drop_last().unwrap();
    log.drop_last().unwrap();
    let blob = next_ltx(log.last().map(RecordMeta::pos), 1, 302);
    append_blob(&mut log, &blob, RecordKind::Plain).unwrap();
    let other = open_with(&disk, hint).unwrap();
    assert_eq!((other.last(), other.synced()), (log.last(), None));
}
