//! Threads that do something beside what their caller does: the log's fsync beside that of SQLite's file.
//!
//! A thread that has done its task waits for the next: to start one for each costs about as much as the fsync itself on a fast
//! disk. So there are as many as were ever busy at the same time, and never more than callers. They end with the last
//! handle.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;

use parking_lot::Mutex;

/// A handle to the threads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beside(Arc<Mutex<Vec<Idle>>>);

/// A thread that waits for a task.
type Idle = Sender<Task>;
type Task = Box<dyn FnOnce() + Send>;

impl Beside {
    /// Runs `there` in another thread while this one runs `here`, and returns when both have ended.
    ///
    /// # Errors
    /// If `there` panicked.
    pub(crate) fn run<T: Send + 'static, U>(
        &self,
        there: impl FnOnce() -> T + Send + 'static,
        here: impl FnOnce() -> U,
    ) -> (io::Result<T>, U) {
        let idle = self.0.lock().pop();
        let Ok(thread) = idle.map_or_else(start, Ok) else {
            let here = here();
            return (Ok(there()), here);
        };
        let (result, received) = mpsc::sync_channel(1);
        // If it isn't taken, or panics, the result's sender goes with it.
        drop(thread.send(Box::new(move || drop(result.send(there())))));
        let here = here();
        let there = received.recv().map_err(|_| io::Error::other("panicked"));
        if there.is_ok() {
            self.0.lock().push(thread);
        }
        (there, here)
    }
}

fn start() -> io::Result<Idle> {
    let (thread, tasks) = mpsc::channel::<Task>();
    let run = move || tasks.into_iter().for_each(|task| task());
    thread::Builder::new().name("litefs-beside".into()).spawn(run)?;
    Ok(thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_used_again() {
        let beside = Beside::default();
        let other = || beside.run(|| thread::current().id(), || ()).0.unwrap();
        let first = other();
        assert_ne!(first, thread::current().id());
        assert_eq!(first, other());
    }

    #[test]
    fn both_run_at_the_same_time() {
        let beside = Beside::default();
        let (ours, theirs) = (mpsc::channel(), mpsc::channel());
        let there = move || {
            ours.0.send("there").unwrap();
            theirs.1.recv().unwrap()
        };
        let here = || {
            theirs.0.send("here").unwrap();
            ours.1.recv().unwrap()
        };
        let (there, here) = beside.run(there, here);
        assert_eq!((there.unwrap(), here), ("here", "there"));
    }

    #[test]
    fn a_panic_is_an_error_and_the_next_task_is_done() {
        let beside = Beside::default();
        let (there, here) = beside.run(|| panic!("as the test wants it"), || 1);
        assert_eq!((there.map_err(|e| e.to_string()), here), (Err::<(), _>("panicked".into()), 1));
        assert_eq!(beside.run(|| 2, || 3).0.unwrap(), 2);
    }
}
