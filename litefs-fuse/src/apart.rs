//! A thread that may wait for the mount without keeping this process from dying.
//!
//! ```text
//!  descriptors of the process          descriptors of the thread
//!  /dev/fuse, logs, databases, …       files in the mount, nothing else
//!      │ all threads killed: closed        ▲
//!      └──► kernel ends the connection ────┴─ its request fails, the thread ends too
//! ```
//!
//! Whoever is killed while a request of its own is under way waits for the answer before it dies, whatever the signal. If
//! it shared the descriptor of `/dev/fuse` with those who should have answered, that would stay open, and the process
//! would stay for ever, with its mount and the lock of its data directory. So all that waits for the mount is done
//! here, by a thread that has a table of descriptors of its own.
//!
//! Signals are blocked in the thread: a handler that the process has installed may use a descriptor, which here is closed, or
//! another one.
//!
//! Invariant: what holds descriptors of that table is made, used and dropped by the thread; here that is the state `S`.

use std::fs;
use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::SigSet;
use nix::unistd::close;
use parking_lot::Mutex;

/// The thread. Dropping this ends it.
#[derive(Debug)]
pub(crate) struct Apart<S> {
    calls: Mutex<Option<Sender<Call<S>>>>,
    thread: Option<JoinHandle<()>>,
}

type Call<S> = Box<dyn FnOnce(&mut S) + Send>;

impl<S: Default + 'static> Apart<S> {
    /// Starts it.
    ///
    /// # Errors
    /// If there are no more threads.
    pub(crate) fn start(name: &str) -> io::Result<Apart<S>> {
        let (sender, calls) = mpsc::channel::<Call<S>>();
        let run = move || {
            if let Err(err) = part() {
                tracing::warn!(%err, "a killed process may wait for its own mount");
            }
            let mut state = S::default();
            for call in calls {
                call(&mut state);
            }
        };
        let thread = thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Apart { calls: Mutex::new(Some(sender)), thread: Some(thread) })
    }

    /// What `f` returns. Calls are done one after the other.
    ///
    /// # Errors
    /// Those of `f`.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut S) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        let call = Box::new(move |state: &mut S| drop(answer.send(f(state))));
        // Either fails only if an earlier call has panicked.
        let sent = self.calls.lock().as_ref().is_some_and(|calls| calls.send(call).is_ok());
        let answer = answered.recv().ok().filter(|_| sent);
        answer.unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into()))
    }
}

impl<S> Drop for Apart<S> {
    fn drop(&mut self) {
        self.calls.lock().take();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by itself.
            drop(thread.join());
        }
    }
}

/// Gives this thread a table of descriptors of its own, with the standard ones only, and no signals.
fn part() -> io::Result<()> {
    SigSet::all().thread_block()?;
    unshare(CloneFlags::CLONE_FILES)?;
    let entries = fs::read_dir("/proc/thread-self/fd")?.flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // All of them first: an entry keeps the directory open that it was read from.
    let numbers: Vec<i32> = numbers.filter(|number| *number > 2).collect();
    for number in numbers {
        // That of the directory is closed already.
        let _ = close(number);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn descriptors_are_its_own() {
        let apart = Apart::<Vec<File>>::start("apart").unwrap();
        let here = File::open("/proc/self/status").unwrap();
        let count = |kept: &mut Vec<File>| {
            kept.push(File::open("/proc/self/status")?);
            Ok(fs::read_dir("/proc/thread-self/fd")?.count())
        };
        // Three standard ones, at most, and the directory being read.
        let first = apart.call(count).unwrap();
        assert!(first <= 5, "{first}");
        assert_eq!(apart.call(count).unwrap(), first + 1);
        here.metadata().unwrap();
    }

    #[test]
    fn signals_are_for_other_threads() {
        let apart = Apart::<()>::start("apart").unwrap();
        let blocked = apart.call(|()| Ok(SigSet::thread_get_mask()?)).unwrap();
        assert!(blocked.contains(nix::sys::signal::Signal::SIGTERM));
        let here = SigSet::thread_get_mask().unwrap();
        assert!(!here.contains(nix::sys::signal::Signal::SIGTERM));
    }

    #[test]
    fn a_call_after_a_panic_fails() {
        let apart = Apart::<()>::start("apart").unwrap();
        apart.call(|()| -> io::Result<()> { panic!("on purpose") }).unwrap_err();
        apart.call(|()| Ok(())).unwrap_err();
    }
}
