//! Texts of errors: those of the operating system as Go prints them, and chains of causes.

use std::error::Error;
use std::io;

use nix::errno::Errno;

/// `no such file or directory` rather than `No such file or directory (os error 2)`.
pub(crate) fn os_text(err: &io::Error) -> String {
    match err.raw_os_error() {
        Some(raw) => Errno::from_raw(raw).desc().to_lowercase(),
        None => err.to_string(),
    }
}

/// An error and its sources in one line.
pub(crate) fn chain(err: &dyn Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        text = format!("{text}: {err}");
        cause = err.source();
    }
    text
}
