//! The node's HTTP interface: what it tells about itself.
//!
//! A router over a [`Store`], to be served by [`serve`] or mounted in an application's own server (with HTTP/2, or
//! there is no `/stream`). What isn't here: how the listener was bound, and the runtime; both are the caller's.
//!
//! | path | answer |
//! |---|---|
//! | `GET /info` | the node as JSON: cluster, role, data directory |
//! | `GET /export?name=` | a database as one file |
//! | `POST /import?name=` | the body becomes a database |
//! | `POST`, `DELETE /halt?name=&id=` | a replica gets the right to write, or gives it back |
//! | `POST /tx?name=&lockID=` | the body becomes a transaction of that replica |
//! | `GET /events` | what happens, a line of JSON each |
//! | `POST /stream` | to a replica: what it lacks, then what is committed |
//! | `POST /promote`, `/handoff`, `/demote` | who is to be the primary |
//! | `GET /status` | the node, its databases and streams as JSON |
//! | `/metrics` | counters and times, for Prometheus |
//! | `/debug/vars` | positions and locks as JSON |
//!
//! Every answer but the last two names the node (`Litefs-Id`) and its cluster (`Litefs-Cluster-Id`).

mod body;
pub mod calls;
pub mod client;
mod control;
mod events;
mod export;
pub(crate) mod forward;
pub mod frames;
mod halt;
mod import;
mod metrics;
#[cfg(test)]
pub(crate) mod rig;
mod serve;
mod status;
mod stream;
pub mod transfer;
mod vars;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use serde::{Deserialize, Serialize};

use crate::cluster::Control;
use crate::store::Store;

pub use serve::serve;
pub use status::{DatabaseStatus, PrimaryStatus, Status, StreamStatus};
use stream::CANDIDATE_HEADER;

/// What a node says of itself that its store doesn't know.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    /// Whether it may become the primary.
    pub candidate: bool,
    /// Its host name, told while it is the primary.
    pub hostname: String,
    /// The role loop, which is asked to hand over; `None` if there is none.
    pub control: Option<Control>,
}

/// The interface of a node.
pub fn router(store: Arc<Store>, node: NodeInfo) -> Router {
    let state = AppState { store, node: Arc::new(node) };
    Router::new()
        .route("/info", get(info))
        .route("/export", get(export::export))
        // An import may be as large as the disk.
        .route("/import", post(import::import).layer(DefaultBodyLimit::disable()))
        .route("/halt", post(halt::acquire).delete(halt::release))
        .route("/tx", post(halt::tx).layer(DefaultBodyLimit::disable()))
        .route("/events", get(events::events))
        .route("/stream", post(stream::stream))
        .route("/promote", post(control::promote))
        .route("/handoff", post(control::hand_off))
        .route("/demote", post(control::demote))
        .route("/status", get(status::status))
        .method_not_allowed_fallback(|| async {
            text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
        })
        .fallback(|| async { text(StatusCode::NOT_FOUND, "404 page not found\n") })
        .layer(middleware::from_fn_with_state(state.clone(), name_node))
        .route("/metrics", any(metrics::metrics))
        .route("/debug/vars", any(vars::vars))
        .with_state(state)
}

#[derive(Debug, Clone)]
struct AppState {
    store: Arc<Store>,
    node: Arc<NodeInfo>,
}

/// The answer to `GET /info`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    /// The cluster, once there is one.
    #[serde(rename = "clusterID", skip_serializing_if = "Option::is_none", default)]
    pub cluster_id: Option<String>,
    /// Whether it is the primary.
    pub is_primary: bool,
    /// Whether it may become it.
    pub candidate: bool,
    /// The data directory.
    pub path: String,
    /// The primary that it knows.
    pub primary: InfoPrimary,
}

/// The primary in [`Info`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InfoPrimary {
    /// Its host name; empty if there is none.
    pub hostname: String,
}

async fn info(State(state): State<AppState>) -> Response {
    let (store, node) = (&state.store, &state.node);
    let is_primary = store.is_primary();
    let hostname = if is_primary {
        node.hostname.clone()
    } else {
        store.primary_hostname().unwrap_or_default()
    };
    let info = Info {
        cluster_id: store.cluster_id().map(|id| id.to_string()),
        is_primary,
        candidate: node.candidate,
        path: store.data_dir().display().to_string(),
        primary: InfoPrimary { hostname },
    };
    match serde_json::to_string_pretty(&info) {
        Ok(json) => text(StatusCode::OK, json + "\n"),
        Err(err) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{err}\n")),
    }
}

async fn name_node(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&format!("{:016X}", state.store.node_id())) {
        headers.insert("litefs-id", id);
    }
    if let reign @ 1.. = state.store.reign() {
        headers.insert(REIGN_HEADER, reign.into());
    }
    if let Some(Ok(id)) = state.store.cluster_id().map(|id| HeaderValue::from_str(&id.to_string()))
    {
        headers.insert("litefs-cluster-id", id);
    }
    response
}

/// An error as the original words and logs it.
fn error(method: &str, path: &str, status: StatusCode, message: &str) -> Response {
    tracing::info!("http: {method} {path}: error: {message}");
    let mut response = text(status, format!("{message}\n"));
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// With it a node says in which reign it last had all. The original neither sends nor reads it.
const REIGN_HEADER: &str = "litefs-reign";

fn text(status: StatusCode, body: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body.into()).into_response()
}

#[cfg(test)]
mod tests;
