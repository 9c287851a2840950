//! A disk that fails when the kernel writes back what it has taken: writes succeed, and `fsync` doesn't. The application gets an
//! error, its transaction is rolled back, nothing that was acknowledged is lost, and the node lives on.
//!
//! ```text
//!   temp/mem            tmpfs, as big as the test wants it to be
//!   temp/mem/disk.img   has space only where something was written
//!   temp/data           ext4 on it, which believes that all of it is there
//! ```

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use litefs_tests::cluster::eventually;
use litefs_tests::node::{LIMIT, Node, NodeOptions, unmount};
use litefs_tests::process::Process;
use litefs_tests::random::Random;
use litefs_tests::sqlite;
use litefs_tests::workload::{self, FORGETFUL, Mode, Workload};
use nix::mount::{MsFlags, mount};
use rusqlite::ErrorCode;

/// A node with its data on such a disk.
struct ThinDisk {
    node: Node,
    memory: PathBuf,
    /// The loop device, while there is one.
    device: String,
}

impl ThinDisk {
    fn new() -> ThinDisk {
        // Or the log would fill the disk in a test of many rounds.
        let data = FORGETFUL.into();
        let node = Node::new(NodeOptions { strict_verify: false, data, ..NodeOptions::default() });
        let memory = node.config_path().with_file_name("mem");
        fs::create_dir(&memory).unwrap();
        let mut disk = ThinDisk { node, memory, device: String::new() };
        let size = Some("size=80m");
        mount(Some("tmpfs"), &disk.memory, Some("tmpfs"), MsFlags::empty(), size)
            .expect("the tests run as root");
        let image = disk.image();
        fs::File::create(&image).unwrap().set_len(48 << 20).unwrap();
        command(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-m", "0", "-b", "4096"])
                .args(["-E", "nodiscard,lazy_itable_init=0"])
                .arg(&image),
        );
        // The file system's own structures are there, and stay when all that is free is given up.
        command(Command::new("fallocate").args(["-l", "48M"]).arg(&image));
        disk.attach();
        command(Command::new("fstrim").arg(disk.node.data()));
        disk
    }

    fn image(&self) -> PathBuf {
        self.memory.join("disk.img")
    }

    fn attach(&mut self) {
        let device = command(Command::new("losetup").args(["--find", "--show"]).arg(self.image()));
        self.device = device.trim().to_owned();
        // Observed: Linux 6.18 takes it for a success if the first part of a request finds space. So a request is a page.
        let queue = self.device.replace("/dev/", "/sys/block/") + "/queue/max_sectors_kb";
        fs::write(queue, "4").unwrap();
        // Observed: with dioread_nolock, the default, what is written again after a failure is lost in silence.
        let options = ["-o", "errors=continue,nodioread_nolock"];
        command(Command::new("mount").args(options).arg(&self.device).arg(self.node.data()));
    }

    fn detach(&mut self) {
        // A dead mount holds the files that its process had handed to the kernel.
        unmount(&self.node.path(""));
        // The kernel may hold a file of a dead process for another moment.
        let umount = || nix::mount::umount(self.node.data()).is_ok();
        assert!(eventually(LIMIT, umount), "in use");
        command(Command::new("losetup").arg("--detach").arg(&self.device));
        self.device.clear();
    }

    /// From now on writing back succeeds for so many bytes that had no place before.
    fn starve(&self, left: u64) {
        let stat = nix::sys::statvfs::statvfs(&self.memory).unwrap();
        let used = (stat.blocks() - stat.blocks_free()) * stat.fragment_size();
        self.resize(used + left);
    }

    fn feed(&self) {
        self.resize(80 << 20);
    }

    fn resize(&self, size: u64) {
        let options = format!("size={size}");
        let flags = MsFlags::MS_REMOUNT;
        mount(Some("tmpfs"), &self.memory, Some("tmpfs"), flags, Some(&*options)).unwrap();
    }

    /// What is on the disk, and no longer what the kernel remembers of it; the file system is made whole.
    fn pull_and_repair(&mut self) {
        self.detach();
        let (code, output) =
            Process::run(Command::new("e2fsck").args(["-f", "-y"]).arg(self.image()), LIMIT);
        assert!(matches!(code, Some(0 | 1)), "{code:?} {output}");
        self.attach();
    }
}

impl Drop for ThinDisk {
    fn drop(&mut self) {
        self.node.end();
        unmount(self.node.data());
        if !self.device.is_empty() {
            let _ = Command::new("losetup").arg("--detach").arg(&self.device).output();
        }
        unmount(&self.memory);
    }
}

#[track_caller]
fn command(command: &mut Command) -> String {
    let (code, output) = Process::run(command, LIMIT);
    assert_eq!(code, Some(0), "{command:?}: {output}");
    output
}

/// Commits until that has failed some times; the last acknowledged transaction.
fn strike(node: &Node, workload: &mut Workload, mut acknowledged: i64) -> i64 {
    let mut failed = 0;
    for _ in 0..2000 {
        match workload.step() {
            Ok(last) => acknowledged = last,
            Err(err) => {
                assert!(is_expected(node, &err), "{err}");
                failed += 1;
            }
        }
        if failed == 8 {
            return acknowledged;
        }
    }
    panic!("the disk doesn't fail");
}

/// It is of the disk; or the log, or the file system, has failed first.
fn is_expected(node: &Node, err: &rusqlite::Error) -> bool {
    use ErrorCode::{CannotOpen, DiskFull, ReadOnly, SystemIoFailure};
    match err.sqlite_error_code() {
        Some(DiskFull | SystemIoFailure | ReadOnly) => true,
        Some(CannotOpen) => eventually(LIMIT, || is_read_only(node)),
        _ => false,
    }
}

/// Commits some, with space again; the last acknowledged transaction. What the kernel didn't write back earlier is told by a
/// later fsync of the file, once. If that file is the log, nothing goes on; nor if it is the file system's own journal.
#[track_caller]
fn go_on(node: &Node, workload: &mut Workload, mut acknowledged: i64) -> i64 {
    let (mut committed, mut failed) = (0, 0);
    while committed < 5 && !gave_up(node) {
        match workload.step() {
            Ok(last) => (acknowledged, committed) = (last, committed + 1),
            Err(err) => {
                assert!(is_expected(node, &err), "{err}");
                failed += 1;
            }
        }
        if failed == FILES {
            // It may have said so in this moment.
            assert!(eventually(LIMIT, || gave_up(node)), "{}", node.process().output());
        }
    }
    acknowledged
}

/// More than an application and the node write.
const FILES: u32 = 8;

/// Whether the node has said that it gives a database up until the next start, and why; or that the file system has given up.
fn gave_up(node: &Node) -> bool {
    let output = node.process().output();
    assert!(node.process().is_running() && !output.contains("panicked"), "{output}");
    let said = output.lines().find(|line| line.contains(GIVEN_UP));
    said.inspect(|line| check_reason(line)).is_some() || is_read_only(node)
}

/// Whether the node has met a file system that has given up.
fn is_read_only(node: &Node) -> bool {
    node.process().output().contains("Read-only file system")
}

const GIVEN_UP: &str = "database is read-only now";

#[track_caller]
fn check_reason(line: &str) {
    let of_the_disk = ["sync /", "No space left on device"].iter().any(|why| line.contains(why));
    assert!(of_the_disk && line.contains("restart when the disk is"), "{line}");
}

fn survives(mode: Mode) {
    let mut random = Random::from_env();
    let mut disk = ThinDisk::new();
    for round in 0..workload::rounds(4) {
        disk.node.up();
        let path = disk.node.path("db");
        let mut workload = Workload::open(&path, mode, random.any()).unwrap();
        let mut acknowledged = workload.steps(5).unwrap();
        disk.starve(random.below(2 << 20));
        acknowledged = strike(&disk.node, &mut workload, acknowledged);
        disk.feed();

        let what = format!("{mode:?}, round {round}, acknowledged {acknowledged}");
        if gave_up(&disk.node) {
            assert!(workload.step().is_err(), "{what}");
        } else {
            match workload::check(workload.connection()) {
                Ok(found) => assert_eq!(found, acknowledged, "{what}"),
                // It may have to roll a journal back first.
                Err(err) => assert_eq!(err, "disk I/O error", "{what}"),
            }
            acknowledged = go_on(&disk.node, &mut workload, acknowledged);
        }
        drop(workload);
        if random.percent(50) {
            disk.node.kill();
        } else {
            assert_eq!(disk.node.stop(), Some(0), "{}", disk.node.process().output());
        }

        disk.pull_and_repair();
        disk.node.up();
        disk.node.check_position("db");
        let found = workload::check(&sqlite::open(&path)).unwrap();
        assert!((acknowledged..=acknowledged + 1).contains(&found), "{what}: found {found}");
        disk.node.check("db");
        assert_eq!(disk.node.stop(), Some(0), "{}", disk.node.process().output());
    }
}

#[test]
fn a_disk_that_fails_in_wal_mode() {
    survives(Mode::new("WAL", "FULL"));
}

#[test]
fn a_disk_that_fails_in_rollback_modes() {
    for (journal, synchronous) in [("DELETE", "FULL"), ("TRUNCATE", "FULL"), ("PERSIST", "EXTRA")] {
        survives(Mode::new(journal, synchronous));
    }
}
