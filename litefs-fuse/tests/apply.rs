//! A replica's mount under the eyes of real readers: transactions of a primary's mount are applied to it.
//!
//! Both nodes live in this process; every application is a process of its own under `timeout`. Needs root and
//! `/dev/fuse`; skipped without them.

// Clippy knows tests by their attribute, not by their directory.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use litefs_core::db::{Applied, Next};
use litefs_core::error::Error;
use litefs_core::store::{Store, StoreOptions};
use litefs_core::types::DbName;
use litefs_fuse::{Mount, MountOptions, Passthrough};

/// A primary and a replica, each with a mount.
struct Pair {
    primary: Node,
    replica: Node,
}

struct Node {
    // Dropped in this order.
    _mount: Mount,
    store: Arc<Store>,
    dir: PathBuf,
    _temp: tempfile::TempDir,
}

impl Node {
    fn new(passthrough: Passthrough) -> Node {
        let temp = tempfile::tempdir().unwrap();
        let store = StoreOptions::new(temp.path().join("data")).strict_verify(true).open().unwrap();
        let dir = temp.path().join("mnt");
        let mut options = MountOptions::new(&dir);
        options.passthrough = passthrough;
        let mount = Mount::new(store.clone(), options).unwrap();
        Node { _mount: mount, store, dir, _temp: temp }
    }

    fn try_sql(&self, db: &str, sql: &str) -> Result<String, String> {
        let mut command = Command::new("timeout");
        command.args(["30", "sqlite3", "-bail", "-cmd", ".timeout 5000"]);
        let output = command.arg(self.dir.join(db)).arg(sql).output().unwrap();
        assert_ne!(output.status.code(), Some(124), "{sql} hangs");
        let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn sql(&self, db: &str, sql: &str) -> String {
        self.try_sql(db, sql).unwrap_or_else(|err| panic!("{sql}: {err}"))
    }
}

impl Pair {
    fn new() -> Option<Pair> {
        Pair::with(Passthrough::Auto)
    }

    fn with(passthrough: Passthrough) -> Option<Pair> {
        if !Path::new("/dev/fuse").exists() || !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root and /dev/fuse");
            return None;
        }
        let (primary, replica) = (Node::new(passthrough), Node::new(passthrough));
        primary.store.become_primary();
        replica.store.become_replica(None);
        Some(Pair { primary, replica })
    }

    /// Receives all that the primary has, without applying it.
    fn receive(&self) {
        for db in self.primary.store.databases() {
            let to = self.replica.store.replica_database(db.name()).unwrap();
            loop {
                match db.next_after(to.received_pos()).unwrap() {
                    Next::UpToDate => break,
                    Next::Records(records) => {
                        for record in records {
                            to.receive(&mut record.unwrap().1).unwrap();
                        }
                    }
                    Next::Snapshot(snapshot) => {
                        let mut ltx = Vec::new();
                        snapshot.write_ltx(&mut ltx).unwrap();
                        to.receive(&mut ltx.as_slice()).unwrap();
                    }
                }
            }
        }
    }

    /// Brings the replica where the primary is.
    fn sync(&self) {
        self.receive();
        for db in self.replica.store.databases() {
            let deadline = Instant::now() + Duration::from_secs(20);
            while db.apply_pending().unwrap() == Applied::Waiting {
                assert!(Instant::now() < deadline, "locks stay in the way");
            }
            let name = db.name();
            assert_eq!(db.pos(), self.primary.store.database(name).unwrap().pos());
        }
    }

    /// What both nodes answer.
    fn both(&self, db: &str, sql: &str) -> String {
        let (primary, replica) = (self.primary.sql(db, sql), self.replica.sql(db, sql));
        assert_eq!(primary, replica, "{sql}");
        replica
    }

    fn write_and_compare(&self, db: &str, sql: &str) -> String {
        self.primary.sql(db, sql);
        self.sync();
        assert_eq!(self.replica.sql(db, "PRAGMA integrity_check"), "ok");
        self.both(db, "SELECT count(*), total(length(x)) FROM t")
    }
}

/// Opens a data directory. A process that is being started elsewhere may hold its lock for a moment more.
fn open(dir: &Path) -> Arc<Store> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match StoreOptions::new(dir).strict_verify(true).open() {
            Err(Error::Locked { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            store => return store.unwrap(),
        }
    }
}

/// A connection that stays open.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Shell {
    fn new(dir: &Path, db: &str) -> Shell {
        let mut command = Command::new("timeout");
        command.args(["600", "sqlite3", "-cmd", ".timeout 5000"]).arg(dir.join(db));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Shell { child, stdin, stdout: BufReader::new(stdout) }
    }

    /// One line of answer.
    fn ask(&mut self, sql: &str) -> String {
        writeln!(self.stdin, "{sql};").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn tell(&mut self, sql: &str) {
        writeln!(self.stdin, "{sql};").unwrap();
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = writeln!(self.stdin, ".quit");
        let _ = self.child.wait();
    }
}

const COUNT: &str = "SELECT count(*) FROM t";

#[test]
fn every_journal_mode_is_followed() {
    let Some(pair) = Pair::new() else { return };
    for mode in ["delete", "truncate", "persist", "wal", "memory", "off"] {
        let db = &format!("{mode}.db");
        let sql =
            format!("PRAGMA journal_mode={mode}; CREATE TABLE t(x); INSERT INTO t VALUES ('a')");
        pair.write_and_compare(db, &sql);
        for i in 0..5 {
            let sql = format!(
                "PRAGMA journal_mode={mode};
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
                 INSERT INTO t SELECT hex(randomblob(50 + i)) FROM n; DELETE FROM t WHERE rowid % 7 = {i}"
            );
            pair.write_and_compare(db, &sql);
        }
        pair.write_and_compare(db, "DELETE FROM t WHERE rowid > 100; VACUUM");
    }
}

#[test]
fn without_passthrough_it_is_the_same() {
    let Some(pair) = Pair::with(Passthrough::Off) else { return };
    pair.write_and_compare("db", "PRAGMA journal_mode=wal; CREATE TABLE t(x)");
    let mut reader = Shell::new(&pair.replica.dir, "db");
    for i in 1..=20 {
        pair.write_and_compare("db", "INSERT INTO t VALUES (hex(randomblob(3000)))");
        assert_eq!(reader.ask(COUNT), i.to_string());
    }
}

#[test]
fn an_open_connection_sees_each_transaction_at_once() {
    let Some(pair) = Pair::new() else { return };
    for mode in ["wal", "delete"] {
        pair.primary.sql(mode, &format!("PRAGMA journal_mode={mode}; CREATE TABLE t(x)"));
        pair.sync();
        let mut reader = Shell::new(&pair.replica.dir, mode);
        let mut writer = Shell::new(&pair.primary.dir, mode);
        for i in 1..=300 {
            let rowid = writer.ask("INSERT INTO t VALUES (hex(randomblob(600))) RETURNING rowid");
            assert_eq!(rowid, i.to_string());
            pair.sync();
            assert_eq!(reader.ask(COUNT), i.to_string(), "{mode}");
        }
        assert_eq!(reader.ask("PRAGMA integrity_check"), "ok");
    }
}

#[test]
fn a_reader_keeps_its_snapshot_while_the_position_advances() {
    let Some(pair) = Pair::new() else { return };
    pair.write_and_compare(
        "db",
        "PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES (1)",
    );
    let mut reader = Shell::new(&pair.replica.dir, "db");
    reader.tell("BEGIN");
    assert_eq!(reader.ask(COUNT), "1");
    // Far more than a checkpoint's worth of frames.
    for _ in 0..30 {
        pair.primary.sql(
            "db",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
             INSERT INTO t SELECT randomblob(2000) FROM n",
        );
        pair.sync();
        assert_eq!(reader.ask(COUNT), "1");
    }
    assert_eq!(pair.both("db", COUNT), "9001");
    reader.tell("COMMIT");
    assert_eq!(reader.ask(COUNT), "9001");
    assert_eq!(reader.ask("PRAGMA integrity_check"), "ok");
}

#[test]
fn the_wal_of_a_replica_stays_small() {
    let Some(pair) = Pair::new() else { return };
    pair.write_and_compare("db", "PRAGMA journal_mode=wal; CREATE TABLE t(x)");
    let mut reader = Shell::new(&pair.replica.dir, "db");
    let mut longest = 0;
    for i in 1..=40 {
        pair.primary.sql(
            "db",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
             INSERT INTO t SELECT randomblob(3000) FROM n",
        );
        pair.sync();
        assert_eq!(reader.ask(COUNT), (i * 100).to_string());
        longest = longest.max(std::fs::metadata(pair.replica.dir.join("db-wal")).unwrap().len());
    }
    assert!(longest < 8 << 20, "{longest} bytes");
    assert_eq!(reader.ask("PRAGMA integrity_check"), "ok");
}

#[test]
fn modes_are_switched_under_open_readers() {
    let Some(pair) = Pair::new() else { return };
    pair.write_and_compare("db", "CREATE TABLE t(x); INSERT INTO t VALUES ('a')");
    let mut reader = Shell::new(&pair.replica.dir, "db");
    let mut rows = 1;
    for mode in ["wal", "delete", "wal", "truncate", "wal", "delete"] {
        for _ in 0..3 {
            assert_eq!(reader.ask(COUNT), rows.to_string());
            pair.write_and_compare(
                "db",
                &format!("PRAGMA journal_mode={mode}; INSERT INTO t VALUES ('{mode}')"),
            );
            rows += 1;
            assert_eq!(reader.ask(COUNT), rows.to_string(), "{mode}");
        }
    }
    drop(reader);
    pair.write_and_compare("db", "PRAGMA journal_mode=delete; INSERT INTO t VALUES ('z')");
    assert_eq!(pair.both("db", "PRAGMA journal_mode"), "delete");
}

#[test]
fn a_replica_goes_on_where_it_ended() {
    let Some(pair) = Pair::new() else { return };
    for mode in ["wal", "delete"] {
        let sql = &format!("PRAGMA journal_mode={mode}; CREATE TABLE t(x)");
        pair.write_and_compare(mode, sql);
        // With a reader, so that the WAL stays; past a checkpoint in the end.
        let mut reader = Shell::new(&pair.replica.dir, mode);
        for i in 1..=60 {
            pair.write_and_compare(
                mode,
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)
                 INSERT INTO t SELECT randomblob(3000) FROM n",
            );
            assert_eq!(reader.ask(COUNT), (i * 20).to_string());
            let db = DbName::new(mode).unwrap();
            let pos = |store: &Store| store.database(&db).unwrap().pos();
            // What a kill leaves is what the files hold now. The second start is one after a clean end.
            let temp = tempfile::tempdir().unwrap();
            let mut copy = Command::new("cp");
            copy.arg("-r").arg(pair.replica.store.data_dir()).arg(temp.path());
            assert!(copy.status().unwrap().success());
            for end in ["killed", "closed"] {
                let store = open(&temp.path().join("data"));
                assert_eq!(pos(&store), pos(&pair.primary.store), "{mode}, {end}, {i}");
                store.database(&db).unwrap().verify().unwrap();
                store.close();
            }
        }
        // A clean end with a WAL.
        let store = &pair.replica.store;
        store.close();
        let temp = tempfile::tempdir().unwrap();
        let mut copy = Command::new("cp");
        copy.args(["-r", "--preserve=timestamps"]).arg(store.data_dir()).arg(temp.path());
        assert!(copy.status().unwrap().success());
        let again = open(&temp.path().join("data"));
        let db = DbName::new(mode).unwrap();
        assert_eq!(again.database(&db).unwrap().pos(), store.database(&db).unwrap().pos());
        again.database(&db).unwrap().verify().unwrap();
    }
}

#[test]
fn a_wal_that_no_index_knows_is_brought_home() {
    let Some(pair) = Pair::new() else { return };
    pair.write_and_compare("db", "PRAGMA journal_mode=wal; CREATE TABLE t(x)");
    for i in 0..3 {
        pair.write_and_compare("db", "INSERT INTO t VALUES (hex(randomblob(3000)))");
        // Nobody has the database open any more: who comes next makes a new index.
        let peer = pair.replica.store.detach_peer();
        pair.replica.store.attach_peer(peer.unwrap());
        let mode = if i == 1 { "wal" } else { "delete" };
        pair.write_and_compare(
            "db",
            &format!("PRAGMA journal_mode={mode}; INSERT INTO t VALUES (1)"),
        );
        let db = pair.replica.store.databases().remove(0);
        db.verify().unwrap();
        pair.write_and_compare("db", "PRAGMA journal_mode=wal");
    }
}

#[test]
fn page_size_drop_and_recreation_are_followed() {
    let Some(pair) = Pair::new() else { return };
    pair.write_and_compare(
        "db",
        "PRAGMA page_size=4096; CREATE TABLE t(x); INSERT INTO t VALUES (1)",
    );
    pair.write_and_compare("db", "PRAGMA page_size=512; VACUUM; INSERT INTO t VALUES (2)");
    assert_eq!(pair.both("db", "PRAGMA page_size"), "512");
    pair.write_and_compare("db", "PRAGMA journal_mode=wal; INSERT INTO t VALUES (3)");
    std::fs::remove_file(pair.primary.dir.join("db")).unwrap();
    pair.sync();
    assert!(!pair.replica.dir.join("db").exists());
    let sql = "PRAGMA page_size=8192; PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES (9)";
    pair.write_and_compare("db", sql);
    assert_eq!(pair.both("db", "SELECT x FROM t"), "9");
}

#[test]
fn a_snapshot_replaces_what_readers_have_open() {
    let Some(pair) = Pair::new() else { return };
    for mode in ["delete", "wal"] {
        pair.write_and_compare(mode, &format!("PRAGMA journal_mode={mode}; CREATE TABLE t(x)"));
        let mut reader = Shell::new(&pair.replica.dir, mode);
        assert_eq!(reader.ask(COUNT), "0");
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
                   INSERT INTO t SELECT randomblob(1000) FROM n";
        pair.primary.sql(mode, sql);
        let db = pair.primary.store.database(&DbName::new(mode).unwrap()).unwrap();
        let mut ltx = Vec::new();
        db.snapshot().unwrap().write_ltx(&mut ltx).unwrap();
        let to = pair.replica.store.replica_database(db.name()).unwrap();
        to.receive(&mut ltx.as_slice()).unwrap();
        if mode == "wal" {
            // A connection in WAL mode is in the way until it closes.
            assert_eq!(to.apply_pending().unwrap(), Applied::Waiting);
            assert_eq!(reader.ask(COUNT), "0");
            drop(reader);
        }
        pair.sync();
        assert_eq!(pair.both(mode, COUNT), "3000");
        pair.write_and_compare(mode, "INSERT INTO t VALUES (1)");
    }
}

#[test]
fn an_application_cannot_write_on_a_replica_and_harms_nothing() {
    let Some(pair) = Pair::new() else { return };
    for mode in ["delete", "wal"] {
        pair.write_and_compare(mode, &format!("PRAGMA journal_mode={mode}; CREATE TABLE t(x)"));
        let mut reader = Shell::new(&pair.replica.dir, mode);
        assert_eq!(reader.ask(COUNT), "0");
        for i in 1..=5 {
            for sql in [
                "INSERT INTO t VALUES (1)",
                "BEGIN IMMEDIATE; INSERT INTO t VALUES (1); COMMIT",
                "CREATE TABLE u(x)",
                "PRAGMA user_version=7",
                "VACUUM",
            ] {
                let err = pair.replica.try_sql(mode, sql).unwrap_err();
                assert!(err.contains("readonly") || err.contains("disk I/O error"), "{err}");
            }
            let _ = pair.replica.try_sql(mode, "PRAGMA wal_checkpoint(TRUNCATE)");
            let _ = pair.replica.try_sql(mode, "PRAGMA wal_checkpoint(RESTART)");
            pair.write_and_compare(mode, "INSERT INTO t VALUES (hex(randomblob(2000)))");
            assert_eq!(reader.ask(COUNT), i.to_string());
        }
    }
}

#[test]
fn readers_at_full_speed_see_no_error_and_nothing_torn() {
    let Some(pair) = Pair::new() else { return };
    for mode in ["wal", "delete"] {
        let sql = format!(
            "PRAGMA journal_mode={mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, x);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
             INSERT INTO t SELECT i, 0 FROM n"
        );
        pair.primary.sql(mode, &sql);
        pair.sync();
        let (stop, dir) = (AtomicBool::new(false), &pair.replica.dir);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut reader = Shell::new(dir, mode);
                    let mut reads = 0;
                    while !stop.load(Ordering::Relaxed) {
                        // Each transaction sets all rows to one value.
                        assert_eq!(reader.ask("SELECT count(DISTINCT x) FROM t"), "1");
                        reads += 1;
                    }
                    assert!(reads > 10);
                    assert_eq!(reader.ask("PRAGMA integrity_check"), "ok");
                });
            }
            let mut writer = Shell::new(&pair.primary.dir, mode);
            for i in 1..=100 {
                writer.tell(&format!("UPDATE t SET x = printf('%0{}d', {i})", 10 + i % 300));
                assert_eq!(writer.ask("SELECT 1"), "1");
                pair.sync();
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
