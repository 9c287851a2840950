//! `POST /promote`, `POST /handoff`, `POST /demote`: who is to be the primary.
//!
//! ```text
//! litefs promote ─► /promote on the node that shall lead ─► /handoff on the primary ─► its role loop
//! ```
//!
//! What isn't here: how the lease changes hands (see [`crate::cluster`]).
//!
//! `/demote` isn't known to the original.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::{AppState, error};
use crate::cluster::{self, Control, ControlError, PromoteError};

type Answer = Result<(), (StatusCode, String)>;

pub(super) async fn promote(State(state): State<AppState>) -> Response {
    respond("/promote", ask_primary(&state).await)
}

#[derive(Debug, Deserialize)]
pub(super) struct Target {
    #[serde(rename = "nodeID", default)]
    node_id: String,
}

pub(super) async fn hand_off(
    State(state): State<AppState>,
    Query(target): Query<Target>,
) -> Response {
    respond("/handoff", hand_over(&state, &target.node_id).await)
}

pub(super) async fn demote(State(state): State<AppState>) -> Response {
    let answer = match control(&state) {
        Ok(control) => control.demote().await,
        Err(err) => Err(err),
    };
    respond(
        "/demote",
        answer.map_err(|err| (StatusCode::CONFLICT, format!("cannot demote: {err}"))),
    )
}

async fn ask_primary(state: &AppState) -> Answer {
    if !state.node.candidate {
        return Err((StatusCode::CONFLICT, "not eligible to become primary".into()));
    }
    let failed = |err: PromoteError| (StatusCode::INTERNAL_SERVER_ERROR, err.to_string());
    cluster::promote(&state.store).await.map_err(failed)
}

async fn hand_over(state: &AppState, node_id: &str) -> Answer {
    let is_hex = !node_id.is_empty() && node_id.len() <= 16;
    let id = u64::from_str_radix(node_id, 16).ok().filter(|_| is_hex);
    let id = id.ok_or((StatusCode::BAD_REQUEST, "invalid node id".to_owned()))?;
    let failed = |err| (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot handoff: {err}"));
    control(state).map_err(failed)?.hand_over(id).await.map_err(failed)
}

/// The role loop of a primary.
fn control(state: &AppState) -> Result<&Control, ControlError> {
    let control = state.node.control.as_ref().filter(|_| state.store.is_primary());
    control.ok_or(ControlError::NotPrimary)
}

fn respond(path: &str, answer: Answer) -> Response {
    match answer {
        Ok(()) => StatusCode::OK.into_response(),
        Err((status, text)) => error("POST", path, status, &text),
    }
}
