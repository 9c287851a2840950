//! Files of the data directory that were damaged while the node was down. Either the start is refused with
//! a message that names what is broken, or that database is refused or repaired; the others are served.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use litefs_tests::node::{LIMIT, Node, NodeOptions, Position, litefs};
use litefs_tests::process::Process;
use litefs_tests::sqlite;

/// What `bad` was before it was damaged.
struct Before {
    position: Position,
    dump: String,
}

/// A stopped node with a database `bad` of some history, and one `good`.
fn stopped(journal: &str, clean: bool) -> (Node, Before) {
    let mut node = Node::start_with(NodeOptions { strict_verify: false, ..NodeOptions::default() });
    for name in ["bad", "good"] {
        let conn = sqlite::open(&node.path(name));
        sqlite::run(
            &conn,
            &format!("PRAGMA journal_mode={journal}; CREATE TABLE t(x INTEGER PRIMARY KEY, y)"),
        );
        for _ in 0..50 {
            sqlite::run(&conn, "INSERT INTO t(y) VALUES (randomblob(3000))");
        }
        drop(conn);
        node.check(name);
    }
    let dump = sqlite::dump(&sqlite::open(&node.path("bad")));
    let before = Before { position: node.pos("bad"), dump };
    if clean {
        assert_eq!(node.stop(), Some(0));
    } else {
        node.kill();
    }
    (node, before)
}

fn flip(file: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

/// The newest segment of the log of `bad`.
fn segment(node: &Node) -> PathBuf {
    let files = fs::read_dir(node.backing("bad").join("log")).unwrap();
    let segments = files.map(|e| e.unwrap().path());
    segments.filter(|p| p.extension().is_some_and(|e| e == "seg")).max().expect("a segment")
}

/// What the damage came to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// No start; the message names the database.
    StartRefused,
    /// It can't be written; this is logged.
    ReadOnly,
    /// It is what it was before the damage, and takes transactions.
    Served,
    /// It is whole and takes transactions, but it is at an earlier position.
    Rewound,
}

#[track_caller]
fn start_damaged(node: &mut Node, before: &Before) -> Outcome {
    let process = node.launch();
    let first = process.line_with_any(&["waiting for signal", "ERROR: "], LIMIT);
    let complaint = || {
        let lines = process.lines();
        lines.iter().any(|l| {
            (l.text.contains("level=ERROR")
                || l.text.contains("level=WARN")
                || l.text.contains("ERROR: "))
                && l.text.contains("bad")
        })
    };
    assert!(!process.output().contains("panicked"), "{}", process.output());
    if first.text.contains("ERROR: ") {
        assert_eq!(process.wait(LIMIT).code(), Some(1), "{}", process.output());
        assert!(complaint(), "{}", process.output());
        assert!(!node.is_mounted());
        return Outcome::StartRefused;
    }

    let good = sqlite::open(&node.path("good"));
    assert_eq!(sqlite::number(&good, "SELECT count(*) FROM t"), 50);
    sqlite::run(&good, "INSERT INTO t(y) VALUES (1); DELETE FROM t WHERE y = 1");
    drop(good);
    assert_eq!(sqlite::text(&sqlite::open(&node.path("good")), "PRAGMA integrity_check"), "ok");
    node.check_position("good");

    let bad = sqlite::open(&node.path("bad"));
    let Err(err) = sqlite::try_run(&bad, "INSERT INTO t(x, y) VALUES (1000, 1)") else {
        sqlite::run(&bad, "DELETE FROM t WHERE x = 1000");
        let unchanged = sqlite::dump(&bad) == before.dump;
        assert_eq!(sqlite::text(&bad, "PRAGMA integrity_check"), "ok");
        drop(bad);
        node.check_position("bad");
        let later = node.pos("bad").txid > before.position.txid;
        return if unchanged && later { Outcome::Served } else { Outcome::Rewound };
    };
    println!("{err}");
    assert_eq!(sqlite::number(&bad, "SELECT count(*) FROM t"), 50, "it can still be read");
    assert!(complaint(), "{}", process.output());
    Outcome::ReadOnly
}

#[test]
fn a_flipped_bit_in_the_database_is_found_after_an_unclean_end() {
    for journal in ["DELETE", "WAL"] {
        let (mut node, before) = stopped(journal, false);
        flip(&node.backing("bad").join("database"), 4096 * 20 + 1000);
        let outcome = start_damaged(&mut node, &before);
        // In WAL mode the file might as well be ahead of a log that lost its end: no guess is made.
        let want = if journal == "WAL" { Outcome::ReadOnly } else { Outcome::Served };
        assert_eq!(outcome, want, "{journal}");
        let repaired = node.process().output().contains("repaired from the log");
        assert_eq!(repaired, outcome == Outcome::Served, "{journal}");
    }
}

#[test]
fn a_flipped_bit_in_the_database_is_found_by_verify_after_a_clean_stop() {
    let (node, _) = stopped("DELETE", true);
    let verify = || {
        let mut command = Command::new(litefs());
        command.args(["verify", "-data"]).arg(node.data());
        Process::run(&mut command, LIMIT)
    };
    let (code, output) = verify();
    assert_eq!(code, Some(0), "{output}");
    flip(&node.backing("bad").join("database"), 4096 * 20 + 1000);
    let (code, output) = verify();
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("bad"), "{output}");
}

#[test]
fn a_flipped_bit_in_a_segment_is_found() {
    for clean in [true, false] {
        // In the middle: not a torn tail, so nothing may be cut.
        let (mut node, before) = stopped("DELETE", clean);
        let segment = segment(&node);
        flip(&segment, fs::metadata(&segment).unwrap().len() / 2);
        let outcome = start_damaged(&mut node, &before);
        println!("clean {clean}: {outcome:?}");
    }
}

#[test]
fn a_log_that_lost_its_end_is_found_after_a_clean_stop() {
    for keep in [0, 10, 50, 99] {
        let (mut node, before) = stopped("WAL", true);
        let segment = segment(&node);
        let len = fs::metadata(&segment).unwrap().len();
        OpenOptions::new().write(true).open(&segment).unwrap().set_len(len * keep / 100).unwrap();
        assert_eq!(start_damaged(&mut node, &before), Outcome::ReadOnly, "{keep} %");
    }
    let (mut node, before) = stopped("DELETE", true);
    fs::remove_dir_all(node.backing("bad").join("log")).unwrap();
    assert_eq!(start_damaged(&mut node, &before), Outcome::ReadOnly);
}

/// Nobody can know then how far the log went, so it is taken for a torn tail.
#[test]
fn a_log_that_lost_its_end_after_an_unclean_one_is_told() {
    for keep in [10, 50, 99] {
        let (mut node, before) = stopped("WAL", false);
        let segment = segment(&node);
        let len = fs::metadata(&segment).unwrap().len();
        OpenOptions::new().write(true).open(&segment).unwrap().set_len(len * keep / 100).unwrap();
        let outcome = start_damaged(&mut node, &before);
        assert!(matches!(outcome, Outcome::ReadOnly | Outcome::Rewound), "{outcome:?}");
        node.process().line("cutting a torn tail", LIMIT);
    }
}

#[test]
fn a_truncated_database_is_found() {
    for journal in ["DELETE", "WAL"] {
        for len in [0, 50, 4096, 4096 * 20, 4096 * 20 + 7] {
            let (mut node, before) = stopped(journal, false);
            let file = node.backing("bad").join("database");
            OpenOptions::new().write(true).open(file).unwrap().set_len(len).unwrap();
            // All of its history is in the log.
            let outcome = start_damaged(&mut node, &before);
            assert_eq!(outcome, Outcome::Served, "{journal} {len}");
        }
    }
}

#[test]
fn garbage_in_the_data_directory_stops_nobody_else() {
    let (mut node, before) = stopped("DELETE", true);
    let dbs = node.data().join("dbs");
    fs::write(dbs.join("a-file"), "not a directory").unwrap();
    fs::create_dir(dbs.join("empty")).unwrap();
    fs::create_dir(dbs.join("garbage")).unwrap();
    for name in ["database", "journal", "wal", "shm", "clean", "undo"] {
        fs::write(dbs.join("garbage").join(name), b"garbage ".repeat(1000)).unwrap();
    }
    let bad = node.backing("bad");
    for name in ["clean", "shm"] {
        fs::write(bad.join(name), b"garbage ".repeat(1000)).unwrap();
    }
    assert_eq!(start_damaged(&mut node, &before), Outcome::Served, "{}", node.process().output());
}

#[test]
fn a_data_directory_that_is_a_file_is_refused() {
    let mut node = Node::new(NodeOptions::default());
    let data = node.data().to_owned();
    fs::remove_dir(&data).unwrap();
    fs::write(&data, "").unwrap();
    let process = node.launch();
    assert_eq!(process.wait(LIMIT).code(), Some(1), "{}", process.output());
    assert!(process.output().contains("ERROR: "), "{}", process.output());
    assert!(!node.is_mounted());
}

#[test]
fn an_invalid_cluster_id_is_refused() {
    let (mut node, _) = stopped("DELETE", true);
    fs::write(node.data().join("clusterid"), "nonsense\n").unwrap();
    let process = node.launch();
    assert_eq!(process.wait(LIMIT).code(), Some(1), "{}", process.output());
    assert!(process.output().contains("invalid cluster id"), "{}", process.output());
    assert!(!node.is_mounted());
}
