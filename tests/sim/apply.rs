//! A replica that dies at any operation, or whose disk fails there, ends where the primary is.
//!
//! The primary writes once, with the real SQLite; what it has is received and applied by a replica on a simulated
//! disk, in small steps. Nobody reads the replica's files meanwhile: what readers see is tested on real mounts.

use std::sync::Arc;
use std::time::Duration;

use litefs_core::db::{Applied, Database, FileKind, Health, Next};
use litefs_core::env::sim::{Call, EIO, ENOSPC, Fault, Landed, SimDisk};
use litefs_core::error::Error;
use litefs_core::store::{Retention, Store, StoreOptions};
use litefs_core::types::DbName;
use litefs_tests::sim::Node;

/// What the primary had after each step, as LTX files.
struct Script {
    primary: Node,
    steps: Vec<Vec<u8>>,
}

const NAME: &str = "db";

impl Script {
    fn new(statements: &[&str]) -> Script {
        let primary = Node::new();
        let app = primary.app();
        let mut script = Script { primary, steps: Vec::new() };
        let mut conn = None;
        for sql in statements {
            let open = conn.get_or_insert_with(|| app.connect(NAME));
            if *sql == "drop" {
                drop(conn.take());
                script.db().unlink(FileKind::Database).unwrap();
            } else {
                open.execute_batch(sql).unwrap_or_else(|err| panic!("{sql}: {err}"));
            }
            script.record();
        }
        drop(conn);
        script
    }

    fn db(&self) -> Arc<Database> {
        self.primary.db(NAME)
    }

    /// Keeps the snapshot of each position: any of them may be what a replica gets.
    fn record(&mut self) {
        let mut ltx = Vec::new();
        self.db().snapshot().unwrap().write_ltx(&mut ltx).unwrap();
        self.steps.push(ltx);
    }
}

fn open(disk: &SimDisk) -> Arc<Store> {
    let options = StoreOptions::new("/data").env(Arc::new(disk.clone()));
    let store = options.retention(Retention::default(), Duration::ZERO).open().unwrap();
    store.become_replica(None);
    store
}

fn replica(store: &Store) -> Result<Arc<Database>, Error> {
    store.replica_database(&DbName::new(NAME).unwrap())
}

/// Follows the primary: record by record, each applied at once.
fn follow(store: &Store, primary: &Database) -> Result<(), Error> {
    let db = replica(store)?;
    assert_eq!(db.apply_pending()?, Applied::All);
    loop {
        match primary.next_after(db.received_pos()).unwrap() {
            Next::UpToDate => return Ok(()),
            Next::Records(records) => {
                for record in records {
                    db.receive(&mut record.unwrap().1)?;
                    assert_eq!(db.apply_pending()?, Applied::All);
                }
            }
            Next::Snapshot(snapshot) => {
                let mut ltx = Vec::new();
                snapshot.write_ltx(&mut ltx).unwrap();
                db.receive(&mut ltx.as_slice())?;
                assert_eq!(db.apply_pending()?, Applied::All);
            }
        }
    }
}

/// Begins with the snapshot of the first step, so that the rest comes as records.
fn begin(store: &Store, script: &Script) -> Result<(), Error> {
    let db = replica(store)?;
    if db.received_pos().is_none() {
        db.receive(&mut script.steps[0].as_slice())?;
        assert_eq!(db.apply_pending()?, Applied::All);
    }
    Ok(())
}

fn assert_equal(store: &Store, script: &Script) {
    let (db, primary) = (replica(store).unwrap(), script.db());
    assert_eq!(db.health(), Health::Ok);
    assert_eq!(db.pos(), primary.pos());
    let image = |db: &Database| {
        let mut bytes = Vec::new();
        db.snapshot().unwrap().write_database(&mut bytes).unwrap();
        bytes
    };
    assert!(image(&db) == image(&primary), "images differ");
    db.verify().unwrap();
}

fn dies_everywhere(statements: &[&str], landed: Landed, stride: usize) {
    let script = Script::new(statements);
    let recorded = SimDisk::new(3);
    let store = open(&recorded);
    begin(&store, &script).unwrap();
    follow(&store, &script.db()).unwrap();
    assert_equal(&store, &script);
    drop(store);
    let operations = recorded.ops();
    assert!(operations > 20);
    for at in (0..operations).step_by(stride) {
        let disk = recorded.crash_image(at, landed);
        let context = format!("crash {landed:?} before {}", recorded.describe(at));
        let store = open(&disk);
        begin(&store, &script).unwrap();
        follow(&store, &script.db()).unwrap_or_else(|err| panic!("{context}: {err}"));
        assert_equal(&store, &script);
        store.close();
        drop(store);
        // And it starts again from that.
        assert_equal(&open(&disk), &script);
    }
}

const GROW: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<40)
    INSERT INTO t SELECT hex(i*7919) || zeroblob(500) FROM n";

/// Statements in a journal mode: growth, changes, shrinking.
fn statements(mode: &'static str) -> Vec<&'static str> {
    let mut all = vec!["PRAGMA page_size=1024; CREATE TABLE t(x)"];
    all.extend([mode, GROW, "UPDATE t SET x = x || 'y' WHERE rowid % 3 = 0", GROW]);
    all.extend(["DELETE FROM t WHERE rowid > 20", "VACUUM", "INSERT INTO t VALUES (1)"]);
    all
}

const MODES: [&str; 2] = ["PRAGMA journal_mode=DELETE", "PRAGMA journal_mode=WAL"];

#[test]
fn a_replica_that_is_killed_anywhere_comes_to_the_same() {
    for mode in MODES {
        dies_everywhere(&statements(mode), Landed::Everything, 1);
    }
}

#[test]
fn a_replica_that_loses_power_anywhere_comes_to_the_same() {
    for mode in MODES {
        for landed in [Landed::Nothing, Landed::Some(1), Landed::Some(2)] {
            dies_everywhere(&statements(mode), landed, 3);
        }
    }
}

#[test]
fn drops_and_changes_of_mode_and_page_size_survive_a_kill() {
    let all = [
        "PRAGMA page_size=1024; CREATE TABLE t(x)",
        "PRAGMA journal_mode=WAL",
        GROW,
        "PRAGMA journal_mode=DELETE",
        "UPDATE t SET x = 1",
        "PRAGMA page_size=512; VACUUM",
        GROW,
        "PRAGMA journal_mode=WAL; INSERT INTO t VALUES (2)",
        "drop",
        "PRAGMA page_size=2048; CREATE TABLE t(x)",
        GROW,
    ];
    dies_everywhere(&all, Landed::Everything, 1);
}

#[test]
fn a_call_that_fails_anywhere_is_made_good_when_it_works_again() {
    for mode in MODES {
        let script = Script::new(&statements(mode));
        for errno in [EIO, ENOSPC] {
            for n in 1.. {
                let disk = SimDisk::new(3);
                let store = open(&disk);
                begin(&store, &script).unwrap();
                let changes = [Call::Write, Call::SetLen, Call::Rename, Call::Remove];
                disk.inject(Fault::new(errno).calls(&changes).nth(n));
                let failed = follow(&store, &script.db()).is_err();
                let hit = !disk.clear_faults().is_empty();
                follow(&store, &script.db()).unwrap_or_else(|err| panic!("call {n}: {err}"));
                assert_equal(&store, &script);
                store.close();
                drop(store);
                assert_equal(&open(&disk), &script);
                if !hit && !failed {
                    assert!(n > 20);
                    break;
                }
            }
        }
    }
}

#[test]
fn a_snapshot_that_is_yet_to_be_put_in_place_is_worth_waiting_for() {
    let script = Script::new(&["CREATE TABLE t(x)", "INSERT INTO t VALUES (1)"]);
    let db = replica(&open(&SimDisk::new(7))).unwrap();
    assert!(matches!(db.snapshot(), Err(Error::NotFound { .. })));
    for ltx in &script.steps {
        db.receive(&mut ltx.as_slice()).unwrap();
        assert!(matches!(db.snapshot(), Err(Error::Unsettled { .. })));
        assert_eq!(db.apply_pending().unwrap(), Applied::All);
        db.snapshot().unwrap();
    }
}

#[test]
fn a_snapshot_goes_to_its_image_only() {
    let script =
        Script::new(&["CREATE TABLE t(x)", "INSERT INTO t VALUES (randomblob(3 * 1024 * 1024))"]);
    let disk = SimDisk::new(11);
    let store = open(&disk);
    let db = replica(&store).unwrap();
    // Where transactions are held aside until they are whole: a snapshot there would take its space twice.
    disk.inject(Fault::new(ENOSPC).path("incoming-").times(u64::MAX));
    db.receive(&mut script.steps[1].as_slice()).unwrap();
    assert_eq!(db.apply_pending().unwrap(), Applied::All);
    assert_equal(&store, &script);
}
