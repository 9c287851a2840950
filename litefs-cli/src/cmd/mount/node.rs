//! The node: store, lease, mount and HTTP server as one thing that is started and closed.
//!
//! With `services` the only place of this crate that knows the engine, the mount and the lease, each by its public API.

use std::sync::Arc;
use std::time::Duration;

use litefs_core::cluster::{Options, PromoteError, RoleLoop, promote};
use litefs_core::db::Durability;
use litefs_core::error::ErrorKind;
use litefs_core::http::NodeInfo;
use litefs_core::store::{Retention, Store, StoreOptions};
use litefs_core::types::DbName;
use litefs_fuse::{Mount, MountOptions};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::lease::leaser;
use super::services::{HttpServer, RoleThread};
use super::start::{CloseError, StartError, holder, listen};
use crate::config::{self, Config};
use crate::fly::FlyMachine;

/// A node that is up.
#[derive(Debug)]
pub(super) struct Node {
    candidate: bool,
    store: Arc<Store>,
    mount: Mount,
    role: RoleThread,
    http: Option<HttpServer>,
}

impl Node {
    /// Whether this node may become primary.
    pub(super) fn is_candidate(&self) -> bool {
        self.candidate
    }

    /// Whether it is the primary now.
    pub(super) fn is_primary(&self) -> bool {
        self.store.is_primary()
    }

    /// Tells the host environment the role, now and whenever it changes.
    pub(super) fn tell_role(&self, host: FlyMachine) {
        self.role.spawn(host.report(Arc::clone(&self.store)));
    }

    /// Has the primary hand over to this node. It becomes the primary a little later.
    pub(super) fn promote(&self) -> Result<(), PromoteError> {
        self.role.block_on(promote(&self.store))
    }

    /// Calls `ready` once the node is primary, or has what its primary had.
    pub(super) fn on_ready(&self, ready: impl FnOnce() + Send + 'static) {
        self.role.on_ready(ready);
    }

    /// Unmounts, lays down the role, stops the HTTP server and closes the store, all of them even if one
    /// fails.
    pub(super) fn close(self) -> Result<(), CloseError> {
        let Node { store, mount, role, http, .. } = self;
        // A replica has files of the mount open: it ends first. A primary may get its last transaction by
        // the unmounting, and still sends it.
        let role = Some(role).filter(|_| store.is_primary());
        let unmounted = mount.unmount();
        if let Ok(unmounted) = &unmounted
            && unmounted.lazy
        {
            tracing::warn!("files in the mount were still open; their processes get errors now");
        }
        drop(role);
        if let Some(http) = http {
            http.stop();
        }
        store.close();
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
    let store = open_store(config)?;
    let leaser = leaser(config, listener.as_ref(), store.identity())?;

    let candidate = config.lease.candidate;
    let hostname = leaser.own_info().hostname.clone();
    let role = RoleLoop::new(Arc::clone(&store), leaser, role_options(config));
    let node = NodeInfo { candidate, hostname, control: Some(role.control()) };
    // A primary by configuration may write from the moment that the mount is there. All others open files of the
    // mount, so they begin only then.
    let is_static = config.lease.r#type == "static";
    let (mount, role) = if candidate && is_static {
        let role = RoleThread::start(role)?;
        role.wait_ready(MAX_WAIT);
        (mount_store(config, &store, skip_unmount)?, role)
    } else {
        (mount_store(config, &store, skip_unmount)?, RoleThread::start(role)?)
    };
    let http = listener.map(|listener| HttpServer::start(listener, &store, node)).transpose()?;
    Ok(Node { candidate, store, mount, role, http })
}

fn mount_store(
    config: &Config,
    store: &Arc<Store>,
    skip_unmount: bool,
) -> Result<Mount, StartError> {
    let mut options = MountOptions::new(&config.fuse.dir);
    options.allow_other = config.fuse.allow_other;
    options.debug = config.fuse.debug;
    options.skip_unmount = skip_unmount;
    let mount = Mount::new(Arc::clone(store), options).map_err(|err| {
        store.close();
        StartError::Mount(err)
    })?;
    tracing::info!("LiteFS mounted to: {}", config.fuse.dir.display());
    Ok(mount)
}

fn role_options(config: &Config) -> Options {
    let lease = &config.lease;
    let defaults = Options::default();
    Options {
        candidate: lease.candidate,
        // Those that are no names were refused when the configuration was read.
        databases: lease.databases.iter().filter_map(|name| DbName::new(name).ok()).collect(),
        reconnect_delay: lease.reconnect_delay.positive().unwrap_or(defaults.reconnect_delay),
        demote_delay: lease.demote_delay.positive().unwrap_or_default(),
        allow_stale_promotion: lease.allow_stale_promotion,
        ..defaults
    }
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
    let store = options.open().map_err(|err| match err.kind() {
        ErrorKind::Busy => StartError::Locked { dir: data.dir.clone(), pid: holder(&data.dir) },
        _ => StartError::Store(err),
    })?;
    if let Some(id) = store.cluster_id() {
        tracing::info!("using existing cluster id: \"{id}\"");
    }
    Ok(store)
}

/// Each database in use holds a handful of files open; many systems allow 1,024 unless asked for more.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(err) = raised {
        tracing::debug!("cannot raise the limit of open files: {err}");
    }
}

/// A static lease is there at once.
const MAX_WAIT: Duration = Duration::from_secs(1);
