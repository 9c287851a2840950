//! Texts of the operating system's errors, as Go prints them.

use std::io;

use nix::errno::Errno;

/// `no such file or directory` rather than `No such file or directory (os error 2)`.
pub(crate) fn os_text(err: &io::Error) -> String {
    match err.raw_os_error() {
        Some(raw) => Errno::from_raw(raw).desc().to_lowercase(),
        None => err.to_string(),
    }
}
