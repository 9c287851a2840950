//! Real mounts, real processes, the real `sqlite3`. Needs root and `/dev/fuse`; skipped without them.
//!
//! No test touches its mount from a thread of its own process without a way out: the work is done by child
//! processes under `timeout`, and a mount's drop aborts what hangs.

// Clippy knows tests by their attribute, not by their directory.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use litefs_core::store::{Store, StoreOptions};
use litefs_fuse::{Mount, MountError, MountOptions, Passthrough};
use litefs_lease::PrimaryInfo;

fn open_store(dir: &Path) -> Arc<Store> {
    let store = StoreOptions::new(dir).strict_verify(true).open().unwrap();
    store.become_primary();
    store
}

fn primary() -> PrimaryInfo {
    PrimaryInfo { hostname: "node-1".into(), advertise_url: "http://node-1:20202".into() }
}

struct Rig {
    mount: Option<Mount>,
    store: Arc<Store>,
    dir: PathBuf,
    _temp: tempfile::TempDir,
}

impl Rig {
    fn new(passthrough: Passthrough) -> Option<Rig> {
        if !may_mount() {
            eprintln!("skipped: needs root and /dev/fuse");
            return None;
        }
        let temp = tempfile::tempdir().unwrap();
        let store = open_store(&temp.path().join("data"));
        let dir = temp.path().join("mnt");
        let mut options = MountOptions::new(&dir);
        options.passthrough = passthrough;
        let mount = Some(Mount::new(store.clone(), options).unwrap());
        Some(Rig { mount, store, dir, _temp: temp })
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.args(["20", program]).args(args).current_dir("/").env("M", &self.dir);
        let output = command.output().unwrap();
        assert_ne!(output.status.code(), Some(124), "{program} {args:?} hangs");
        output
    }

    /// Runs a shell script with the mount in `$M`; the text it printed, errors included.
    fn sh(&self, script: &str) -> String {
        let output = self.run("sh", &["-c", &format!("exec 2>&1; {script}")]);
        String::from_utf8(output.stdout).unwrap()
    }

    fn sql(&self, db: &str, sql: &str) -> String {
        let path = self.dir.join(db);
        let output = self.run("sqlite3", &["-bail", path.to_str().unwrap(), sql]);
        assert!(output.status.success(), "{sql}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A process that opens a file of the mount, prints "open", and writes to it when its standard input ends.
    fn holder(&self, name: &str) -> Child {
        let script =
            format!("exec 3<>\"$M/{name}\"; echo open; read x; echo x >&3 || echo refused");
        let mut command = Command::new("timeout");
        command.args(["20", "sh", "-c", &script]).env("M", &self.dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }
}

fn may_mount() -> bool {
    nix::unistd::geteuid().is_root() && fs::metadata("/dev/fuse").is_ok()
}

fn read_line(child: &mut Child) -> String {
    use std::io::{BufRead, BufReader};
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line
}

fn is_mounted(rig: &Rig) -> bool {
    fs::read_to_string("/proc/mounts").unwrap().contains(rig.dir.to_str().unwrap())
}

#[test]
fn every_journal_mode_works_and_survives_a_second_mount() {
    for passthrough in [Passthrough::Auto, Passthrough::Off] {
        let Some(mut rig) = Rig::new(passthrough) else { return };
        for mode in ["wal", "delete", "truncate", "persist", "memory", "off"] {
            let db = format!("{mode}.db");
            let sql = format!(
                "pragma journal_mode={mode}; create table t(x);
                 with recursive c(n) as (select 1 union all select n+1 from c where n<2000)
                   insert into t select hex(randomblob(100)) from c;
                 delete from t where rowid % 3 = 0; vacuum; insert into t values(1);"
            );
            rig.sql(&db, &sql);
            assert_eq!(
                rig.sql(&db, "pragma integrity_check; select count(*) from t"),
                "ok\n1335\n"
            );
        }
        assert!(!rig.mount.take().unwrap().unmount().unwrap().lazy);
        rig.mount = Some(Mount::new(rig.store.clone(), MountOptions::new(&rig.dir)).unwrap());
        assert_eq!(rig.sql("wal.db", "select count(*) from t"), "1335\n");
    }
}

#[test]
fn processes_share_a_wal_database() {
    for passthrough in [Passthrough::Auto, Passthrough::Off] {
        let Some(rig) = Rig::new(passthrough) else { return };
        rig.sql("db", "pragma journal_mode=wal; create table t(x)");
        let writer = "for i in 1 2 3 4 5 6 7 8 9 10; do \
            sqlite3 -cmd '.timeout 10000' $M/db 'insert into t values(1)' || echo failed; done";
        let printed = rig.sh(&format!("({writer}) & ({writer}) & ({writer}) & wait"));
        assert_eq!(printed, "");
        assert_eq!(rig.sql("db", "select count(*) from t; pragma integrity_check"), "30\nok\n");
    }
}

#[test]
fn the_mount_table_says_what_it_always_said() {
    let Some(rig) = Rig::new(Passthrough::Auto) else { return };
    let dir = rig.dir.to_str().unwrap();
    let want = format!("litefs {dir} fuse rw,nosuid,nodev,relatime,user_id=0,group_id=0 0 0\n");
    assert!(fs::read_to_string("/proc/mounts").unwrap().contains(&want));
}

#[test]
fn refusals_have_sensible_errors_and_do_not_stick() {
    let Some(rig) = Rig::new(Passthrough::Auto) else { return };
    rig.sql("db", "create table t(x)");
    for (script, want) in [
        ("echo > $M/x-pos", "Permission denied"),
        ("echo > $M/x-lock", "Permission denied"),
        ("mkdir $M/dir", "Operation not permitted"),
        ("mv $M/db $M/other", "Operation not permitted"),
        ("ln $M/db $M/other", "Operation not permitted"),
        ("ln -s db $M/other", "Operation not permitted"),
        ("mkfifo $M/pipe", "Operation not permitted"),
        ("fallocate -l 1M $M/db", "not supported"),
        ("rm -f $M/db-pos", "Permission denied"),
        ("echo x > $M/db-pos", "I/O error"),
        ("rmdir $M/db", "Not a directory"),
        ("cat $M/none", "No such file"),
    ] {
        let printed = rig.sh(script);
        assert!(printed.contains(want), "{script}: {printed}");
    }
    // After all that, files can still be created.
    assert_eq!(rig.sh("chmod 600 $M/db; touch $M/db; : > $M/db-lock; cp $M/db $M/new"), "");
    assert_eq!(rig.sql("new", "select count(*) from t"), "0\n");
}

#[test]
fn a_new_file_shows_nothing_of_the_old_one() {
    let Some(rig) = Rig::new(Passthrough::Auto) else { return };
    rig.sql("db", "create table t(x)");
    let printed = rig.sh(
        "printf old-and-long > $M/db-shm; cat $M/db-shm; exec 3< $M/db-shm; rm $M/db-shm; ls $M/db-shm;
         printf new > $M/db-shm; echo; cat $M/db-shm; echo; cat <&3; stat -c %s:%h $M/db-shm /proc/self/fd/3 -L",
    );
    assert!(printed.starts_with("old-and-long"), "{printed}");
    assert!(printed.contains("No such file"), "{printed}");
    assert!(printed.ends_with("\nnew\nold-and-long3:1\n12:0\n"), "{printed}");
}

#[test]
fn a_dropped_database_takes_its_companions_along() {
    let Some(rig) = Rig::new(Passthrough::Auto) else { return };
    rig.sh(
        "sqlite3 $M/db 'create table t(x)'; printf b > $M/db-wal; printf c > $M/db-journal; stat $M/db*; rm $M/db",
    );
    let deadline = Instant::now() + Duration::from_secs(5);
    // The kernel learns of it right after the reply; opening is right at once.
    assert!(rig.sh("cat $M/db-wal").contains("No such file"));
    while rig.sh("test -e $M/db-wal -o -e $M/db-journal && echo there") == "there\n" {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(rig.sh(": > $M/db; printf y > $M/db-wal; cat $M/db-wal"), "y");
}

#[test]
fn a_replica_shows_its_role_and_refuses_new_databases() {
    let Some(rig) = Rig::new(Passthrough::Auto) else { return };
    rig.sql("db", "create table t(x)");
    rig.store.become_replica(Some(primary()));
    assert_eq!(rig.sh("cat $M/.primary $M/.lag"), "node-1\n+2147483647\n");
    let printed = rig.sh("sqlite3 $M/db 'insert into t values(1)'; echo > $M/new");
    assert!(printed.contains("attempt to write a readonly database"), "{printed}");
    assert!(printed.contains("Permission denied"), "{printed}");
    // Cached attributes last a second.
    let deadline = Instant::now() + Duration::from_secs(5);
    while rig.sh("stat -c %a $M $M/db") != "555\n444\n" {
        assert!(Instant::now() < deadline);
    }
    rig.store.become_primary();
    assert!(rig.sh("cat $M/.primary").contains("No such file"));
}

#[test]
fn unmounting_with_open_files_neither_hangs_nor_fails() {
    // A file in passthrough needs no daemon: what a process holds of it goes on working.
    for (name, passthrough, want) in [
        ("db", Passthrough::Auto, "refused\n"),
        ("db-shm", Passthrough::Off, "refused\n"),
        ("db-shm", Passthrough::Auto, ""),
    ] {
        let Some(mut rig) = Rig::new(passthrough) else { return };
        rig.sh("sqlite3 $M/db 'create table t(x)'; printf x > $M/db-shm");
        let mut child = rig.holder(name);
        assert_eq!(read_line(&mut child), "open\n");
        assert!(rig.mount.take().unwrap().unmount().unwrap().lazy);
        assert!(!is_mounted(&rig));
        drop(child.stdin.take());
        assert_eq!(read_line(&mut child), want, "{name} {passthrough:?}");
        child.wait().unwrap();
        // The directory is free for the next one.
        drop(Mount::new(rig.store.clone(), MountOptions::new(&rig.dir)).unwrap());
        assert!(!is_mounted(&rig));
    }
}

#[test]
fn a_mount_that_somebody_else_unmounted_ends_well() {
    let Some(mut rig) = Rig::new(Passthrough::Auto) else { return };
    assert_eq!(rig.sh("umount $M"), "");
    assert!(!rig.mount.take().unwrap().unmount().unwrap().lazy);
}

#[test]
fn directories_that_cannot_be_mounted_on() {
    let Some(rig) = Rig::new(Passthrough::Auto) else { return };
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    fs::write(&file, "").unwrap();
    let mount = |dir: PathBuf| Mount::new(rig.store.clone(), MountOptions::new(dir)).err();
    assert!(matches!(mount(file.clone()), Some(MountError::NotADirectory { .. })));
    assert!(matches!(mount(temp.path().into()), Some(MountError::NotEmpty { .. })));
    // A live mount isn't empty either.
    assert!(matches!(mount(rig.dir.clone()), Some(MountError::NotEmpty { .. })));
    assert!(matches!(mount(file.join("below")), Some(MountError::Directory { .. })));
    assert!(mount(temp.path().join("made/for/it")).is_none());
    // What an application that has outlived the last mount has left isn't worth anything.
    let left = temp.path().join("left");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("db-journal"), "x").unwrap();
    assert!(mount(left.clone()).is_none());
    fs::write(left.join("db"), "x").unwrap();
    assert!(matches!(mount(left), Some(MountError::NotEmpty { .. })));
}
