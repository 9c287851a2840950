//! The application: notes in an SQLite database, over HTTP.
//!
//! | request | answer |
//! |---|---|
//! | `GET /notes` | all notes as JSON |
//! | `POST /notes`, the text as body | 201 and the note; on a replica 307 to the primary |
//! | `GET /health` | role and position; 503 before the node is ready |

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use litefs_core::cluster::Ready;
use litefs_core::store::Store;
use litefs_core::types::{DbName, Pos};
use parking_lot::Mutex;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::node::Node;

/// The notes of a node.
#[derive(Debug, Clone)]
pub struct Notes {
    store: Arc<Store>,
    ready: Ready,
    path: PathBuf,
    /// Connections that nobody uses at the moment.
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Notes {
    /// The notes in the node's mount.
    pub fn new(node: &Node) -> Notes {
        let path = node.dir().join(DATABASE);
        Notes { store: Arc::clone(node.store()), ready: node.ready(), path, idle: Arc::default() }
    }

    /// Creates the table. For the primary; replicas get it from there.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn create(&self) -> rusqlite::Result<()> {
        self.with(|conn| {
            conn.pragma_update(None, "journal_mode", "WAL")?;
            conn.execute_batch(
                "CREATE TABLE IF NOT EXISTS notes(id INTEGER PRIMARY KEY, text TEXT NOT NULL)",
            )
        })
        .await
    }

    /// What is served.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/notes", get(list).post(add))
            .route("/health", get(health))
            .with_state(self.clone())
    }

    /// Closes the connections that are idle, which is all of them when no request is under way.
    pub fn close(&self) {
        self.idle.lock().clear();
    }

    /// Runs `work` with a connection, on a thread that may block.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        let (idle, path) = (Arc::clone(&self.idle), self.path.clone());
        let done = tokio::task::spawn_blocking(move || {
            let conn = idle.lock().pop();
            let conn = match conn {
                Some(conn) => conn,
                None => {
                    let conn = Connection::open(path)?;
                    conn.busy_timeout(BUSY_TIMEOUT)?;
                    conn
                }
            };
            let done = work(&conn);
            idle.lock().push(conn);
            done
        });
        done.await.expect("the work doesn't panic, and nobody aborts it")
    }
}

async fn list(State(notes): State<Notes>) -> Response {
    let all = notes.with(|conn| {
        let mut select = conn.prepare_cached("SELECT id, text FROM notes ORDER BY id")?;
        let rows = select.query_map([], |row| Ok(note(row.get(0)?, row.get(1)?)))?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    });
    all.await.map_or_else(|err| failed(&err), |all| answer(StatusCode::OK, &Value::from(all)))
}

async fn add(State(notes): State<Notes>, text: String) -> Response {
    if !notes.store.is_primary() {
        return elsewhere(&notes.store);
    }
    let added = notes.with(move |conn| {
        conn.prepare_cached("INSERT INTO notes(text) VALUES (?)")?.execute([&text])?;
        Ok(note(conn.last_insert_rowid(), text))
    });
    match added.await {
        Ok(note) => answer(StatusCode::CREATED, &note),
        // The role may have gone since it was asked for.
        Err(_) if !notes.store.is_primary() => elsewhere(&notes.store),
        Err(err) => failed(&err),
    }
}

/// The client asks the primary itself, with the same method and body: 307.
fn elsewhere(store: &Store) -> Response {
    // What this cluster's nodes call their host is where their application is reached.
    match store.primary_hostname() {
        Some(host) => {
            let location = [(header::LOCATION, format!("http://{host}/notes"))];
            (StatusCode::TEMPORARY_REDIRECT, location).into_response()
        }
        None => answer(StatusCode::SERVICE_UNAVAILABLE, &json!({"error": "no primary"})),
    }
}

async fn health(State(notes): State<Notes>) -> Response {
    let db = DbName::new(DATABASE).ok().and_then(|name| notes.store.database(&name));
    let is_ready = notes.ready.is_ready();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let health = json!({
        "primary": notes.store.is_primary(),
        "ready": is_ready,
        "position": Pos::text(db.and_then(|db| db.pos())),
    });
    answer(status, &health)
}

fn note(id: i64, text: String) -> Value {
    json!({"id": id, "text": text})
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

fn failed(err: &rusqlite::Error) -> Response {
    answer(StatusCode::INTERNAL_SERVER_ERROR, &json!({"error": err.to_string()}))
}

const DATABASE: &str = "notes.db";
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
