//! A snapshot is the database at its position, byte for byte, whatever SQLite does before and while it is read.
//!
//! The oracle is the log: replayed up to the snapshot's position it must give the same bytes.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;

use litefs_core::db::{Database, FileKind, OpenHow, Snapshot};
use litefs_core::env::sim::{Call, EIO, ENOSPC, Fault, SimDisk};
use litefs_core::error::{Error, ErrorKind};
use litefs_core::log::LogOptions;
use litefs_core::ltx::{self, Decoder};
use litefs_core::store::Retention;
use litefs_core::types::{Checksum, Pos};
use litefs_tests::random::Random;
use litefs_tests::sim::mount::{FileOp, Outcome};
use litefs_tests::sim::node::replay_each;
use litefs_tests::sim::{App, Node};
use parking_lot::Mutex;
use rusqlite::Connection;

const MODES: [&str; 6] = ["DELETE", "TRUNCATE", "PERSIST", "WAL", "MEMORY", "OFF"];

fn run(conn: &Connection, sql: &str) {
    conn.execute_batch(sql).unwrap_or_else(|err| panic!("{sql}: {err}"));
}

/// What was read of a snapshot.
type Read = (Pos, Vec<u8>);

fn read_database(snapshot: Snapshot) -> Read {
    let (pos, mut image) = (snapshot.pos(), Vec::new());
    snapshot.write_database(&mut image).unwrap();
    (pos, image)
}

fn decode(ltx: &[u8]) -> Vec<u8> {
    let mut image = Vec::new();
    ltx::write_database(Decoder::new(ltx).unwrap(), &mut image).unwrap();
    image
}

/// Checks snapshots against the log.
fn check(node: &Node, mut reads: Vec<Read>) {
    let count = reads.len();
    replay_each(&node.disk, "db", |pos, image| {
        reads.retain(|(at, got)| {
            assert!(*at != pos || got == image, "snapshot at {pos} of {count} differs");
            *at != pos
        });
    });
    assert!(reads.is_empty(), "{} of {count} snapshots at no position of the log", reads.len());
}

/// A database with a small cache, so that pages reach the files before the commit.
fn connect(app: &App, mode: &str) -> Connection {
    let conn = app.connect("db");
    run(&conn, "PRAGMA page_size=512; PRAGMA auto_vacuum=FULL; PRAGMA cache_size=5");
    run(&conn, &format!("PRAGMA wal_autocheckpoint=40; PRAGMA journal_mode={mode}"));
    conn
}

fn fill(rows: u64) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows})
         INSERT INTO t(v) SELECT hex(randomblob(60)) FROM n"
    )
}

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v)";

const STEPS: [&str; 9] = [
    "BEGIN; UPDATE t SET v=hex(randomblob(60)) WHERE id%3=0; DELETE FROM t WHERE id%7=0; COMMIT",
    "BEGIN; INSERT INTO t(v) SELECT v FROM t; ROLLBACK",
    "DELETE FROM t WHERE id > 60",
    "BEGIN; INSERT INTO t(v) SELECT hex(randomblob(50)) FROM t; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; COMMIT",
    "CREATE INDEX i ON t(v)",
    "VACUUM",
    "DROP INDEX i",
    "BEGIN; DELETE FROM t WHERE id < 100; INSERT INTO t(v) SELECT hex(randomblob(60)) FROM t; ROLLBACK",
    "PRAGMA wal_checkpoint(TRUNCATE)",
];

/// Takes and reads a snapshot before every change of a file from now on.
fn at_every_change(app: &App, db: &Arc<Database>) -> Arc<Mutex<Vec<Read>>> {
    let reads = Arc::new(Mutex::new(Vec::new()));
    let (db, into) = (Arc::clone(db), Arc::clone(&reads));
    app.process.hook(move |_| {
        into.lock().push(read_database(db.snapshot().unwrap()));
        Outcome::Done
    });
    reads
}

#[test]
fn a_snapshot_begins_at_any_moment_of_a_transaction() {
    for mode in MODES {
        for sync in ["OFF", "FULL"] {
            println!("{mode} {sync}");
            let node = Node::new();
            let app = node.app();
            let conn = connect(&app, mode);
            run(&conn, &format!("PRAGMA synchronous={sync}; {SCHEMA}"));
            run(&conn, &fill(120));
            // Closing captures the schema in any mode.
            drop(conn);
            let conn = connect(&app, mode);
            run(&conn, &format!("PRAGMA synchronous={sync}"));
            let reads = at_every_change(&app, &node.db("db"));
            for step in STEPS {
                run(&conn, step);
            }
            drop(conn);
            app.process.unhook();
            let reads = std::mem::take(&mut *reads.lock());
            assert!(reads.len() > 100, "{}", reads.len());
            check(&node, reads);
        }
    }
}

#[test]
fn a_snapshot_is_exact_where_an_app_died_in_a_transaction() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST", "WAL", "MEMORY"] {
        for change in 1.. {
            let node = Node::new();
            let app = node.app();
            let conn = connect(&app, mode);
            run(&conn, &format!("{SCHEMA}; {}; DELETE FROM t WHERE id%3=0", fill(80)));
            let mut left = change;
            app.process.hook(move |_| {
                left -= 1;
                if left == 0 { Outcome::LastOne } else { Outcome::Done }
            });
            let done = conn.execute_batch(STEPS[0]);
            app.kill([conn]);
            let read = read_database(node.db("db").snapshot().unwrap());
            check(&node, vec![read]);
            if done.is_ok() {
                assert!(change > 20, "{mode}: {change}");
                break;
            }
        }
    }
}

#[test]
fn journals_tell_what_was_there_where_the_log_keeps_no_history() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"] {
        let log = LogOptions { segment_len: 1, ..LogOptions::default() };
        let node = Node::open_with(SimDisk::new(1), |options| options.log(log));
        let app = node.app();
        let conn = connect(&app, mode);
        run(&conn, &format!("{SCHEMA}; {}", fill(200)));
        (0..5).for_each(|i| run(&conn, &format!("UPDATE t SET v=v||'x' WHERE id={i}")));
        let db = node.db("db");
        db.enforce_retention(&Retention { max_len_bytes: Some(0), ..Retention::default() })
            .unwrap();
        let (pos, want) = read_database(db.snapshot().unwrap());
        let reads = at_every_change(&app, &db);
        run(&conn, "UPDATE t SET v=replace(v, '0', '1')");
        app.process.unhook();
        let reads = std::mem::take(&mut *reads.lock());
        let before: Vec<_> = reads.iter().filter(|(at, _)| *at == pos).collect();
        assert!(before.len() > 50, "{mode}: {}", before.len());
        assert!(before.iter().all(|(_, image)| *image == want), "{mode}");
    }
}

#[test]
fn a_database_that_is_being_replaced_has_no_snapshot_until_it_is() {
    let (node, _app, conn) = big();
    let db = node.db("db");
    let (_, image) = read_database(db.snapshot().unwrap());
    drop(conn);
    let file = db.open_file(FileKind::Database, OpenHow::Existing).unwrap();
    let old = db.snapshot().unwrap();
    file.truncate(0).unwrap();
    file.write_at(&image[..4096], 0).unwrap();
    let err = db.snapshot().unwrap_err();
    assert!(matches!(err, Error::Unsettled { .. }) && err.kind() == ErrorKind::Busy, "{err}");
    file.write_at(&image[4096..], 4096).unwrap();
    file.flush().unwrap();
    assert!(read_database(old).1 == image);
    assert!(read_database(db.snapshot().unwrap()).1 == image);
}

#[test]
fn a_snapshot_over_an_orphan_has_what_the_log_has() {
    let node = Node::new();
    let (dying, other) = (node.app(), node.app());
    let conn = connect(&dying, "WAL");
    run(&conn, &format!("PRAGMA wal_autocheckpoint=0; {SCHEMA}; {}", fill(80)));
    let next = connect(&other, "WAL");
    run(&next, "SELECT count(*) FROM t");
    let mut commit_header = false;
    dying.process.hook(move |event| match (event.kind, event.op) {
        (FileKind::Wal, FileOp::Write(header, _)) if header.len() == 24 => {
            commit_header = header[4..8] != [0; 4];
            Outcome::Done
        }
        (FileKind::Wal, FileOp::Write(..)) if commit_header => Outcome::LastOne,
        _ => Outcome::Done,
    });
    conn.execute_batch("UPDATE t SET v=v||'orphan'").unwrap_err();
    dying.kill([conn]);
    let reads = at_every_change(&other, &node.db("db"));
    run(&next, "BEGIN; UPDATE t SET v='rolled back'; ROLLBACK; PRAGMA wal_checkpoint(RESTART)");
    run(&next, "UPDATE t SET v='next' WHERE id%5=0; PRAGMA wal_checkpoint(TRUNCATE)");
    other.process.unhook();
    let reads = std::mem::take(&mut *reads.lock());
    assert!(reads.len() > 20);
    check(&node, reads);
}

/// A writer that never rests, and the snapshots that were begun in the middle of its work.
struct World {
    node: Node,
    app: App,
    conn: Option<Connection>,
    random: Random,
    begun: Arc<Mutex<Vec<Snapshot>>>,
    /// Changes of files until the next one begins.
    countdown: Arc<Mutex<u64>>,
}

impl World {
    fn new(seed: u64) -> World {
        let node =
            Node::open_with(SimDisk::new(seed), |options| options.compress(seed.is_multiple_of(2)));
        let app = node.app();
        let conn = connect(&app, "DELETE");
        run(&conn, SCHEMA);
        run(&conn, &fill(400));
        let world = World {
            begun: Arc::default(),
            countdown: Arc::new(Mutex::new(u64::MAX)),
            conn: Some(conn),
            random: Random::new(seed),
            app,
            node,
        };
        let (db, begun) = (world.node.db("db"), Arc::clone(&world.begun));
        let countdown = Arc::clone(&world.countdown);
        world.app.process.hook(move |_| {
            let mut countdown = countdown.lock();
            *countdown = countdown.saturating_sub(1);
            if *countdown == 0 {
                *countdown = u64::MAX;
                begun.lock().push(db.snapshot().unwrap());
            }
            Outcome::Done
        });
        world
    }

    fn step(&mut self) {
        let mode = MODES[self.random.below(5) as usize];
        let (n, at) = (self.random.below(7) + 2, self.random.below(300));
        let conn = self.conn.get_or_insert_with(|| {
            let conn = connect(&self.app, mode);
            run(&conn, SCHEMA);
            conn
        });
        let sql = match self.random.below(18) {
            0 if conn.is_autocommit() => "BEGIN".into(),
            0 | 1 if !conn.is_autocommit() => "COMMIT".into(),
            2 if !conn.is_autocommit() => "ROLLBACK".into(),
            0..=2 => format!("UPDATE t SET v=v||'x' WHERE id={at}"),
            3..=5 => fill(at),
            6 | 7 => format!("UPDATE t SET v=hex(randomblob({})) WHERE id%{n}=0", at + 1),
            8 => format!("DELETE FROM t WHERE id%{n}=0"),
            9 => format!("DELETE FROM t WHERE id > {}", at * 2),
            // What can't be done in a transaction.
            _ if !conn.is_autocommit() => format!("UPDATE t SET v=id WHERE id%{n}=1"),
            10 => format!(
                "PRAGMA wal_checkpoint({})",
                ["PASSIVE", "RESTART", "TRUNCATE"][n as usize % 3]
            ),
            11 | 12 => format!("PRAGMA journal_mode={mode}"),
            13 => "VACUUM".into(),
            14 => format!(
                "PRAGMA journal_mode=DELETE; PRAGMA page_size={}; VACUUM",
                256 << (n % 4 + 1)
            ),
            15 => {
                self.conn = None;
                return;
            }
            16 if n == 2 => {
                self.conn = None;
                self.node.db("db").unlink(FileKind::Database).unwrap();
                return;
            }
            _ => "REINDEX".into(),
        };
        run(conn, &sql);
    }

    /// Reads a snapshot while work goes on.
    fn read_slowly(&mut self, snapshot: Snapshot) -> Read {
        let (pos, commit) = (snapshot.pos(), snapshot.commit());
        let as_ltx = self.random.percent(50);
        let mut reader = SlowReader { world: self, got: Vec::new() };
        if as_ltx {
            snapshot.write_ltx(&mut reader).unwrap();
        } else {
            snapshot.write_database(&mut reader).unwrap();
        }
        let got = reader.got;
        let image = if as_ltx { decode(&got) } else { got };
        assert_eq!(image.is_empty(), commit.is_zero());
        (pos, image)
    }
}

struct SlowReader<'a> {
    world: &'a mut World,
    got: Vec<u8>,
}

impl Write for SlowReader<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.world.step();
        let n = data.len().min(20_000);
        self.got.extend_from_slice(&data[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_snapshot_read_slowly_is_exact_while_work_goes_on() {
    let mut seeds = Random::from_env();
    // One world may have done little that raises the position.
    let mut positions = 0;
    for _ in 0..12 {
        let seed = seeds.any();
        println!("world {seed}");
        let mut world = World::new(seed);
        let mut reads = Vec::new();
        for _ in 0..25 {
            *world.countdown.lock() = world.random.below(60) + 1;
            (0..world.random.below(5)).for_each(|_| world.step());
            let between = world.node.db("db").snapshot().unwrap();
            reads.push(world.read_slowly(between));
            let begun = std::mem::take(&mut *world.begun.lock());
            for snapshot in begun {
                reads.push(world.read_slowly(snapshot));
            }
        }
        world.app.process.unhook();
        world.conn = None;
        positions += reads.iter().map(|(pos, _)| pos.txid).collect::<BTreeSet<_>>().len();
        check(&world.node, reads);
        world.node.check_fresh("db");
    }
    println!("{positions} positions");
    assert!(positions > 180, "{positions}");
}

#[test]
fn snapshots_are_exact_beside_a_writer_in_another_thread() {
    for mode in ["DELETE", "WAL"] {
        let node = Node::open_with(SimDisk::new(1), |options| options);
        let app = node.app();
        let conn = connect(&app, mode);
        run(&conn, &format!("{SCHEMA}; {}", fill(2000)));
        let db = node.db("db");
        let reads = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = Vec::new();
                while reads.len() < 40 {
                    reads.push(read_database(db.snapshot().unwrap()));
                }
                reads
            });
            let mut n = 0;
            while !reader.is_finished() {
                n += 1;
                run(&conn, &format!("UPDATE t SET v=hex(randomblob(60)) WHERE id%97={}", n % 97));
                if n % 40 == 0 {
                    run(&conn, "DELETE FROM t WHERE id%50=0; PRAGMA wal_checkpoint(TRUNCATE)");
                    run(&conn, &fill(60));
                }
            }
            reader.join().unwrap()
        });
        check(&node, reads);
    }
}

/// More than a snapshot keeps in memory.
fn overwrite_all(conn: &Connection) {
    run(conn, "UPDATE big SET v=randomblob(100000)");
}

fn big() -> (Node, App, Connection) {
    let node = Node::open_with(SimDisk::new(1), |options| options);
    let app = node.app();
    let conn = app.connect("db");
    run(&conn, "PRAGMA journal_mode=DELETE; CREATE TABLE big(v)");
    run(
        &conn,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<80)
         INSERT INTO big SELECT randomblob(100000) FROM n",
    );
    (node, app, conn)
}

#[test]
fn a_disk_that_refuses_the_spill_fails_the_snapshot_only() {
    for (call, errno, kind) in [
        (Call::Create, ENOSPC, ErrorKind::NoSpace),
        (Call::Write, ENOSPC, ErrorKind::NoSpace),
        (Call::Write, EIO, ErrorKind::Io),
        (Call::Remove, EIO, ErrorKind::Io),
    ] {
        let (node, _app, conn) = big();
        let (failing, cancelled) = (node.db("db").snapshot().unwrap(), node.db("db").snapshot());
        drop(cancelled);
        node.disk.inject(Fault::new(errno).calls(&[call]).path("/spill").times(u64::MAX));
        overwrite_all(&conn);
        assert!(!node.disk.clear_faults().is_empty());
        let err = failing.write_ltx(&mut Vec::new()).unwrap_err();
        assert!(matches!(err, Error::SnapshotLost { .. }), "{err:?}");
        assert_eq!(err.kind(), kind);
        let next = read_database(node.db("db").snapshot().unwrap());
        check(&node, vec![next]);
        node.check_fresh("db");
    }
}

#[test]
fn a_snapshot_goes_on_when_everything_was_overwritten_and_dropped() {
    let (node, _app, conn) = big();
    let snapshot = node.db("db").snapshot().unwrap();
    overwrite_all(&conn);
    drop(conn);
    node.db("db").unlink(FileKind::Database).unwrap();
    let dropped = node.db("db").snapshot().unwrap();
    assert!(dropped.commit().is_zero() && dropped.pos().post_apply == Checksum::EMPTY);
    let mut ltx = Vec::new();
    let pos = dropped.pos();
    dropped.write_ltx(&mut ltx).unwrap();
    check(&node, vec![(pos, decode(&ltx)), read_database(snapshot)]);
}

/// Does something once, when a part has been read.
struct Interrupted<F> {
    then: Option<F>,
    got: Vec<u8>,
}

impl<F: FnOnce()> Write for Interrupted<F> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.got.extend_from_slice(data);
        if let Some(then) = self.then.take() {
            then();
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read_interrupted(snapshot: Snapshot, then: impl FnOnce()) -> Read {
    let (pos, mut out) = (snapshot.pos(), Interrupted { then: Some(then), got: Vec::new() });
    snapshot.write_database(&mut out).unwrap();
    assert!(out.then.is_none());
    (pos, out.got)
}

#[test]
fn a_snapshot_out_of_the_wal_goes_on_when_the_wal_ends() {
    for end in [
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA wal_checkpoint(RESTART); UPDATE t SET v='other'",
        "PRAGMA journal_mode=DELETE; UPDATE t SET v='other'",
        "UPDATE t SET v=v||'other'; PRAGMA wal_checkpoint(TRUNCATE); DELETE FROM t",
    ] {
        let node = Node::new();
        let app = node.app();
        let conn = connect(&app, "WAL");
        run(&conn, &format!("PRAGMA wal_autocheckpoint=0; {SCHEMA}; {}", fill(5000)));
        let snapshot = node.db("db").snapshot().unwrap();
        let read = read_interrupted(snapshot, || run(&conn, end));
        check(&node, vec![read]);
    }
}

#[test]
fn a_handle_of_a_dropped_database_disturbs_no_snapshot() {
    let (node, _app, conn) = big();
    let db = node.db("db");
    drop(conn);
    let old = db.open_file(FileKind::Database, OpenHow::Existing).unwrap();
    let read = read_interrupted(db.snapshot().unwrap(), || {
        db.unlink(FileKind::Database).unwrap();
        old.write_at(&[7; 10_000], 5_000_000).unwrap();
        old.truncate(6_000_000).unwrap();
    });
    check(&node, vec![read]);
}

#[test]
fn what_a_reader_says_is_reported() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(ENOSPC))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let node = Node::new();
    let app = node.app();
    assert!(node.store.databases().is_empty());
    let conn = connect(&app, "WAL");
    run(&conn, SCHEMA);
    let db = node.db("db");
    assert_eq!(db.snapshot().unwrap().write_ltx(&mut Full).unwrap_err().kind(), ErrorKind::NoSpace);
    let err = db.snapshot().unwrap().write_database(&mut Full).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NoSpace);
}
