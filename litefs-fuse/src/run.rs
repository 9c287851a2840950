//! How an operation is run: a panic in it is caught (its caller gets `EIO`, the others go on), and it is logged.
//!
//! One that may wait for another machine, or for the mount itself, is run and answered by a thread of its own, so that those that
//! serve the mount go on. Which ones these are is decided in [`crate::ops`]: the open that asks for the halt lock, the last close, which
//! gives it back, and what is written under it; the first write without a journal, and the close after it, for which SQLite's locks are
//! asked for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use fuser::INodeNo;
use nix::errno::Errno;

/// Runs operations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Runner {
    /// Log each request at level debug rather than trace.
    pub(crate) debug: bool,
}

impl Runner {
    /// Runs one.
    pub(crate) fn run<T>(
        self,
        operation: &'static str,
        number: INodeNo,
        f: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, fuser::Errno> {
        let result = catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| {
            tracing::error!(operation, ino = number.0, "panic in a file operation");
            Err(Errno::EIO)
        });
        let errno = result.as_ref().err().map(|&e| e as i32);
        if self.debug {
            tracing::debug!(target: REQUESTS, operation, ino = number.0, errno);
        } else {
            tracing::trace!(target: REQUESTS, operation, ino = number.0, errno);
        }
        result.map_err(|errno| fuser::Errno::from_i32(errno as i32))
    }
}

/// Does `work` on a thread of its own. Without one it is dropped, and the reply that it holds answers with an error.
pub(crate) fn later(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(err) = thread::Builder::new().name(format!("litefs-{name}")).spawn(work) {
        tracing::warn!(%err, "no thread for an operation that waits");
    }
}

const REQUESTS: &str = "litefs_fuse::requests";
