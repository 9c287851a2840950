//! `GET /events`: what happens on this node, a line of JSON each, from now on.
//!
//! ```text
//! {"type":"init","data":{"isPrimary":true}}
//! {"type":"tx","db":"db","data":{"txID":"…","postApplyChecksum":"…","pageSize":4096,"commit":2,"timestamp":"…"}}
//! {"type":"primaryChange","data":{"isPrimary":false,"hostname":"…"}}
//! ```
//!
//! A client that is [too slow](crate::store::Overflow) is disconnected: it can't know what it has missed.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Frame;
use serde::Serialize;
use tokio::sync::mpsc;

use super::AppState;
use crate::ltx::Timestamp;
use crate::store::{Event, Store};
use crate::types::PageSize;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum Line {
    Init { data: Role },
    Tx { db: String, data: Tx },
    PrimaryChange { data: Role },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Role {
    is_primary: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tx {
    #[serde(rename = "txID")]
    txid: String,
    post_apply_checksum: String,
    page_size: u32,
    commit: u32,
    timestamp: String,
}

pub(super) async fn events(State(state): State<AppState>) -> Response {
    let (to, from) = mpsc::channel(1);
    tokio::spawn(tell(state, to));
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (headers, Body::new(Lines(from))).into_response()
}

async fn tell(state: AppState, to: mpsc::Sender<Bytes>) {
    // From here on nothing that happens is missed.
    let mut events = state.store.events();
    let mut line = Line::init(&state.store);
    loop {
        if to.send(line.encode()).await.is_err() {
            return;
        }
        let event = tokio::select! {
            event = events.next() => event,
            () = to.closed() => return,
        };
        let Ok(event) = event else {
            tracing::warn!("http: event stream buffer exceeded, disconnecting");
            return;
        };
        line = event.into();
    }
}

impl Line {
    fn init(store: &Store) -> Line {
        let (is_primary, hostname) = (store.is_primary(), store.primary_hostname());
        Line::Init { data: Role { is_primary, hostname } }
    }

    fn encode(&self) -> Bytes {
        // A structure of texts and numbers has a JSON form.
        let mut json = serde_json::to_vec(self).unwrap_or_default();
        json.push(b'\n');
        json.into()
    }
}

impl From<Event> for Line {
    fn from(event: Event) -> Line {
        match event {
            Event::PrimaryChange { is_primary, hostname } => {
                Line::PrimaryChange { data: Role { is_primary, hostname } }
            }
            Event::Tx { db, pos, page_size, commit, timestamp } => Line::Tx {
                db: db.to_string(),
                data: Tx {
                    txid: pos.txid.to_string(),
                    post_apply_checksum: pos.post_apply.to_string(),
                    page_size: page_size.map_or(0, PageSize::as_u32),
                    commit: commit.as_u32(),
                    timestamp: shown(Timestamp::from_system_time(timestamp)),
                },
            },
        }
    }
}

/// Without zeros at the end of the fraction.
fn shown(time: Timestamp) -> String {
    let text = time.to_string();
    let text = text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
    format!("{text}Z")
}

struct Lines(mpsc::Receiver<Bytes>);

impl http_body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
