//! Torn tails, flipped bytes, refused calls and lost power.

use proptest::prelude::*;

use super::*;

#[test]
fn tail_cut_at_any_byte_leaves_the_whole_records() {
    let disk = new_disk();
    let mut log = open(&disk);
    let want = append_many(&mut log, 3);
    let bytes = disk.content(FIRST_SEG);
    let mut ends = vec![0];
    ends.extend(want.iter().map(|b| b.len() + 32).scan(0, |end, len| {
        *end += len;
        Some(*end)
    }));
    for len in 0..=bytes.len() {
        for garbage in [&b""[..], &[0; 40], &[0xff; 40]] {
            let torn = Disk::new(&[DIR, "/db/log"]);
            torn.put(FIRST_SEG, &[&bytes[..len], garbage].concat());
            let mut log = open(&torn);
            let whole = ends.iter().rposition(|end| *end <= len).unwrap();
            assert_eq!(read_all(&log), want[..whole], "{len}");
            append(&mut log, 300).unwrap();
            assert_eq!(read_all(&open(&torn)).len(), whole + 1, "{len}");
        }
    }
}

#[test]
fn flipped_byte_is_detected_or_cut_and_never_believed() {
    let disk = new_disk();
    let mut log = open(&disk);
    let want = append_many(&mut log, 3);
    let bytes = disk.content(FIRST_SEG);
    for i in 0..bytes.len() {
        for bit in [0x01, 0x80] {
            let mut bad = bytes.clone();
            bad[i] ^= bit;
            let torn = Disk::new(&[DIR, "/db/log"]);
            torn.put(FIRST_SEG, &bad);
            let got = read_all(&open(&torn));
            assert!(got.len() < 3 && want.starts_with(&got), "{i}");
        }
    }
}

#[test]
fn flipped_byte_in_a_durable_record_is_an_error_and_nothing_is_cut() {
    let disk = new_disk();
    let mut log = open(&disk);
    let durable = append_many(&mut log, 2).iter().map(|b| b.len() + 32).sum();
    log.sync().unwrap();
    append(&mut log, 300).unwrap();
    let bytes = disk.content(FIRST_SEG);
    for i in 0..durable {
        let mut bad = bytes.clone();
        bad[i] ^= 0x10;
        let rotten = Disk::new(&[DIR, "/db/log"]);
        rotten.put(FIRST_SEG, &bad);
        let got = open_with(&rotten, None);
        assert!(matches!(got, Err(LogError::Corrupt { .. })), "{i}: {got:?}");
        assert_eq!(rotten.content(FIRST_SEG), bad);
    }
}

#[test]
fn flipped_byte_in_a_sealed_segment_is_reported_by_the_reader() {
    let disk = new_disk();
    let mut log = open(&disk);
    let want = append_many(&mut log, 8);
    let bytes = disk.content(FIRST_SEG);
    for i in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[i] ^= 0x04;
        disk.put(FIRST_SEG, &bad);
        let (mut got, mut failed) = (Vec::new(), false);
        for item in open(&disk).records(txid(1)).unwrap() {
            let mut blob = Vec::new();
            let read =
                item.map_err(io::Error::from).and_then(|(_, mut r)| r.read_to_end(&mut blob));
            failed |= read.is_err();
            if read.is_ok() {
                got.push(blob);
            }
        }
        // Only the "unsynced" and "nonce" fields are of no use to a reader, and they are checked as well.
        assert!(failed && got.iter().all(|b| want.contains(b)), "{i}");
    }
}

#[test]
fn copy_of_a_segment_inside_a_blob_is_never_taken_for_records() {
    let disk = new_disk();
    let mut log = open(&disk);
    let want = append_many(&mut log, 2);
    log.sync().unwrap();
    append(&mut log, 300).unwrap();
    let segment = disk.content(FIRST_SEG);
    let mut blob = next_ltx(log.last().map(RecordMeta::pos), 0, 3000);
    blob[200..200 + segment.len()].copy_from_slice(&segment);
    append_blob(&mut log, &blob, RecordKind::Plain).unwrap();
    // The record before the one with the copy is torn: the headers in the copy must not pass for proof that it was durable.
    let durable = want.iter().map(|b| b.len() + 32).sum::<usize>();
    let mut torn = disk.content(FIRST_SEG);
    torn[durable..durable + 332 + 32].fill(0);
    disk.put(FIRST_SEG, &torn);
    assert_eq!(read_all(&open(&disk)), want);
}

#[test]
fn empty_newest_segment_is_removed() {
    let disk = new_disk();
    let mut log = open(&disk);
    let want = append_many(&mut log, 5);
    disk.put("/db/log/0000000000000006.seg", b"");
    assert_eq!(read_all(&open(&disk)), want);
    disk.put("/db/log/0000000000000006.seg", b"LFSR torn");
    assert_eq!(read_all(&open(&disk)), want);
    assert_eq!(disk.names(), [FIRST_SEG]);
}

type Step = fn(&mut TxLog) -> Result<(), LogError>;

/// The steps of a log's life; each either happens or doesn't.
fn steps() -> Vec<Step> {
    let small: Step = |log| append(log, 400).map(drop);
    vec![
        small,
        small,
        |log| log.sync(),
        small,
        small,
        |log| append(log, 150_000).map(drop),
        |log| {
            let blob = next_ltx(log.last().map(RecordMeta::pos), 7, 300);
            append_blob(log, &blob, RecordKind::Staged { journal_nonce: 1 }).map(drop)
        },
        |log| log.drop_last(),
        small,
        |log| {
            let all = Retention { max_len_bytes: Some(0), ..Retention::default() };
            log.retain(&all, SystemTime::UNIX_EPOCH).map(drop)
        },
        |log| {
            let snapshot = ltx(1, 40, None, Checksum::from_crc(40), 70_000);
            append_blob(log, &snapshot, RecordKind::Plain).map(drop)
        },
        small,
        |log| log.reset(),
        small,
    ]
}

/// Each call that changes something fails, once or from then on; the log is as before, and goes on when it can.
#[test]
fn any_refused_call_leaves_the_log_as_before_and_it_goes_on() {
    for sticky in [false, true] {
        for crash in [false, true] {
            let mut runs = 0;
            while run_with_failure(runs + 1, sticky, crash) {
                runs += 1;
            }
            assert!(runs > 40, "{runs}");
        }
    }
}

/// Whether the failure happened.
fn run_with_failure(n: u64, sticky: bool, crash: bool) -> bool {
    let mut disk = new_disk();
    let mut log = open(&disk);
    disk.fail(Some(if sticky { Fail::From(n) } else { Fail::Once(n) }));
    let mut failed = false;
    for (i, step) in steps().into_iter().enumerate() {
        let at = format!("call {n}, sticky {sticky}, crash {crash}, step {i}");
        let (before, promised) = (read_all(&log), log.synced());
        let result = step(&mut log);
        if !disk.has_failed() {
            result.unwrap();
            continue;
        }
        failed = true;
        disk.fail(None);
        if crash {
            disk = disk.crash(pseudo_random(n));
            log = open(&disk);
        } else if matches!(log.begin(), Err(LogError::Failed { .. })) {
            log = open(&disk);
        }
        let now = read_all(&log);
        // What removes records may have removed some; what was written may be there after a crash.
        let shrank = before.ends_with(&now) || before.starts_with(&now);
        let removes = REMOVING.contains(&i);
        if crash {
            let replaced = i == SNAPSHOT_STEP && now.len() == 1;
            assert!(shrank || replaced || now.starts_with(&before), "{at}");
            assert!(removes || log.appended() >= promised, "{at}");
        } else if result.is_err() {
            assert!(now == before || (removes && shrank), "{at}");
        }
        assert_eq!(read_all(&open(&disk)), now, "{at}");
    }
    failed
}

fn pseudo_random(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    }
}

/// Which of the steps make the history shorter.
const REMOVING: [usize; 4] = [7, 9, SNAPSHOT_STEP, 12];
const SNAPSHOT_STEP: usize = 10;

#[derive(Debug, Clone)]
enum Op {
    Append(usize, bool),
    Sync,
    /// A sync that runs while others go on.
    TakeTarget,
    FinishTarget,
    DropLast,
    Retain(u64),
    Snapshot(u64),
    Reset,
    Reopen,
    Crash(u64),
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (116usize..900, any::<bool>()).prop_map(|(len, staged)| Op::Append(len, staged)),
        1 => (60_000usize..140_000).prop_map(|len| Op::Append(len, false)),
        3 => Just(Op::Sync),
        2 => Just(Op::TakeTarget),
        2 => Just(Op::FinishTarget),
        2 => Just(Op::DropLast),
        1 => (0u64..5000).prop_map(Op::Retain),
        1 => (1u64..60).prop_map(Op::Snapshot),
        1 => Just(Op::Reset),
        1 => Just(Op::Reopen),
        3 => any::<u64>().prop_map(Op::Crash),
    ]
}

proptest! {
    /// Whatever happens, the log holds a beginning of what was appended, and all of what it said was durable.
    #[test]
    fn power_failure_takes_nothing_that_was_promised(ops in proptest::collection::vec(ops(), 1..80)) {
        let mut disk = new_disk();
        let mut log = open(&disk);
        let mut model: Vec<(Txid, Vec<u8>)> = Vec::new();
        let mut target = None;
        let (mut salt, mut committed) = (0, None);
        for op in ops {
            salt += 1;
            match op {
                Op::Append(len, staged) => {
                    let blob = next_ltx(log.last().map(RecordMeta::pos), salt, len);
                    let kind = if staged { RecordKind::Staged { journal_nonce: 3 } } else { RecordKind::Plain };
                    let meta = append_blob(&mut log, &blob, kind).unwrap();
                    model.push((meta.max_txid, blob));
                }
                Op::Sync => log.sync().unwrap(),
                Op::TakeTarget => target = log.sync_target(),
                Op::FinishTarget => if let Some(target) = target.take() {
                    let synced = target.sync().unwrap();
                    log.mark_synced(synced);
                },
                // What the newest record followed when a record was dropped is committed for good.
                Op::DropLast => if log.appended() > committed && log.drop_last().is_ok() {
                    model.pop();
                    committed = log.appended();
                },
                Op::Retain(max) => {
                    let policy = Retention { max_len_bytes: Some(max), ..Retention::default() };
                    log.retain(&policy, disk.now()).unwrap();
                }
                Op::Snapshot(max) => {
                    let blob = ltx(1, max, None, Checksum::from_crc(salt), 2000);
                    append_blob(&mut log, &blob, RecordKind::Plain).unwrap();
                    model = vec![(txid(max), blob)];
                    committed = None;
                }
                Op::Reset => {
                    log.reset().unwrap();
                    model.clear();
                    committed = None;
                }
                Op::Reopen => {
                    let hint = log.tail_hint();
                    target = None;
                    log = open_with(&disk, hint).unwrap();
                }
                Op::Crash(seed) => {
                    let promised = log.synced();
                    disk = disk.crash(pseudo_random(seed));
                    target = None;
                    log = open(&disk);
                    prop_assert!(log.appended() >= promised);
                    model.retain(|(max, _)| Some(*max) <= log.appended());
                }
            }
            prop_assert!(log.synced() <= log.appended());
            let want: Vec<_> = model.iter()
                .filter(|(max, _)| log.first_txid().is_some_and(|first| *max >= first))
                .map(|(_, blob)| blob.clone()).collect();
            prop_assert_eq!(log.appended(), model.last().map(|(max, _)| *max));
            prop_assert_eq!(read_all(&log), want);
        }
    }
}
