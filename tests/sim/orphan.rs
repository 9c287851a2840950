//! Orphans: transactions whose commit frame is in the WAL, and in the log, but of which SQLite doesn't know.
//!
//! The writer dies, or its fsync fails, between the commit frame and the WAL index. Whoever writes next overwrites
//! the frames. After that the log must again give what SQLite sees.

use litefs_core::db::FileKind;
use litefs_core::env::sim::Landed;
use litefs_tests::sim::mount::{FileOp, Outcome, Process};
use litefs_tests::sim::{App, Node};
use rusqlite::Connection;

fn run(conn: &Connection, sql: &str) {
    conn.execute_batch(sql).unwrap_or_else(|err| panic!("{sql}: {err}"));
}

/// Statements of the orphan: few pages, many, growth, shrinking.
const ORPHANS: [&str; 4] = [
    "UPDATE t SET v='orphan' WHERE id=1",
    "UPDATE t SET v=v||'orphan'",
    "INSERT INTO t(v) SELECT v||'orphan' FROM t",
    "DELETE FROM t WHERE id > 10",
];

/// What the next writer does.
const NEXT: [&str; 5] = [
    "UPDATE t SET v='next' WHERE id=1",
    "UPDATE t SET v='next' WHERE id=190",
    "UPDATE t SET v=v||'next'",
    "INSERT INTO t(v) SELECT v||'next' FROM t",
    "DELETE FROM t WHERE id > 5",
];

/// What happens in between.
const BETWEEN: [&str; 6] = [
    "",
    "PRAGMA wal_checkpoint(PASSIVE)",
    "PRAGMA wal_checkpoint(RESTART)",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "BEGIN IMMEDIATE; UPDATE t SET v='rolled back'; ROLLBACK",
    "PRAGMA wal_checkpoint(RESTART); BEGIN IMMEDIATE; ROLLBACK",
];

struct Scene {
    node: Node,
    writer: (App, Connection),
    other: (App, Connection),
}

/// Two processes on a WAL database; both have read it.
fn scene() -> Scene {
    let node = Node::new();
    let connect = || {
        let app = node.app();
        let conn = app.connect("db");
        run(
            &conn,
            "PRAGMA page_size=512; PRAGMA auto_vacuum=FULL; PRAGMA synchronous=FULL;
                    PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0",
        );
        (app, conn)
    };
    let writer = connect();
    run(
        &writer.1,
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200)
         INSERT INTO t(v) SELECT hex(i*7919) FROM n",
    );
    run(&writer.1, "PRAGMA wal_checkpoint; UPDATE t SET v=v||'u' WHERE id%20=0");
    let other = connect();
    run(&other.1, "SELECT count(*) FROM t");
    Scene { node, writer, other }
}

/// The process ends with the write that completes a commit frame.
fn dies_at_commit_frame(process: &Process) {
    let mut commit_header = false;
    process.hook(move |event| match (event.kind, event.op) {
        (FileKind::Wal, FileOp::Write(header, _)) if header.len() == 24 => {
            commit_header = header[4..8] != [0; 4];
            Outcome::Done
        }
        (FileKind::Wal, FileOp::Write(..)) if commit_header => Outcome::LastOne,
        _ => Outcome::Done,
    });
}

/// The next fsync of the WAL fails.
fn next_wal_sync_fails(process: &Process) {
    let mut failed = false;
    process.hook(move |event| match (event.kind, event.op) {
        (FileKind::Wal, FileOp::Sync) if !failed => {
            failed = true;
            Outcome::DoneButFailed
        }
        _ => Outcome::Done,
    });
}

fn for_all(check: impl Fn(&str, &str, &str)) {
    for orphan in ORPHANS {
        for between in BETWEEN {
            for next in NEXT {
                println!("{orphan} / {between} / {next}");
                check(orphan, between, next);
            }
        }
    }
}

#[test]
fn the_next_writer_corrects_what_a_dead_one_left() {
    for_all(|orphan, between, next| {
        let Scene { node, writer: (app, conn), other: (_other_app, mut other) } = scene();
        let before = node.txid("db");
        dies_at_commit_frame(&app.process);
        conn.execute_batch(orphan).unwrap_err();
        app.kill([conn]);
        assert_eq!(node.txid("db"), before + 1, "the orphan is captured");
        run(&other, between);
        run(&other, next);
        node.check("db", &mut other);
        run(&other, "INSERT INTO t(v) VALUES ('more')");
        node.check_fresh("db");
        run(&other, "PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t(v) VALUES ('more')");
        node.check("db", &mut other);
    });
}

#[test]
fn a_writer_whose_fsync_failed_corrects_itself() {
    for_all(|orphan, between, next| {
        let Scene { node, writer: (app, mut conn), other: (_other_app, mut other) } = scene();
        next_wal_sync_fails(&app.process);
        conn.execute_batch(orphan).unwrap_err();
        app.process.unhook();
        run(&conn, between);
        run(&conn, next);
        node.check("db", &mut conn);
        run(&other, "INSERT INTO t(v) VALUES ('more')");
        node.check("db", &mut other);
    });
}

#[test]
fn an_orphan_counts_if_all_processes_die() {
    for orphan in ORPHANS {
        for daemon_too in [false, true] {
            let Scene { mut node, writer: (app, conn), other: (other_app, other) } = scene();
            dies_at_commit_frame(&app.process);
            conn.execute_batch(orphan).unwrap_err();
            let (txid, want) = (node.txid("db"), node.db("db").pos());
            app.kill([conn]);
            other_app.kill([other]);
            if daemon_too {
                node.disk.kill();
                node = Node::open(node.disk.survivor());
            }
            node.check_fresh("db");
            assert_eq!((node.txid("db"), node.db("db").pos()), (txid, want));
            let app = node.app();
            let mut conn = app.connect("db");
            run(&conn, "INSERT INTO t(v) VALUES ('more')");
            node.check("db", &mut conn);
        }
    }
}

#[test]
fn an_orphan_that_the_last_process_checkpoints_away_is_corrected_by_the_next() {
    for orphan in ORPHANS {
        for next in NEXT {
            for mode in ["WAL", "DELETE"] {
                println!("{orphan} / {next} / {mode}");
                let Scene { node, writer: (app, conn), other: (other_app, other) } = scene();
                dies_at_commit_frame(&app.process);
                conn.execute_batch(orphan).unwrap_err();
                app.kill([conn]);
                // The last close checkpoints what SQLite knows, and removes the WAL.
                drop(other);
                let mut conn = other_app.connect("db");
                run(&conn, &format!("PRAGMA journal_mode={mode}"));
                run(&conn, next);
                node.check("db", &mut conn);
            }
        }
    }
}

#[test]
fn a_crash_over_an_orphan_ends_with_log_and_files_equal() {
    for orphan in ORPHANS {
        for between in BETWEEN {
            println!("{orphan} / {between}");
            let Scene { node, writer: (app, conn), other: (_other_app, other) } = scene();
            dies_at_commit_frame(&app.process);
            conn.execute_batch(orphan).unwrap_err();
            app.kill([conn]);
            let start = node.disk.ops();
            run(&other, between);
            run(&other, "UPDATE t SET v='next' WHERE id%50=0");
            run(&other, "PRAGMA wal_checkpoint(RESTART)");
            run(&other, "UPDATE t SET v='after' WHERE id%40=0");
            for at in start..=node.disk.ops() {
                for landed in [Landed::Everything, Landed::Nothing, Landed::Some(at as u64)] {
                    println!("  {at}: {landed:?} {}", node.disk.describe(at));
                    let revived = Node::open(node.disk.crash_image(at, landed));
                    revived.check_fresh("db");
                }
            }
        }
    }
}
