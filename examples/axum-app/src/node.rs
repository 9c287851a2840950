//! A LiteFS node in this process: store, mount, node API and role loop.
//!
//! The process is an ordinary user of its own mount: it waits for the kernel, which waits for threads of the mount.
//! These are threads of their own, so no request can wait for itself; but file operations block, so they belong into
//! `spawn_blocking`, as on any disk.
//!
//! One rule of SQLite matters more here than elsewhere: a process that opens a database file itself, and closes it,
//! loses the locks that SQLite holds on it. So leave the files in the mount to SQLite.

use std::error::Error;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use litefs_core::cluster::{Options, Ready, RoleLoop};
use litefs_core::http::{NodeInfo, router, serve};
use litefs_core::store::{Store, StoreOptions};
use litefs_fuse::{Mount, MountOptions};
use litefs_lease::{PrimaryInfo, StaticLeaser};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};

/// A node that is up. To be closed by [`Node::close`]; if it is dropped, the mount goes, but nobody waits for the rest.
#[derive(Debug)]
pub struct Node {
    store: Arc<Store>,
    mount: Mount,
    role: Service<()>,
    api: Service<io::Result<()>>,
    ready: Ready,
}

impl Node {
    /// Opens the store in `dir/data`, mounts it at `dir/mnt` and joins the cluster: as the primary, or to follow the
    /// one that `primary` describes. Other nodes are answered at `listener`.
    ///
    /// # Errors
    /// If the store can't be opened or mounted.
    pub async fn start(
        dir: &Path,
        listener: TcpListener,
        is_primary: bool,
        primary: PrimaryInfo,
    ) -> Result<Node, Box<dyn Error + Send + Sync>> {
        let (data, mnt) = (dir.join("data"), dir.join("mnt"));
        let (store, mount) = spawn_blocking(move || {
            let store = StoreOptions::new(data).open()?;
            let mount = Mount::new(Arc::clone(&store), MountOptions::new(mnt))?;
            Ok::<_, Box<dyn Error + Send + Sync>>((store, mount))
        })
        .await??;

        let hostname = primary.hostname.clone();
        let leaser = StaticLeaser::new(is_primary, primary);
        let options = Options { candidate: is_primary, ..Options::default() };
        let role = RoleLoop::new(Arc::clone(&store), Arc::new(leaser), options);

        let info = NodeInfo { candidate: is_primary, hostname, control: Some(role.control()) };
        let routes = router(Arc::clone(&store), info);
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let api = Service::start(|stop| serve(listener, routes, stop));

        let ready = role.ready();
        let role = Service::start(|stop| role.run(stop));
        Ok(Node { store, mount, role, api, ready })
    }

    /// Tells when this node is the primary, or has what its primary had.
    pub fn ready(&self) -> Ready {
        self.ready.clone()
    }

    /// The databases, the position of each, and whether this node may write.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Where SQLite finds its databases.
    pub fn dir(&self) -> &Path {
        self.mount.dir()
    }

    /// Lays the role down, unmounts, and brings everything to disk. All connections to databases should be closed.
    ///
    /// # Errors
    /// If the mount stays.
    pub async fn close(self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let Node { store, mount, role, api, .. } = self;
        role.stop().await;
        // Replicas are told the end by their streams, which end with the role.
        if let Some(Err(err)) = api.stop().await {
            eprintln!("node API: {err}");
        }
        spawn_blocking(move || {
            let unmounted = mount.unmount();
            store.close();
            Ok(unmounted.map(drop)?)
        })
        .await?
    }
}

/// A task that is told when to end.
#[derive(Debug)]
struct Service<T> {
    stop: watch::Sender<()>,
    task: JoinHandle<T>,
}

impl<T: Send + 'static> Service<T> {
    fn start<F>(run: impl FnOnce(StopSignal) -> F) -> Service<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (stop, mut told) = watch::channel(());
        // It ends with an error when the sender is dropped, which is the only thing that happens to it.
        let signal: StopSignal = Box::pin(async move { drop(told.changed().await) });
        Service { stop, task: tokio::spawn(run(signal)) }
    }

    /// Waits for its end, but not for ever; `None` if that was too long or it has panicked.
    async fn stop(self) -> Option<T> {
        drop(self.stop);
        let abort = self.task.abort_handle();
        let ended = tokio::time::timeout(GRACE, self.task).await;
        abort.abort();
        ended.ok()?.ok()
    }
}

type StopSignal = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

const GRACE: Duration = Duration::from_secs(5);
