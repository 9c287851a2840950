//! A data directory without space. The application gets an error, its transaction is rolled back, nothing
//! that was acknowledged is lost, and work goes on once there is space.

// A failed expectation is what a test has to report.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use litefs_tests::node::{LIMIT, Node, NodeOptions, unmount};
use litefs_tests::process::Process;
use litefs_tests::sqlite;
use nix::mount::{MsFlags, mount};
use rusqlite::{Connection, ErrorCode};

/// A small file system under the data directory; unmounted when dropped.
struct SmallDisk(Node);

impl SmallDisk {
    /// Of memory.
    fn tmpfs() -> SmallDisk {
        let node = node();
        mount(Some("tmpfs"), node.data(), Some("tmpfs"), MsFlags::empty(), Some("size=24m"))
            .expect("the tests run as root");
        SmallDisk(node)
    }

    /// A real one, with metadata that takes space too.
    fn ext4() -> SmallDisk {
        let node = node();
        let image = node.config_path().with_file_name("disk.img");
        fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        command(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        command(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(node.data()));
        SmallDisk(node)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.0.process().signal(nix::sys::signal::Signal::SIGKILL);
        unmount(self.0.data());
    }
}

fn node() -> Node {
    Node::new(NodeOptions { strict_verify: false, ..NodeOptions::default() })
}

fn command(command: &mut Command) {
    let (code, output) = Process::run(command, LIMIT);
    assert_eq!(code, Some(0), "{command:?}: {output}");
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
    let node = &mut disk.0;
    node.up();
    let conn = sqlite::open(&node.path("db"));
    sqlite::run(
        &conn,
        &format!("PRAGMA journal_mode={journal}; CREATE TABLE t(id INTEGER PRIMARY KEY, y BLOB)"),
    );
    for round in 0..3 {
        ballast(node.data());
        for row_bytes in [3000, 100_000, 300] {
            let count = fill(&conn, row_bytes);
            assert_eq!(sqlite::number(&conn, "SELECT count(*) FROM t"), count, "{journal} {round}");
        }
        assert_eq!(sqlite::text(&conn, "PRAGMA integrity_check"), "ok", "{journal}");
        fs::remove_file(node.data().join("ballast")).unwrap();

        let before = sqlite::number(&conn, "SELECT count(*) FROM t");
        sqlite::run(&conn, "INSERT INTO t(y) VALUES (zeroblob(100000))");
        assert_eq!(sqlite::number(&conn, "SELECT count(*) FROM t"), before + 1, "{journal}");
        sqlite::run(&conn, "DELETE FROM t WHERE id % 2 = 0");
        node.check_position("db");
    }
    let count = sqlite::number(&conn, "SELECT count(*) FROM t");
    drop(conn);
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

#[test]
fn a_restart_on_a_full_disk_loses_nothing() {
    for journal in ["WAL", "DELETE"] {
        let mut disk = SmallDisk::tmpfs();
        let node = &mut disk.0;
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
