//! The node: store, lease, mount and HTTP server as one thing that is started and closed.
//!
//! The only place of this crate that knows the engine, the mount and the lease, each by its public API.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use litefs_core::db::Durability;
use litefs_core::error::ErrorKind;
use litefs_core::http::{NodeInfo, router, serve};
use litefs_core::store::{Retention, Store, StoreOptions};
use litefs_fuse::{Mount, MountOptions};
use litefs_lease::{Lease, Leaser, PrimaryInfo, StaticLeaser};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::start::{CloseError, StartError, holder, listen};
use crate::config::{self, Config};

/// A node that is up.
#[derive(Debug)]
pub(super) struct Node {
    candidate: bool,
    store: Arc<Store>,
    mount: Mount,
    lease: Option<Box<dyn Lease>>,
    http: Option<HttpServer>,
    runtime: Runtime,
}

/// The thread that serves HTTP.
#[derive(Debug)]
struct HttpServer {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Node {
    /// Whether this node may become primary.
    pub(super) fn is_candidate(&self) -> bool {
        self.candidate
    }

    /// Calls `ready` once the node has all that it needs before the application starts.
    pub(super) fn on_ready(&self, ready: impl FnOnce() + Send + 'static) {
        // A static primary is ready at once; a replica has nobody yet to wait for.
        ready();
    }

    /// Stops the HTTP server, unmounts, releases the lease and closes the store, all of them even if
    /// one fails.
    pub(super) fn close(self) -> Result<(), CloseError> {
        if let Some(http) = self.http {
            http.stop();
        }
        let unmounted = self.mount.unmount();
        if let Ok(unmounted) = &unmounted
            && unmounted.lazy
        {
            tracing::warn!("files in the mount were still open; their processes get errors now");
        }
        if let Some(lease) = self.lease {
            tracing::info!("{}: exiting primary, destroying lease", id(&self.store));
            if let Err(err) = self.runtime.block_on(lease.release()) {
                tracing::warn!("{}: cannot remove lease: {err}", id(&self.store));
            }
        }
        self.store.close();
        unmounted.map(drop).map_err(CloseError::Unmount)
    }
}

/// Opens, mounts and serves. Never waits for other machines.
pub(super) fn start_node(config: &Config, skip_unmount: bool) -> Result<Node, StartError> {
    if config.backup.r#type.is_empty() {
        tracing::info!("no backup client configured, skipping");
    }
    raise_file_limit();
    let listener = config.http.listen_addr().map(listen).transpose()?;
    if config.lease.r#type == "consul" {
        return Err(StartError::Consul);
    }
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| StartError::Thread { what: "runtime", source })?;
    let leaser = static_leaser(config);
    let store = open_store(config)?;
    let lease = take_role(&runtime, &store, &leaser)?;

    let mut options = MountOptions::new(&config.fuse.dir);
    options.allow_other = config.fuse.allow_other;
    options.debug = config.fuse.debug;
    options.skip_unmount = skip_unmount;
    let mount = Mount::new(Arc::clone(&store), options).map_err(|err| {
        store.close();
        StartError::Mount(err)
    })?;
    tracing::info!("LiteFS mounted to: {}", config.fuse.dir.display());

    let candidate = config.lease.candidate;
    let node = NodeInfo { candidate, hostname: leaser.own_info().hostname.clone() };
    let http = listener.map(|listener| HttpServer::start(listener, &store, node)).transpose()?;
    Ok(Node { candidate, store, mount, lease, http, runtime })
}

fn static_leaser(config: &Config) -> StaticLeaser {
    let lease = &config.lease;
    let info = PrimaryInfo {
        hostname: lease.hostname.clone(),
        advertise_url: lease.advertise_url.clone(),
    };
    tracing::info!(
        "Using static primary: primary={} hostname={} advertise-url={}",
        lease.candidate,
        info.hostname,
        info.advertise_url
    );
    StaticLeaser::new(lease.candidate, info)
}

fn open_store(config: &Config) -> Result<Arc<Store>, StartError> {
    let data = &config.data;
    let retention = Retention {
        min_age: data.retention.positive(),
        max_len_bytes: data.retention_size.limit(),
        keep_from: None,
    };
    let interval = data.retention_monitor_interval.positive().unwrap_or_default();
    let durability = match data.durability {
        config::Durability::Normal => Durability::Normal,
        config::Durability::Always => Durability::Always,
    };
    let options = StoreOptions::new(&data.dir)
        .compress(data.compress)
        .durability(durability)
        .strict_verify(config.strict_verify)
        .retention(retention, interval);
    options.open().map_err(|err| match err.kind() {
        ErrorKind::Busy => StartError::Locked { dir: data.dir.clone(), pid: holder(&data.dir) },
        _ => StartError::Store(err),
    })
}

fn take_role(
    runtime: &Runtime,
    store: &Arc<Store>,
    leaser: &StaticLeaser,
) -> Result<Option<Box<dyn Lease>>, StartError> {
    match runtime.block_on(leaser.acquire()) {
        Ok(lease) => {
            let url = &leaser.own_info().advertise_url;
            tracing::info!("{}: primary lease acquired, advertising as {url}", id(store));
            let known = store.cluster_id();
            let cluster = store.ensure_cluster_id().map_err(StartError::Store)?;
            match known {
                Some(_) => tracing::info!("using existing cluster id: \"{cluster}\""),
                None => {
                    tracing::info!("set cluster id on \"{}\" lease \"{cluster}\"", leaser.kind());
                }
            }
            store.become_primary();
            Ok(Some(lease))
        }
        Err(_) => {
            store.become_replica(None);
            tracing::warn!(
                "this node is a replica, but replication is not there yet: it serves what its data \
                 directory has, read-only"
            );
            Ok(None)
        }
    }
}

impl HttpServer {
    fn start(
        listener: TcpListener,
        store: &Arc<Store>,
        node: NodeInfo,
    ) -> Result<HttpServer, StartError> {
        let failed = |source| StartError::Thread { what: "http server", source };
        listener.set_nonblocking(true).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let router = router(Arc::clone(store), node);
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                // A dropped sender means stop as well.
                let (stop, told) = oneshot::channel::<()>();
                let served = serve(listener, router, async { drop(told.await) });
                tokio::select! {
                    // Nothing is lost if it is dropped: requests only read.
                    ended = served => ended,
                    () = async {
                        drop(stopped.await);
                        drop(stop);
                        tokio::time::sleep(GRACE).await;
                    } => Ok(()),
                }
            })
        };
        let thread = std::thread::Builder::new().name("litefs-http".into()).spawn(run);
        tracing::info!("http server listening on: http://{}", shown(addr));
        Ok(HttpServer { stop, thread: thread.map_err(failed)? })
    }

    fn stop(self) {
        let _ = self.stop.send(());
        if let Ok(Err(err)) = self.thread.join() {
            tracing::warn!("http server: {err}");
        }
    }
}

/// How long running requests may take at the end.
const GRACE: Duration = Duration::from_secs(2);

/// Each database in use holds a handful of files open; many systems allow 1,024 unless asked for more.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(err) = raised {
        tracing::debug!("cannot raise the limit of open files: {err}");
    }
}

/// The address as a user would type it.
fn shown(addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() { format!("localhost:{}", addr.port()) } else { addr.to_string() }
}

fn id(store: &Store) -> String {
    format!("{:016X}", store.node_id())
}
