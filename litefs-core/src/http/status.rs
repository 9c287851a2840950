//! `GET /status`: what `litefs status` shows. The original doesn't know it.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::{AppState, error};
use crate::db::{Database, Health};
use crate::store::{Lag, Role};
use crate::types::Pos;

/// A node, its databases, and who follows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Status {
    /// 16 hex digits.
    #[serde(rename = "nodeID")]
    pub node_id: String,
    /// The cluster, once there is one.
    #[serde(rename = "clusterID", skip_serializing_if = "Option::is_none", default)]
    pub cluster_id: Option<String>,
    /// Its host name, as it is configured.
    pub hostname: String,
    /// Whether it is the primary.
    pub is_primary: bool,
    /// Whether it may become it.
    pub candidate: bool,
    /// Whom it follows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub primary: Option<PrimaryStatus>,
    /// The reign in which it last had all that the primary had.
    pub reign: u64,
    /// How far it lies behind the primary, at least; `None` if it hasn't heard from one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lag_seconds: Option<f64>,
    /// By name.
    pub databases: Vec<DatabaseStatus>,
    /// The replicas that follow this node.
    pub streams: Vec<StreamStatus>,
}

/// A primary as its replicas know it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrimaryStatus {
    /// Its host name.
    pub hostname: String,
    /// Where it is reached.
    #[serde(rename = "advertiseURL")]
    pub advertise_url: String,
}

/// A database on a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct DatabaseStatus {
    /// Its name in the mount.
    pub name: String,
    /// 16 hex digits; zeros before the first transaction.
    pub txid: String,
    /// 16 hex digits.
    pub checksum: String,
    /// In bytes.
    pub size: u64,
    /// Why it takes no writes, though the node might.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
    /// Directories with transactions that the cluster never saw.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub diverged: Vec<String>,
}

/// A replica that follows a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct StreamStatus {
    /// 16 hex digits.
    #[serde(rename = "nodeID")]
    pub node_id: String,
    /// Where it connects from.
    pub addr: String,
    /// Whether it says that it may become primary. Replicas of the original don't say it.
    pub candidate: bool,
    /// How many transactions were not yet sent to it; `None` while it gets what it lacked when it connected.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub behind: Option<u64>,
}

pub(super) async fn status(State(state): State<AppState>) -> Response {
    match serde_json::to_string_pretty(&of(&state)) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json + "\n").into_response(),
        Err(err) => error("GET", "/status", StatusCode::INTERNAL_SERVER_ERROR, &err.to_string()),
    }
}

fn of(state: &AppState) -> Status {
    let (store, node) = (&state.store, &state.node);
    let primary = match store.role() {
        Role::Replica { primary: Some(primary) } => {
            Some(PrimaryStatus { hostname: primary.hostname, advertise_url: primary.advertise_url })
        }
        Role::Replica { primary: None } | Role::Primary | Role::Undecided => None,
    };
    let progress = store.progress();
    let streams = store.followers().all().into_iter().map(|follower| StreamStatus {
        node_id: format!("{:016X}", follower.node_id),
        addr: follower.addr,
        candidate: follower.candidate,
        behind: follower.sent.map(|sent| progress.transactions.saturating_sub(sent)),
    });
    Status {
        node_id: format!("{:016X}", store.node_id()),
        cluster_id: store.cluster_id().map(|id| id.to_string()),
        hostname: node.hostname.clone(),
        is_primary: store.is_primary(),
        candidate: node.candidate,
        primary,
        reign: progress.reign,
        lag_seconds: match store.lag() {
            Lag::Primary => Some(0.0),
            Lag::Unknown => None,
            Lag::Behind(lag) => Some(lag.as_secs_f64()),
        },
        databases: store.databases().iter().map(|db| database(db)).collect(),
        streams: streams.collect(),
    }
}

fn database(db: &Database) -> DatabaseStatus {
    let text = Pos::text(db.pos());
    let (txid, checksum) = text.split_once('/').unwrap_or_default();
    let diverged = db.diverged_dirs().unwrap_or_default();
    DatabaseStatus {
        name: db.name().to_string(),
        txid: txid.into(),
        checksum: checksum.into(),
        size: db.size(),
        problem: match db.health() {
            Health::Ok => None,
            Health::ReadOnly { reason } => Some(reason),
        },
        diverged: diverged.iter().map(|dir| dir.display().to_string()).collect(),
    }
}
