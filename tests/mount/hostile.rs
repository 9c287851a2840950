//! What a mount of databases isn't made for. Each operation gets the errno a program can act on, none
//! hangs, and the databases go on.

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use litefs_tests::node::{LIMIT, Node};
use litefs_tests::process::Process;
use litefs_tests::sqlite;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::sys::stat::{Mode, SFlag, mknod};

/// A node with a database that has a row, and whose WAL and shm exist.
fn node() -> (Node, rusqlite::Connection) {
    let node = Node::start();
    let conn = sqlite::open(&node.path("db"));
    sqlite::run(&conn, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    (node, conn)
}

#[track_caller]
fn assert_errno<T>(what: &str, result: io::Result<T>, want: Errno) {
    match result {
        Ok(_) => panic!("{what} succeeded"),
        Err(err) => {
            assert_eq!(err.raw_os_error().map(Errno::from_raw), Some(want), "{what}: {err}");
        }
    }
}

/// The database is as good as before, and new ones can be made.
#[track_caller]
fn assert_alive(node: &Node, conn: rusqlite::Connection) {
    sqlite::run(&conn, "INSERT INTO t VALUES (2)");
    drop(conn);
    node.check("db");
    for journal in ["DELETE", "WAL"] {
        let name = format!("new-{journal}");
        let new = sqlite::open(&node.path(&name));
        sqlite::run(&new, &format!("PRAGMA journal_mode={journal}; CREATE TABLE t(x)"));
        drop(new);
        node.check(&name);
    }
}

#[test]
fn operations_on_names_are_refused() {
    let (node, conn) = node();
    let (db, x) = (node.path("db"), node.path("x"));
    let outside = tempfile::tempdir().unwrap();
    let mode = Mode::from_bits_truncate(0o644);
    assert_errno("mkdir", fs::create_dir(&x), Errno::EPERM);
    assert_errno("rmdir of a file", fs::remove_dir(&db), Errno::ENOTDIR);
    assert_errno("rmdir of nothing", fs::remove_dir(&x), Errno::ENOENT);
    assert_errno("rename", fs::rename(&db, &x), Errno::EPERM);
    assert_errno("rename over", fs::rename(node.path("db-wal"), &db), Errno::EPERM);
    assert_errno("rename out", fs::rename(&db, outside.path().join("x")), Errno::EXDEV);
    assert_errno("link", fs::hard_link(&db, &x), Errno::EPERM);
    assert_errno("symlink", symlink("db", &x), Errno::EPERM);
    assert_errno("fifo", mknod(&x, SFlag::S_IFIFO, mode, 0).map_err(Into::into), Errno::EPERM);
    assert_errno("node", mknod(&x, SFlag::S_IFREG, mode, 0).map_err(Into::into), Errno::EPERM);
    assert_errno("readlink", fs::read_link(&db), Errno::EINVAL);
    assert_errno("unlink of nothing", fs::remove_file(&x), Errno::ENOENT);
    assert_errno("open of nothing", File::open(&x), Errno::ENOENT);
    assert_errno("a file as a directory", File::open(db.join("y")), Errno::ENOTDIR);
    assert_errno("a long name", File::open(node.path(&"n".repeat(300))), Errno::ENAMETOOLONG);
    for special in [".lag", "db-pos", "db-lock"] {
        assert_errno(special, fs::remove_file(node.path(special)), Errno::EACCES);
    }
    assert_alive(&node, conn);
}

#[test]
fn companions_of_unknown_databases_cant_be_made() {
    let (node, conn) = node();
    for (name, want) in [
        ("x-pos", Errno::EACCES),
        ("x-lock", Errno::EACCES),
        ("x-journal", Errno::ENOENT),
        ("x-wal", Errno::ENOENT),
        ("x-shm", Errno::ENOENT),
        (".primary", Errno::EACCES),
    ] {
        assert_errno(name, File::create_new(node.path(name)), want);
        // The kernel doesn't remember the refusal for the whole mount.
        assert_errno(name, File::create_new(node.path(name)), want);
    }
    assert_errno(
        "a companion of a companion",
        File::create_new(node.path("x-wal-wal")),
        Errno::EINVAL,
    );
    assert_alive(&node, conn);
}

#[test]
fn owner_mode_and_times_are_fixed() {
    let (node, conn) = node();
    for name in ["db", "db-wal", "db-shm", "db-pos", ".lag"] {
        let path = node.path(name);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode(), mode, "{name}");
        chown(&path, Some(1), Some(1)).unwrap();
        let file = File::open(&path).unwrap();
        file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH)).unwrap();
    }
    assert_eq!(fs::metadata(node.path("db")).unwrap().permissions().mode() & 0o777, 0o666);
    assert_eq!(fs::metadata(node.path("")).unwrap().permissions().mode() & 0o777, 0o777);
    assert_alive(&node, conn);
}

#[test]
fn special_files_are_read_only() {
    let (node, conn) = node();
    for name in [".lag", "db-pos", "db-lock"] {
        let path = node.path(name);
        if let Ok(mut file) = OpenOptions::new().write(true).open(&path) {
            assert!(file.write_all(b"garbage").is_err(), "{name}");
        }
        let mut text = String::new();
        File::open(&path).unwrap().read_to_string(&mut text).unwrap();
        assert!(!text.contains("garbage"), "{name}: {text}");
        File::open(&path).unwrap().read_at(&mut [0; 100], 1 << 40).unwrap();
    }
    assert_alive(&node, conn);
}

#[test]
fn directories_can_be_opened_listed_and_synced() {
    let (node, conn) = node();
    let dir = File::open(node.path("")).unwrap();
    dir.sync_all().unwrap();
    assert_errno("read of a directory", (&dir).read(&mut [0; 10]), Errno::EISDIR);
    let write = OpenOptions::new().write(true).open(node.path(""));
    assert_errno("write to a directory", write, Errno::EISDIR);
    let tmpfile =
        OpenOptions::new().write(true).custom_flags(OFlag::O_TMPFILE.bits()).open(node.path(""));
    assert_errno("O_TMPFILE", tmpfile, Errno::EOPNOTSUPP);
    let not_dir =
        OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(node.path("db"));
    assert_errno("O_DIRECTORY", not_dir, Errno::ENOTDIR);
    assert!(nix::sys::statvfs::statvfs(&node.path("")).unwrap().blocks() > 0);
    assert_alive(&node, conn);
}

#[test]
fn fallocate_isnt_supported() {
    let (node, conn) = node();
    for name in ["db", "db-wal"] {
        let file = OpenOptions::new().write(true).open(node.path(name)).unwrap();
        for flags in [FallocateFlags::empty(), FallocateFlags::FALLOC_FL_KEEP_SIZE] {
            let result = fallocate(&file, flags, 0, 1 << 20).map_err(io::Error::from);
            assert_errno(name, result, Errno::EOPNOTSUPP);
        }
    }
    assert_alive(&node, conn);
}

/// No SQLite writes like this, so whatever the answer is, it comes, and the node lives.
#[test]
fn writes_of_odd_shape_get_an_answer() {
    let node = Node::start();
    let good = sqlite::open(&node.path("db"));
    sqlite::run(&good, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    // On victims of their own: who overwrites a database's pages gets what he wrote.
    for (i, name) in ["db", "db-journal", "db-wal", "db-shm"].iter().enumerate() {
        let victim = format!("victim{i}");
        let conn = sqlite::open(&node.path(&victim));
        sqlite::run(&conn, "CREATE TABLE t(x); INSERT INTO t VALUES (1)");
        drop(conn);
        let path = node.path(&name.replace("db", &victim));
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).unwrap();
        let huge = vec![7; 8 << 20];
        for (offset, len) in
            [(0, 1), (1, 1), (3, 4095), (4096, 4097), (5000, 10), (0, 8 << 20), (1 << 33, 4096)]
        {
            let _ = file.write_at(&huge[..len], offset);
        }
        for len in [0, 1, 4097, 1 << 20, 0] {
            let _ = file.set_len(len);
        }
        let _ = file.sync_all();
        let mut read = vec![0; 1 << 20];
        let _ = File::open(&path).unwrap().read_at(&mut read, 12345);
    }
    sqlite::run(&good, "INSERT INTO t VALUES (2)");
    drop(good);
    let conn = sqlite::open(&node.path("db"));
    assert_eq!(sqlite::number(&conn, "SELECT sum(x) FROM t"), 3);
    assert!(node.process().is_running());
    assert!(!node.process().output().contains("panicked"), "{}", node.process().output());
}

#[test]
fn a_file_that_is_no_database_gets_an_answer() {
    let node = Node::start();
    let written = fs::write(node.path("notes.txt"), "not a database\n".repeat(5000));
    println!("write: {written:?}");
    let (_, output) =
        Process::run(Command::new("cp").arg("/bin/true").arg(node.path("true")), LIMIT);
    println!("cp: {output}");
    let conn = sqlite::open(&node.path("db"));
    sqlite::run(&conn, "CREATE TABLE t(x)");
    assert_alive(&node, conn);
}

#[test]
fn truncation_at_open_empties_a_database() {
    let (node, conn) = node();
    drop(conn);
    File::create(node.path("db")).unwrap();
    assert_eq!(fs::metadata(node.path("db")).unwrap().len(), 0);
    let conn = sqlite::open(&node.path("db"));
    assert_eq!(sqlite::number(&conn, "SELECT count(*) FROM sqlite_schema"), 0);
    sqlite::run(&conn, "CREATE TABLE t(x)");
    assert_alive(&node, conn);
}

#[test]
fn exclusive_creation_of_an_existing_database_fails() {
    let (node, conn) = node();
    for name in ["db", "db-wal", "db-shm", "db-pos"] {
        assert_errno(name, File::create_new(node.path(name)), Errno::EEXIST);
    }
    assert_alive(&node, conn);
}

/// Needs calls that the standard library has no safe way for.
#[test]
fn extended_attributes_maps_and_ioctls_get_an_answer() {
    let (node, conn) = node();
    let script = r#"
import errno, fcntl, mmap, os, sys
path = sys.argv[1]
def refused(what, call, *want):
    try:
        call()
    except OSError as err:
        assert err.errno in want, (what, err)
    else:
        raise AssertionError(what)
refused("setxattr", lambda: os.setxattr(path, "user.x", b"1"), errno.ENOTSUP)
refused("getxattr", lambda: os.getxattr(path, "user.x"), errno.ENOTSUP, errno.ENODATA)
refused("listxattr", lambda: os.listxattr(path) and None or (_ for _ in ()).throw(OSError(errno.ENOTSUP, "")), errno.ENOTSUP)
fd = os.open(path, os.O_RDWR)
refused("ioctl", lambda: fcntl.ioctl(fd, 0x5401, b"0" * 64), errno.ENOTTY)
with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as m:
    assert m[:15] == b"SQLite format 3", m[:16]
shm = os.open(path + "-shm", os.O_RDWR)
with mmap.mmap(shm, 32768) as m:
    m[32000:32004] = m[32000:32004]
    m.flush()
os.lseek(fd, 0, os.SEEK_END)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
"#;
    python(script, &node.path("db"));
    assert_alive(&node, conn);
}

fn python(script: &str, path: &Path) {
    let (code, output) =
        Process::run(Command::new("python3").args(["-c", script]).arg(path), LIMIT);
    assert_eq!(code, Some(0), "{output}");
}
