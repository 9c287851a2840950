//! The disk fails: SQLite gets an error, nothing that was acknowledged is lost, and afterwards work goes on.

use litefs_core::db::Health;
use litefs_core::env::sim::{Call, EIO, ENOSPC, Fault, SimDisk};
use litefs_core::error::ErrorKind;
use litefs_tests::sim::Node;
use litefs_tests::sim::workload::{Setting, state};
use rusqlite::Connection;

const SCHEMA: &str = "BEGIN; CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE done(n); INSERT INTO done VALUES (0); COMMIT";

const TRANSACTIONS: [&str; 6] = [
    "BEGIN; UPDATE done SET n=n+1; INSERT INTO t(v) VALUES ('a'); COMMIT",
    "BEGIN; UPDATE done SET n=n+1; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<40) INSERT INTO t(v) SELECT hex(i*7919) || zeroblob(150) FROM n; COMMIT",
    "BEGIN; UPDATE done SET n=n+1; UPDATE t SET v = v || 'x' WHERE id%2; COMMIT",
    "BEGIN; UPDATE done SET n=n+1; DELETE FROM t WHERE id > 20; COMMIT",
    "BEGIN; UPDATE done SET n=n+1; SAVEPOINT s; UPDATE t SET v = v || 'lost'; ROLLBACK TO s; COMMIT",
    "BEGIN; UPDATE done SET n=n+1; UPDATE t SET v=id; COMMIT",
];

const CHANGES: [Call; 7] = [
    Call::Create,
    Call::Remove,
    Call::Rename,
    Call::SyncDir,
    Call::Write,
    Call::SetLen,
    Call::Sync,
];

fn number(conn: &Connection) -> i64 {
    conn.query_row("SELECT n FROM done", [], |row| row.get(0)).unwrap()
}

/// Runs a transaction that may fail, and rolls back if it did.
fn attempt(conn: &Connection, sql: &str) -> bool {
    let done = conn.execute_batch(sql).is_ok();
    if !conn.is_autocommit() {
        // The disk may fail here, too; SQLite then keeps the journal for the next reader.
        let _ = conn.execute_batch("ROLLBACK");
    }
    done
}

/// One run with a fault; returns whether it struck.
fn run_with(setting: Setting, fault: Fault) -> bool {
    let node = Node::open_with(SimDisk::new(5), |options| options);
    let app = node.app();
    let mut conn = setting.connect(&app, "db").unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    node.check("db", &mut conn);
    let mut acknowledged = 0;
    node.disk.inject(fault);
    for sql in TRANSACTIONS {
        if attempt(&conn, sql) {
            acknowledged += 1;
        }
    }
    let hit = node.disk.clear_faults();
    let Some((call, path)) = hit.first().cloned() else { return false };
    let context = format!("{setting:?}: {call:?} {}", path.display());

    // After a failed fsync of the log nobody knows what is durable: it takes nothing more until it is opened anew.
    // Where SQLite has to roll a journal back for that, it can't read either.
    let log_failed = node.db("db").health() != Health::Ok;
    assert!(!log_failed || call == Call::Sync || call == Call::SyncDir, "{context}");
    let allowed = acknowledged..=acknowledged + 1;
    let mut want = None;
    if !log_failed {
        let got = number(&conn);
        assert!(allowed.contains(&got), "{context}: {got} of {acknowledged}");
        conn.execute_batch(TRANSACTIONS[1])
            .unwrap_or_else(|err| panic!("{context}: work doesn't go on: {err}"));
        println!("{context}");
        node.check("db", &mut conn);
        want = Some((got + 1, state(&conn)));
    }
    app.kill([conn]);
    node.disk.kill();
    let revived = Node::open(node.disk.survivor());
    println!("{context}: reopened");
    assert_eq!(revived.db("db").health(), Health::Ok);
    let app = revived.app();
    let mut conn = setting.connect(&app, "db").unwrap();
    match want {
        Some(want) => assert_eq!((number(&conn), state(&conn)), want, "{context}"),
        None => assert!(allowed.contains(&number(&conn)), "{context}"),
    }
    revived.check("db", &mut conn);
    assert!(attempt(&conn, TRANSACTIONS[2]));
    revived.check("db", &mut conn);
    true
}

fn every_nth_call_fails(mode: &'static str) {
    for sync in ["NORMAL", "EXTRA"] {
        let setting = Setting::new(mode, sync);
        for errno in [EIO, ENOSPC] {
            for part in [false, true] {
                let fault = |n| {
                    let fault = Fault::new(errno).calls(&CHANGES).nth(n);
                    if part { fault.calls(&[Call::Write]).part_lands() } else { fault }
                };
                let runs = (1..).take_while(|n| run_with(setting, fault(*n))).count();
                assert!(runs > 20, "{runs}");
            }
        }
        let reads = [Call::Read, Call::Open, Call::Stat];
        let fault = |n| Fault::new(EIO).calls(&reads).nth(n);
        (1..).step_by(5).take_while(|n| run_with(setting, fault(*n))).for_each(drop);
    }
}

#[test]
fn every_nth_call_fails_in_delete_mode() {
    every_nth_call_fails("DELETE");
}

#[test]
fn every_nth_call_fails_in_truncate_mode() {
    every_nth_call_fails("TRUNCATE");
}

#[test]
fn every_nth_call_fails_in_persist_mode() {
    every_nth_call_fails("PERSIST");
}

#[test]
fn every_nth_call_fails_in_wal_mode() {
    every_nth_call_fails("WAL");
}

#[test]
fn every_nth_call_fails_in_memory_mode() {
    every_nth_call_fails("MEMORY");
}

#[test]
fn a_full_log_refuses_commits_until_there_is_space() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST", "WAL", "MEMORY"] {
        println!("{mode}");
        let setting = Setting::new(mode, "FULL");
        let node = Node::open_with(SimDisk::new(5), |options| options);
        let app = node.app();
        let mut conn = setting.connect(&app, "db").unwrap();
        conn.execute_batch(SCHEMA).unwrap();
        node.check("db", &mut conn);
        node.disk.inject(
            Fault::new(ENOSPC).calls(&[Call::Write, Call::Create]).path("/log/").times(u64::MAX),
        );
        let mut acknowledged = 0;
        let mut refused = 0;
        for _ in 0..20 {
            if attempt(&conn, TRANSACTIONS[0]) {
                acknowledged += 1;
            } else {
                refused += 1;
            }
        }
        assert!(refused > 0, "{mode}: nothing was refused");
        assert_eq!(number(&conn), acknowledged, "{mode}");
        node.disk.clear_faults();
        assert!(attempt(&conn, TRANSACTIONS[0]), "{mode}: space is there again");
        node.check("db", &mut conn);
        assert_eq!(number(&conn), acknowledged + 1, "{mode}");
    }
}

/// Nobody else has the transaction, so nobody else may lead.
#[test]
fn a_primary_hands_nothing_over_while_its_log_lacks_a_transaction() {
    let node = Node::open_with(SimDisk::new(5), |options| options);
    let app = node.app();
    let mut conn = Setting::new("WAL", "NORMAL").connect(&app, "db").unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    node.store.stop_writes().unwrap();
    node.store.become_primary();
    let full = Fault::new(ENOSPC).calls(&[Call::Write, Call::Create]).path("/log/");
    node.disk.inject(full.times(u64::MAX));
    assert!(attempt(&conn, TRANSACTIONS[0]), "the WAL has it");
    assert_eq!(node.store.stop_writes().unwrap_err().kind(), ErrorKind::NoSpace);
    node.disk.clear_faults();
    node.store.stop_writes().unwrap();
    node.store.become_primary();
    node.check("db", &mut conn);
}

#[test]
fn a_full_disk_refuses_and_takes_up_work_when_space_is_freed() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST", "WAL", "MEMORY"] {
        let setting = Setting::new(mode, "FULL");
        for extra in (0..60_000).step_by(1500) {
            let node = Node::open_with(SimDisk::new(5), |options| options);
            let app = node.app();
            let mut conn = setting.connect(&app, "db").unwrap();
            conn.execute_batch(SCHEMA).unwrap();
            node.check("db", &mut conn);
            node.disk.set_capacity(Some(node.disk.used() + extra));
            let acknowledged = TRANSACTIONS.iter().filter(|sql| attempt(&conn, sql)).count() as i64;
            node.disk.set_capacity(None);
            let got = number(&conn);
            assert_eq!(got, acknowledged, "{mode} {extra}");
            assert!(
                attempt(&conn, TRANSACTIONS[1]),
                "{mode} {extra}: {:?}",
                conn.execute_batch(TRANSACTIONS[1])
            );
            node.check("db", &mut conn);
            drop(conn);
            node.check_fresh("db");
        }
    }
}
