//! The node: store, lease, mount and HTTP server as one thing that is started and closed.
//!
//! The only place of this crate that will know the engine. Until it is linked in, a start makes the
//! checks that need no engine and then says so; [`Node`] has no values, so nothing below can run.

use super::start::{CloseError, DataLock, StartError, check_fuse, check_mount_dir, listen};
use crate::config::Config;

/// A node that is up.
#[derive(Debug)]
pub(super) enum Node {}

impl Node {
    /// Whether this node may become primary.
    pub(super) fn is_candidate(&self) -> bool {
        match *self {}
    }

    /// Calls `ready` once the node is primary or connected to one; soon, later or never.
    pub(super) fn on_ready(&self, _ready: impl FnOnce() + Send + 'static) {
        match *self {}
    }

    /// Stops the HTTP server, unmounts, releases the lease and closes the store, all of them even if
    /// one fails.
    pub(super) fn close(self) -> Result<(), CloseError> {
        match self {}
    }
}

/// Opens, mounts and serves. Needn't be interruptible, but should never wait for other machines.
pub(super) fn start_node(config: &Config, _skip_unmount: bool) -> Result<Node, StartError> {
    if config.lease.r#type == "consul" {
        return Err(StartError::Consul);
    }
    let _listener = config.http.listen_addr().map(listen).transpose()?;
    let _lock = DataLock::acquire(&config.data.dir)?;
    check_fuse()?;
    check_mount_dir(&config.fuse.dir)?;
    Err(StartError::NotBuilt)
}
