//! The server: connections in, requests to the router, a graceful end.
//!
//! One port speaks HTTP/1.1 and HTTP/2 by prior knowledge. What isn't here: the router (see [`super::router`]).
//!
//! Connections are limited in number; one that says nothing, or never ends its headers, is closed; one whose other end
//! is gone without a word is noticed by HTTP/2 pings.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower_service::Service as _;

/// Serves until `stop` is done, then lets running requests end.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (builder, graceful) = (builder(), GracefulShutdown::new());
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            // Beyond the limit, connections wait in the listener's queue. The semaphore is never closed.
            let place = Arc::clone(&room).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((place, listener.accept().await?))
        };
        let accepted = tokio::select! {
            // Both sides are cancel-safe: accepting loses no connection.
            accepted = next => accepted,
            () = &mut stop => break,
        };
        let (place, (stream, peer)) = match accepted {
            Ok(accepted) => accepted,
            Err(err) => {
                tracing::warn!("http: cannot accept a connection: {err}");
                // Mostly there are too many open files: some will be closed.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (builder, router, watcher) = (builder.clone(), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _place = place;
            if begins(&stream).await {
                let service = service_fn(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(ConnectInfo::<SocketAddr>(peer));
                    router.clone().call(request)
                });
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                if let Err(err) = watcher.watch(connection.into_owned()).await {
                    tracing::debug!(%peer, err, "http: connection ended");
                }
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_REQUESTS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Prepares a connection; whether anything came on it in time.
async fn begins(stream: &TcpStream) -> bool {
    // What is sent on a stream is small and urgent.
    if stream.set_nodelay(true).is_err() {
        return false;
    }
    let first = tokio::time::timeout(HEADER_TIMEOUT, stream.peek(&mut [0])).await;
    matches!(first, Ok(Ok(1)))
}

const MAX_CONNECTIONS: usize = 1024;
/// At the same time on one HTTP/2 connection.
const MAX_REQUESTS: u32 = 128;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
