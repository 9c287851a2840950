//! `POST /stream`: what a replica lacks, and from then on what is committed.
//!
//! ```text
//! commit ─► log ─► Subscription ─► thread ──────► Outbox ──────► body ─► HTTP/2
//!                                  (sender)        blocks, few     ▲
//!                                     ▲ waits while they're many ──┘
//! ```
//!
//! Each stream has a thread of its own, because reading the log is blocking work and a commit shall wake exactly the one
//! who sends it. It ends when the replica goes (the body is dropped), takes nothing for long, or when the node is no
//! longer the primary. What isn't here: bytes of frames (see [`super::frames`]); which transactions come next (see
//! [`crate::db`]); what the replica does with them (see [`crate::cluster`]).
//!
//! Differs from LiteFS: heartbeats come each second, also when databases change that this replica doesn't want; a
//! failure within an LTX file breaks the stream instead of writing a text into it; no snapshot holds locks, so there
//! is no time-out for a slow one, only for one that stands still.

mod outbox;
mod sender;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Frame as BodyFrame;
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::frames::{PositionMap, PositionMapError};
use super::{AppState, error};
use crate::store::{Closer, Follower};
use crate::types::DbName;

use outbox::Outbox;
use sender::Sender;

#[derive(Debug, Deserialize)]
pub(super) struct Params {
    #[serde(default)]
    filter: String,
}

pub(super) async fn stream(
    State(state): State<AppState>,
    Query(params): Query<Params>,
    request: Request,
) -> Response {
    match open(state, params, request).await {
        Ok(body) => (StatusCode::OK, Body::new(body)).into_response(),
        Err((status, text)) => error("POST", "/stream", status, &text),
    }
}

async fn open(
    state: AppState,
    params: Params,
    request: Request,
) -> Result<StreamBody, (StatusCode, String)> {
    let store = state.store;
    if request.version() < Version::HTTP_2 {
        return Err((StatusCode::UPGRADE_REQUIRED, "Upgrade to HTTP/2 required".into()));
    }
    let node_id = node_id(request.headers());
    if node_id == store.node_id() {
        return Err((StatusCode::BAD_REQUEST, "cannot connect to self".into()));
    }
    if !store.is_primary() {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "lease expired".into()));
    }
    // From here on nothing that happens is missed.
    let subscription = store.subscribe();
    let closer = subscription.closer();
    let candidate = request.headers().contains_key(CANDIDATE_HEADER);
    let peer = request.extensions().get().map(|ConnectInfo::<SocketAddr>(addr)| addr.to_string());
    let peer = peer.unwrap_or_default();
    let positions =
        read_positions(request).await.map_err(|err| (StatusCode::BAD_REQUEST, err.to_string()))?;
    let filter: BTreeSet<DbName> =
        params.filter.split(',').filter_map(|name| DbName::new(name).ok()).collect();

    let (to, blocks) = mpsc::channel(MAX_BLOCKS);
    let out = Outbox::new(to, std::sync::Arc::clone(&store));
    let wanted = Some(filter).filter(|_| !params.filter.is_empty());
    let streams = store.metrics().streams.clone();
    let place =
        store.followers().enter(Follower { node_id, addr: peer.clone(), candidate, sent: None });
    let sender = Sender::new(store, subscription, place, out, positions.0, wanted);
    let run = move || {
        tracing::info!("{node_id:016X}: stream connected ({peer})");
        streams.inc();
        sender.run();
        streams.dec();
        tracing::info!("{node_id:016X}: stream disconnected ({peer})");
    };
    thread::Builder::new()
        .name("litefs-stream".into())
        .spawn(run)
        .map_err(|err| (StatusCode::INTERNAL_SERVER_ERROR, err.to_string()))?;
    Ok(StreamBody { blocks, _closer: closer })
}

async fn read_positions(request: Request) -> Result<PositionMap, BadRequest> {
    let body = Limited::new(request.into_body(), PositionMap::MAX_LEN);
    let body = tokio::time::timeout(POSITIONS_TIMEOUT, body.collect()).await;
    let bytes = body.map_err(|_| BadRequest::Slow)?.map_err(BadRequest::Body)?.to_bytes();
    Ok(PositionMap::decode(&bytes)?)
}

/// Why a position map wasn't read.
#[derive(Debug, thiserror::Error)]
enum BadRequest {
    #[error("position map takes too long")]
    Slow,
    #[error(transparent)]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Map(#[from] PositionMapError),
}

/// The node that asks; 0 if it doesn't say so.
pub(super) fn node_id(headers: &HeaderMap) -> u64 {
    let text = headers.get("litefs-id").and_then(|id| id.to_str().ok());
    let hex = text.filter(|id| id.len() <= 16 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    hex.and_then(|id| u64::from_str_radix(id, 16).ok()).unwrap_or(0)
}

/// The blocks of a stream. Dropping it ends the thread that makes them.
struct StreamBody {
    blocks: mpsc::Receiver<io::Result<Bytes>>,
    _closer: Closer,
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<BodyFrame<Bytes>>>> {
        self.blocks.poll_recv(cx).map(|block| block.map(|block| block.map(BodyFrame::data)))
    }
}

/// With it a replica says that it would take the lease. The original neither sends nor reads it.
pub(crate) const CANDIDATE_HEADER: &str = "litefs-candidate";
/// Blocks that wait for the network. With the one being filled they make what a replica costs in memory.
const MAX_BLOCKS: usize = 3;
/// How long a replica may take to say what it has.
const POSITIONS_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
