//! The thread that appends WAL transactions to the logs, one for all databases of a store.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::Database;

/// A handle to the thread; it ends when [`Worker::stop`] is called.
#[derive(Debug, Clone)]
pub(crate) struct Worker(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Weak<Database>>,
    stopped: bool,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(crate) fn start() -> io::Result<Worker> {
        let shared = Arc::new(Shared::default());
        let in_thread = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("litefs-log".into()).spawn(move || in_thread.run())?;
        shared.state.lock().thread = Some(thread);
        Ok(Worker(shared))
    }

    /// Has the database's jobs done.
    pub(crate) fn wake(&self, db: &Weak<Database>) {
        let mut state = self.0.state.lock();
        if !state.waiting.iter().any(|waiting| waiting.ptr_eq(db)) {
            state.waiting.push_back(Weak::clone(db));
            self.0.changed.notify_one();
        }
    }

    /// Ends the thread, after the database it is at.
    pub(crate) fn stop(&self) {
        let thread = {
            let mut state = self.0.state.lock();
            state.stopped = true;
            self.0.changed.notify_one();
            state.thread.take()
        };
        // A panicked worker has been reported by the panic itself; writers do its work from then on.
        drop(thread.map(JoinHandle::join));
    }
}

impl Shared {
    fn run(&self) {
        while let Some(db) = self.next() {
            let Some(db) = db.upgrade() else { continue };
            if db.drain().is_err() {
                // Reported by the database. Later, space may be there again.
                self.retry_later(Arc::downgrade(&db));
            }
        }
    }

    fn next(&self) -> Option<Weak<Database>> {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(db) = state.waiting.pop_front() {
                return Some(db);
            }
            self.changed.wait(&mut state);
        }
    }

    fn retry_later(&self, db: Weak<Database>) {
        let mut state = self.state.lock();
        if !state.stopped {
            self.changed.wait_for(&mut state, RETRY_DELAY);
            state.waiting.push_back(db);
        }
    }
}

const RETRY_DELAY: Duration = Duration::from_secs(1);
