//! A data directory without space, or beyond its quota. The application gets an error, its transaction is rolled back, nothing
//! that was acknowledged is lost, and work goes on once there is space.

use std::fs;
use std::path::Path;
use std::process::Command;

use litefs_tests::cluster::eventually;
use litefs_tests::node::{LIMIT, Node, NodeOptions, unmount};
use litefs_tests::process::Process;
use litefs_tests::sqlite;
use nix::mount::{MsFlags, mount};
use rusqlite::{Connection, ErrorCode};

/// A small file system under the data directory; unmounted when dropped.
struct SmallDisk {
    node: Node,
    /// It has room, but the node may not use it.
    has_quota: bool,
}

impl SmallDisk {
    /// Of memory.
    fn tmpfs() -> SmallDisk {
        let node = node();
        mount(Some("tmpfs"), node.data(), Some("tmpfs"), MsFlags::empty(), Some("size=24m"))
            .expect("the tests run as root");
        SmallDisk { node, has_quota: false }
    }

    /// A real one, with metadata that takes space too.
    fn ext4() -> SmallDisk {
        let node = node();
        make(&node, 32 << 20, Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]));
        SmallDisk { node, has_quota: false }
    }

    /// One with a quota, which counts for root, too.
    fn quota() -> SmallDisk {
        let node = node();
        make(&node, 256 << 20, Command::new("mkfs.btrfs").args(["-q", "-f"]));
        command(Command::new("btrfs").args(["quota", "enable"]).arg(node.data()));
        SmallDisk { node, has_quota: true }
    }

    /// Leaves a few hundred KiB.
    fn fill(&self) {
        let data = self.node.data();
        if !self.has_quota {
            return ballast(data);
        }
        let mut show = Command::new("btrfs");
        let show = command(show.args(["qgroup", "show", "--sync", "--raw", "-F"]).arg(data));
        let line = show.lines().last().unwrap();
        let used: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        self.limit(&(used + (600 << 10)).to_string());
    }

    /// Gives the rest back.
    fn free(&self) {
        if self.has_quota {
            return self.limit("none");
        }
        fs::remove_file(self.node.data().join("ballast")).unwrap();
    }

    fn limit(&self, bytes: &str) {
        let mut output = String::new();
        // That the quota is exhausted may be said of this, too.
        let done = eventually(LIMIT, || {
            let mut limit = Command::new("btrfs");
            limit.args(["qgroup", "limit", bytes]).arg(self.node.data());
            let (code, said) = Process::run(&mut limit, LIMIT);
            output = said;
            code == Some(0)
        });
        assert!(done, "{output}");
    }
}

/// Makes a file system in a file and mounts it under the node's data.
fn make(node: &Node, len: u64, mkfs: &mut Command) {
    let image = node.config_path().with_file_name("disk.img");
    fs::File::create(&image).unwrap().set_len(len).unwrap();
    command(mkfs.arg(&image));
    command(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(node.data()));
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.node.end();
        unmount(self.node.data());
    }
}

fn node() -> Node {
    Node::new(NodeOptions { strict_verify: false, ..NodeOptions::default() })
}

#[track_caller]
fn command(command: &mut Command) -> String {
    let (code, output) = Process::run(command, LIMIT);
    assert_eq!(code, Some(0), "{command:?}: {output}");
    output
}

/// Takes what is free but for a few hundred KiB.
fn ballast(dir: &Path) {
    let stat = nix::sys::statvfs::statvfs(dir).unwrap();
    let free = stat.blocks_available() * stat.fragment_size();
    fs::write(dir.join("ballast"), vec![1; usize::try_from(free).unwrap() - (600 << 10)]).unwrap();
}

/// Inserts rows until one fails; how many were acknowledged.
fn fill(conn: &Connection, row_bytes: i64) -> i64 {
    let mut count = sqlite::number(conn, "SELECT count(*) FROM t");
    for _ in 0..10_000 {
        match conn.execute("INSERT INTO t(y) VALUES (randomblob(?))", [row_bytes]) {
            Ok(_) => count += 1,
            Err(err) => {
                let code = err.sqlite_error_code();
                assert!(
                    matches!(code, Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure)),
                    "{err}"
                );
                return count;
            }
        }
    }
    panic!("the disk doesn't get full");
}

fn goes_on_after_a_full_disk(disk: SmallDisk, journal: &str) {
    let mut disk = disk;
    disk.node.up();
    let node = &disk.node;
    let conn = sqlite::open(&node.path("db"));
    sqlite::run(
        &conn,
        &format!("PRAGMA journal_mode={journal}; CREATE TABLE t(id INTEGER PRIMARY KEY, y BLOB)"),
    );
    for round in 0..3 {
        disk.fill();
        for row_bytes in [3000, 100_000, 300] {
            let count = fill(&conn, row_bytes);
            assert_eq!(sqlite::number(&conn, "SELECT count(*) FROM t"), count, "{journal} {round}");
        }
        assert_eq!(sqlite::text(&conn, "PRAGMA integrity_check"), "ok", "{journal}");
        disk.free();

        let before = sqlite::number(&conn, "SELECT count(*) FROM t");
        sqlite::run(&conn, "INSERT INTO t(y) VALUES (zeroblob(100000))");
        assert_eq!(sqlite::number(&conn, "SELECT count(*) FROM t"), before + 1, "{journal}");
        sqlite::run(&conn, "DELETE FROM t WHERE id % 2 = 0");
        node.check_position("db");
    }
    let count = sqlite::number(&conn, "SELECT count(*) FROM t");
    drop(conn);
    let node = &mut disk.node;
    assert!(node.process().is_running(), "{}", node.process().output());
    assert_eq!(node.stop(), Some(0), "{}", node.process().output());
    node.up();
    let conn = sqlite::open(&node.path("db"));
    assert_eq!(sqlite::number(&conn, "SELECT count(*) FROM t"), count, "{journal} after restart");
    drop(conn);
    node.check("db");
}

#[test]
fn a_full_tmpfs_in_wal_mode() {
    goes_on_after_a_full_disk(SmallDisk::tmpfs(), "WAL");
}

#[test]
fn a_full_tmpfs_in_rollback_modes() {
    for journal in ["DELETE", "TRUNCATE", "PERSIST"] {
        goes_on_after_a_full_disk(SmallDisk::tmpfs(), journal);
    }
}

#[test]
fn a_full_ext4() {
    for journal in ["WAL", "DELETE"] {
        goes_on_after_a_full_disk(SmallDisk::ext4(), journal);
    }
}

/// Without room for so much as a rollback, the application has to wait with that.
///
/// Observed: SQLite (3.40, 3.54) dies of SIGBUS there, with and without LiteFS, if the wal-index is a mapped file of that file
/// system; with exclusive locking it is none.
#[test]
fn an_exhausted_quota() {
    for journal in ["WAL", "DELETE"] {
        let mut disk = SmallDisk::quota();
        disk.node.up();
        let conn = sqlite::open(&disk.node.path("db"));
        sqlite::run(
            &conn,
            &format!(
                "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode={journal};
                 CREATE TABLE t(id INTEGER PRIMARY KEY, y BLOB)"
            ),
        );
        for row_bytes in [3000, 100_000, 300] {
            disk.fill();
            let count = fill(&conn, row_bytes);
            disk.node.process().line("EDQUOT", LIMIT);
            disk.free();
            assert_eq!(sqlite::number(&conn, "SELECT count(*) FROM t"), count, "{journal}");
            sqlite::run(&conn, "INSERT INTO t(y) VALUES (zeroblob(100000))");
            sqlite::run(&conn, "DELETE FROM t WHERE id % 2 = 0");
            disk.node.check_position("db");
        }
        drop(conn);
        assert!(disk.node.process().is_running(), "{}", disk.node.process().output());
        let before = disk.node.pos("db");
        assert_eq!(disk.node.stop(), Some(0), "{}", disk.node.process().output());
        disk.node.up();
        assert_eq!(disk.node.pos("db"), before);
        disk.node.check("db");
    }
}

#[test]
fn a_restart_on_a_full_disk_loses_nothing() {
    for journal in ["WAL", "DELETE"] {
        let mut disk = SmallDisk::tmpfs();
        let node = &mut disk.node;
        node.up();
        let conn = sqlite::open(&node.path("db"));
        sqlite::run(
            &conn,
            &format!(
                "PRAGMA journal_mode={journal}; CREATE TABLE t(id INTEGER PRIMARY KEY, y BLOB)"
            ),
        );
        ballast(node.data());
        let count = fill(&conn, 3000);
        // Its files are those of a dead mount from now on, so it must not touch them again.
        std::mem::forget(conn);
        node.kill();
        fs::remove_file(node.data().join("ballast")).unwrap();
        node.up();
        let conn = sqlite::open(&node.path("db"));
        assert_eq!(sqlite::number(&conn, "SELECT count(*) FROM t"), count, "{journal}");
        sqlite::run(&conn, "INSERT INTO t(y) VALUES (1)");
        drop(conn);
        node.check("db");
    }
}
