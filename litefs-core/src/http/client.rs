//! The other end of [`super::router`]: what a node asks another one.
//!
//! HTTP/2 by prior knowledge over plain TCP, one connection per stream, so that closing it closes everything. What isn't
//! here: what is done with a stream's bytes (see [`super::frames`] and [`crate::cluster`]), and when to try again.
//!
//! Differs from LiteFS: connecting has a time limit, and so has a primary's silence.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{error::Elapsed, timeout};

use super::frames::PositionMap;
use super::{CANDIDATE_HEADER, REIGN_HEADER};
use crate::types::DbName;

/// Where a node is reached. Path and query of the URL don't matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUrl {
    host: String,
    port: u16,
    authority: String,
}

/// How long to wait for a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the connection, and again for the answer.
    pub connect: Duration,
    /// For bytes of a stream: heartbeats come each second.
    pub silence: Duration,
}

/// What a replica says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Hello<'a> {
    /// Its node ID.
    pub node_id: u64,
    /// Whether it would take the lease.
    pub candidate: bool,
    /// What it has.
    pub positions: &'a PositionMap,
    /// The databases that it wants; all, if empty.
    pub filter: &'a [DbName],
}

/// A replication stream from a primary.
#[derive(Debug)]
pub struct ReplicationStream {
    cluster_id: Option<String>,
    reign: Option<u64>,
    body: Incoming,
    silence: Duration,
    _connection: Connection,
}

/// The task that drives a connection; it ends with this.
#[derive(Debug)]
pub(super) struct Connection(JoinHandle<()>);

impl NodeUrl {
    /// Checks the URL.
    ///
    /// # Errors
    /// If it is none, isn't `http` or `https`, or names no host.
    pub fn parse(url: &str) -> Result<NodeUrl, ClientError> {
        // The library refuses these too, but doesn't say why.
        if let Some((scheme, rest)) = url.split_once("://") {
            let https = match scheme {
                "http" => false,
                "https" => true,
                _ => return Err(ClientError::Scheme),
            };
            if rest.is_empty() || rest.starts_with(['/', '?', '#', ':']) {
                return Err(ClientError::Host);
            }
            let invalid = || ClientError::Url(url.into());
            let uri: Uri = url.parse().map_err(|_| invalid())?;
            let authority = uri.authority().ok_or(ClientError::Host)?;
            // Without user and password, which have no place in a request.
            let shown = authority.as_str().rsplit('@').next().unwrap_or_default();
            let port = match shown.strip_prefix(authority.host()) {
                Some("") if https => 443,
                Some("") => 80,
                _ => authority.port_u16().ok_or_else(invalid)?,
            };
            let host = authority.host().trim_matches(['[', ']']).to_owned();
            return Ok(NodeUrl { host, port, authority: shown.to_owned() });
        }
        let parsed = url.parse::<Uri>();
        Err(parsed.map_or_else(|_| ClientError::Url(url.into()), |_| ClientError::Scheme))
    }
}

impl NodeUrl {
    /// Host and port, as they stand in the URL.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) fn invalid(&self) -> ClientError {
        ClientError::Url(self.authority.clone())
    }
}

impl ReplicationStream {
    /// Asks a primary for all that the replica lacks.
    ///
    /// # Errors
    /// If it can't be reached, or refuses.
    pub async fn open(
        url: &NodeUrl,
        hello: Hello<'_>,
        timeouts: Timeouts,
    ) -> Result<ReplicationStream, ClientError> {
        let Hello { node_id, candidate, positions, filter } = hello;
        let (mut requests, connection) = timeout(timeouts.connect, connect(url)).await??;
        let mut request =
            Request::post(stream_uri(url, filter)).header("litefs-id", format!("{node_id:016X}"));
        if candidate {
            request = request.header(CANDIDATE_HEADER, "true");
        }
        let request = request
            .body(Full::new(Bytes::from(positions.encode())))
            .map_err(|_| ClientError::Url(url.authority.clone()))?;
        let response = timeout(timeouts.connect, requests.send_request(request)).await??;
        match response.status() {
            StatusCode::OK => Ok(ReplicationStream {
                cluster_id: header(&response, "litefs-cluster-id"),
                reign: header(&response, REIGN_HEADER).and_then(|text| text.parse().ok()),
                body: response.into_body(),
                silence: timeouts.silence,
                _connection: connection,
            }),
            status => Err(ClientError::Status(status.as_u16())),
        }
    }

    /// The primary's cluster, as it says.
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// The primary's reign, if it says.
    pub fn reign(&self) -> Option<u64> {
        self.reign
    }

    /// The next bytes, never empty; `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// If the connection breaks or the primary falls silent.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = match timeout(self.silence, self.body.frame()).await {
                Err(_) => return Err(ClientError::Silence(self.silence)),
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame?,
            };
            if let Ok(bytes) = frame.into_data()
                && !bytes.is_empty()
            {
                return Ok(Some(bytes));
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why there is no answer, or no more of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Not a URL.
    #[error("invalid client URL: {0}")]
    Url(String),
    /// Neither `http` nor `https`.
    #[error("invalid URL scheme")]
    Scheme,
    /// No host.
    #[error("URL host required")]
    Host,
    /// No connection.
    #[error("{0}")]
    Connect(#[from] io::Error),
    /// No connection, or no answer, in time.
    #[error("timed out")]
    Timeout(#[from] Elapsed),
    /// The connection broke, or the other end doesn't speak HTTP/2.
    #[error("{}", crate::error::chain(.0))]
    Http(#[from] hyper::Error),
    /// It refused.
    #[error("invalid response: code={0}")]
    Status(u16),
    /// It refused, and said why.
    #[error("invalid response: code={code}")]
    Refused {
        /// The status.
        code: u16,
        /// In its words.
        text: String,
    },
    /// It answered something else than was asked for.
    #[error("the answer isn't understood")]
    Answer,
    /// The answer isn't waited for any more.
    #[error("the connection to the primary was lost")]
    Abandoned,
    /// Not even heartbeats came any more.
    #[error("no heartbeat for {0:?}")]
    Silence(Duration),
}

pub(super) async fn connect<B>(
    url: &NodeUrl,
) -> Result<(http2::SendRequest<B>, Connection), ClientError>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static,
{
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await?;
    stream.set_nodelay(true)?;
    let (requests, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW_LEN)
        .initial_connection_window_size(WINDOW_LEN)
        .max_frame_size(MAX_FRAME_LEN)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(stream))
        .await?;
    let drive = async move {
        if let Err(err) = connection.await {
            tracing::debug!(err = &err as &dyn std::error::Error, "connection ended");
        }
    };
    Ok((requests, Connection(tokio::spawn(drive))))
}

fn stream_uri(url: &NodeUrl, filter: &[DbName]) -> String {
    let names: Vec<String> = filter.iter().map(|name| percent_encode(name.as_str())).collect();
    let query =
        if names.is_empty() { String::new() } else { format!("?filter={}", names.join(",")) };
    format!("http://{}/stream{query}", url.authority)
}

pub(super) fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::new(), |out, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            out + char::from(byte).encode_utf8(&mut [0; 4])
        }
        _ => out + &format!("%{byte:02X}"),
    })
}

fn header(response: &Response<Incoming>, name: &str) -> Option<String> {
    let text = response.headers().get(name)?.to_str().ok()?;
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// What may be on its way: enough for a fast network that is far. It is also what a slow replica holds in memory.
const WINDOW_LEN: u32 = 4 << 20;
const MAX_FRAME_LEN: u32 = 128 << 10;
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_in_the_originals_words() {
        let cases = [
            ("ftp://a", "invalid URL scheme"),
            ("a:20202", "invalid URL scheme"),
            ("", "invalid client URL: "),
            ("http://", "URL host required"),
            ("http:///x", "URL host required"),
            ("http://a b", "invalid client URL: http://a b"),
            ("http://a:70000", "invalid client URL: http://a:70000"),
        ];
        for (url, want) in cases {
            assert_eq!(NodeUrl::parse(url).unwrap_err().to_string(), want, "{url}");
        }
    }

    #[test]
    fn path_and_query_are_dropped_and_names_escaped() {
        let url = NodeUrl::parse("http://user:pw@[::1]:20202/x?y=z").unwrap();
        assert_eq!((url.host.as_str(), url.port), ("::1", 20202));
        let names = [DbName::new("a b").unwrap(), DbName::new("c").unwrap()];
        assert_eq!(stream_uri(&url, &names), "http://[::1]:20202/stream?filter=a%20b,c");
        assert_eq!(stream_uri(&url, &[]), "http://[::1]:20202/stream");
        assert_eq!(NodeUrl::parse("https://a").unwrap().port, 443);
    }
}
