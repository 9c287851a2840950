//! SIGINT and SIGTERM as events, from the first moment of a start on.
//!
//! Other signals keep their default action. A thread waits for signals and sends them to a channel,
//! so that the main loop has one place to wait.

use std::io;
use std::sync::mpsc::Sender;
use std::thread;

use nix::sys::signal::Signal;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Sends `make(signal)` for each signal that arrives, until the receiver is gone.
///
/// # Errors
/// If the handlers or the thread can't be set up.
pub(crate) fn listen<E: Send + 'static>(
    events: Sender<E>,
    make: impl Fn(Signal) -> E + Send + 'static,
) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever().filter_map(|raw| Signal::try_from(raw).ok()) {
            if events.send(make(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
