//! `-lock` opened for writing: the halt lock is asked for before the open is answered, and given back after the last close.
//!
//! Both wait for the primary, and the first for this node's own files to get to its position, which takes the mount. So each is
//! done by a thread of its own; those that serve the mount go on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use fuser::{FileHandle, ReplyOpen};
use litefs_core::cluster::{HaltError, Halted, halt};
use litefs_core::store::Store;
use litefs_core::types::DbName;
use nix::errno::Errno;

use crate::fs::fopen_flags;
use crate::ops::Opened;

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
    drop(thread::Builder::new().name("litefs-unhalt".into()).spawn(move || drop(halted)));
}

/// Answers an open when `open` has come to an end.
pub(crate) fn answer_later(
    reply: ReplyOpen,
    open: impl FnOnce() -> Result<Opened, Errno> + Send + 'static,
) {
    let answer = move || {
        let opened = catch_unwind(AssertUnwindSafe(open)).unwrap_or(Err(Errno::EIO));
        match opened {
            Ok(opened) => {
                reply.opened(FileHandle(opened.handle), fopen_flags(&opened, false));
            }
            Err(errno) => reply.error(fuser::Errno::from_i32(errno as i32)),
        }
    };
    if let Err(err) = thread::Builder::new().name("litefs-halt".into()).spawn(answer) {
        // The reply went with the thread that there isn't, and has answered with an error.
        tracing::warn!(%err, "no thread to ask for the halt lock");
    }
}

fn errno(err: &HaltError) -> Errno {
    if err.is_busy() { Errno::EAGAIN } else { Errno::EIO }
}
