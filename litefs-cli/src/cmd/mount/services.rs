//! The two threads of a node that talk to other machines: the HTTP server, and the role loop.
//!
//! Each has a runtime of its own, so that neither waits for the other. Both are stopped and waited for explicitly.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use litefs_core::cluster::{Ready, RoleLoop};
use litefs_core::http::{NodeInfo, router, serve};
use litefs_core::store::Store;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use super::start::StartError;

/// The thread that serves HTTP.
#[derive(Debug)]
pub(super) struct HttpServer {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl HttpServer {
    pub(super) fn start(
        listener: TcpListener,
        store: &Arc<Store>,
        node: NodeInfo,
    ) -> Result<HttpServer, StartError> {
        let failed = failed("http server");
        listener.set_nonblocking(true).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let runtime = runtime().map_err(failed)?;
        let router = router(Arc::clone(store), node);
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            let served = runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                // A dropped sender means stop as well.
                let (stop, told) = oneshot::channel::<()>();
                let served = serve(listener, router, async { drop(told.await) });
                tokio::select! {
                    // Nothing is lost if it is dropped: who reads a stream comes back.
                    ended = served => ended,
                    () = async {
                        drop(stopped.await);
                        drop(stop);
                        tokio::time::sleep(GRACE).await;
                    } => Ok(()),
                }
            });
            // What still waits for the mount must not be waited for: it ends with the mount.
            runtime.shutdown_background();
            served
        };
        let thread = std::thread::Builder::new().name("litefs-http".into()).spawn(run);
        tracing::info!("http server listening on: http://{}", shown(addr));
        Ok(HttpServer { stop, thread: thread.map_err(failed)? })
    }

    pub(super) fn stop(self) {
        let _ = self.stop.send(());
        if let Ok(Err(err)) = self.thread.join() {
            tracing::warn!("http server: {err}");
        }
    }
}

/// The thread that leads or follows. Dropping it lays down the role, and returns when that is done.
#[derive(Debug)]
pub(super) struct RoleThread {
    ready: Ready,
    runtime: Handle,
    /// Both are there until the drop.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RoleThread {
    pub(super) fn start(role: RoleLoop) -> Result<RoleThread, StartError> {
        let failed = failed("role loop");
        let runtime = runtime().map_err(failed)?;
        let (ready, handle) = (role.ready(), runtime.handle().clone());
        let (stop, told) = oneshot::channel::<()>();
        let run = move || {
            runtime.block_on(role.run(async { drop(told.await) }));
            // As above.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("litefs-role".into()).spawn(run);
        let thread = Some(thread.map_err(failed)?);
        Ok(RoleThread { ready, runtime: handle, stop: Some(stop), thread })
    }

    /// Calls `then` once the node is primary, or has what its primary had.
    pub(super) fn on_ready(&self, then: impl FnOnce() + Send + 'static) {
        let mut ready = self.ready.clone();
        self.runtime.spawn(async move {
            // It isn't called if the node is stopped before.
            if ready.wait().await.is_ok() {
                then();
            }
        });
    }

    /// Work that ends with the thread.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }

    /// Runs a call of its runtime on this thread.
    pub(super) fn block_on<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }

    /// Waits until the node is primary, or has what its primary had, but not for long.
    pub(super) fn wait_ready(&self, limit: Duration) {
        let (tell, told) = std::sync::mpsc::channel();
        self.on_ready(move || drop(tell));
        // The sender is never used: the wait ends when it is dropped.
        let _: Result<(), _> = told.recv_timeout(limit);
    }
}

impl Drop for RoleThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the role loop has panicked");
        }
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> StartError + Copy {
    move |source| StartError::Thread { what, source }
}

/// The address as a user would type it.
fn shown(addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() { format!("localhost:{}", addr.port()) } else { addr.to_string() }
}

/// How long running requests may take at the end.
const GRACE: Duration = Duration::from_secs(2);
