//! `POST /import?name=`, with a database file as the body: it becomes the database, as one transaction.
//!
//! What isn't here: what makes it one (see `db::import`). A body that isn't whole changes nothing.

use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::export::Params;
use super::{AppState, body, error};
use crate::error::{Error, ErrorKind, chain};
use crate::metrics::Traffic;
use crate::types::DbName;

pub(super) async fn import(
    State(state): State<AppState>,
    Query(params): Query<Params>,
    request: Request,
) -> Response {
    match run(state, &params.name, request).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err((status, text)) => error("POST", "/import", status, &text),
    }
}

async fn run(state: AppState, name: &str, request: Request) -> Result<(), (StatusCode, String)> {
    let store = state.store;
    if name.is_empty() {
        return Err((StatusCode::BAD_REQUEST, "name required".into()));
    }
    if !store.is_primary() {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "lease expired".into()));
    }
    let failed = |text| (StatusCode::INTERNAL_SERVER_ERROR, text);
    let name = DbName::new(name).map_err(|err| failed(format!("create database: {err}")))?;
    let (to, mut reader) = body::reader(store.metrics().received(Traffic::Import));
    let work = tokio::task::spawn_blocking(move || {
        store.import(&name, &mut reader).inspect(|pos| {
            tracing::info!(db = %name, "database imported @ {pos}");
        })
    });
    // If the client goes, this is dropped, and the reader finds that nothing more comes.
    body::forward(request.into_body(), to).await;
    match work.await.map_err(|err| failed(err.to_string()))? {
        Ok(_) => Ok(()),
        Err(err) => Err(refusal(&err)),
    }
}

fn refusal(err: &Error) -> (StatusCode, String) {
    match err {
        Error::Replica { .. } => (StatusCode::SERVICE_UNAVAILABLE, "lease expired".into()),
        Error::InUse { .. } => (StatusCode::CONFLICT, "database is locked".into()),
        Error::Import { source, .. } => (StatusCode::INTERNAL_SERVER_ERROR, source.to_string()),
        err if err.kind() == ErrorKind::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, chain(err)),
        err => (StatusCode::INTERNAL_SERVER_ERROR, chain(err)),
    }
}
