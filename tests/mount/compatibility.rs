//! A data directory as the original leaves it, and a node that isn't the primary.

use std::fs;
use std::path::Path;

use litefs_core::ltx::{Encoder, FileName, Header, Timestamp, page_checksum};
use litefs_core::types::{Checksum, PageCount, PageSize, Pgno, Txid};
use litefs_tests::node::{LIMIT, Node, NodeOptions};
use litefs_tests::sqlite;
use rusqlite::ErrorCode;

/// Writes what the original has logged of a database that was made in `txid` transactions: all of it as
/// one file, as after a compaction or on a replica that came late.
fn log_as_the_original(database: &Path, dir: &Path, txid: u64) {
    const SIZE: PageSize = PageSize::new(4096).unwrap();
    let content = fs::read(database).unwrap();
    let commit = PageCount::new(u32::try_from(content.len() / SIZE.as_usize()).unwrap());
    let header = Header {
        compressed: true,
        page_size: SIZE,
        commit,
        min_txid: Txid::FIRST,
        max_txid: Txid::new(txid).unwrap(),
        timestamp: Timestamp::from_millis(1_700_000_000_123),
        pre_apply: None,
        wal: None,
        node_id: 0x0123_4567_89ab_cdef,
    };
    let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
    let mut sum = Checksum::EMPTY;
    for (pgno, page) in Pgno::all(commit, SIZE).zip(content.chunks(SIZE.as_usize())) {
        encoder.page(pgno, page).unwrap();
        sum = sum.toggle(page_checksum(pgno, page));
    }
    let (ltx, _) = encoder.finish(sum).unwrap();
    let name = FileName { min: header.min_txid, max: header.max_txid };
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join(name.to_string()), ltx).unwrap();
}

#[test]
fn a_data_directory_of_the_original_opens_as_it_is() {
    let mut node = Node::new(NodeOptions::default());
    let dir = node.backing("db");
    fs::create_dir_all(&dir).unwrap();
    let conn = sqlite::open(&dir.join("database"));
    sqlite::run(&conn, "PRAGMA page_size=4096; CREATE TABLE t(x, y)");
    for i in 0..50 {
        sqlite::run(&conn, &format!("INSERT INTO t VALUES ({i}, zeroblob(700))"));
    }
    drop(conn);
    log_as_the_original(&dir.join("database"), &dir.join("ltx"), 51);
    // What it leaves besides.
    fs::write(node.data().join("id"), "0123456789ABCDEF\n").unwrap();
    fs::write(node.data().join("clusterid"), "LFSC0123456789ABCDEF\n").unwrap();
    fs::write(dir.join("shm"), vec![0; 32768]).unwrap();
    fs::write(dir.join("wal"), "").unwrap();

    let process = node.launch();
    process.line("waiting for signal", LIMIT);
    process.line("using existing cluster id: \\\"LFSC0123456789ABCDEF\\\"", LIMIT);
    assert_eq!(node.pos("db").txid, 51);
    node.check("db");
    let conn = sqlite::open(&node.path("db"));
    assert_eq!(sqlite::number(&conn, "SELECT sum(x) FROM t"), 49 * 50 / 2);
    sqlite::run(&conn, "INSERT INTO t VALUES (1, 1)");
    drop(conn);
    assert_eq!(node.pos("db").txid, 52);
    node.check("db");

    assert_eq!(node.stop(), Some(0));
    node.up();
    assert_eq!(node.pos("db").txid, 52);
    node.check("db");
    assert!(!node.data().join("id").exists());
}

#[test]
fn a_node_that_isnt_the_primary_reads_and_doesnt_write() {
    let mut node = Node::start();
    node.make_databases();
    let before = (node.pos("DELETE"), node.pos("WAL"));
    assert_eq!(node.stop(), Some(0));

    node.options().config = "lease:\n  type: static\n  candidate: false\n  hostname: other\n  \
                             advertise-url: http://127.0.0.1:1\nskip-sync: true\n"
        .into();
    node.up();
    for (journal, want) in [("DELETE", ErrorCode::ReadOnly), ("WAL", ErrorCode::SystemIoFailure)] {
        let conn = sqlite::open(&node.path(journal));
        assert_eq!(sqlite::number(&conn, "SELECT x FROM t"), 1, "{journal}");
        let err = sqlite::try_run(&conn, "INSERT INTO t VALUES (2)").unwrap_err();
        assert_eq!(err.sqlite_error_code(), Some(want), "{journal}: {err}");
        assert_eq!(sqlite::number(&conn, "SELECT count(*) FROM t"), 1, "{journal}");
    }
    assert!(fs::File::create_new(node.path("new")).is_err(), "a database was created");
    assert!(fs::remove_file(node.path("DELETE")).is_err(), "a database was dropped");
    assert_eq!((node.pos("DELETE"), node.pos("WAL")), before);
    node.check_log();
    assert_eq!(node.stop(), Some(0));
}
