//! Small questions and wishes to a node: the client's side of `/info`, `/status`, `/promote`, `/handoff`, `/demote`.
//!
//! What isn't here: connections (see [`super::client`]), and what a node does about them.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::client::{ClientError, NodeUrl, connect};
use super::transfer::accepted;
use super::{Info, Status};

/// What a node is.
///
/// # Errors
/// If it can't be reached, or its answer isn't understood.
pub async fn info(url: &NodeUrl) -> Result<Info, ClientError> {
    decode(&ask(url, Method::GET, "info").await?)
}

/// What a node is and has, in full. Nodes of the original don't know this question.
///
/// # Errors
/// If it can't be reached, or its answer isn't understood.
pub async fn status(url: &NodeUrl) -> Result<Status, ClientError> {
    decode(&ask(url, Method::GET, "status").await?)
}

/// Asks a candidate to become the primary. It becomes it a little later.
///
/// # Errors
/// [`ClientError::Refused`] if it is no candidate or its primary doesn't hand over; if it can't be reached.
pub async fn promote(url: &NodeUrl) -> Result<(), ClientError> {
    ask(url, Method::POST, "promote").await.map(drop)
}

/// Asks a primary to lay down its role. It does so a little later.
///
/// # Errors
/// [`ClientError::Refused`] if it isn't one; if it can't be reached.
pub async fn demote(url: &NodeUrl) -> Result<(), ClientError> {
    ask(url, Method::POST, "demote").await.map(drop)
}

pub(crate) async fn hand_off(url: &NodeUrl, to: u64) -> Result<(), ClientError> {
    ask(url, Method::POST, &format!("handoff?nodeID={to:016X}")).await.map(drop)
}

async fn ask(url: &NodeUrl, method: Method, path: &str) -> Result<Bytes, ClientError> {
    let (mut requests, _connection) = timeout(PATIENCE, connect(url)).await??;
    let request =
        Request::builder().method(method).uri(format!("http://{}/{path}", url.authority()));
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| url.invalid())?;
    let response = timeout(PATIENCE, requests.send_request(request)).await??;
    let body = Limited::new(accepted(response).await?, MAX_ANSWER_LEN).collect();
    let body = timeout(PATIENCE, body).await?.map_err(|_| ClientError::Answer)?;
    Ok(body.to_bytes())
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|_| ClientError::Answer)
}

/// Longer than a primary takes to accept or refuse a handover.
const PATIENCE: Duration = Duration::from_secs(10);
const MAX_ANSWER_LEN: usize = 16 << 20;
