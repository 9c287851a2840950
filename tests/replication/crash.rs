//! Nodes are killed while they replicate.

use std::fs;
use std::mem;
use std::process::Command;
use std::thread;
use std::time::Duration;

use litefs_tests::cluster::{Cluster, ClusterOptions, eventually};
use litefs_tests::node::{LIMIT, Node};
use litefs_tests::process::Process;
use litefs_tests::random::Random;
use litefs_tests::sqlite;
use litefs_tests::workload::{self, FORGETFUL};
use nix::sys::signal::Signal;

use crate::metrics::Metrics;
use crate::{MODES, while_writing};

fn rounds() -> usize {
    workload::rounds(25)
}

fn cluster() -> Cluster {
    let limit = Duration::from_secs(120 + 4 * rounds() as u64);
    Cluster::start_with(ClusterOptions { limit, ..ClusterOptions::default() })
}

#[test]
fn a_replica_killed_while_it_applies_goes_on() {
    let mut random = Random::from_env();
    let mut cluster = cluster();
    for round in 0..rounds() {
        let mode = MODES[round % MODES.len()];
        let path = cluster.primary.path(mode.journal);
        let node = &mut cluster.replicas[0].node;
        while_writing(&path, mode, random.any(), || {
            thread::park_timeout(Duration::from_micros(random.below(150_000)));
            node.kill();
            thread::park_timeout(Duration::from_micros(random.below(30_000)));
            node.up_alone();
            thread::park_timeout(Duration::from_micros(random.below(30_000)));
        });
        cluster.converge(mode.journal);
    }
}

/// Big transactions in both modes: WAL frames, direct writes and checkpoints take long enough to be struck.
#[test]
fn a_replica_killed_in_a_big_transaction_goes_on() {
    let mut random = Random::from_env();
    let mut cluster = cluster();
    for round in 0..rounds() {
        let journal = ["WAL", "DELETE"][round % 2];
        let conn = sqlite::open(&cluster.primary.path(journal));
        sqlite::run(
            &conn,
            &format!("PRAGMA journal_mode={journal}; CREATE TABLE IF NOT EXISTS t(x, y)"),
        );
        let start = cluster.replicas[0].node.pos_if_there(journal);
        let (node, primary) = (&mut cluster.replicas[0].node, &cluster.primary);
        thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..3 {
                    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
                                INSERT INTO t SELECT i, randomblob(2000) FROM n";
                    sqlite::run(&conn, &format!("BEGIN; DELETE FROM t; {rows}; COMMIT"));
                }
            });
            // From the moment on that the first one may have come.
            eventually(LIMIT, || primary.pos_if_there(journal) != start);
            thread::park_timeout(Duration::from_micros(random.below(80_000)));
            node.kill();
        });
        cluster.replicas[0].node.up_alone();
        cluster.converge(journal);
    }
}

/// Into an empty data directory, and over databases of another history.
#[test]
fn a_replica_killed_in_a_snapshot_gets_it_again() {
    const ROWS: &str =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)
                        INSERT INTO t SELECT i, randomblob(2000) FROM n";
    let mut random = Random::from_env();
    let mut cluster = cluster();
    let other = Node::start();
    for node in [&cluster.primary, &other] {
        for name in ["WAL", "DELETE"] {
            let conn = sqlite::open(&node.path(name));
            sqlite::run(
                &conn,
                &format!("PRAGMA journal_mode={name}; CREATE TABLE t(x, y); {ROWS}"),
            );
        }
    }
    for round in 0..rounds() {
        let node = &mut cluster.replicas[0].node;
        node.kill();
        fs::remove_dir_all(node.data().join("dbs")).unwrap();
        if round % 2 == 1 {
            let mut cp = Command::new("cp");
            let cp = cp.arg("-r").arg(other.data().join("dbs")).arg(node.data().join("dbs"));
            assert_eq!(Process::run(cp, LIMIT).0, Some(0));
        }
        node.up_alone();
        thread::park_timeout(Duration::from_micros(random.below(200_000)));
        node.kill();
        node.up_alone();
        for name in ["WAL", "DELETE"] {
            cluster.converge(name);
        }
    }
}

#[test]
fn a_primary_killed_while_it_sends_goes_on() {
    let mut random = Random::from_env();
    let mut cluster = cluster();
    for round in 0..rounds() {
        let mode = MODES[round % MODES.len()];
        let mut command = Command::new(env!("CARGO_BIN_EXE_litefs-workload"));
        command.arg(cluster.primary.path(mode.journal));
        command.args([mode.journal, mode.synchronous, &random.any().to_string()]);
        let writer = Process::start(&mut command);
        writer.lines_at_least(random.below(40) as usize, LIMIT);
        thread::park_timeout(Duration::from_micros(random.below(6000)));
        cluster.primary.kill();
        writer.signal(Signal::SIGKILL);
        writer.wait(LIMIT);
        cluster.primary_up();
        cluster.converge(mode.journal);
    }
}

/// SQLite's rollback leaves in free pages what the transaction had written there, so the whole database is logged anew; or
/// its position alone, if it is too big for the log.
#[test]
fn a_primary_killed_in_a_transaction_that_uses_free_pages_is_followed() {
    for (blob, sent, others) in [(1, "ltx", "ltx:snapshot"), (70 << 20, "ltx:snapshot", "ltx")] {
        let data = FORGETFUL.into();
        let mut cluster = Cluster::start_with(ClusterOptions { data, ..ClusterOptions::default() });
        let conn = sqlite::open(&cluster.primary.path("db"));
        sqlite::run(&conn, &format!("CREATE TABLE big AS SELECT randomblob({blob})"));
        workload::make_forgotten_pages(&cluster.primary, "db", &conn);
        let before = cluster.await_position("db").unwrap();
        workload::overwrite_free_pages(&conn);
        cluster.primary.kill();
        // Its files are those of a dead mount from now on, so it must not touch them again.
        mem::forget(conn);
        // The replica may take its time.
        cluster.primary.options().data.clear();
        cluster.primary_up();
        cluster.converge("db");

        assert_eq!(cluster.primary.pos("db").txid, before.txid + 1);
        let metrics = Metrics::of(&cluster.primary);
        let count = |kind| format!("litefs_http_frame_send_count{{db=\"db\",type=\"{kind}\"}}");
        metrics.check(&[(&count(sent), 1.0)]);
        assert!(!metrics.has(&count(others)));
        // Free pages and all, both go on from there.
        let conn = sqlite::open(&cluster.primary.path("db"));
        assert_eq!(sqlite::number(&conn, "SELECT count(*) FROM t"), 50);
        sqlite::run(&conn, &workload::insert_rows(1001, 1100));
        drop(conn);
        cluster.converge("db");
    }
}
