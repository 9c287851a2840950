//! A recorded run of transactions, and what must be left of it after a crash at any operation.
//!
//! Each transaction writes its number, so the state found after a crash tells which transactions it holds.
//! At each acknowledged commit the state and the position are noted, with the number of operations
//! recorded by then: a crash after that operation must keep them, if SQLite promises it.

use litefs_core::db::Health;
use litefs_core::env::sim::{Landed, SimDisk};
use litefs_core::log::LogOptions;
use litefs_core::store::{Retention, StoreOptions};
use litefs_core::types::Pos;
use rusqlite::Connection;

use crate::sim::node::{App, Node};

/// What an app asks of SQLite.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// `PRAGMA journal_mode`
    pub mode: &'static str,
    /// `PRAGMA synchronous`
    pub sync: &'static str,
    /// `PRAGMA page_size`
    pub page_size: u32,
}

/// How much of what was acknowledged a crash must leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Everything.
    Acknowledged,
    /// Everything but, at most, the last transaction.
    AllButLast,
    /// The state after any of the transactions.
    Consistent,
    /// Nothing but that the engine doesn't claim what isn't so.
    Honest,
}

/// A run of transactions on one database.
#[derive(Debug)]
pub struct Recording {
    setting: Setting,
    node: Node,
    /// Where the first transaction begins.
    start: usize,
    end: usize,
    acks: Vec<Ack>,
    /// Whether the log keeps all transactions.
    history: bool,
}

#[derive(Debug)]
struct Ack {
    /// Operations recorded when the commit was acknowledged.
    ops: usize,
    state: String,
    pos: Option<Pos>,
}

impl Setting {
    /// A setting with small pages.
    pub const fn new(mode: &'static str, sync: &'static str) -> Setting {
        Setting { mode, sync, page_size: 1024 }
    }

    /// Connects and asks for it.
    pub fn connect(&self, app: &App, name: &str) -> rusqlite::Result<Connection> {
        let conn = app.try_connect(name)?;
        conn.execute_batch(&format!(
            "PRAGMA page_size={}; PRAGMA auto_vacuum=FULL; PRAGMA cache_size=5; PRAGMA wal_autocheckpoint=25;
             PRAGMA synchronous={}; PRAGMA journal_mode={}",
            self.page_size, self.sync, self.mode
        ))?;
        Ok(conn)
    }

    /// What SQLite promises if the power goes.
    pub fn after_power_loss(&self) -> Promise {
        match (self.mode, self.sync) {
            (_, "OFF") | ("MEMORY" | "OFF", _) => Promise::Honest,
            ("WAL", "NORMAL") => Promise::Consistent,
            // The journal's end isn't synced, so it may come back and roll the last transaction back.
            ("DELETE", "NORMAL" | "FULL") | ("TRUNCATE", "NORMAL") => Promise::AllButLast,
            _ => Promise::Acknowledged,
        }
    }
}

impl Recording {
    /// Runs the transactions.
    pub fn new(setting: Setting) -> Recording {
        Recording::with(setting, |options| options)
    }

    /// As [`Recording::new`], but after each transaction the log keeps no older one: it can't repair pages.
    pub fn without_history(setting: Setting) -> Recording {
        let log = LogOptions { segment_len: 1, ..LogOptions::default() };
        Recording::run(setting, |options| options.log(log), false)
    }

    /// As [`Recording::new`], with other options of the store.
    pub fn with(setting: Setting, set: fn(StoreOptions) -> StoreOptions) -> Recording {
        Recording::run(setting, set, true)
    }

    fn run(
        setting: Setting,
        set: impl FnOnce(StoreOptions) -> StoreOptions,
        history: bool,
    ) -> Recording {
        let node = Node::open_with(SimDisk::new(3), set);
        let app = node.app();
        let conn = setting.connect(&app, DB).expect("connect");
        conn.execute_batch(SCHEMA).expect("schema");
        // Closing captures the schema in any mode.
        drop(conn);
        let conn = setting.connect(&app, DB).expect("connect again");
        node.disk.sync_all();
        let mut recording =
            Recording { setting, start: node.disk.ops(), end: 0, acks: Vec::new(), history, node };
        recording.acknowledge(&conn);
        recording.start = recording.node.disk.ops();
        for sql in TRANSACTIONS {
            conn.execute_batch(sql).unwrap_or_else(|err| panic!("{sql}: {err}"));
            recording.acknowledge(&conn);
        }
        drop(conn);
        if let Some(last) = recording.acks.last_mut() {
            last.pos = recording.node.db(DB).pos();
        }
        recording.end = recording.node.disk.ops();
        recording.node.disk.kill();
        recording
    }

    /// Crashes after each operation (or, if there are more than `limit`, after every so manieth) and checks what is left.
    pub fn crash_everywhere(&self, landed: Landed, promise: Promise, limit: usize) {
        let step = (self.end - self.start).div_ceil(limit).max(1);
        for at in (self.start..=self.end).step_by(step) {
            let landed = match landed {
                Landed::Some(seed) => Landed::Some(seed ^ (at as u64) << 8),
                other => other,
            };
            let context = format!(
                "{:?} crash after op {at} of {}..{} {landed:?}, before {}",
                self.setting,
                self.start,
                self.end,
                self.node.disk.describe(at)
            );
            let guard = Report(&context);
            self.crash(at, landed, promise);
            std::mem::forget(guard);
        }
    }

    fn crash(&self, at: usize, landed: Landed, promise: Promise) {
        let image = self.node.disk.crash_image(at, landed);
        let node = Node::open(image);
        let db = node.db(DB);
        if promise == Promise::Honest {
            if db.health() == Health::Ok {
                db.verify().expect("a healthy database adds up");
            }
            return;
        }
        assert_eq!(db.health(), Health::Ok);
        let app = node.app();
        let mut conn = self.setting.connect(&app, DB).expect("connect after recovery");
        let verdict: String =
            conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("check");
        assert_eq!(verdict, "ok");

        let acked = self.acks.iter().rposition(|ack| ack.ops <= at).expect("the schema was there");
        let state = state(&conn);
        let found = self.acks.iter().rposition(|ack| ack.state == state);
        let found = found.unwrap_or_else(|| panic!("no transaction left this state: {state}"));
        assert!(found <= acked + 1, "found {found}, acknowledged {acked}");
        let least = match promise {
            Promise::Acknowledged => acked,
            Promise::AllButLast => acked.saturating_sub(1),
            Promise::Consistent | Promise::Honest => 0,
        };
        assert!(found >= least, "found {found}, acknowledged {acked}");
        if !self.history {
            db.verify().expect("pages and log add up");
            return;
        }
        if let (Promise::Acknowledged, Some(pos)) = (promise, self.acks[acked].pos) {
            let history = node.replay(DB).history;
            assert!(history.contains(&pos), "{pos} was published; the log has {history:?}");
        }
        node.check(DB, &mut conn);
        conn.execute_batch(
            "INSERT INTO t(v) VALUES ('goes on'); UPDATE t SET v=v||'!' WHERE id%3=0",
        )
        .expect("work goes on");
        drop(conn);
        node.check_fresh(DB);
    }

    fn acknowledge(&mut self, conn: &Connection) {
        if !self.history {
            let nothing = Retention { max_len_bytes: Some(0), ..Retention::default() };
            self.node.db(DB).enforce_retention(&nothing).expect("retention");
        }
        let (ops, pos) = (self.node.disk.ops(), self.node.db(DB).pos());
        self.acks.push(Ack { ops, state: state(conn), pos });
    }
}

/// Prints where it happened if dropped by a panic.
struct Report<'a>(&'a str);

impl Drop for Report<'_> {
    fn drop(&mut self) {
        eprintln!("{}", self.0);
    }
}

/// All rows, as text.
pub fn state(conn: &Connection) -> String {
    conn.query_row(
        "SELECT (SELECT max(n) FROM done) || ':' || coalesce((SELECT group_concat(id || '=' || substr(v, 1, 40) || length(v)) FROM t), '')",
        [],
        |row| row.get(0),
    )
    .expect("state")
}

const DB: &str = "db";
const SCHEMA: &str = "BEGIN; CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE done(n); INSERT INTO done VALUES (0); COMMIT";

const TRANSACTIONS: [&str; 10] = [
    "BEGIN; UPDATE done SET n=1; INSERT INTO t(v) VALUES ('a'); COMMIT",
    "BEGIN; UPDATE done SET n=2; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<60) INSERT INTO t(v) SELECT hex(i*7919) || zeroblob(150) FROM n; COMMIT",
    "BEGIN; UPDATE done SET n=3; UPDATE t SET v = v || 'x' WHERE id%2; COMMIT",
    "BEGIN; UPDATE t SET v = 'lost' || v; DELETE FROM t WHERE id%5=0; ROLLBACK; BEGIN; UPDATE done SET n=4; COMMIT",
    "BEGIN; UPDATE done SET n=5; DELETE FROM t WHERE id > 30; COMMIT",
    "BEGIN; UPDATE done SET n=6; SAVEPOINT s; UPDATE t SET v = v || 'lost'; ROLLBACK TO s; UPDATE t SET v = v || 'y' WHERE id%3=0; COMMIT",
    "BEGIN; UPDATE done SET n=7; CREATE INDEX i ON t(v); COMMIT",
    "BEGIN; UPDATE done SET n=8; INSERT INTO t(v) SELECT v || 'z' FROM t; COMMIT",
    "BEGIN; UPDATE done SET n=9; DROP INDEX i; COMMIT",
    "BEGIN; UPDATE done SET n=10; UPDATE t SET v=id; COMMIT",
];
