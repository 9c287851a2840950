//! Who has the lock, who waits for it, and when it ends.

use std::fs::{self, File};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use litefs_tests::cluster::{Replica, eventually};
use litefs_tests::node::LIMIT;
use litefs_tests::process::Process;
use litefs_tests::sqlite;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use rusqlite::ErrorCode;

use crate::{MODES, count, halt, try_halt, with_table};

fn code(result: rusqlite::Result<()>) -> Option<ErrorCode> {
    result.unwrap_err().sqlite_error_code()
}

#[test]
fn without_the_lock_a_replica_is_read_only() {
    for mode in MODES {
        let (cluster, _, here) = with_table(mode, 1);
        let node = &cluster.replica().node;
        let refuse = || sqlite::try_run(&here, "INSERT INTO t VALUES (1)").unwrap_err();
        refuse();
        let reads = File::open(node.path("db-lock")).unwrap();
        refuse();
        let writes = halt(node, "db");
        sqlite::run(&here, "INSERT INTO t VALUES (1)");
        drop(writes);
        refuse();
        drop(reads);
        cluster.converge("db");
    }
}

#[test]
fn a_primary_has_what_the_lock_gives() {
    let (cluster, there, _) = with_table("WAL", 1);
    let lock = halt(&cluster.primary, "db");
    sqlite::run(&there, "INSERT INTO t VALUES (1)");
    drop(lock);
    sqlite::run(&there, "INSERT INTO t VALUES (2)");
    cluster.converge("db");
}

#[test]
fn local_writers_wait_and_readers_read() {
    for mode in MODES {
        let (cluster, there, here) = with_table(mode, 1);
        there.busy_timeout(Duration::ZERO).unwrap();
        let lock = halt(&cluster.replica().node, "db");
        for n in 1..4 {
            let refused = sqlite::try_run(&there, "INSERT INTO t VALUES (0)");
            assert_eq!(code(refused), Some(ErrorCode::DatabaseBusy), "{mode}");
            sqlite::run(&here, "INSERT INTO t VALUES (1)");
            let new = sqlite::open(&cluster.primary.path("db"));
            assert_eq!((count(&there), count(&new)), (n, n), "{mode}");
        }
        assert_eq!(
            fs::remove_file(cluster.primary.path("db")).unwrap_err().raw_os_error(),
            Some(Errno::EBUSY as i32)
        );
        drop(lock);
        there.busy_timeout(LIMIT).unwrap();
        sqlite::run(&there, "INSERT INTO t VALUES (2)");
        cluster.converge("db");
    }
}

/// In rollback mode a commit needs the readers to go; it is given up after a while, and the lock stays.
#[test]
fn a_reader_on_the_primary_holds_a_commit_up() {
    let (cluster, there, here) = with_table("DELETE", 1);
    let node = &cluster.replica().node;
    let _lock = halt(node, "db");
    sqlite::run(&there, "BEGIN; SELECT * FROM t");
    sqlite::try_run(&here, "INSERT INTO t VALUES (1)").unwrap_err();
    assert_eq!(count(&here), 0);
    sqlite::run(&there, "COMMIT");
    sqlite::run(&here, "INSERT INTO t VALUES (2)");
    // One that goes in time is only waited for.
    sqlite::run(&there, "BEGIN; SELECT * FROM t");
    thread::scope(|scope| {
        scope.spawn(move || sqlite::run(&here, "INSERT INTO t VALUES (3)"));
        assert!(eventually(LIMIT, || node.path("db-journal").exists()));
        sqlite::run(&there, "COMMIT");
    });
    cluster.converge("db");
    assert_eq!(count(&there), 2);
}

#[test]
fn a_writer_on_the_primary_is_waited_for_but_not_for_ever() {
    for mode in ["WAL", "DELETE"] {
        let (cluster, there, here) = with_table(mode, 1);
        let node = &cluster.replica().node;
        sqlite::run(&there, "BEGIN IMMEDIATE; INSERT INTO t VALUES (1)");
        let began = Instant::now();
        let refused = try_halt(node, "db").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::EAGAIN as i32), "{refused}");
        assert!((8..14).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        thread::scope(|scope| {
            let waiter = scope.spawn(|| halt(node, "db"));
            thread::park_timeout(Duration::from_millis(300));
            assert!(!waiter.is_finished());
            sqlite::run(&there, "COMMIT");
            let _lock = waiter.join().unwrap();
            assert_eq!(count(&here), 1, "the database is where the primary's is");
            sqlite::run(&here, "INSERT INTO t VALUES (2)");
        });
        cluster.converge("db");
    }
}

#[test]
fn processes_of_one_node_share_the_lock() {
    let (cluster, _, here) = with_table("WAL", 1);
    let node = &cluster.replica().node;
    let (first, second) = (halt(node, "db"), halt(node, "db"));
    drop(first);
    sqlite::run(&here, "INSERT INTO t VALUES (1)");
    let copy = second.try_clone().unwrap();
    drop(second);
    sqlite::run(&here, "INSERT INTO t VALUES (2)");
    drop(copy);
    let refused = || sqlite::try_run(&here, "INSERT INTO t VALUES (3)").is_err();
    assert!(eventually(LIMIT, refused));
    cluster.converge("db");
}

/// Each adds one to the same number, so a lost update would show.
#[test]
fn competing_writers_lose_no_update() {
    const EACH: usize = 15;
    for mode in ["WAL", "DELETE"] {
        let (cluster, there, _) = with_table(mode, 2);
        sqlite::run(&there, "INSERT INTO t VALUES (0)");
        cluster.converge("db");
        let add = "BEGIN IMMEDIATE; UPDATE t SET x = x + 1; COMMIT";
        thread::scope(|scope| {
            for replica in &cluster.replicas {
                scope.spawn(move || {
                    let conn = sqlite::open(&replica.node.path("db"));
                    for _ in 0..EACH {
                        let _lock = halt(&replica.node, "db");
                        sqlite::run(&conn, add);
                    }
                });
            }
            scope.spawn(move || {
                there.busy_timeout(LIMIT).unwrap();
                for _ in 0..EACH {
                    sqlite::run(&there, add);
                }
            });
        });
        cluster.converge("db");
        let there = sqlite::open(&cluster.primary.path("db"));
        assert_eq!(sqlite::text(&there, "SELECT x FROM t"), (3 * EACH).to_string(), "{mode}");
    }
}

#[test]
fn an_unused_lock_ends() {
    let (cluster, there, here) = with_table("WAL", 1);
    there.busy_timeout(Duration::from_secs(40)).unwrap();
    let lock = halt(&cluster.replica().node, "db");
    let began = Instant::now();
    sqlite::run(&there, "INSERT INTO t VALUES (1)");
    assert!((25..40).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    sqlite::try_run(&here, "INSERT INTO t VALUES (2)").unwrap_err();
    drop(lock);
    cluster.converge("db");
    let _lock = halt(&cluster.replica().node, "db");
    sqlite::run(&here, "INSERT INTO t VALUES (3)");
    cluster.converge("db");
}

#[test]
fn there_is_no_lock_without_a_primary() {
    let (mut cluster, _, here) = with_table("WAL", 1);
    let lock = halt(&cluster.replica().node, "db");
    cluster.replica().net.set_target(None);
    cluster.replica().net.cut();
    let node = &cluster.replica().node;
    let refused = || sqlite::try_run(&here, "INSERT INTO t VALUES (1)").is_err();
    assert!(eventually(LIMIT, refused), "the stream's end takes the right away");
    assert_eq!(try_halt(node, "db").unwrap_err().raw_os_error(), Some(Errno::EIO as i32));
    let none = Replica::new(LIMIT);
    assert!(!none.node.path("db-lock").exists());
    drop(lock);
    cluster.primary.kill();
    cluster.primary_up();
    cluster.converge("db");
}

/// What it has begun is rolled back, by whoever comes first.
#[test]
fn a_killed_application_leaves_nothing_behind() {
    for mode in MODES {
        let (cluster, there, here) = with_table(mode, 1);
        let node = &cluster.replica().node;
        let path = node.path("db").display().to_string();
        // The shell's own child kills it, within a transaction that has spilled.
        let script = format!(
            "exec 9<>'{path}-lock'; echo locked; exec sqlite3 -cmd 'PRAGMA cache_size=5' '{path}' \
             \"BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
             INSERT INTO t SELECT randomblob(2000) FROM n;\" '.shell kill -9 $PPID'"
        );
        let app = Process::start(Command::new("bash").arg("-c").arg(script));
        let status = app.wait(LIMIT);
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(Signal::SIGKILL as i32),
            "{}",
            app.output()
        );
        sqlite::run(&there, "INSERT INTO t VALUES (1)");
        cluster.converge("db");
        assert_eq!(count(&here), 1, "{mode}");
        let _lock = halt(node, "db");
        sqlite::run(&here, "INSERT INTO t VALUES (2)");
        cluster.converge("db");
    }
}
