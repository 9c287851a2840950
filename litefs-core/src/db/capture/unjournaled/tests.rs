//! The frontend's part is played by hand: a peer whose lock the test sets.

use std::io;
use std::ops::Range;
use std::time::Instant;

use parking_lot::Mutex;

use super::*;
use crate::db::OpenHow;
use crate::db::peer::{Peer, PeerFile};
use crate::store::{Store, StoreOptions};
use crate::types::DbName;

/// What the kernel says of the database's lock.
#[derive(Debug)]
struct Kernel(Mutex<ByteLock>);

#[derive(Debug)]
struct Asked(Arc<Kernel>);

impl Kernel {
    fn set(&self, lock: ByteLock) {
        *self.0.lock() = lock;
    }
}

impl Peer for Asked {
    fn open(&self, _: &DbName, _: FileKind, _: bool) -> io::Result<Box<dyn PeerFile>> {
        Ok(Box::new(Asked(Arc::clone(&self.0))))
    }

    fn remove(&self, _: &DbName, _: FileKind) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl PeerFile for Asked {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn lock(&self, _: Range<u64>, _: ByteLock) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn locked_by_others(&self, _: Range<u64>) -> io::Result<ByteLock> {
        Ok(*self.0.0.lock())
    }
}

struct Rig {
    store: Arc<Store>,
    kernel: Arc<Kernel>,
    db: Arc<Database>,
    _dir: tempfile::TempDir,
}

impl Rig {
    /// A database of two pages that are in the log.
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let store = StoreOptions::new(dir.path()).open().unwrap();
        store.become_primary();
        let kernel = Arc::new(Kernel(Mutex::new(ByteLock::None)));
        store.attach_peer(Arc::new(Asked(Arc::clone(&kernel))));
        let db = store.create_database(&DbName::new("db").unwrap()).unwrap();
        let rig = Rig { store, kernel, db, _dir: dir };
        let copy = rig.open();
        rig.write(&copy, 1, 0);
        rig.write(&copy, 2, 0);
        drop(copy);
        assert_eq!(rig.txid(), 1);
        rig
    }

    fn open(&self) -> OpenFile {
        self.db.open_file(FileKind::Database, OpenHow::Create).unwrap()
    }

    /// As a frontend does it.
    fn write(&self, file: &OpenFile, pgno: u8, content: u8) {
        let mut page = [content; PAGE];
        if pgno == 1 {
            page[..16].copy_from_slice(b"SQLite format 3\0");
            page[16..24].copy_from_slice(&[2, 0, 1, 1, 0, 64, 32, 32]);
            page[24..32].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2]);
            page[92..96].copy_from_slice(&[0, 0, 0, 1]);
        }
        if file.asks_to_write() {
            file.ask();
        }
        file.write_at(&page, u64::from(pgno - 1) * PAGE as u64).unwrap();
    }

    fn txid(&self) -> u64 {
        self.db.pos().map_or(0, |pos| pos.txid.as_u64())
    }

    fn await_txid(&self, want: u64) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.txid() != want {
            assert!(Instant::now() < deadline, "{} instead of {want}", self.txid());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Long enough for the thread to look, several times.
    fn await_looks(&self) {
        thread::sleep(SHORTEST * 5);
    }
}

const PAGE: usize = 512;

#[test]
fn a_transaction_is_captured_when_the_lock_goes_and_not_before() {
    let rig = Rig::new();
    let file = rig.open();
    for round in 2..5 {
        rig.kernel.set(ByteLock::Exclusive);
        rig.write(&file, 1, round);
        rig.await_looks();
        assert_eq!(rig.txid(), u64::from(round) - 1, "half a transaction");
        rig.write(&file, 2, round);
        rig.kernel.set(ByteLock::Shared);
        rig.await_txid(u64::from(round));
    }
    rig.db.verify().unwrap();
}

#[test]
fn a_close_captures_nothing_while_another_writes() {
    let rig = Rig::new();
    let (one, other) = (rig.open(), rig.open());
    rig.kernel.set(ByteLock::Exclusive);
    rig.write(&one, 2, 1);
    rig.write(&other, 1, 2);
    assert!(one.asks_to_flush());
    one.flush().unwrap();
    one.flush_asking().unwrap();
    drop(one);
    rig.await_looks();
    assert_eq!(rig.txid(), 1, "half a transaction");
    rig.write(&other, 2, 2);
    // The last who has written leaves what there is.
    drop(other);
    assert_eq!(rig.txid(), 2);
}

#[test]
fn a_close_captures_at_once_what_is_whole() {
    let rig = Rig::new();
    let file = rig.open();
    rig.kernel.set(ByteLock::Exclusive);
    rig.write(&file, 2, 1);
    rig.kernel.set(ByteLock::None);
    file.flush_asking().unwrap();
    assert_eq!(rig.txid(), 2);
}

#[test]
fn a_copy_is_captured_at_its_close_only() {
    let rig = Rig::new();
    let (copy, sqlite) = (rig.open(), rig.open());
    rig.write(&copy, 2, 1);
    rig.await_looks();
    assert!(!copy.asks_to_flush());
    // Others that keep locks make no difference.
    rig.kernel.set(ByteLock::Exclusive);
    rig.write(&sqlite, 1, 1);
    rig.kernel.set(ByteLock::None);
    rig.await_looks();
    sqlite.flush_asking().unwrap();
    copy.flush().unwrap();
    assert_eq!(rig.txid(), 1, "half a copy");
    drop(copy);
    rig.await_txid(2);
}

#[test]
fn a_copy_alone_is_captured_when_it_is_closed() {
    let rig = Rig::new();
    let copy = rig.open();
    rig.write(&copy, 2, 1);
    copy.flush().unwrap();
    assert_eq!(rig.txid(), 2);
}

#[test]
fn what_was_written_under_locks_is_captured_before_a_journal_is_hot() {
    let rig = Rig::new();
    let file = rig.open();
    rig.kernel.set(ByteLock::Exclusive);
    rig.write(&file, 2, 1);
    let journal = rig.db.open_file(FileKind::Journal, OpenHow::Create).unwrap();
    journal.write_at(&crate::sqlite::JournalHeader::MAGIC, 0).unwrap();
    assert_eq!(rig.txid(), 2);
    assert!(rig.db.capture.lock().undo.is_none());
}

#[test]
fn an_end_captures_what_is_whole_and_leaves_the_rest() {
    for (lock, want) in [(ByteLock::Exclusive, 1), (ByteLock::None, 2)] {
        let rig = Rig::new();
        let file = rig.open();
        rig.kernel.set(ByteLock::Exclusive);
        rig.write(&file, 2, 1);
        rig.kernel.set(lock);
        drop(rig.store.detach_peer());
        assert_eq!(rig.txid(), want, "{lock:?}");
    }
}

#[test]
fn who_may_not_write_captures_nothing_until_it_may() {
    let rig = Rig::new();
    let file = rig.open();
    rig.kernel.set(ByteLock::Exclusive);
    rig.write(&file, 2, 1);
    rig.store.become_replica(None);
    rig.kernel.set(ByteLock::None);
    rig.await_looks();
    assert_eq!(rig.txid(), 1);
    rig.store.become_primary();
    rig.await_txid(2);
}
