//! The replica's end of `/halt` and `/tx`: asks for the halt lock, sends commits, gives the lock back.
//!
//! The engine is not async, and a commit waits for its answer: so a [`HaltClient`] has a runtime of its own, with one
//! thread that keeps the connection alive between commits. The calls block, with a deadline each. The last one may be made
//! by anybody: who takes the lock away holds the client for a moment. So dropped by an async task, it blocks another thread.
//!
//! Invariant: a transaction is sent once. A connection that has ended is made anew before something is sent, never after.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use prometheus::IntCounter;
use thiserror::Error;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio::time::timeout;

use super::client::{ClientError, Connection, NodeUrl, connect, percent_encode};
use super::halt::LockText;
use crate::db::{Forward, ForwardError, Spool};
use crate::types::{DbName, Pos};

/// A halt lock on a primary, which is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct HaltClient(Arc<Client>);

#[derive(Debug)]
struct Client {
    /// There until the drop.
    runtime: Option<Runtime>,
    url: NodeUrl,
    db: DbName,
    node_id: u64,
    id: i64,
    sent: IntCounter,
    connection: Mutex<Option<Open>>,
    abandoned: watch::Sender<bool>,
}

#[derive(Debug)]
struct Open {
    requests: SendRequest<TxBody>,
    _connection: Connection,
}

/// Why the primary gave no lock.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AskError {
    /// It refused, or can't be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It answered something else than a lock.
    #[error("the primary's answer is no halt lock")]
    Answer,
    /// No thread to ask from.
    #[error("{0}")]
    Runtime(#[from] io::Error),
}

impl HaltClient {
    /// Asks for the lock and waits for it. Returns the primary's position and until when the lock is there.
    pub(crate) fn ask(
        url: NodeUrl,
        node_id: u64,
        db: &DbName,
        id: i64,
        sent: IntCounter,
        give_up: Instant,
    ) -> Result<(HaltClient, Option<Pos>, Instant), AskError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("litefs-forward")
            .enable_all()
            .build()?;
        let connection = Mutex::new(None);
        let client = HaltClient(Arc::new(Client {
            runtime: Some(runtime),
            url,
            db: db.clone(),
            node_id,
            id,
            sent,
            connection,
            abandoned: watch::Sender::new(false),
        }));
        let until = Instant::now() + TTL;
        let left = give_up.saturating_duration_since(Instant::now());
        let target = format!("halt?name={}&id={id}", percent_encode(db.as_str()));
        let text = client.0.call(Method::POST, &target, TxBody::empty(), left)?;
        let lock: LockText = serde_json::from_str(&text).map_err(|_| AskError::Answer)?;
        let pos = lock.pos.parse().map_err(|_| AskError::Answer)?;
        if lock.id == id { Ok((client, pos, until)) } else { Err(AskError::Answer) }
    }
}

impl Client {
    /// Sends a request and returns the text of a good answer.
    fn call(
        &self,
        method: Method,
        target: &str,
        body: TxBody,
        limit: Duration,
    ) -> Result<String, ClientError> {
        let Some(runtime) = &self.runtime else { return Err(self.url.invalid()) };
        let mut connection = self.connection.lock();
        runtime.block_on(async {
            let mut abandoned = self.abandoned.subscribe();
            let is_commit = body.spool.is_some();
            let answered = tokio::select! {
                // Dropping the request takes nothing back that was sent.
                answered = timeout(limit, self.send(&mut connection, method, target, body)) => {
                    answered.map_err(ClientError::from).flatten()
                }
                _ = abandoned.wait_for(|abandoned| *abandoned), if is_commit => {
                    Err(ClientError::Abandoned)
                }
            };
            if !matches!(answered, Ok(_) | Err(ClientError::Refused { .. })) {
                *connection = None;
            }
            answered
        })
    }

    async fn send(
        &self,
        connection: &mut Option<Open>,
        method: Method,
        target: &str,
        body: TxBody,
    ) -> Result<String, ClientError> {
        let ready = match connection {
            Some(open) => open.requests.ready().await.is_ok(),
            None => false,
        };
        let open = match connection {
            Some(open) if ready => open,
            slot => {
                let (requests, connection) = timeout(CONNECT_TIMEOUT, connect(&self.url)).await??;
                slot.insert(Open { requests, _connection: connection })
            }
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}/{target}", self.url.authority()))
            .header("litefs-id", format!("{:016X}", self.node_id))
            .body(body)
            .map_err(|_| self.url.invalid())?;
        text_of(open.requests.send_request(request).await?).await
    }

    fn give_back(&self) {
        let target = format!("halt?name={}&id={}", percent_encode(self.db.as_str()), self.id);
        if let Err(err) = self.call(Method::DELETE, &target, TxBody::empty(), RELEASE_TIMEOUT) {
            self.leave(&err);
        }
    }

    fn leave(&self, err: &dyn std::error::Error) {
        tracing::info!(db = %self.db, %err, "the halt lock can't be given back, it ends by its expiry");
    }
}

impl Forward for HaltClient {
    fn commit(&self, tx: Arc<Spool>) -> Result<Instant, ForwardError> {
        let until = Instant::now() + TTL;
        let client = &self.0;
        let target = format!("tx?name={}&lockID={}", percent_encode(client.db.as_str()), client.id);
        let body = TxBody { spool: Some(tx), offset: 0, sent: Some(client.sent.clone()) };
        match client.call(Method::POST, &target, body, COMMIT_TIMEOUT) {
            Ok(_) => Ok(until),
            Err(ClientError::Refused { code: 423 | 507, text }) => Err(ForwardError::Refused(text)),
            Err(ClientError::Refused { code, text }) => {
                Err(ForwardError::Lost(format!("{text} (code {code})")))
            }
            Err(err) => Err(ForwardError::Lost(err.to_string())),
        }
    }

    fn abandon(&self) {
        self.0.abandoned.send_replace(true);
    }
}

impl Drop for HaltClient {
    fn drop(&mut self) {
        if Handle::try_current().is_err() {
            return self.0.give_back();
        }
        let client = Arc::clone(&self.0);
        let thread = thread::Builder::new().name("litefs-unhalt".into());
        if let Err(err) = thread.spawn(move || client.give_back()) {
            self.0.leave(&err);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        *self.connection.lock() = None;
        if let Some(runtime) = self.runtime.take() {
            // Waits for nothing, so it may be dropped anywhere.
            runtime.shutdown_background();
        }
    }
}

async fn text_of(response: Response<Incoming>) -> Result<String, ClientError> {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_TEXT_LEN).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned());
    match status {
        StatusCode::OK => Ok(text.unwrap_or_default()),
        status => {
            Err(ClientError::Refused { code: status.as_u16(), text: text.unwrap_or_default() })
        }
    }
}

/// An LTX file on its way, or nothing. Reads a local file where it is polled: in a runtime that has nothing else to do.
#[derive(Debug)]
struct TxBody {
    spool: Option<Arc<Spool>>,
    offset: u64,
    sent: Option<IntCounter>,
}

impl TxBody {
    fn empty() -> TxBody {
        TxBody { spool: None, offset: 0, sent: None }
    }

    fn left(&self) -> u64 {
        self.spool.as_ref().map_or(0, |spool| spool.len() - self.offset)
    }
}

impl Body for TxBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let left = usize::try_from(self.left()).unwrap_or(usize::MAX).min(BLOCK_LEN);
        let Some(spool) = self.spool.as_ref().filter(|_| left > 0) else {
            return Poll::Ready(None);
        };
        let mut block = vec![0; left];
        let read = spool.read_at(&mut block, self.offset).and_then(|n| {
            if n == left { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        });
        self.offset += left as u64;
        if let Some(sent) = &self.sent {
            sent.inc_by(left as u64);
        }
        Poll::Ready(Some(read.map(|()| Frame::data(block.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

/// The primary's, less what an answer may take to be noticed.
const TTL: Duration = Duration::from_secs(29);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For a commit, whose size is the application's choice.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
const BLOCK_LEN: usize = 64 << 10;
const MAX_TEXT_LEN: usize = 4096;
