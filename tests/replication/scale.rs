//! Much of something: databases, transactions.

use litefs_tests::cluster::{Cluster, Watching};
use litefs_tests::sqlite;
use litefs_tests::workload::{Mode, Workload};

use crate::watch;

#[test]
fn three_hundred_databases_follow() {
    let cluster = Cluster::start();
    let name = |i| format!("db{i}");
    for round in 0..2 {
        for i in 0..300 {
            let conn = sqlite::open(&cluster.primary.path(&name(i)));
            let journal = ["WAL", "DELETE"][i % 2];
            sqlite::run(&conn, &format!("PRAGMA synchronous=OFF; PRAGMA journal_mode={journal}"));
            sqlite::run(&conn, "CREATE TABLE IF NOT EXISTS t(x)");
            sqlite::run(&conn, &format!("INSERT INTO t VALUES ({i} + {round})"));
        }
        if round == 0 {
            cluster.replica().net.cut();
        }
    }
    for i in 0..300 {
        cluster.await_position(&name(i));
    }
    (0..300).step_by(7).for_each(|i| cluster.converge(&name(i)));
}

#[test]
fn ten_thousand_small_transactions_follow() {
    follow(Mode::new("WAL", "NORMAL"), 10_000);
}

#[test]
fn a_thousand_small_transactions_in_rollback_mode_follow() {
    follow(Mode::new("DELETE", "OFF"), 1000);
}

fn follow(mode: Mode, count: i64) {
    let cluster = Cluster::start();
    let mut workload = Workload::open(&cluster.primary.path("db"), mode, 3).unwrap();
    workload.step().unwrap();
    cluster.converge("db");
    // A replica that lags far gets a snapshot.
    let watcher = watch(&cluster.replica().node.path("db"), Watching::Keep);
    let conn = workload.connection();
    sqlite::run(conn, "CREATE TABLE t(x)");
    for i in 0..count {
        conn.execute("INSERT INTO t VALUES (?)", [i]).unwrap();
    }
    drop(workload);
    cluster.converge("db");
    watcher.finish();
}
