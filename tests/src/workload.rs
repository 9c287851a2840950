//! Random transactions whose outcome can be checked without knowing how many came through.
//!
//! ```text
//!   cell(id, version, body)   body follows from id and version
//!   tx(id, fingerprint)       one row per transaction: 1, 2, 3, …; the sum of mix(id, version) over all cells
//! ```
//!
//! So a database is right if all bodies fit and the cells add up to the last transaction's fingerprint,
//! and complete if the last transaction is at least the last acknowledged one. Transactions are small,
//! large enough to spill out of the tiny cache, rolled back, and mixed with checkpoints and VACUUM.

use std::env;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::cluster::eventually;
use crate::node::{LIMIT, Node};
use crate::random::{Random, mix};
use crate::sqlite;

/// How often a test strikes: as often as `LITEFS_CRASH_ROUNDS` says.
pub fn rounds(default: usize) -> usize {
    env::var("LITEFS_CRASH_ROUNDS").ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

/// How SQLite is to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// `PRAGMA journal_mode`.
    pub journal: &'static str,
    /// `PRAGMA synchronous`.
    pub synchronous: &'static str,
    /// `PRAGMA locking_mode = EXCLUSIVE`.
    pub exclusive: bool,
}

/// A writer of random transactions.
#[derive(Debug)]
pub struct Workload {
    conn: Connection,
    random: Random,
    wal: bool,
    /// Without any journal SQLite can't.
    can_roll_back: bool,
}

/// Tells threads to end when it is dropped, so also if one panics.
#[derive(Debug)]
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Mode {
    /// With normal locking.
    pub const fn new(journal: &'static str, synchronous: &'static str) -> Mode {
        Mode { journal, synchronous, exclusive: false }
    }

    /// With `locking_mode=EXCLUSIVE`.
    #[must_use]
    pub const fn exclusive(self) -> Mode {
        Mode { exclusive: true, ..self }
    }

    /// A connection in this mode.
    ///
    /// # Errors
    /// SQLite's.
    pub fn open(self, path: &Path) -> rusqlite::Result<Connection> {
        let conn = Connection::open(path)?;
        conn.busy_timeout(Duration::from_secs(10))?;
        let locking = if self.exclusive { "EXCLUSIVE" } else { "NORMAL" };
        let Mode { journal, synchronous, .. } = self;
        sqlite::try_run(
            &conn,
            &format!(
                "PRAGMA locking_mode={locking}; PRAGMA journal_mode={journal};
                 PRAGMA synchronous={synchronous}; PRAGMA cache_size=12;"
            ),
        )?;
        Ok(conn)
    }
}

impl Workload {
    /// Goes on with the database, or creates it.
    ///
    /// # Errors
    /// SQLite's.
    pub fn open(path: &Path, mode: Mode, seed: u64) -> rusqlite::Result<Workload> {
        let conn = mode.open(path)?;
        sqlite::try_run(
            &conn,
            "CREATE TABLE IF NOT EXISTS tx(id INTEGER PRIMARY KEY, fingerprint INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS cell(id INTEGER PRIMARY KEY, version INTEGER NOT NULL, body BLOB NOT NULL);
             CREATE INDEX IF NOT EXISTS cell_version ON cell(version);",
        )?;
        let (wal, can_roll_back) = (mode.journal == "WAL", mode.journal != "OFF");
        Ok(Workload { conn, random: Random::new(seed), wal, can_roll_back })
    }

    /// Commits one transaction; its number.
    ///
    /// # Errors
    /// SQLite's.
    pub fn step(&mut self) -> rusqlite::Result<i64> {
        if self.can_roll_back && self.random.percent(6) {
            let count = 1 + self.random.below(150);
            self.transaction(count, false)?;
        }
        if self.wal && self.random.percent(3) {
            let how = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][self.random.below(4) as usize];
            sqlite::try_run(&self.conn, &format!("PRAGMA wal_checkpoint({how})"))?;
        }
        if self.random.below(200) == 0 {
            sqlite::try_run(&self.conn, "VACUUM")?;
        }
        let count = if self.random.percent(4) { 200 } else { 1 + self.random.below(6) };
        self.transaction(count, true)
    }

    /// Commits so many; the number of the last.
    ///
    /// # Errors
    /// SQLite's.
    pub fn steps(&mut self, count: usize) -> rusqlite::Result<i64> {
        (0..count).try_fold(0, |_, _| self.step())
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.conn
    }

    fn transaction(&mut self, cells: u64, commit: bool) -> rusqlite::Result<i64> {
        let random = &mut self.random;
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let last = tx
            .query_row("SELECT id, fingerprint FROM tx ORDER BY id DESC LIMIT 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        let (last, mut sum): (i64, i64) = last.unwrap_or((0, 0));
        for i in 0..cells {
            let id = random.below(400) as i64;
            let old = "SELECT version FROM cell WHERE id = ?";
            let old: Option<i64> = tx.query_row(old, [id], |row| row.get(0)).optional()?;
            sum = sum.wrapping_sub(old.map_or(0, |version| fingerprint(id, version)));
            if random.percent(20) {
                tx.execute("DELETE FROM cell WHERE id = ?", [id])?;
            } else {
                let version = (last + 1) * 1000 + i as i64;
                sum = sum.wrapping_add(fingerprint(id, version));
                let insert = "INSERT OR REPLACE INTO cell VALUES (?, ?, ?)";
                tx.execute(insert, params![id, version, body(id, version)])?;
            }
        }
        tx.execute("INSERT INTO tx VALUES (?, ?)", [last + 1, sum])?;
        if commit { tx.commit() } else { tx.rollback() }?;
        Ok(last + 1)
    }
}

/// Checks a database that a [`Workload`] wrote; the number of its last transaction.
///
/// # Errors
/// What is wrong with it.
pub fn check(conn: &Connection) -> Result<i64, String> {
    let text = |err: rusqlite::Error| err.to_string();
    let exists = "SELECT count(*) FROM sqlite_schema WHERE name IN ('tx', 'cell', 'cell_version')";
    match conn.query_row(exists, [], |row| row.get::<_, i64>(0)).map_err(text)? {
        3 => {}
        // Killed in between the statements that create the schema.
        _ => return Ok(0),
    }
    let (count, last, want): (i64, i64, i64) = conn
        .query_row("SELECT count(*), ifnull(max(id), 0), ifnull((SELECT fingerprint FROM tx ORDER BY id DESC LIMIT 1), 0) FROM tx", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .map_err(text)?;
    if count != last {
        return Err(format!("{count} transactions, but the last is {last}"));
    }
    let mut sum = 0_i64;
    let mut cells = conn.prepare("SELECT id, version, body FROM cell").map_err(text)?;
    let mut rows = cells.query([]).map_err(text)?;
    while let Some(row) = rows.next().map_err(text)? {
        let (id, version) = (row.get(0).map_err(text)?, row.get(1).map_err(text)?);
        if row.get::<_, Vec<u8>>(2).map_err(text)? != body(id, version) {
            return Err(format!("cell {id} version {version} has a foreign body"));
        }
        sum = sum.wrapping_add(fingerprint(id, version));
    }
    if sum != want {
        return Err(format!("cells don't add up to transaction {last}"));
    }
    Ok(last)
}

fn fingerprint(id: i64, version: i64) -> i64 {
    mix(mix(id as u64) ^ version as u64) as i64
}

fn body(id: i64, version: i64) -> Vec<u8> {
    let mut random = Random::new(fingerprint(id, version) as u64);
    let len = random.below(1200) as usize;
    random.bytes(len)
}

/// Makes a table `t` of 50 rows and many free pages, which the log of a node that is [`FORGETFUL`] doesn't know any more.
/// SQLite doesn't journal them.
///
/// # Panics
/// If the log doesn't forget.
#[track_caller]
pub fn make_forgotten_pages(node: &Node, name: &str, conn: &Connection) {
    sqlite::run(conn, "PRAGMA synchronous=OFF; CREATE TABLE t(x INTEGER PRIMARY KEY, y)");
    sqlite::run(conn, &format!("{}; DELETE FROM t WHERE x > 50", insert_rows(1, 300)));
    sqlite::run(conn, "CREATE TABLE u(x)");
    let segment = node.backing(name).join("log/0000000000000001.seg");
    let forgotten = || {
        sqlite::run(conn, "DELETE FROM u; INSERT INTO u VALUES (randomblob(200000))");
        !segment.exists()
    };
    assert!(eventually(LIMIT, forgotten), "the log keeps its first transactions");
}

/// Leaves a transaction open that has written to free pages.
#[track_caller]
pub fn overwrite_free_pages(conn: &Connection) {
    sqlite::run(conn, &format!("PRAGMA cache_size=5; BEGIN; {}", insert_rows(1001, 1100)));
}

/// Inserts rows into the table of [`make_forgotten_pages`].
pub fn insert_rows(from: i64, to: i64) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {to})
         INSERT INTO t SELECT i, randomblob(3000) FROM n"
    )
}

/// The section `data` of a node that keeps logged transactions for no longer than it must.
pub const FORGETFUL: &str = "retention: 10ms\n  retention-monitor-interval: 20ms";
