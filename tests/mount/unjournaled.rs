//! Transactions whose end nothing in the files marks: MEMORY and OFF with `synchronous=OFF`. Each is captured without a close, and
//! none before it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use litefs_tests::cluster::eventually;
use litefs_tests::node::{LIMIT, Node, NodeOptions};
use litefs_tests::process::Process;
use litefs_tests::workload::{self, Mode, Workload};
use litefs_tests::{scan, sqlite};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode as FileMode;
use nix::unistd::mkfifo;
use rusqlite::Connection;

use crate::transfer::{succeeds, transfer};

const JOURNALS: [&str; 2] = ["MEMORY", "OFF"];

/// A connection in such a mode, whose transactions spill early.
fn open(path: &Path, journal: &'static str) -> Connection {
    let conn = Mode::new(journal, "OFF").open(path).unwrap();
    sqlite::run(&conn, "CREATE TABLE IF NOT EXISTS t(x, y)");
    conn
}

/// The position as soon as it is that of the files.
#[track_caller]
fn await_capture(node: &Node, name: &str) {
    let dir = node.backing(name);
    let captured = || {
        let sum = scan::checksum(&dir.join("database"), &dir.join("wal"));
        node.pos_if_there(name).map(|pos| pos.checksum) == sum.ok()
    };
    assert!(eventually(LIMIT, captured), "not captured");
}

/// What the log has, as a database of its own.
fn exported(node: &Node, name: &str, dir: &Path) -> Connection {
    let path = dir.join("exported");
    drop(fs::remove_file(&path));
    succeeds(transfer(node, "export", name, &path), "Export of database");
    let copy = sqlite::open(&path);
    assert_eq!(sqlite::text(&copy, "PRAGMA integrity_check"), "ok");
    copy
}

/// A process amid a transaction that has written pages. It goes on when the file that it waits for is gone.
struct Midway {
    process: Process,
    waits_for: PathBuf,
}

impl Midway {
    fn start(node: &Node, name: &str, journal: &str, dir: &Path) -> Midway {
        let waits_for = dir.join("waits-for");
        File::create(&waits_for).unwrap();
        let undo = node.backing(name).join("undo");
        let mut shell = Command::new("sqlite3");
        shell.args(["-batch", "-bail"]).arg(node.path(name)).args([
            ".timeout 10000",
            &format!("PRAGMA journal_mode={journal}"),
            "PRAGMA synchronous=OFF; PRAGMA cache_size=5",
            "BEGIN; UPDATE t SET y = randomblob(3000), x = x + 1",
            &format!(
                ".shell echo midway; while [ -e {} ]; do sleep 0.01; done",
                waits_for.display()
            ),
            "UPDATE t SET x = x - 1; COMMIT",
        ]);
        let process = Process::start(&mut shell);
        process.line("midway", LIMIT);
        let written = fs::metadata(&undo).map_or(0, |undo| undo.len());
        assert!(written > 10_000, "it has written pages: {written} bytes of undo");
        Midway { process, waits_for }
    }

    fn end(self) {
        fs::remove_file(&self.waits_for).unwrap();
        assert!(self.process.wait(LIMIT).success(), "{}", self.process.output());
    }
}

const ROWS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)
                    INSERT INTO t SELECT 0, randomblob(3000) FROM n";

/// There is no earlier content to go back to, but that is what it goes back to.
#[test]
fn a_first_transaction_that_is_cut_off_leaves_an_empty_database() {
    for (journal, synchronous) in [("MEMORY", "FULL"), ("OFF", "FULL"), ("OFF", "OFF")] {
        let mut node =
            Node::start_with(NodeOptions { strict_verify: false, ..NodeOptions::default() });
        let backing = node.backing("db").join("database");
        let conn = Mode::new(journal, synchronous).open(&node.path("db")).unwrap();
        sqlite::run(&conn, &format!("BEGIN; CREATE TABLE t(x, y); {ROWS}"));
        let written = fs::metadata(&backing).unwrap().len();
        assert!(written > 10_000, "it has written pages: {written} bytes");
        node.kill();
        drop(conn);
        node.up();
        node.check_position("db");
        assert_eq!(fs::metadata(&backing).unwrap().len(), 0, "{journal} {synchronous}");
        let conn = open(&node.path("db"), journal);
        sqlite::run(&conn, ROWS);
        drop(conn);
        await_capture(&node, "db");
        node.check("db");
    }
}

/// What nobody has logged may be all that somebody has.
#[test]
fn a_file_that_was_put_into_the_data_directory_isnt_emptied() {
    let mut node = Node::new(NodeOptions { strict_verify: false, ..NodeOptions::default() });
    let dir = node.backing("db");
    fs::create_dir_all(&dir).unwrap();
    let conn = sqlite::open(&dir.join("database"));
    sqlite::run(&conn, &format!("CREATE TABLE t(x, y); {ROWS}"));
    drop(conn);
    node.up();
    let conn = open(&node.path("db"), "MEMORY");
    sqlite::run(&conn, "BEGIN; UPDATE t SET y = randomblob(10)");
    node.kill();
    drop(conn);
    node.up();
    assert!(fs::metadata(dir.join("database")).unwrap().len() > 100_000);
}

#[test]
fn a_lasting_connection_is_captured() {
    let node = Node::start();
    for journal in JOURNALS {
        let conn = open(&node.path(journal), journal);
        let mut last = 0;
        for i in 0..10 {
            sqlite::run(&conn, &format!("INSERT INTO t VALUES ({i}, randomblob(5000))"));
            await_capture(&node, journal);
            let txid = node.pos(journal).txid;
            assert!(txid > last, "{txid} after {last}");
            last = txid;
        }
        node.check_position(journal);
        // Nothing is left for the close.
        drop(conn);
        assert_eq!(node.pos(journal).txid, last);
        node.check(journal);
    }
}

#[test]
fn a_connection_that_never_pauses_is_captured() {
    let node = Node::start_with(NodeOptions { strict_verify: false, ..NodeOptions::default() });
    for journal in JOURNALS {
        let conn = open(&node.path(journal), journal);
        let mut rows = 0;
        let more = || {
            sqlite::run(&conn, "INSERT INTO t VALUES (1, randomblob(500))");
            rows += 1;
            node.pos_if_there(journal).is_some_and(|pos| pos.txid >= 5)
        };
        assert!(eventually(LIMIT, more), "{:?} after {rows} rows", node.pos_if_there(journal));
    }
}

#[test]
fn half_a_transaction_is_never_captured() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    for journal in JOURNALS {
        let closer = open(&node.path(journal), journal);
        sqlite::run(&closer, ROWS);
        let midway = Midway::start(&node, journal, journal, dir.path());
        drop(closer);
        for _ in 0..3 {
            let copy = exported(&node, journal, dir.path());
            assert_eq!(sqlite::number(&copy, "SELECT count(*) FROM t"), 50, "{journal}");
            assert_eq!(sqlite::number(&copy, "SELECT sum(x) FROM t"), 0, "{journal}");
        }
        midway.end();
        await_capture(&node, journal);
        assert_eq!(
            sqlite::number(&exported(&node, journal, dir.path()), "SELECT sum(x) FROM t"),
            0
        );
        node.check(journal);
    }
}

/// SQLite's own readers see what it leaves.
#[test]
fn who_is_killed_midway_leaves_what_the_files_hold() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    for journal in JOURNALS {
        sqlite::run(&open(&node.path(journal), journal), ROWS);
        let midway = Midway::start(&node, journal, journal, dir.path());
        let before = node.pos(journal);
        midway.process.signal(Signal::SIGKILL);
        midway.process.wait(LIMIT);
        await_capture(&node, journal);
        assert!(node.pos(journal).txid > before.txid);
    }
    node.check_log();
}

#[test]
fn exports_beside_writers_that_come_and_go_are_whole() {
    let node = Node::start_with(NodeOptions { strict_verify: false, ..NodeOptions::default() });
    let dir = tempfile::tempdir().unwrap();
    for journal in JOURNALS {
        let path = node.path(journal);
        Workload::open(&path, Mode::new(journal, "OFF"), 1).unwrap().steps(3).unwrap();
        let program = env!("CARGO_BIN_EXE_litefs-workload");
        let lasting = Process::start(Command::new(program).arg(&path).args([journal, "OFF", "2"]));
        let (mut last, end) = (0, Instant::now() + Duration::from_secs(8));
        for seed in 3.. {
            if Instant::now() > end {
                break;
            }
            // SQLite's locks aren't fair.
            let come = || {
                let mut coming = Workload::open(&path, Mode::new(journal, "OFF"), seed)?;
                coming.steps(2)
            };
            let busy = |err: &rusqlite::Error| {
                err.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
            };
            come().map_or_else(|err| assert!(busy(&err), "{err}"), drop);
            let seen = workload::check(&exported(&node, journal, dir.path())).unwrap();
            assert!(seen >= last, "{seen} after {last}");
            last = seen;
        }
        assert!(last > 3, "nothing was captured");
        assert!(lasting.is_running(), "{}", lasting.output());
        lasting.signal(Signal::SIGKILL);
        lasting.wait(LIMIT);
    }
    node.check_log();
}

#[test]
fn a_copy_is_not_captured_half_way() {
    let node = Node::start();
    let plain = tempfile::tempdir().unwrap();
    let from = plain.path().join("from");
    sqlite::run(&open(&from, "DELETE"), ROWS);
    let image = fs::read(&from).unwrap();
    let other = open(&node.path("db"), "MEMORY");
    sqlite::run(&other, "INSERT INTO t VALUES (1, zeroblob(300000))");
    await_capture(&node, "db");
    let before = node.pos("db");
    let fifo = plain.path().join("fifo");
    mkfifo(&fifo, FileMode::S_IRWXU).unwrap();
    let (input, output) =
        (format!("if={}", fifo.display()), format!("of={}", node.path("db").display()));
    let copy =
        Process::start(Command::new("dd").args([&input, &output, "bs=4096", "conv=notrunc"]));
    let mut feed = OpenOptions::new().write(true).open(&fifo).unwrap();
    let backing = node.backing("db").join("database");
    let mut copied = 0;
    for part in image.chunks(8 * 4096) {
        feed.write_all(part).unwrap();
        copied += part.len();
        let arrived = || fs::read(&backing).unwrap()[..copied] == image[..copied];
        assert!(eventually(LIMIT, arrived));
        thread::sleep(Duration::from_millis(50));
        assert_eq!(node.pos("db"), before, "{copied} bytes");
    }
    drop(feed);
    assert!(copy.wait(LIMIT).success(), "{}", copy.output());
    await_capture(&node, "db");
    assert_eq!(sqlite::number(&sqlite::open(&node.path("db")), "SELECT count(*) FROM t"), 50);
    drop(other);
}

/// The node's end comes before the app's.
#[test]
fn what_is_whole_is_captured_at_the_end() {
    let mut node = Node::start();
    for journal in JOURNALS {
        let conn = open(&node.path(journal), journal);
        sqlite::run(&conn, "INSERT INTO t VALUES (1, 1)");
        assert_eq!(node.stop(), Some(0));
        std::mem::forget(conn);
        node.up();
        let conn = sqlite::open(&node.path(journal));
        assert_eq!(sqlite::number(&conn, "SELECT count(*) FROM t"), 1, "{journal}");
        drop(conn);
        node.check(journal);
    }
}
