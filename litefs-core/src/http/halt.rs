//! `POST` and `DELETE /halt`, `POST /tx`: a replica borrows the right to write to a database, and commits by way of the
//! primary.
//!
//! What the requests do is in [`crate::db`]; the other end is in [`super::forward`]. Texts are the original's.
//!
//! Differs from LiteFS: only the primary grants a lock and takes a transaction; a transaction needs the lock that it
//! names; each one that is taken extends it; who goes before he has got the lock doesn't get it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::stream::node_id;
use super::{AppState, body, error};
use crate::db::{Database, HaltError, HaltLock};
use crate::error::{Error, ErrorKind};
use crate::ltx::{DecodeError, Timestamp};
use crate::metrics::Traffic;
use crate::store::Store;
use crate::types::{DbName, Pos};

type Refusal = (StatusCode, String);

#[derive(Debug, Deserialize)]
pub(super) struct HaltParams {
    #[serde(default)]
    name: String,
    #[serde(default)]
    id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TxParams {
    #[serde(default)]
    name: String,
    #[serde(default, rename = "lockID")]
    lock_id: String,
}

/// A lock, as it is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LockText {
    pub(super) id: i64,
    pub(super) pos: PosText,
    pub(super) expires: String,
}

/// A position; zeros if there is none.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PosText {
    #[serde(rename = "TXID")]
    pub(super) txid: String,
    #[serde(rename = "PostApplyChecksum")]
    pub(super) post_apply: String,
}

/// Tells whether the client is still there: it is dropped with the request.
#[derive(Default)]
struct Client(Arc<AtomicBool>);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

pub(super) async fn acquire(
    State(state): State<AppState>,
    Query(params): Query<HaltParams>,
    headers: HeaderMap,
) -> Response {
    match grant(state.store, params, &headers).await {
        Ok(lock) => match serde_json::to_string(&LockText::from(lock)) {
            Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json + "\n").into_response(),
            Err(err) => failed("POST", "/halt", (internal(), err.to_string())),
        },
        Err(refusal) => failed("POST", "/halt", refusal),
    }
}

pub(super) async fn release(
    State(state): State<AppState>,
    Query(params): Query<HaltParams>,
    headers: HeaderMap,
) -> Response {
    match let_go(state.store, params, &headers).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(refusal) => failed("DELETE", "/halt", refusal),
    }
}

pub(super) async fn tx(
    State(state): State<AppState>,
    Query(params): Query<TxParams>,
    request: Request,
) -> Response {
    match commit(state.store, params, request).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(refusal) => failed("POST", "/tx", refusal),
    }
}

async fn grant(
    store: Arc<Store>,
    params: HaltParams,
    headers: &HeaderMap,
) -> Result<HaltLock, Refusal> {
    let id = parse_id(&params.id)?;
    check_other(&store, headers, "cannot remotely halt self")?;
    check_primary(&store)?;
    let created = |err: String| (internal(), format!("create db: {err}"));
    let name = DbName::new(&params.name).map_err(|err| created(err.to_string()))?;
    let client = Client::default();
    let gone = Arc::clone(&client.0);
    let acquired = spawn_blocking(move || {
        let db = store.create_database(&name).map_err(|err| match err {
            Error::Replica { .. } => lease_expired(),
            err => created(crate::error::chain(&err)),
        })?;
        let lock =
            db.acquire_halt(id, || !gone.load(Ordering::Acquire)).map_err(|err| match err {
                HaltError::Engine(Error::Replica { .. }) => lease_expired(),
                err => (internal(), format!("acquire halt lock: {err}")),
            })?;
        if gone.load(Ordering::Acquire) {
            db.release_halt(id);
        }
        Ok(lock)
    });
    acquired.await.map_err(|err| (internal(), err.to_string()))?
}

async fn let_go(store: Arc<Store>, params: HaltParams, headers: &HeaderMap) -> Result<(), Refusal> {
    let id = parse_id(&params.id)?;
    check_other(&store, headers, "cannot remotely unhalt self")?;
    let db = find(&store, &params.name)?;
    let released = spawn_blocking(move || db.release_halt(id)).await;
    released.map_err(|err| (internal(), err.to_string()))
}

async fn commit(store: Arc<Store>, params: TxParams, request: Request) -> Result<(), Refusal> {
    check_other(&store, request.headers(), "cannot remotely halt self")?;
    check_primary(&store)?;
    let db = find(&store, &params.name)?;
    let id = parse_id(&params.lock_id)?;
    let (to, mut reader) = body::reader(store.metrics().received(Traffic::Tx));
    let work = spawn_blocking(move || db.commit_forwarded(id, &mut reader));
    // If the client goes, this is dropped, and the reader finds that nothing more comes.
    body::forward(request.into_body(), to).await;
    let committed = work.await.map_err(|err| (internal(), err.to_string()))?;
    committed.map(drop).map_err(|err| refusal(&err))
}

fn refusal(err: &HaltError) -> Refusal {
    let status = match err {
        HaltError::NotHeld(_) => StatusCode::CONFLICT,
        HaltError::Locked => StatusCode::LOCKED,
        HaltError::Engine(Error::Replica { .. }) => return lease_expired(),
        HaltError::Engine(err) if err.kind() == ErrorKind::NoSpace => {
            StatusCode::INSUFFICIENT_STORAGE
        }
        HaltError::Content(DecodeError::Io(err)) if err.kind() == io::ErrorKind::StorageFull => {
            StatusCode::INSUFFICIENT_STORAGE
        }
        _ => internal(),
    };
    match err {
        HaltError::NotHeld(_) => (status, err.to_string()),
        err => (status, format!("write ltx file: {err}")),
    }
}

fn parse_id(text: &str) -> Result<i64, Refusal> {
    text.parse().map_err(|_| (StatusCode::BAD_REQUEST, format!("invalid id: {text:?}")))
}

fn check_other(store: &Store, headers: &HeaderMap, text: &str) -> Result<(), Refusal> {
    let own = node_id(headers) == store.node_id();
    if own { Err((StatusCode::BAD_REQUEST, text.into())) } else { Ok(()) }
}

fn check_primary(store: &Store) -> Result<(), Refusal> {
    if store.is_primary() { Ok(()) } else { Err(lease_expired()) }
}

fn find(store: &Store, name: &str) -> Result<Arc<Database>, Refusal> {
    let db = DbName::new(name).ok().and_then(|name| store.database(&name));
    db.ok_or_else(|| (StatusCode::NOT_FOUND, format!("database not found: {name:?}")))
}

fn lease_expired() -> Refusal {
    (StatusCode::SERVICE_UNAVAILABLE, "lease expired".into())
}

fn internal() -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}

fn failed(method: &str, path: &str, (status, text): Refusal) -> Response {
    error(method, path, status, &text)
}

impl From<HaltLock> for LockText {
    fn from(lock: HaltLock) -> LockText {
        let HaltLock { id, pos, expires } = lock;
        let expires = Timestamp::from_system_time(expires).to_string();
        LockText { id, pos: pos.into(), expires }
    }
}

impl From<Option<Pos>> for PosText {
    fn from(pos: Option<Pos>) -> PosText {
        let text = Pos::text(pos);
        let (txid, post_apply) = text.split_at(16);
        PosText { txid: txid.into(), post_apply: post_apply[1..].into() }
    }
}

impl PosText {
    /// The position; an error if it is none that a node can be at.
    pub(super) fn parse(&self) -> Result<Option<Pos>, crate::types::ParseError> {
        if self.txid.bytes().all(|b| b == b'0') && self.txid.len() == 16 {
            return Ok(None);
        }
        format!("{}/{}", self.txid, self.post_apply).parse().map(Some)
    }
}

#[cfg(test)]
mod tests;
