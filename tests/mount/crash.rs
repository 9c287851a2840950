//! kill -9 at random moments: of the node, and of the writing application. After each, SQLite finds the
//! database intact, every acknowledged transaction is there, and the position is that of the files.
//!
//! `LITEFS_SEED` repeats a run as far as timing allows, `LITEFS_CRASH_ROUNDS` makes it longer.

use std::process::Command;
use std::thread;
use std::time::Duration;

use litefs_tests::node::{LIMIT, Node, NodeOptions};
use litefs_tests::process::{Process, Stream};
use litefs_tests::random::Random;
use litefs_tests::sqlite;
use litefs_tests::workload::{self, FORGETFUL, Mode};
use nix::sys::signal::Signal;

const ROLLBACK: [Mode; 6] = [
    Mode::new("DELETE", "FULL"),
    Mode::new("TRUNCATE", "NORMAL"),
    Mode::new("PERSIST", "EXTRA"),
    Mode::new("DELETE", "OFF"),
    Mode::new("PERSIST", "NORMAL").exclusive(),
    Mode::new("TRUNCATE", "FULL").exclusive(),
];
const WAL: [Mode; 5] = [
    Mode::new("WAL", "NORMAL"),
    Mode::new("WAL", "FULL"),
    Mode::new("WAL", "OFF"),
    Mode::new("WAL", "EXTRA"),
    Mode::new("WAL", "NORMAL").exclusive(),
];
/// Without a journal SQLite itself can't undo what it was doing.
const NO_JOURNAL: [Mode; 2] = [Mode::new("MEMORY", "FULL"), Mode::new("OFF", "FULL")];

/// Per test; there are three tests that kill the node and three that kill the application.
fn rounds() -> usize {
    workload::rounds(50)
}

fn node(rounds: usize) -> Node {
    Node::start_with(NodeOptions {
        strict_verify: false,
        limit: Duration::from_secs(60 + 3 * rounds as u64),
        ..NodeOptions::default()
    })
}

fn writer(node: &Node, name: &str, mode: Mode, seed: u64) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_litefs-workload"));
    command.arg(node.path(name)).args([mode.journal, mode.synchronous, &seed.to_string()]);
    if mode.exclusive {
        command.arg("exclusive");
    }
    Process::start(&mut command)
}

/// Lets the writer commit for a moment, so that what follows strikes it anywhere.
fn a_random_moment(writer: &Process, random: &mut Random) {
    writer.lines_at_least(random.below(25) as usize, LIMIT);
    thread::park_timeout(Duration::from_micros(random.below(6000)));
}

/// The last transaction SQLite has acknowledged; `before` if none since.
fn acknowledged(writer: &Process, before: i64) -> i64 {
    let lines = writer.stream(Stream::Stdout);
    lines.iter().rev().find_map(|line| line.parse().ok()).unwrap_or(before)
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Node,
    Application,
}

fn kill_the(victim: Victim, modes: &[Mode]) {
    let mut random = Random::from_env();
    let rounds = rounds();
    let mut node = node(rounds);
    let mut last = vec![0; modes.len()];
    for round in 0..rounds {
        let at = round % modes.len();
        let (mode, name) = (modes[at], format!("db{at}"));
        let writer = writer(&node, &name, mode, random.any());
        a_random_moment(&writer, &mut random);
        if victim == Victim::Node {
            node.kill();
        }
        // Without its node it fails at its next access, or dies of SIGBUS if that is to the mapped wal-index.
        writer.signal(Signal::SIGKILL);
        writer.wait(LIMIT);
        let acknowledged = acknowledged(&writer, last[at]);

        if victim == Victim::Node {
            node.up();
        }
        let what = format!("round {round}, {mode:?}, acknowledged {acknowledged}");
        if !node.path(&name).exists() {
            assert_eq!(acknowledged, 0, "{what}: the database is gone");
            continue;
        }
        if victim == Victim::Node {
            // Before anyone opens the database: what the node has brought about by itself.
            node.check_position(&name);
        }
        let conn = sqlite::open(&node.path(&name));
        let found = workload::check(&conn).unwrap_or_else(|err| panic!("{what}: {err}"));
        assert!(found == acknowledged || found == acknowledged + 1, "{what}: found {found}");
        drop(conn);
        node.check(&name);
        last[at] = found;
    }
}

#[test]
fn kill_the_node_in_wal_mode() {
    kill_the(Victim::Node, &WAL);
}

#[test]
fn kill_the_node_in_rollback_modes() {
    kill_the(Victim::Node, &ROLLBACK);
}

#[test]
fn kill_the_node_without_a_journal() {
    kill_the(Victim::Node, &NO_JOURNAL);
}

/// SQLite doesn't journal what free pages hold, so its rollback leaves there what the transaction had written; and the
/// log may have forgotten long since what was there before.
#[test]
fn kill_the_node_in_a_transaction_that_uses_free_pages() {
    let data = FORGETFUL.into();
    let mut node = Node::start_with(NodeOptions { data, ..NodeOptions::default() });
    let conn = sqlite::open(&node.path("db"));
    workload::make_forgotten_pages(&node, "db", &conn);
    let before = node.pos("db");
    workload::overwrite_free_pages(&conn);
    node.kill();
    // Its files are those of a dead mount from now on, so it must not touch them again.
    std::mem::forget(conn);
    node.up();
    node.process().line("had written to free pages", LIMIT);
    assert_eq!(node.pos("db").txid, before.txid + 1, "what free pages hold now is a transaction");
    let conn = sqlite::open(&node.path("db"));
    assert_eq!(sqlite::number(&conn, "SELECT count(*) FROM t"), 50);
    sqlite::run(&conn, &workload::insert_rows(1001, 1100));
    drop(conn);
    node.check("db");
}

#[test]
fn kill_the_application_in_wal_mode() {
    kill_the(Victim::Application, &WAL);
}

#[test]
fn kill_the_application_in_rollback_modes() {
    kill_the(Victim::Application, &ROLLBACK);
}

/// SQLite leaves such a database broken, here as on any file system. What was written is captured when the
/// kernel closes the dead process's files, or left for the next writer if it is no whole file; either way
/// the node serves on, and the next whole file is captured.
#[test]
fn kill_the_application_without_a_journal() {
    let mut random = Random::from_env();
    let node = node(rounds());
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    sqlite::run(&sqlite::open(&whole), "CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    for round in 0..rounds() {
        let mode = NO_JOURNAL[round % 2];
        let name = format!("db{round}");
        let writer = writer(&node, &name, mode, random.any());
        a_random_moment(&writer, &mut random);
        writer.signal(Signal::SIGKILL);
        writer.wait(LIMIT);
        let (code, output) =
            Process::run(Command::new("cp").arg(&whole).arg(node.path(&name)), LIMIT);
        assert_eq!(code, Some(0), "{output}");
        assert_eq!(sqlite::number(&sqlite::open(&node.path(&name)), "SELECT x FROM t"), 1);
        node.check(&name);
    }
}

/// The writer dies after its commit frame is in the WAL and before the wal-index shows it. The next writer
/// overwrites frames that were captured already; both outcomes are legal, torn ones aren't.
#[test]
fn an_orphaned_commit_frame_is_overwritten_by_the_next_writer() {
    let node = Node::start();
    let path = node.path("db");
    let keeper = sqlite::open(&path);
    sqlite::run(
        &keeper,
        "PRAGMA journal_mode=WAL; CREATE TABLE t(x, y); INSERT INTO t VALUES (1, zeroblob(20000))",
    );
    for round in 2..20 {
        // What a commit writes, written by hand, and no wal-index: a copy of the WAL's growth on a twin.
        let twin = tempfile::tempdir().unwrap();
        for suffix in ["", "-wal"] {
            let name = format!("db{suffix}");
            let mut cp = Command::new("cp");
            cp.arg(node.path(&name)).arg(twin.path().join(&name));
            assert_eq!(Process::run(&mut cp, LIMIT).0, Some(0));
        }
        let len = |path: &std::path::Path| std::fs::metadata(path).unwrap().len();
        let wal = twin.path().join("db-wal");
        let before = len(&wal);
        let conn = sqlite::open(&twin.path().join("db"));
        sqlite::run(&conn, "PRAGMA wal_autocheckpoint=0; UPDATE t SET y = zeroblob(25000)");
        let image = std::fs::read(&wal).unwrap();
        assert!(image.len() as u64 > before);
        let mut script = Command::new("python3");
        script.args(["-c", APPEND]).arg(node.path("db-wal")).arg(&wal).arg(before.to_string());
        let (code, output) = Process::run(&mut script, LIMIT);
        assert_eq!(code, Some(0), "{output}");

        sqlite::run(&keeper, &format!("INSERT INTO t VALUES ({round}, zeroblob(9000))"));
        assert_eq!(sqlite::number(&keeper, "SELECT count(*) FROM t"), round);
        assert_eq!(sqlite::number(&keeper, "SELECT length(y) FROM t WHERE x = 1"), 20000);
        node.check_position("db");
        if round % 5 == 0 {
            sqlite::run(&keeper, "PRAGMA wal_checkpoint(TRUNCATE)");
            sqlite::run(&keeper, "UPDATE t SET x = x");
        }
    }
    drop(keeper);
    node.check("db");
}

/// Writes the source from the offset on, as SQLite would: frame by frame, header then page.
const APPEND: &str = r"
import os, sys
target, source, offset = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = open(source, 'rb').read()
fd = os.open(target, os.O_WRONLY)
while offset < len(data):
    os.pwrite(fd, data[offset:offset + 24], offset)
    os.pwrite(fd, data[offset + 24:offset + 24 + 4096], offset + 24)
    offset += 24 + 4096
";
