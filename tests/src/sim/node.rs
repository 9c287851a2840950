//! A node of the simulation: a store on a simulated disk, mounted, with checks of what it promises.
//!
//! The oracle is SQLite itself: what a connection sees must be, byte for byte, what the log gives when it is
//! replayed from its first transaction, and both must have the checksum of the position.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use litefs_core::db::{Database, Health};
use litefs_core::env::sim::SimDisk;
use litefs_core::log::{LogOptions, RecordKind, TxLog};
use litefs_core::ltx::{Decoder, page_checksum};
use litefs_core::store::{Retention, Store, StoreOptions};
use litefs_core::types::{Checksum, DbName, PageSize, Pgno, Pos, Txid};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::sim::mount::{Mount, Process};
use crate::sim::vfs::Vfs;

/// A store on a simulated disk.
#[derive(Debug)]
pub struct Node {
    /// The disk.
    pub disk: SimDisk,
    /// The store on it.
    pub store: Arc<Store>,
    mount: Arc<Mount>,
}

/// A process with SQLite in it.
#[derive(Debug)]
pub struct App {
    /// Its side of the mount.
    pub process: Arc<Process>,
    vfs: Vfs,
}

/// What a log holds: the database that its replay gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// The position after the last transaction.
    pub pos: Option<Pos>,
    /// The database after it.
    pub image: Vec<u8>,
    /// The position after each transaction.
    pub history: Vec<Pos>,
}

impl Node {
    /// A node with an empty disk.
    pub fn new() -> Node {
        Node::open(SimDisk::new(7))
    }

    /// A primary on a disk as it is found, every commit verified.
    pub fn open(disk: SimDisk) -> Node {
        Node::open_with(disk, |options| options.strict_verify(true))
    }

    /// As [`Node::open`], with other options.
    pub fn open_with(disk: SimDisk, set: impl FnOnce(StoreOptions) -> StoreOptions) -> Node {
        let options = StoreOptions::new(DATA_DIR)
            .env(Arc::new(disk.clone()))
            .retention(Retention::default(), Duration::ZERO);
        let store = set(options).open().expect("a disk without faults");
        store.become_primary();
        let mount = Mount::new(Arc::clone(&store));
        Node { disk, store, mount }
    }

    /// A new process.
    pub fn app(&self) -> App {
        let process = Process::new(&self.mount);
        let vfs = Vfs::register(&process);
        App { process, vfs }
    }

    /// A database.
    pub fn db(&self, name: &str) -> Arc<Database> {
        let name = DbName::new(name).expect("a test's name");
        self.store.database(&name).expect("a database that the test has made")
    }

    /// Last transaction; 0 if there is none.
    pub fn txid(&self, name: &str) -> u64 {
        self.db(name).pos().map_or(0, |pos| pos.txid.as_u64())
    }

    /// Checks everything that must hold between transactions, against what `conn` sees.
    pub fn check(&self, name: &str, conn: &mut Connection) {
        let seen = pages_seen(conn);
        self.check_image(name, &seen);
    }

    /// As [`Node::check`], against a fresh connection.
    pub fn check_fresh(&self, name: &str) {
        let app = self.app();
        let mut conn = app.connect(name);
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("config");
        self.check(name, &mut conn);
    }

    /// Checks that log, position and `seen` agree.
    pub fn check_image(&self, name: &str, seen: &[u8]) {
        let db = self.db(name);
        assert_eq!(db.health(), Health::Ok);
        db.verify().expect("pages and log add up");
        let replayed = self.replay(name);
        assert_eq!(replayed.pos, db.pos(), "the log ends at the position");
        assert_same(&replayed.image, seen);
    }

    /// Replays the log from its first transaction and checks each step.
    pub fn replay(&self, name: &str) -> Replayed {
        replay(&self.disk, name)
    }
}

impl Default for Node {
    fn default() -> Node {
        Node::new()
    }
}

impl App {
    /// Connects to a database, which is created if need be. Nothing ever waits.
    pub fn connect(&self, name: &str) -> Connection {
        self.try_connect(name).expect("connect")
    }

    /// As [`App::connect`], where it may fail.
    pub fn try_connect(&self, name: &str) -> rusqlite::Result<Connection> {
        let conn = self.vfs.connect(name)?;
        conn.busy_timeout(Duration::ZERO)?;
        Ok(conn)
    }

    /// Kills the process with its connections.
    pub fn kill(self, conns: impl IntoIterator<Item = Connection>) {
        self.process.kill();
        // No code of a dead process runs, so neither may SQLite's clean-up.
        conns.into_iter().for_each(std::mem::forget);
    }
}

/// Replays a log from its first transaction and checks that TXIDs, checksums and pages follow one from another.
pub fn replay(disk: &SimDisk, name: &str) -> Replayed {
    let mut history = Vec::new();
    let (pos, image) = replay_each(disk, name, |pos, _| history.push(pos));
    Replayed { pos, image, history }
}

/// As [`replay`], and shows position and database after each transaction.
pub fn replay_each(
    disk: &SimDisk,
    name: &str,
    mut each: impl FnMut(Pos, &[u8]),
) -> (Option<Pos>, Vec<u8>) {
    let log = TxLog::open(Arc::new(disk.survivor()), &db_dir(name), LogOptions::default(), None);
    let log = log.expect("the log opens");
    let (mut image, mut last) = (Vec::new(), None);
    for record in log.records(Txid::FIRST).expect("the log begins at the first transaction") {
        let (meta, blob) = record.expect("a whole record");
        assert_ne!(meta.kind, RecordKind::PositionOnly);
        assert_eq!(Some(meta.min_txid), Txid::after(last.map(|p: Pos| p.txid)), "no gap");
        let mut decoder = Decoder::new(blob).expect("header");
        let header = *decoder.header();
        assert_eq!((header.min_txid, header.max_txid), (meta.min_txid, meta.max_txid));
        assert_eq!(header.pre_apply, last.map(|p| p.post_apply), "{}: pre-apply", meta.max_txid);
        let page_len = header.page_size.as_usize();
        image.resize(header.commit.as_u32() as usize * page_len, 0);
        let mut page = vec![0; page_len];
        while let Some(pgno) = decoder.next_page(&mut page).expect("page") {
            let at = (pgno.as_u32() as usize - 1) * page_len;
            image[at..at + page_len].copy_from_slice(&page);
        }
        let trailer = decoder.finish().expect("trailer");
        assert_eq!(checksum(&image, header.page_size), trailer.post_apply, "{}", meta.max_txid);
        let pos = Pos { txid: meta.max_txid, post_apply: trailer.post_apply };
        each(pos, &image);
        last = Some(pos);
    }
    (last, image)
}

/// The database as a connection sees it.
pub fn pages_seen(conn: &mut Connection) -> Vec<u8> {
    // SQLite doesn't write pages that it freed, but keeps them in its cache.
    conn.execute_batch("PRAGMA shrink_memory").expect("an empty cache");
    let count: i64 = conn.query_row("PRAGMA page_count", [], |row| row.get(0)).expect("page count");
    if count == 0 { Vec::new() } else { conn.serialize("main").expect("pages").to_vec() }
}

/// The checksum of all pages of a database.
pub fn checksum(image: &[u8], page_size: PageSize) -> Checksum {
    let pages = (1..).filter_map(Pgno::new).zip(image.chunks(page_size.as_usize()));
    pages.fold(Checksum::EMPTY, |sum, (pgno, page)| sum.toggle(page_checksum(pgno, page)))
}

/// Where a database lies on the disk.
pub fn db_dir(name: &str) -> PathBuf {
    Path::new(DATA_DIR).join("dbs").join(name)
}

fn assert_same(got: &[u8], want: &[u8]) {
    if got == want {
        return;
    }
    let first = got.iter().zip(want).position(|(a, b)| a != b);
    panic!(
        "the log gives {} bytes, SQLite sees {}; first difference at {first:?}",
        got.len(),
        want.len()
    );
}

const DATA_DIR: &str = "/data";
