//! Tells the host environment of fly.io which role this machine has.
//!
//! ```text
//! POST /v1/apps/<FLY_APP_NAME>/machines/<FLY_MACHINE_ID>/metadata/role   {"value":"primary"}    over /.fly/api
//! ```
//!
//! Best effort, as in LiteFS: six attempts a second apart, two seconds each; a role that has changed meanwhile takes
//! the place of the one that couldn't be told.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use litefs_core::store::{Event, Store};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::environment::Environment;

/// Where a role is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlyMachine {
    socket: PathBuf,
    path: String,
}

/// Why it wasn't.
#[derive(Debug, Error)]
enum TellError {
    #[error("{0}")]
    Connect(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("unexpected status {0}")]
    Status(u16),
}

impl FlyMachine {
    /// The machine that this process runs on, if it is one of fly.io's.
    pub(crate) fn detect(env: &Environment) -> Option<FlyMachine> {
        let app = env.var("FLY_APP_NAME").filter(|app| !app.is_empty())?;
        let machine = env.var("FLY_MACHINE_ID").unwrap_or_default();
        tracing::info!(r#type = "fly.io", "host environment detected");
        Some(FlyMachine::at(Path::new("/.fly/api"), app, machine))
    }

    fn at(socket: &Path, app: &str, machine: &str) -> FlyMachine {
        let path = format!("/v1/apps/{app}/machines/{machine}/metadata/role");
        FlyMachine { socket: socket.into(), path }
    }

    /// Tells the role now and whenever it changes; never ends.
    pub(crate) async fn report(self, store: Arc<Store>) {
        let (mut events, mut told) = (store.events(), None);
        loop {
            let is_primary = store.is_primary();
            if told != Some(is_primary) {
                self.insist(&store, is_primary).await;
                told = Some(is_primary);
                continue;
            }
            match events.next().await {
                Ok(Event::PrimaryChange { .. } | Event::Tx { .. }) => {}
                // The role is asked for in any case.
                Err(_) => events = store.events(),
            }
        }
    }

    async fn insist(&self, store: &Store, is_primary: bool) {
        let role = if is_primary { "primary" } else { "replica" };
        for _ in 0..ATTEMPTS {
            match self.tell(role).await {
                Ok(()) => return,
                Err(err) => {
                    tracing::info!("cannot set environment role to {role}, retrying: {err}");
                }
            }
            sleep(PAUSE).await;
            if store.is_primary() != is_primary {
                return;
            }
        }
    }

    async fn tell(&self, role: &str) -> Result<(), TellError> {
        timeout(PATIENCE, async {
            let stream = UnixStream::connect(&self.socket).await?;
            let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // It ends with the request's last byte, and its errors are the request's.
            let connection = tokio::spawn(connection);
            let body = format!(r#"{{"value":"{role}"}}"#);
            let request = Request::post(&self.path).header("host", "localhost");
            let response =
                requests.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
            let status = response.status();
            response.into_body().collect().await?;
            connection.abort();
            if status.is_success() { Ok(()) } else { Err(TellError::Status(status.as_u16())) }
        })
        .await?
    }
}

const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use litefs_core::store::StoreOptions;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// The next request on the socket, head and body, answered with success.
    async fn next(listener: &UnixListener) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut text = String::new();
        while !text.ends_with('}') {
            let mut byte = [0; 512];
            let n = stream.read(&mut byte).await.unwrap();
            assert_ne!(n, 0, "{text}");
            text.push_str(std::str::from_utf8(&byte[..n]).unwrap());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        text
    }

    #[tokio::test]
    async fn each_change_of_the_role_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api");
        let listener = UnixListener::bind(&socket).unwrap();
        let store = StoreOptions::new(dir.path().join("data")).open().unwrap();
        let machine = FlyMachine::at(&socket, "app", "m1");
        let report = tokio::spawn(machine.report(Arc::clone(&store)));
        let all = async {
            let first = next(&listener).await;
            assert!(first.starts_with("POST /v1/apps/app/machines/m1/metadata/role HTTP/1.1\r\n"));
            assert!(first.ends_with(r#"{"value":"replica"}"#), "{first}");
            store.become_primary();
            assert!(next(&listener).await.ends_with(r#"{"value":"primary"}"#));
            store.become_replica(None);
            assert!(next(&listener).await.ends_with(r#"{"value":"replica"}"#));
        };
        timeout(Duration::from_secs(10), all).await.unwrap();
        report.abort();
    }

    #[test]
    fn other_hosts_are_told_nothing() {
        assert_eq!(FlyMachine::detect(&Environment::default()), None);
        assert_eq!(FlyMachine::detect(&Environment::from([("FLY_APP_NAME", "")])), None);
        let env = Environment::from([("FLY_APP_NAME", "a"), ("FLY_MACHINE_ID", "m")]);
        assert_eq!(
            FlyMachine::detect(&env),
            Some(FlyMachine::at(Path::new("/.fly/api"), "a", "m"))
        );
    }
}
