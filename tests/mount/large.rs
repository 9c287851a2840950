//! Databases past 1 GiB, where SQLite leaves out the page with its lock bytes.

use std::time::Duration;

use litefs_tests::node::{Node, NodeOptions};
use litefs_tests::sqlite;

/// Crosses the limit with pages of 64 KiB and as few transactions as possible; blobs of zeros compress.
fn cross_the_lock_page(journal: &str) {
    let node = Node::start_with(NodeOptions {
        strict_verify: false,
        limit: Duration::from_secs(240),
        ..NodeOptions::default()
    });
    let conn = sqlite::open(&node.path("db"));
    sqlite::run(
        &conn,
        &format!(
            "PRAGMA page_size=65536; PRAGMA journal_mode={journal}; PRAGMA synchronous=OFF;
             CREATE TABLE t(id INTEGER PRIMARY KEY, y BLOB)"
        ),
    );
    // In blobs of 130 MB: nine of them end past 1 GiB.
    for _ in 0..9 {
        sqlite::run(&conn, "INSERT INTO t(y) VALUES (zeroblob(130000000))");
    }
    let lock_page = (1 << 30) / 65536 + 1;
    assert!(sqlite::number(&conn, "PRAGMA page_count") > lock_page + 10);
    sqlite::run(&conn, "UPDATE t SET id = id + 100; INSERT INTO t(y) VALUES ('small')");
    assert_eq!(sqlite::number(&conn, "SELECT sum(length(y)) FROM t"), 9 * 130_000_000 + 5);
    drop(conn);
    node.check("db");

    let conn = sqlite::open(&node.path("db"));
    sqlite::run(&conn, "PRAGMA synchronous=OFF; DELETE FROM t WHERE id < 108; VACUUM");
    assert!(sqlite::number(&conn, "PRAGMA page_count") < lock_page);
    drop(conn);
    node.check("db");
}

#[test]
fn a_rollback_database_grows_past_the_lock_page_and_shrinks_again() {
    cross_the_lock_page("DELETE");
}

#[test]
fn a_wal_database_grows_past_the_lock_page_and_shrinks_again() {
    cross_the_lock_page("WAL");
}
