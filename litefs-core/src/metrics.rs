//! What a store counts and measures: every name, unit and label is here.
//!
//! ```text
//!  files, capture, apply ─► DbMetrics: one atomic each      http, streams ─► Metrics
//!                                 └────────────► Registry ◄────────┘
//!  GET /metrics ─► what the store knows anyway (positions, sizes, role) ─► Registry ─► text
//! ```
//!
//! Each store has its own registry. A database finds its counters once, when it is opened: to count is to add to an
//! atomic, to measure takes the clock twice. What isn't here: who asks (see `http::metrics`).
//!
//! | labels | values |
//! |---|---|
//! | `db` | names of databases |
//! | `type` | `ltx`, `ltx:snapshot` |
//! | `kind` | `stream`, `export`, `import`, `tx` |
//!
//! Names of LiteFS keep its meaning, but for these: `litefs_db_ltx_count` and `litefs_db_ltx_bytes` are always what the
//! log holds, not what was added since it was last cleared up; `litefs_http_frame_send_count` counts.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder, core::Collector,
};

use crate::db::{Database, FileKind};
use crate::store::{Lag, Store};
use crate::types::DbName;

/// The metrics of a store.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    db_count: IntGauge,
    is_primary: IntGauge,
    subscribers: IntGauge,
    lag: Gauge,
    frames: IntCounterVec,
    sent: IntCounterVec,
    received: IntCounterVec,
    db: PerDb,
    histograms: Histograms,
    /// Streams that replicas have open.
    pub(crate) streams: IntGauge,
}

/// One vector per metric that each database has.
#[derive(Debug)]
struct PerDb {
    txid: IntGaugeVec,
    database_writes: IntCounterVec,
    journal_writes: IntCounterVec,
    wal_writes: IntCounterVec,
    shm_writes: IntCounterVec,
    commits: IntCounterVec,
    refused: IntCounterVec,
    ltx_count: IntGaugeVec,
    ltx_bytes: IntGaugeVec,
    reaped: IntCounterVec,
    lag: GaugeVec,
    wal_bytes: IntGaugeVec,
    held_frames: IntGaugeVec,
}

#[derive(Debug, Clone)]
struct Histograms {
    commit: Histogram,
    apply: Histogram,
    lag: Histogram,
}

/// The metrics that one database writes.
#[derive(Debug)]
pub(crate) struct DbMetrics {
    database_writes: IntCounter,
    journal_writes: IntCounter,
    wal_writes: IntCounter,
    shm_writes: IntCounter,
    lag: Gauge,
    lag_histogram: Histogram,
    /// Local commits.
    pub(crate) commits: IntCounter,
    /// Writes of applications that were refused because this node is a replica.
    pub(crate) refused: IntCounter,
    /// Transactions that retention has removed.
    pub(crate) reaped: IntCounter,
    /// WAL frames that a reader keeps from being checkpointed.
    pub(crate) held_frames: IntGauge,
    /// What a commit costs, from the write that completes it to its acceptance.
    pub(crate) commit_seconds: Histogram,
    /// What bringing transactions of a primary to the files costs.
    pub(crate) apply_seconds: Histogram,
}

/// What bytes are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Replication.
    Stream,
    /// `GET /export`.
    Export,
    /// `POST /import`.
    Import,
    /// `POST /tx`.
    Tx,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let registry = Registry::new();
        let r = Registrar(&registry);
        let histograms = Histograms {
            commit: r.histogram(
                "litefs_commit_seconds",
                "Time from the write that completes a commit to its acceptance.",
                FAST,
            ),
            apply: r.histogram(
                "litefs_apply_seconds",
                "Time to bring transactions of the primary to a database's files.",
                FAST,
            ),
            lag: r.histogram(
                "litefs_replica_lag_seconds",
                "Time from a commit on the primary to its application here.",
                SLOW,
            ),
        };
        let db = PerDb {
            txid: r.gauges("litefs_db_txid", "Current transaction ID."),
            database_writes: r.counters(
                "litefs_db_database_write_count",
                "Number of writes to the database file.",
                &["db"],
            ),
            journal_writes: r.counters(
                "litefs_db_journal_write_count",
                "Number of writes to the journal.",
                &["db"],
            ),
            wal_writes: r.counters(
                "litefs_db_wal_write_count",
                "Number of writes to the WAL.",
                &["db"],
            ),
            shm_writes: r.counters(
                "litefs_db_shm_write_count",
                "Number of writes to the shared memory that the kernel has passed on.",
                &["db"],
            ),
            commits: r.counters("litefs_db_commit_count", "Number of local commits.", &["db"]),
            refused: r.counters(
                "litefs_db_refused_write_count",
                "Number of writes refused because the node is a replica.",
                &["db"],
            ),
            ltx_count: r.gauges("litefs_db_ltx_count", "Number of transactions in the log."),
            ltx_bytes: r.gauges("litefs_db_ltx_bytes", "Size of the log."),
            reaped: r.counters(
                "litefs_db_ltx_reap_count",
                "Number of transactions removed by retention.",
                &["db"],
            ),
            lag: r.register(GaugeVec::new(
                Opts::new("litefs_db_lag_seconds", "Latency of the last applied transaction."),
                &["db"],
            )),
            wal_bytes: r.gauges("litefs_db_wal_bytes", "Size of the WAL."),
            held_frames: r.gauges(
                "litefs_db_wal_held_frames",
                "WAL frames that a reader kept from the last checkpoint of a replica.",
            ),
        };
        Metrics {
            db_count: r.gauge("litefs_db_count", "Number of managed databases."),
            is_primary: r.gauge("litefs_is_primary", "Primary status of the node."),
            subscribers: r.gauge("litefs_subscriber_count", "Number of connected subscribers"),
            lag: r.register(Gauge::new(
                "litefs_lag_seconds",
                "Lag behind the primary node, in seconds",
            )),
            streams: r.gauge("litefs_http_stream_count", "Number of streams currently connected."),
            frames: r.counters(
                "litefs_http_frame_send_count",
                "Number of frames sent.",
                &["db", "type"],
            ),
            sent: r.counters(
                "litefs_http_sent_bytes_total",
                "Bytes sent to other nodes and clients.",
                &["kind"],
            ),
            received: r.counters(
                "litefs_http_received_bytes_total",
                "Bytes received from other nodes and clients.",
                &["kind"],
            ),
            db,
            histograms,
            registry,
        }
    }

    /// The metrics of a database.
    pub(crate) fn database(&self, name: &DbName) -> DbMetrics {
        let (label, db) = (&[name.as_str()], &self.db);
        DbMetrics {
            database_writes: db.database_writes.with_label_values(label),
            journal_writes: db.journal_writes.with_label_values(label),
            wal_writes: db.wal_writes.with_label_values(label),
            shm_writes: db.shm_writes.with_label_values(label),
            commits: db.commits.with_label_values(label),
            refused: db.refused.with_label_values(label),
            reaped: db.reaped.with_label_values(label),
            held_frames: db.held_frames.with_label_values(label),
            lag: db.lag.with_label_values(label),
            lag_histogram: self.histograms.lag.clone(),
            commit_seconds: self.histograms.commit.clone(),
            apply_seconds: self.histograms.apply.clone(),
        }
    }

    /// A frame with an LTX file was sent.
    pub(crate) fn frame_sent(&self, db: &DbName, is_snapshot: bool) {
        let kind = if is_snapshot { "ltx:snapshot" } else { "ltx" };
        self.frames.with_label_values(&[db.as_str(), kind]).inc();
    }

    /// The counter of sent bytes.
    pub(crate) fn sent(&self, what: Traffic) -> IntCounter {
        self.sent.with_label_values(&[what.label()])
    }

    /// The counter of received bytes.
    pub(crate) fn received(&self, what: Traffic) -> IntCounter {
        self.received.with_label_values(&[what.label()])
    }

    /// All metrics, as Prometheus reads them.
    pub(crate) fn render(&self, store: &Store) -> Result<String, prometheus::Error> {
        self.observe(store);
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// What the store knows without counting.
    fn observe(&self, store: &Store) {
        let databases = store.databases();
        self.db_count.set(signed(databases.len() as u64));
        self.is_primary.set(i64::from(store.is_primary()));
        self.subscribers.set(signed(store.subscribers() as u64));
        self.lag.set(match store.lag() {
            Lag::Primary | Lag::Unknown => 0.0,
            Lag::Behind(lag) => lag.as_secs_f64(),
        });
        for db in databases {
            self.observe_database(&db);
        }
    }

    fn observe_database(&self, db: &Database) {
        let label = &[db.name().as_str()];
        let set = |gauge: &IntGaugeVec, value| gauge.with_label_values(label).set(signed(value));
        let log = db.log_usage();
        set(&self.db.txid, db.pos().map_or(0, |pos| pos.txid.as_u64()));
        set(&self.db.ltx_count, log.transactions);
        set(&self.db.ltx_bytes, log.bytes);
        set(&self.db.wal_bytes, db.len(FileKind::Wal).ok().flatten().unwrap_or(0));
    }
}

impl DbMetrics {
    /// An application has written to a file.
    pub(crate) fn written(&self, kind: FileKind) {
        match kind {
            FileKind::Database => self.database_writes.inc(),
            FileKind::Journal => self.journal_writes.inc(),
            FileKind::Wal => self.wal_writes.inc(),
            FileKind::Shm => self.shm_writes.inc(),
            FileKind::Super(_) => {}
        }
    }

    /// A local commit.
    pub(crate) fn committed(&self) {
        self.commits.inc();
        self.lag.set(0.0);
    }

    /// A transaction of the primary was applied, so long after its commit.
    pub(crate) fn applied(&self, lag: std::time::Duration) {
        self.lag.set(lag.as_secs_f64());
        self.lag_histogram.observe(lag.as_secs_f64());
    }
}

impl Traffic {
    fn label(self) -> &'static str {
        match self {
            Traffic::Stream => "stream",
            Traffic::Export => "export",
            Traffic::Import => "import",
            Traffic::Tx => "tx",
        }
    }
}

struct Registrar<'a>(&'a Registry);

impl Registrar<'_> {
    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), &["db"]))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.register(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        ))
    }

    fn register<M>(&self, metric: Result<M, prometheus::Error>) -> M
    where
        M: Collector + Clone + 'static,
    {
        let metric = metric.expect("the names here are valid");
        self.0.register(Box::new(metric.clone())).expect("each name is here once");
        metric
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// 10 µs to 1 s.
const FAST: &[f64] =
    &[1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 0.5, 1.0];
/// 1 ms to 1 min.
const SLOW: &[f64] =
    &[1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];
