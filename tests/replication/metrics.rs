//! What `/metrics` says of a primary and a replica, after commits whose number is known.

use std::time::Instant;

use litefs_tests::cluster::{Cluster, address, eventually};
use litefs_tests::node::{LIMIT, Node};
use litefs_tests::{http, sqlite};

/// All metrics of a node.
pub(super) struct Metrics(String);

impl Metrics {
    pub(super) fn of(node: &Node) -> Metrics {
        let (status, body) = http::ask(address(node), "GET", "/metrics", "", LIMIT).unwrap();
        let text = String::from_utf8(body).unwrap();
        assert_eq!(status, 200, "{text}");
        Metrics(text)
    }

    /// The value of a metric, by its name and labels.
    #[track_caller]
    fn value(&self, name: &str) -> f64 {
        let mut values =
            self.0.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = values.next().unwrap_or_else(|| panic!("{name} isn't in\n{}", self.0));
        assert_eq!(values.next(), None, "{name} is there twice");
        value.parse().unwrap()
    }

    /// Whether there is such a metric.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.lines().any(|line| line.starts_with(name))
    }

    /// Names with labels, and their values.
    #[track_caller]
    pub(super) fn check(&self, wanted: &[(&str, f64)]) {
        for (name, want) in wanted {
            assert_eq!(self.value(name), *want, "{name}");
        }
    }
}

#[test]
fn metrics_tell_who_leads_how_far_both_are_and_how_late() {
    const COMMITS: u64 = 10;
    let cluster = Cluster::start();
    let replica = &cluster.replica().node;
    for (name, journal) in [("db", "WAL"), ("other", "DELETE")] {
        let conn = sqlite::open(&cluster.primary.path(name));
        sqlite::run(&conn, &format!("PRAGMA journal_mode={journal}; CREATE TABLE t(x)"));
        // One after the other, so that the replica applies each alone.
        while cluster.primary.pos(name).txid < COMMITS {
            sqlite::run(&conn, "INSERT INTO t VALUES (1)");
            cluster.await_position(name);
        }
        cluster.converge(name);
    }

    let both = [
        ("litefs_db_count", 2.0),
        ("litefs_db_txid{db=\"db\"}", COMMITS as f64),
        ("litefs_db_txid{db=\"other\"}", COMMITS as f64),
    ];
    let metrics = Metrics::of(&cluster.primary);
    metrics.check(&both);
    metrics.check(&[
        ("litefs_is_primary", 1.0),
        ("litefs_subscriber_count", 1.0),
        ("litefs_http_stream_count", 1.0),
        ("litefs_lag_seconds", 0.0),
        ("litefs_db_lag_seconds{db=\"db\"}", 0.0),
        ("litefs_db_commit_count{db=\"db\"}", COMMITS as f64),
        ("litefs_db_commit_count{db=\"other\"}", COMMITS as f64),
        ("litefs_commit_seconds_count", 2.0 * COMMITS as f64),
        ("litefs_apply_seconds_count", 0.0),
        ("litefs_replica_lag_seconds_count", 0.0),
    ]);
    assert!(metrics.value("litefs_commit_seconds_sum") > 0.0);

    let metrics = Metrics::of(replica);
    metrics.check(&both);
    metrics.check(&[
        ("litefs_is_primary", 0.0),
        ("litefs_subscriber_count", 0.0),
        ("litefs_http_stream_count", 0.0),
        ("litefs_db_commit_count{db=\"db\"}", 0.0),
        ("litefs_db_commit_count{db=\"other\"}", 0.0),
        ("litefs_commit_seconds_count", 0.0),
    ]);
    let applied = metrics.value("litefs_apply_seconds_count");
    assert!((2.0..=2.0 * COMMITS as f64).contains(&applied), "{applied}");
    assert_eq!(metrics.value("litefs_replica_lag_seconds_count"), applied);
    for name in ["db", "other"] {
        let lag = metrics.value(&format!("litefs_db_lag_seconds{{db=\"{name}\"}}"));
        assert!((0.0..LIMIT.as_secs_f64()).contains(&lag), "{name}: {lag}");
    }
    let applying = metrics.value("litefs_apply_seconds_sum");
    assert!(applying > 0.0 && applying < LIMIT.as_secs_f64(), "{applying}");
    // The primary is heard from once a second.
    assert!(eventually(LIMIT, || Metrics::of(replica).value("litefs_lag_seconds") < 1.5));

    // A commit that the network holds back is as late as that.
    cluster.replica().net.stall(true);
    sqlite::run(&sqlite::open(&cluster.primary.path("other")), "INSERT INTO t VALUES (1)");
    let committed = Instant::now();
    assert!(eventually(LIMIT, || Metrics::of(replica).value("litefs_lag_seconds") > 2.0));
    Metrics::of(replica).check(&both);
    let held_back = committed.elapsed().as_secs_f64();
    cluster.replica().net.stall(false);
    cluster.converge("other");
    let metrics = Metrics::of(replica);
    metrics.check(&[("litefs_db_txid{db=\"other\"}", COMMITS as f64 + 1.0)]);
    let lag = metrics.value("litefs_db_lag_seconds{db=\"other\"}");
    assert!((held_back..LIMIT.as_secs_f64()).contains(&lag), "{lag}, but {held_back} held back");
    assert!(metrics.value("litefs_replica_lag_seconds_sum") >= lag);
}
