//! `GET /export?name=`: a database as one file, from any node, while it is written to.
//!
//! The file is the database at one position, see [`crate::db::Snapshot`]. If it can't be read to its end, the
//! body breaks: a client never takes a part for the whole.
//!
//! Differs from LiteFS: no lock is held, the length is said before, and no error text is added to the file.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::{AppState, body, error};
use crate::db::{Database, Snapshot};
use crate::error::{Error, ErrorKind, chain};
use crate::metrics::Traffic;
use crate::store::Store;
use crate::types::DbName;

/// Which database is meant.
#[derive(Debug, Deserialize)]
pub(super) struct Params {
    #[serde(default)]
    pub(super) name: String,
}

pub(super) async fn export(
    State(state): State<AppState>,
    Query(params): Query<Params>,
) -> Response {
    match open(state.store, &params.name).await {
        Ok(response) => response,
        Err((status, text)) => error("GET", "/export", status, &text),
    }
}

async fn open(store: Arc<Store>, name: &str) -> Result<Response, (StatusCode, String)> {
    if name.is_empty() {
        return Err((StatusCode::BAD_REQUEST, "name required".into()));
    }
    let not_found = || (StatusCode::NOT_FOUND, "database not found".to_owned());
    let name = DbName::new(name).map_err(|_| not_found())?;
    let db = store.database(&name).ok_or_else(not_found)?;
    let failed = |text| (StatusCode::INTERNAL_SERVER_ERROR, text);
    let begun = tokio::task::spawn_blocking(move || begin(&db)).await;
    let snapshot = match begun.map_err(|err| failed(err.to_string()))? {
        Ok(snapshot) if snapshot.commit().is_zero() => return Err(not_found()),
        Ok(snapshot) => snapshot,
        Err(err) if err.kind() == ErrorKind::NotFound => return Err(not_found()),
        Err(err) => return Err(failed(chain(&err))),
    };
    let len = snapshot.commit().len_bytes(snapshot.page_size());
    let (mut writer, body) = body::channel(store.metrics().sent(Traffic::Export));
    let node_id = store.node_id();
    tokio::task::spawn_blocking(move || {
        let pos = snapshot.pos();
        let written = snapshot.write_database(&mut writer);
        match written
            .and_then(|()| writer.finish().map_err(|source| Error::Output { db: name, source }))
        {
            Ok(()) => tracing::info!("{node_id:016X}: snapshot successfully exported @ {pos}"),
            Err(err) => tracing::warn!("http: GET /export: error: {}", chain(&err)),
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, len.to_string()),
    ];
    Ok((headers, Body::new(body)).into_response())
}

/// A database that is just being replaced gets a moment.
fn begin(db: &Database) -> Result<Snapshot, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match db.snapshot() {
            Err(Error::Unsettled { .. }) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            begun => return begun,
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);
