//! A follower that does as `Database::next_after` says ends with the same database.
//!
//! The follower keeps an image of the database and believes nothing: each LTX file must begin where it is, and end with
//! the checksum that its pages add up to.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use litefs_core::db::{Database, FileKind, Next};
use litefs_core::env::sim::{Call, EIO, Fault, SimDisk};
use litefs_core::log::{LogOptions, TxLog};
use litefs_core::ltx::{self, Decoder};
use litefs_core::store::Retention;
use litefs_core::types::{Checksum, PageSize, Pos};
use litefs_tests::sim::Node;
use litefs_tests::sim::mount::{FileOp, Outcome};
use litefs_tests::sim::node::{checksum, db_dir, replay_each};
use rusqlite::Connection;

fn run(conn: &Connection, sql: &str) {
    conn.execute_batch(sql).unwrap_or_else(|err| panic!("{sql}: {err}"));
}

/// A replica in memory.
#[derive(Debug, Clone, Default)]
struct Follower {
    pos: Option<Pos>,
    image: Vec<u8>,
    records: usize,
    snapshots: usize,
}

impl Follower {
    /// Takes what is next; whether there was anything.
    fn step(&mut self, db: &Database) -> bool {
        match db.next_after(self.pos).unwrap() {
            Next::UpToDate => return false,
            Next::Records(history) => {
                let before = self.records;
                for record in history {
                    let (meta, mut blob) = record.unwrap();
                    assert_eq!(meta.pre(), self.pos, "a record begins where the follower is");
                    let mut ltx = Vec::new();
                    blob.read_to_end(&mut ltx).unwrap();
                    self.apply(&ltx);
                    assert_eq!(self.pos, Some(meta.pos()));
                    self.records += 1;
                }
                assert!(self.records > before, "at least one record");
            }
            Next::Snapshot(snapshot) => {
                let (pos, mut ltx) = (snapshot.pos(), Vec::new());
                snapshot.write_ltx(&mut ltx).unwrap();
                self.image.clear();
                ltx::write_database(Decoder::new(&ltx[..]).unwrap(), &mut self.image).unwrap();
                self.pos = Some(pos);
                self.snapshots += 1;
            }
        }
        true
    }

    fn follow(mut self, db: &Database) -> Follower {
        while self.step(db) {}
        self
    }

    fn apply(&mut self, ltx: &[u8]) {
        let mut decoder = Decoder::new(ltx).unwrap();
        let header = *decoder.header();
        let page_len = header.page_size.as_usize();
        self.image.resize(header.commit.as_u32() as usize * page_len, 0);
        let mut page = vec![0; page_len];
        while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
            let at = (pgno.as_u32() as usize - 1) * page_len;
            self.image[at..at + page_len].copy_from_slice(&page);
        }
        let post_apply = decoder.finish().unwrap().post_apply;
        assert_eq!(checksum(&self.image, header.page_size), post_apply);
        self.pos = Some(Pos { txid: header.max_txid, post_apply });
    }
}

/// Followers at each position that the log knows, from none on.
fn followers(node: &Node) -> Vec<Follower> {
    // The log is written in the background.
    node.db("db").verify().unwrap();
    let mut all = vec![Follower::default()];
    replay_each(&node.disk, "db", |pos, image| {
        all.push(Follower { pos: Some(pos), image: image.into(), ..Follower::default() });
    });
    all
}

fn small_segments(segment_len: u64) -> Node {
    let log = LogOptions { segment_len, segment_age: Duration::MAX };
    Node::open_with(SimDisk::new(1), |options| options.log(log))
}

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
const MORE: &str = "INSERT INTO t(v) VALUES (hex(randomblob(300)))";

fn connect(node: &Node, mode: &str) -> (litefs_tests::sim::App, Connection) {
    let app = node.app();
    let conn = app.connect("db");
    run(&conn, &format!("PRAGMA page_size=1024; PRAGMA cache_size=5; PRAGMA journal_mode={mode}"));
    (app, conn)
}

#[test]
fn a_follower_at_any_position_ends_with_the_same_database() {
    for (mode, segment_len) in
        [("DELETE", 3000), ("WAL", 3000), ("PERSIST", 1 << 20), ("WAL", 1 << 20)]
    {
        let node = small_segments(segment_len);
        let (_app, mut conn) = connect(&node, mode);
        run(&conn, SCHEMA);
        (0..20).for_each(|_| run(&conn, MORE));
        run(
            &conn,
            "BEGIN; INSERT INTO t(v) SELECT v FROM t; COMMIT; DELETE FROM t WHERE id%3=0; VACUUM",
        );
        let want = litefs_tests::sim::node::pages_seen(&mut conn);
        let db = node.db("db");
        for (n, follower) in followers(&node).into_iter().enumerate() {
            let done = follower.follow(&db);
            assert_eq!(done.pos, db.pos());
            assert!(done.image == want, "from position {n}");
            assert_eq!(
                done.snapshots,
                usize::from(n == 0),
                "only who has nothing needs a snapshot"
            );
        }
    }
}

#[test]
fn a_drop_and_a_new_page_size_are_followed() {
    let node = Node::new();
    let (app, conn) = connect(&node, "DELETE");
    run(&conn, &format!("{SCHEMA}; {MORE}; PRAGMA page_size=4096; VACUUM"));
    drop(conn);
    let db = node.db("db");
    db.unlink(FileKind::Database).unwrap();
    for follower in followers(&node) {
        let done = follower.follow(&db);
        assert_eq!(done.pos, db.pos());
        assert!(done.image.is_empty() && db.pos().unwrap().post_apply == Checksum::EMPTY);
    }
    let conn = app.connect("db");
    run(&conn, &format!("PRAGMA page_size=512; {SCHEMA}; {MORE}"));
    drop(conn);
    for follower in followers(&node) {
        let done = follower.follow(&db);
        assert_eq!(done.pos, db.pos());
        assert_eq!(
            checksum(&done.image, PageSize::new(512).unwrap()),
            db.pos().unwrap().post_apply
        );
    }
}

#[test]
fn a_staged_transaction_is_never_sent() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST"] {
        let node = Node::new();
        let (app, conn) = connect(&node, mode);
        run(&conn, &format!("PRAGMA synchronous=FULL; {SCHEMA}; {MORE}"));
        let (db, disk) = (node.db("db"), node.disk.clone());
        let behind = followers(&node)[1].clone();
        let (saw_staged, staged) = std::sync::mpsc::channel();
        app.process.hook(move |_| {
            let follower = behind.clone().follow(&db);
            assert_eq!((follower.pos, follower.snapshots), (db.pos(), 0));
            let log =
                TxLog::open(Arc::new(disk.survivor()), &db_dir("db"), LogOptions::default(), None);
            if log.unwrap().appended() > follower.pos.map(|pos| pos.txid) {
                saw_staged.send(()).unwrap();
            }
            Outcome::Done
        });
        run(&conn, MORE);
        app.process.unhook();
        assert!(staged.iter().count() > 0, "{mode}: the log was never ahead");

        // The app dies when the transaction is staged, and the next one rolls it back.
        let (app, conn) = connect(&node, mode);
        run(&conn, "PRAGMA synchronous=FULL");
        let pos = node.db("db").pos();
        app.process.hook(|event| match (event.kind, event.op) {
            (FileKind::Database, FileOp::Sync) => Outcome::LastOne,
            _ => Outcome::Done,
        });
        conn.execute_batch(MORE).unwrap_err();
        app.kill([conn]);
        assert_eq!(Follower::default().follow(&node.db("db")).pos, pos);
        node.check_fresh("db");
        let (_app, conn) = connect(&node, mode);
        run(&conn, MORE);
        assert_eq!(Follower::default().follow(&node.db("db")).pos, node.db("db").pos());
    }
}

#[test]
fn who_is_ahead_or_on_another_way_gets_a_snapshot() {
    let node = Node::new();
    let (_app, conn) = connect(&node, "WAL");
    run(&conn, &format!("{SCHEMA}; {MORE}; {MORE}"));
    let db = node.db("db");
    let ours = db.pos().unwrap();
    let other = Checksum::from_crc(7);
    for strange in [
        Pos { txid: ours.txid.next().unwrap(), post_apply: ours.post_apply },
        Pos { txid: ours.txid, post_apply: other },
        Pos { txid: ours.txid.prev().unwrap(), post_apply: other },
    ] {
        let follower = Follower { pos: Some(strange), ..Follower::default() };
        let done = follower.follow(&db);
        assert_eq!((done.pos, done.records, done.snapshots), (Some(ours), 0, 1), "{strange}");
    }
    assert!(matches!(db.next_after(Some(ours)).unwrap(), Next::UpToDate));
}

#[test]
fn retention_does_not_disturb_a_history_that_is_being_read() {
    let node = small_segments(2000);
    let (_app, conn) = connect(&node, "WAL");
    run(&conn, SCHEMA);
    (0..30).for_each(|_| run(&conn, MORE));
    let db = node.db("db");
    let start = followers(&node)[2].clone();
    let Next::Records(history) = db.next_after(start.pos).unwrap() else { panic!("records") };
    let mut open = start.clone();
    for (n, record) in history.enumerate() {
        if n == 3 {
            let nothing = Retention { max_len_bytes: Some(0), ..Retention::default() };
            db.enforce_retention(&nothing).unwrap();
        }
        let mut ltx = Vec::new();
        record.unwrap().1.read_to_end(&mut ltx).unwrap();
        open.apply(&ltx);
    }
    assert_eq!(open.pos, db.pos());
    let late = start.follow(&db);
    assert_eq!((late.pos, late.records, late.snapshots), (db.pos(), 0, 1), "history is gone");
    assert!(late.image == open.image);
}

#[test]
fn a_long_history_of_a_small_database_is_skipped() {
    let node = Node::open_with(SimDisk::new(1), |options| options.compress(false));
    let (_app, conn) = connect(&node, "WAL");
    run(&conn, &format!("{SCHEMA}; {MORE}"));
    let start = followers(&node).pop().unwrap();
    let change = "UPDATE t SET v=randomblob(50000) WHERE id=1";
    (0..10).for_each(|_| run(&conn, change));
    let short = start.clone().follow(&node.db("db"));
    assert_eq!((short.records, short.snapshots), (10, 0));
    (0..20).for_each(|_| run(&conn, change));
    let long = start.follow(&node.db("db"));
    assert_eq!((long.records, long.snapshots), (0, 1));
    assert_eq!(long.pos, node.db("db").pos());
}

#[test]
fn a_transaction_without_pages_in_the_log_ends_the_run() {
    let node = Node::open_with(SimDisk::new(1), |options| options);
    let app = node.app();
    let conn = app.connect("db");
    run(&conn, &format!("PRAGMA page_size=65536; PRAGMA journal_mode=WAL; {SCHEMA}"));
    run(&conn, "PRAGMA wal_autocheckpoint=0; CREATE TABLE big(v)");
    let start = followers(&node).pop().unwrap();
    run(&conn, "INSERT INTO t(v) VALUES (1)");
    let before = node.db("db").pos();
    run(
        &conn,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<70)
         INSERT INTO big SELECT zeroblob(1000000) FROM n",
    );
    run(&conn, "INSERT INTO t(v) VALUES (2)");
    let db = node.db("db");
    let mut follower = start;
    assert!(follower.step(&db));
    assert_eq!((follower.pos, follower.records), (before, 1), "up to the large transaction");
    assert!(follower.step(&db));
    assert_eq!((follower.pos, follower.snapshots), (db.pos(), 1), "then a snapshot");
    assert!(!follower.step(&db));
}

#[test]
fn many_small_transactions_are_read_in_few_calls() {
    let node = Node::open_with(SimDisk::new(1), |options| options.compress(true));
    let (_app, conn) = connect(&node, "WAL");
    run(&conn, &format!("PRAGMA synchronous=OFF; {SCHEMA}; CREATE TABLE big(v)"));
    run(&conn, "INSERT INTO big VALUES (zeroblob(4000000))");
    let start = followers(&node).pop().unwrap();
    (0..3000).for_each(|i| run(&conn, &format!("INSERT INTO t(v) VALUES ({i})")));
    let db = node.db("db");
    assert!(matches!(db.next_after(start.pos).unwrap(), Next::Records(_)));
    // A read beyond those that are allowed would fail.
    node.disk.inject(Fault::new(EIO).calls(&[Call::Read]).path("/log/").nth(16));
    let done = start.follow(&db);
    assert_eq!((done.pos, done.records), (db.pos(), 3000));
    assert!(node.disk.clear_faults().is_empty(), "at most 15 reads");
}
