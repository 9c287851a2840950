//! `GET /debug/vars`: the node's state as JSON, for a person who looks for a fault.
//!
//! `memstats` has the one number that a process without a garbage collector has. Locks are those of SQLite as the
//! kernel knows them, asked through the mount without taking any. Where nobody can be asked (no mount is
//! attached, or the file isn't there) a lock is `unlocked`, which is true of a file that isn't there. The engine's own
//! locks, which a replica holds while it applies, aren't shown.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::metrics::status_bytes;
use super::{AppState, error};
use crate::db::{ByteLock, Database};
use crate::types::Pos;

#[derive(Serialize)]
struct Vars {
    cmdline: Vec<String>,
    memstats: MemStats,
    store: StoreVars,
}

#[derive(Serialize)]
struct MemStats {
    #[serde(rename = "Sys")]
    sys: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StoreVars {
    is_primary: bool,
    candidate: bool,
    dbs: BTreeMap<String, DbVars>,
}

#[derive(Serialize)]
struct DbVars {
    name: String,
    txid: String,
    checksum: String,
    locks: BTreeMap<&'static str, &'static str>,
}

pub(super) async fn vars(State(state): State<AppState>) -> Response {
    // Locks are asked through the mount, which this node serves.
    match tokio::task::spawn_blocking(move || encode(&state)).await {
        Ok(Ok(json)) => {
            ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], json).into_response()
        }
        Ok(Err(err)) => failed(&err.to_string()),
        Err(err) => failed(&err.to_string()),
    }
}

fn failed(text: &str) -> Response {
    error("GET", "/debug/vars", StatusCode::INTERNAL_SERVER_ERROR, text)
}

fn encode(state: &AppState) -> serde_json::Result<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let dbs = state.store.databases();
    let vars = Vars {
        cmdline: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
        memstats: MemStats { sys: status_bytes(&status, "VmSize").unwrap_or(0) },
        store: StoreVars {
            is_primary: state.store.is_primary(),
            candidate: state.node.candidate,
            dbs: dbs.iter().map(|db| (db.name().to_string(), DbVars::of(db))).collect(),
        },
    };
    Ok(serde_json::to_string_pretty(&vars)? + "\n")
}

impl DbVars {
    fn of(db: &Database) -> DbVars {
        let text = Pos::text(db.pos());
        let (txid, checksum) = text.split_once('/').unwrap_or_default();
        let locks = db.held_locks().into_iter().map(|(name, lock)| (name, shown(lock))).collect();
        DbVars { name: db.name().to_string(), txid: txid.into(), checksum: checksum.into(), locks }
    }
}

fn shown(lock: ByteLock) -> &'static str {
    match lock {
        ByteLock::None => "unlocked",
        ByteLock::Shared => "shared",
        ByteLock::Exclusive => "exclusive",
    }
}
