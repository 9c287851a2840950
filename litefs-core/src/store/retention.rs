//! The thread that enforces retention on all databases of a store.

use std::io;
use std::sync::Weak;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::chain;
use crate::log::Retention;

use super::Store;

/// The running thread; dropping it ends it.
#[derive(Debug)]
pub(super) struct RetentionThread {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RetentionThread {
    /// `None` if nothing is to be enforced.
    pub(super) fn start(
        store: Weak<Store>,
        retention: Retention,
        interval: Duration,
    ) -> io::Result<Option<RetentionThread>> {
        if interval.is_zero() || retention == Retention::default() {
            return Ok(None);
        }
        let (stop, stopped) = mpsc::channel();
        let run = move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let Some(store) = store.upgrade() else { return };
                enforce(&store, &retention);
            }
        };
        let thread = std::thread::Builder::new().name("litefs-retention".into()).spawn(run)?;
        Ok(Some(RetentionThread { stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for RetentionThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic there has been reported by itself.
            drop(thread.join());
        }
    }
}

fn enforce(store: &Store, retention: &Retention) {
    for db in store.databases() {
        if let Err(err) = db.enforce_retention(retention) {
            tracing::warn!(db = %db.name(), err = chain(&err), "retention");
        }
    }
}
