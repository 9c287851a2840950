//! Whole databases from and to a node: the client's side of `/export` and `/import`.
//!
//! What isn't here: files, which are the caller's; connections (see [`super::client`]).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::client::{ClientError, Connection, NodeUrl, connect, percent_encode};

/// A database that is coming.
#[derive(Debug)]
pub struct Download {
    body: Incoming,
    _connection: Connection,
}

impl Download {
    /// Asks a node for a database.
    ///
    /// # Errors
    /// If it can't be reached, or refuses.
    pub async fn open(url: &NodeUrl, name: &str) -> Result<Download, ClientError> {
        let (mut requests, connection) = timeout(CONNECT_TIMEOUT, connect(url)).await??;
        let request = Request::get(uri(url, "export", name)).body(Empty::<Bytes>::new());
        let request = request.map_err(|_| url.invalid())?;
        let response = timeout(ANSWER_TIMEOUT, requests.send_request(request)).await??;
        let body = accepted(response).await?;
        Ok(Download { body, _connection: connection })
    }

    /// How many bytes are still to come, if the node has said so.
    pub fn remaining(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next bytes; `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// If the database doesn't come to its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = match timeout(ANSWER_TIMEOUT, self.body.frame()).await? {
                None => return Ok(None),
                Some(frame) => frame?,
            };
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }
}

/// Sends a database of `len` bytes, which come in `blocks`, and waits until it is in place.
///
/// # Errors
/// If the node can't be reached or refuses, or a block is an error.
pub async fn upload(
    url: &NodeUrl,
    name: &str,
    len: u64,
    blocks: mpsc::Receiver<io::Result<Bytes>>,
) -> Result<(), ClientError> {
    let (mut requests, _connection) = timeout(CONNECT_TIMEOUT, connect(url)).await??;
    let request = Request::post(uri(url, "import", name))
        .header("content-length", len)
        .body(Blocks(blocks))
        .map_err(|_| url.invalid())?;
    let response = requests.send_request(request).await?;
    accepted(response).await.map(drop)
}

/// The body of a good answer; what the node says, if it isn't one.
pub(super) async fn accepted(response: Response<Incoming>) -> Result<Incoming, ClientError> {
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response.into_body());
    }
    let body = Limited::new(response.into_body(), MAX_TEXT_LEN).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned());
    Err(ClientError::Refused { code: status.as_u16(), text: text.unwrap_or_default() })
}

fn uri(url: &NodeUrl, path: &str, name: &str) -> String {
    format!("http://{}/{path}?name={}", url.authority(), percent_encode(name))
}

#[derive(Debug)]
struct Blocks(mpsc::Receiver<io::Result<Bytes>>);

impl Body for Blocks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|block| block.map(|block| block.map(Frame::data)))
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A node may have to wait for a database that is being replaced.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_TEXT_LEN: usize = 4096;
