//! `litefs export` and `litefs import` against a mount that is in use.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use litefs_tests::node::{LIMIT, Node, NodeOptions, litefs};
use litefs_tests::process::Process;
use litefs_tests::sqlite;

pub(super) fn transfer(node: &Node, command: &str, db: &str, path: &Path) -> (Option<i32>, String) {
    let line = node.process().line("http server listening on: ", LIMIT).text;
    let url = line.split("on: ").nth(1).unwrap().trim_matches('"').to_owned();
    let mut litefs = Command::new(litefs());
    Process::run(litefs.args([command, "-url", &url, "-name", db]).arg(path), LIMIT)
}

#[track_caller]
pub(super) fn succeeds((code, output): (Option<i32>, String), line: &str) {
    assert!(code == Some(0) && output.starts_with(line), "{code:?} {output}");
}

/// A database file outside of the mount, with `rows` rows.
fn source(dir: &Path, rows: u32, journal: &str) -> std::path::PathBuf {
    let path = dir.join(format!("source-{rows}-{journal}.db"));
    let conn = sqlite::open(&path);
    sqlite::run(&conn, &format!("PRAGMA journal_mode={journal}; CREATE TABLE t(x, y)"));
    let insert = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows}) \
         INSERT INTO t SELECT i, randomblob(1000) FROM n"
    );
    sqlite::run(&conn, &insert);
    path
}

#[test]
fn exports_while_a_writer_writes_are_whole() {
    let node = Node::start_with(NodeOptions { strict_verify: false, ..NodeOptions::default() });
    let dir = tempfile::tempdir().unwrap();
    for journal in ["WAL", "DELETE"] {
        let conn = sqlite::open(&node.path(journal));
        sqlite::run(&conn, &format!("PRAGMA journal_mode={journal}; CREATE TABLE t(x, y)"));
        let path = dir.path().join(journal);
        thread::scope(|scope| {
            let writer = scope.spawn(move || {
                for i in 0..200 {
                    // Twice the same, so that a half transaction shows.
                    let row = format!("INSERT INTO t VALUES ({i}, randomblob(3000))");
                    sqlite::run(&conn, &format!("BEGIN; {row}; {row}; COMMIT"));
                }
            });
            while !writer.is_finished() {
                succeeds(transfer(&node, "export", journal, &path), "Export of database");
                let copy = sqlite::open(&path);
                assert_eq!(sqlite::text(&copy, "PRAGMA integrity_check"), "ok");
                assert_eq!(sqlite::number(&copy, "SELECT count(*) % 2 FROM t"), 0);
            }
        });
        node.check(journal);
    }
}

#[test]
fn an_open_connection_sees_what_was_imported() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let conn = sqlite::open(&node.path("db"));
    sqlite::run(&conn, "CREATE TABLE t(x, y); INSERT INTO t VALUES (1, 1)");
    for rows in [10, 300, 20] {
        let path = source(dir.path(), rows, "DELETE");
        succeeds(transfer(&node, "import", "db", &path), "Import of database \"db\" in ");
        assert_eq!(sqlite::number(&conn, "SELECT count(*) FROM t"), i64::from(rows));
        sqlite::run(&conn, "INSERT INTO t VALUES (0, 0)");
        node.check("db");
    }
    succeeds(transfer(&node, "import", "new", &source(dir.path(), 30, "WAL")), "Import");
    node.check("new");
}

#[test]
fn an_import_over_a_reader_in_wal_mode_is_refused() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let path = source(dir.path(), 10, "DELETE");
    let conn = sqlite::open(&node.path("db"));
    sqlite::run(
        &conn,
        "PRAGMA journal_mode=WAL; CREATE TABLE t(x, y); INSERT INTO t VALUES (1, 1)",
    );
    let (code, output) = transfer(&node, "import", "db", &path);
    assert_eq!(code, Some(1));
    assert!(output.contains("ERROR: invalid response: code=409"), "{output}");
    assert!(output.contains("database is locked"), "{output}");
    assert_eq!(sqlite::number(&conn, "SELECT count(*) FROM t"), 1);
    sqlite::run(&conn, "INSERT INTO t VALUES (2, 2)");
    drop(conn);
    succeeds(transfer(&node, "import", "db", &path), "Import");
    assert_eq!(sqlite::number(&sqlite::open(&node.path("db")), "SELECT count(*) FROM t"), 10);
    node.check("db");
}

#[test]
fn a_transfer_that_fails_leaves_all_as_it_was() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "precious").unwrap();
    assert_eq!(transfer(&node, "export", "none", &path).1, "ERROR: database not found\n");
    let (code, output) = transfer(&node, "import", "none", &path);
    assert!(code == Some(1) && output.contains("code=500"), "{output}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    assert!(!node.path("none").exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_node_that_is_killed_during_an_import_has_the_old_or_the_new_database() {
    let dir = tempfile::tempdir().unwrap();
    // One that is logged with its pages, one that isn't.
    let sources = [5_000, 70_000].map(|rows| (rows, source(dir.path(), rows, "DELETE")));
    let mut node = Node::start_with(NodeOptions {
        strict_verify: false,
        limit: Duration::from_secs(300),
        ..NodeOptions::default()
    });
    let conn = sqlite::open(&node.path("db"));
    sqlite::run(&conn, "CREATE TABLE t(x, y); INSERT INTO t VALUES (1, 1)");
    drop(conn);
    for (delay, (rows, path)) in [5, 15, 40, 80, 160, 300]
        .into_iter()
        .flat_map(|delay| sources.iter().map(move |source| (Duration::from_millis(delay), source)))
    {
        let before = sqlite::number(&sqlite::open(&node.path("db")), "SELECT count(*) FROM t");
        thread::scope(|scope| {
            let import = scope.spawn(|| transfer(&node, "import", "db", path));
            thread::sleep(delay);
            node.kill_and_abort();
            import.join().unwrap();
        });
        node.up();
        let now = sqlite::number(&sqlite::open(&node.path("db")), "SELECT count(*) FROM t");
        assert!(now == before || now == i64::from(*rows), "{now} rows after {delay:?}");
        node.check("db");
    }
}
