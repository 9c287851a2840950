//! The operations without a kernel: each test plays the kernel's part by hand.

use std::sync::mpsc::{self, Receiver};

use litefs_core::store::StoreOptions;
use litefs_lease::PrimaryInfo;

use crate::notify::Notice;

use super::*;

struct Rig {
    ops: Ops,
    store: Arc<Store>,
    notices: Receiver<Notice>,
    _dir: tempfile::TempDir,
}

fn primary() -> PrimaryInfo {
    PrimaryInfo { hostname: "node-1".into(), advertise_url: "http://node-1:20202".into() }
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let store = StoreOptions::new(dir.path()).open().unwrap();
        store.become_primary();
        let nodes = Arc::new(Mutex::new(Nodes::new(SystemTime::now())));
        let (queue, notices) = mpsc::channel();
        let notifier = Notifier::new(nodes.clone(), queue);
        Rig { ops: Ops::new(store.clone(), nodes, notifier), store, notices, _dir: dir }
    }

    fn create(&self, name: &str) -> (Attr, Opened) {
        let (attr, _, opened) = self.ops.create(ROOT, Some(name), false, true, APP).unwrap();
        (attr, opened)
    }

    fn create_error(&self, name: &str) -> Option<Errno> {
        self.ops.create(ROOT, Some(name), false, true, APP).err()
    }

    fn number(&self, name: &str) -> Option<u64> {
        match self.ops.look_up(ROOT, Some(name)).unwrap() {
            Found::File { attr, .. } => Some(attr.number),
            Found::Absent { .. } => None,
        }
    }

    fn text(&self, name: &str) -> String {
        let opened = self.ops.open(self.number(name).unwrap(), false, APP).unwrap();
        assert_eq!(opened.caching, Caching::Never);
        let mut buf = [0; 64];
        let count = self.ops.read(opened.handle, &mut buf, 0).unwrap();
        assert_eq!(self.ops.read(opened.handle, &mut buf[count..], count as u64), Ok(0));
        assert_eq!(self.ops.read(opened.handle, &mut buf[count..], u64::MAX), Ok(0));
        String::from_utf8(buf[..count].to_vec()).unwrap()
    }

    /// Makes the file a database of one page.
    fn commit_page(&self, opened: &Opened) {
        let mut page = [0; 4096];
        page[..16].copy_from_slice(b"SQLite format 3\0");
        page[16] = 0x10;
        page[18..24].copy_from_slice(&[1, 1, 0, 64, 32, 32]);
        page[31] = 1;
        self.ops.write(opened.handle, &page, 0).unwrap();
        self.ops.flush(opened.handle).unwrap();
    }

    fn list(&self) -> Vec<String> {
        let dir = self.ops.open_dir();
        let mut names = Vec::new();
        // Two lines at a time, as if the kernel's buffer were small.
        loop {
            let start = names.len();
            self.ops
                .read_dir(dir, start as u64, |_, entry| {
                    let full = names.len() == start + 2;
                    if !full {
                        names.push(entry.name);
                    }
                    full
                })
                .unwrap();
            if names.len() == start {
                return names;
            }
        }
    }
}

#[test]
fn content_round_trips_through_a_handle() {
    let rig = Rig::new();
    let (attr, opened) = rig.create("db");
    rig.ops.write(opened.handle, b"hello", 3).unwrap();
    let mut buf = [9; 10];
    assert_eq!(rig.ops.read(opened.handle, &mut buf, 0), Ok(8));
    assert_eq!(&buf, b"\0\0\0hello\x09\x09");
    assert_eq!(rig.ops.attr(attr.number, None).unwrap().len, 8);
    rig.ops.release(opened.handle);
    assert_eq!(rig.ops.write(opened.handle, b"late", 0), Err(Errno::EBADF));
}

#[test]
fn truncation_works_by_handle_and_by_name() {
    let rig = Rig::new();
    let (attr, opened) = rig.create("db");
    rig.ops.truncate(attr.number, Some(opened.handle), 100).unwrap();
    assert_eq!(rig.ops.attr(attr.number, Some(opened.handle)).unwrap().len, 100);
    rig.ops.truncate(attr.number, None, 10).unwrap();
    assert_eq!(rig.ops.attr(attr.number, None).unwrap().len, 10);
}

#[test]
fn absence_is_cached_only_where_nobody_but_the_kernel_creates() {
    let rig = Rig::new();
    let cached = |name: &str| match rig.ops.look_up(ROOT, Some(name)).unwrap() {
        Found::Absent { ttl } => !ttl.is_zero(),
        Found::File { .. } => panic!("{name} exists"),
    };
    for name in ["db", "db-journal", "db-wal", "db-pos", "db-lock", ".primary"] {
        assert!(!cached(name), "{name}");
    }
    rig.create("db");
    for name in ["db-journal", "db-wal", "db-shm", "db-mj012345978"] {
        assert!(cached(name), "{name}");
    }
    rig.ops.unlink(ROOT, Some("db"), APP).unwrap();
    assert!(!cached("db"));
}

#[test]
fn names_that_cannot_be() {
    let rig = Rig::new();
    let absent = Ok(Found::Absent { ttl: Duration::ZERO });
    for (name, want) in [
        (None, absent),
        (Some("x".repeat(256)), Err(Errno::ENAMETOOLONG)),
        (Some(String::new()), Ok(Found::Absent { ttl: Duration::ZERO })),
    ] {
        assert_eq!(rig.ops.look_up(ROOT, name.as_deref()), want, "{name:?}");
    }
    assert_eq!(rig.ops.look_up(77, Some("db")), Err(Errno::ENOTDIR));
    assert_eq!(rig.ops.create(ROOT, None, false, true, APP).err(), Some(Errno::EINVAL));
}

#[test]
fn what_cannot_be_created_says_so_without_enosys() {
    let rig = Rig::new();
    for (name, want) in [
        ("x-pos", Errno::EACCES),
        ("x-lock", Errno::EACCES),
        (".primary", Errno::EACCES),
        (".lag", Errno::EACCES),
        ("x-journal", Errno::ENOENT),
        ("x-wal", Errno::ENOENT),
        ("x-shm", Errno::ENOENT),
    ] {
        assert_eq!(rig.create_error(name), Some(want), "{name}");
    }
    rig.create("db");
    let again = rig.ops.create(ROOT, Some("db"), true, true, APP);
    assert_eq!(again.err(), Some(Errno::EEXIST));
    rig.store.become_replica(Some(primary()));
    assert_eq!(rig.create_error("other"), Some(Errno::EACCES));
    assert_eq!(rig.create_error("db-journal"), Some(Errno::EACCES));
}

#[test]
fn what_cannot_be_unlinked() {
    let rig = Rig::new();
    rig.create("db");
    for (name, want) in [
        ("other", Errno::ENOENT),
        ("other-wal", Errno::ENOENT),
        ("db-wal", Errno::ENOENT),
        ("db-pos", Errno::EACCES),
        ("db-lock", Errno::EACCES),
        (".lag", Errno::EACCES),
    ] {
        assert_eq!(rig.ops.unlink(ROOT, Some(name), APP), Err(want), "{name}");
    }
    rig.store.become_replica(Some(primary()));
    assert_eq!(rig.ops.unlink(ROOT, Some("db"), APP), Err(Errno::EACCES));
}

#[test]
fn a_file_created_anew_is_another_file() {
    let rig = Rig::new();
    rig.create("db");
    let (old, old_open) = rig.create("db-journal");
    rig.ops.write(old_open.handle, b"old", 0).unwrap();
    rig.ops.unlink(ROOT, Some("db-journal"), APP).unwrap();
    let (new, _) = rig.create("db-journal");
    assert_ne!(old.number, new.number);
    assert_eq!(new.len, 0);

    // The old one lives on for who holds it, and has no name; fstat comes without a handle.
    let attr = rig.ops.attr(old.number, None).unwrap();
    assert_eq!((attr.len, attr.links), (3, 0));
    // Nobody can open it again: the kernel is told to look the name up.
    assert_eq!(rig.ops.open(old.number, false, APP).err(), Some(Errno::ESTALE));
    rig.ops.release(old_open.handle);
    assert_eq!(rig.ops.attr(old.number, None), Err(Errno::ESTALE));
    assert_eq!(rig.ops.truncate(old.number, None, 0), Err(Errno::ESTALE));
    rig.ops.forget(old.number, 1);
    assert_eq!(rig.number("db-journal"), Some(new.number));
}

#[test]
fn a_drop_takes_the_companions_along() {
    let rig = Rig::new();
    rig.create("db");
    let (wal, _) = rig.create("db-wal");
    let (shm, _) = rig.create("db-shm");
    let pos = rig.number("db-pos").unwrap();
    rig.ops.unlink(ROOT, Some("db"), APP).unwrap();
    assert_eq!(rig.notices.try_iter().count(), 2);
    for gone in [wal, shm] {
        assert_eq!(rig.ops.open(gone.number, false, APP).err(), Some(Errno::ESTALE));
    }
    assert_eq!(rig.number("db-wal"), None);
    assert_eq!(rig.number("db-pos"), Some(pos));
}

#[test]
fn a_file_that_went_behind_the_kernels_back_is_looked_up_again() {
    let rig = Rig::new();
    rig.create("db");
    let (journal, opened) = rig.create("db-journal");
    rig.ops.release(opened.handle);
    let db = rig.store.database(&DbName::new("db").unwrap()).unwrap();
    db.unlink(FileKind::Journal).unwrap();
    assert_eq!(rig.ops.open(journal.number, false, APP).err(), Some(Errno::ESTALE));
    assert_eq!(rig.ops.attr(journal.number, None), Err(Errno::ESTALE));
}

#[test]
fn only_a_writable_database_hears_of_close() {
    let rig = Rig::new();
    let (db, _) = rig.create("db");
    for (name, caching) in [
        ("db-journal", Caching::Never),
        ("db-wal", Caching::Keep),
        ("db-shm", Caching::Shared),
        ("db-mj012345978", Caching::Keep),
    ] {
        let (_, opened) = rig.create(name);
        assert_eq!((opened.caching, opened.tell_close), (caching, false), "{name}");
    }
    assert!(rig.ops.open(db.number, true, APP).unwrap().tell_close);
    assert!(!rig.ops.open(db.number, false, APP).unwrap().tell_close);
    // The end of a killed process closes its files, and would wait for its own answer.
    assert!(!rig.ops.open(db.number, true, Caller::Engine).unwrap().tell_close);
}

#[test]
fn the_directory_lists_what_the_manual_says() {
    let rig = Rig::new();
    assert_eq!(rig.list(), [".lag"]);
    for name in ["b", "a", "empty"] {
        let (_, opened) = rig.create(name);
        if name != "empty" {
            rig.commit_page(&opened);
        }
    }
    for name in ["a-wal", "a-journal", "a-shm", "b-journal"] {
        rig.create(name);
    }
    let databases = ["a", "a-pos", "a-journal", "a-shm", "a-wal", "b", "b-pos", "b-journal"];
    assert_eq!(rig.list()[1..], databases);
    rig.store.become_replica(Some(primary()));
    assert_eq!(rig.list()[..2], [".lag", ".primary"]);
}

#[test]
fn a_listing_is_one_moment_until_rewound() {
    let rig = Rig::new();
    let dir = rig.ops.open_dir();
    let names = |offset| {
        let mut names = Vec::new();
        rig.ops
            .read_dir(dir, offset, |_, e| {
                names.push(e.name);
                false
            })
            .unwrap();
        names
    };
    assert_eq!(names(0), [".lag"]);
    let (_, opened) = rig.create("db");
    rig.commit_page(&opened);
    assert!(names(1).is_empty());
    assert_eq!(names(0), [".lag", "db", "db-pos"]);
    assert!(names(u64::MAX).is_empty());
}

#[test]
fn special_files_tell_the_state_and_take_nothing() {
    let rig = Rig::new();
    rig.create("db");
    assert_eq!(rig.text(".lag"), "+000000000\n");
    assert_eq!(rig.text("db-pos"), "0000000000000000/0000000000000000\n");
    assert_eq!(rig.text("db-lock"), "");
    rig.store.become_replica(Some(primary()));
    assert_eq!(rig.text(".primary"), "node-1\n");
    assert_eq!(rig.text(".lag"), "+2147483647\n");

    let pos = rig.number("db-pos").unwrap();
    let opened = rig.ops.open(pos, true, APP).unwrap();
    assert_eq!(rig.ops.write(opened.handle, b"x", 0), Err(Errno::EIO));
    assert_eq!(rig.ops.sync(opened.handle), Err(Errno::EIO));
    assert_eq!(rig.ops.flush(opened.handle), Ok(()));
    assert_eq!(rig.ops.truncate(pos, None, 0), Ok(()));
    let attr = rig.ops.attr(pos, None).unwrap();
    assert_eq!((attr.len, attr.mode, attr.ttl), (34, 0o666, Duration::ZERO));

    // No primary any more: who still has the name must look again.
    let primary = rig.number(".primary").unwrap();
    rig.store.become_primary();
    assert_eq!(rig.ops.open(primary, false, APP).err(), Some(Errno::ESTALE));
    assert_eq!(rig.number(".primary"), None);
}

#[test]
fn modes_follow_the_role() {
    let rig = Rig::new();
    let (db, _) = rig.create("db");
    let (wal, _) = rig.create("db-wal");
    let mode = |number| rig.ops.attr(number, None).unwrap().mode;
    assert_eq!([ROOT, db.number, wal.number].map(mode), [0o777, 0o666, 0o666]);
    rig.store.become_replica(Some(primary()));
    assert_eq!([ROOT, db.number, wal.number].map(mode), [0o555, 0o444, 0o666]);
}

const APP: Caller = Caller::Application;
