//! A primary and a replica in this very process, which is also the application of both: POSIX locks belong to a
//! process, so nothing that the node does with its files may disturb those of SQLite. Needs root and `/dev/fuse`;
//! skipped without them.

// Clippy knows tests by their attribute, not by their directory.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use litefs_core::types::DbName;
use litefs_example_axum::node::Node;
use litefs_lease::PrimaryInfo;
use rusqlite::Connection;

#[test]
fn readers_in_the_replicas_process_see_no_error_while_it_applies() {
    if !Path::new("/dev/fuse").exists() || !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root and /dev/fuse");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (primary, replica) = runtime.block_on(async {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = listen();
        let info = PrimaryInfo {
            hostname: "here".into(),
            advertise_url: format!("http://{}", listener.local_addr().unwrap()),
        };
        let primary = Node::start(&temp.path().join("a"), listener, true, info.clone()).await;
        let primary = primary.unwrap();
        primary.ready().wait().await.unwrap();
        let replica = Node::start(&temp.path().join("b"), listen(), false, info).await.unwrap();
        replica.ready().wait().await.unwrap();
        (primary, replica)
    });
    for mode in ["wal", "delete", "truncate"] {
        write_and_read(&primary, &replica, mode);
    }
    runtime.block_on(replica.close()).unwrap();
    runtime.block_on(primary.close()).unwrap();
}

fn write_and_read(primary: &Node, replica: &Node, mode: &str) {
    let writer = open(&primary.dir().join(mode));
    let set_up = format!(
        "PRAGMA journal_mode={mode}; PRAGMA synchronous=OFF;
         CREATE TABLE t(id INTEGER PRIMARY KEY, x);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
         INSERT INTO t SELECT i, 0 FROM n"
    );
    writer.execute_batch(&set_up).unwrap();
    follow(primary, replica, mode);
    let path = &replica.dir().join(mode);
    let (stop, reads, seen) = (AtomicBool::new(false), AtomicI64::new(0), AtomicI64::new(0));
    let written = std::thread::scope(|scope| {
        // With rollback journals, a connection that closes can take another one's lock within one process, whatever the file
        // system: SQLite's unixClose looks for locks, and closes the descriptor a moment later.
        for reopens in [false, false, mode == "wal"] {
            let (stop, reads, seen) = (&stop, &reads, &seen);
            scope.spawn(move || {
                let mut conn = open(path);
                while !stop.load(Ordering::Relaxed) {
                    if reopens {
                        // Closing a connection must not take another one's locks.
                        conn = open(path);
                    }
                    // Each transaction sets all rows to one value.
                    let sql = "SELECT count(DISTINCT x), max(x), count(*) FROM t";
                    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
                    let (values, x, rows): (i64, i64, i64) = conn.query_row(sql, [], row).unwrap();
                    assert_eq!((values, rows), (1, 300), "{mode}");
                    seen.fetch_max(x, Ordering::Relaxed);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let start = Instant::now();
        let mut i: i64 = 0;
        while start.elapsed() < DURATION {
            i += 1;
            writer.execute("UPDATE t SET x = ?", [i]).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        i
    });
    let (reads, seen) = (reads.into_inner(), seen.into_inner());
    println!("{mode}: {reads} reads, {seen} of {written} transactions seen");
    assert!(reads > 50 && seen > 0, "{mode}: {reads} reads, {seen} of {written} seen");
    follow(primary, replica, mode);
    let conn = open(path);
    assert_eq!(conn.query_row("SELECT max(x) FROM t", [], |row| row.get(0)), Ok(written));
    let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

/// Waits until the replica is where the primary is.
fn follow(primary: &Node, replica: &Node, name: &str) {
    let name = DbName::new(name).unwrap();
    let want = primary.store().database(&name).unwrap().pos();
    let deadline = Instant::now() + Duration::from_secs(20);
    while replica.store().database(&name).and_then(|db| db.pos()) != want {
        assert!(Instant::now() < deadline, "{name} doesn't follow");
        std::thread::yield_now();
    }
}

fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(Duration::from_secs(10)).unwrap();
    conn
}

const DURATION: Duration = Duration::from_secs(3);
