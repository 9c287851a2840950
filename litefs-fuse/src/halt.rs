//! `-lock` opened for writing: the halt lock is asked for before the open is answered, and given back after the last close.
//!
//! Both wait for the primary, and the first for this node's own files to get to its position, which takes the mount.

use std::sync::Arc;

use litefs_core::cluster::{HaltError, Halted, halt};
use litefs_core::store::Store;
use litefs_core::types::DbName;
use nix::errno::Errno;

use crate::run::later;

/// Asks for the lock; `None` if this node has become the primary.
pub(crate) fn ask(store: &Arc<Store>, db: &DbName) -> Result<Option<Halted>, Errno> {
    halt(store, db).map_err(|err| {
        tracing::warn!(%db, %err, "the halt lock wasn't acquired");
        errno(&err)
    })
}

/// Gives the lock back, if nobody else has it open.
pub(crate) fn give_back(halted: Arc<Halted>) {
    // Without a thread it is dropped here, and the request waits.
    later("unhalt", move || drop(halted));
}

fn errno(err: &HaltError) -> Errno {
    if err.is_busy() { Errno::EAGAIN } else { Errno::EIO }
}
