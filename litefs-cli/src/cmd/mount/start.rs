//! What must hold before a node can start, and what to do if it doesn't.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use litefs_core::error::ErrorKind;
use litefs_core::error::chain;
use litefs_fuse::MountError;
use litefs_lease::consul::ConsulOptionsError;
use thiserror::Error;

use crate::exec::{Exit, SpawnError};
use crate::ostext::os_text;

/// A start that failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum StartError {
    #[error("cannot init consul: {0}")]
    Consul(#[from] ConsulOptionsError),
    #[error(
        "cannot init http server: cannot open http server: listen tcp {addr}: {}",
        os_text(source)
    )]
    Listen {
        /// `http.addr`
        addr: String,
        source: io::Error,
    },
    #[error("cannot open store: {}", chain(.0))]
    Store(#[source] litefs_core::error::Error),
    /// Another process works on the same data.
    #[error("cannot open store: data directory {} is used by another process{}", dir.display(), pid_note(*pid))]
    Locked {
        dir: PathBuf,
        /// Who holds it, if it said so.
        pid: Option<u32>,
    },
    #[error("cannot init file system: cannot open file system: {}", chain(.0))]
    Mount(#[source] MountError),
    #[error("cannot start {what}: {}", os_text(source))]
    Thread { what: &'static str, source: io::Error },
    #[error("cannot exec: sync cmd: cannot run command: {0}")]
    SyncSpawn(#[source] SpawnError),
    #[error("cannot exec: sync cmd: cannot run command: {0}")]
    SyncExit(Exit),
    #[error("cannot exec: background cmd: cannot start exec command: {0}")]
    Background(#[source] SpawnError),
    #[error("internal error while starting, see above")]
    Panicked,
}

impl StartError {
    /// What the user can do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            StartError::Consul(_) => Some(
                "lease.consul needs url and key; `litefs config check` shows what is in effect",
            ),
            StartError::Listen { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => Some(
                    "the port is taken, perhaps by another litefs; set http.addr to a free one, \
                     or to \"off\" for no HTTP server",
                ),
                io::ErrorKind::PermissionDenied => {
                    Some("ports below 1024 need privileges; choose a higher one in http.addr")
                }
                _ => Some("http.addr is HOST:PORT or :PORT, for example :20202"),
            },
            StartError::Store(err) if err.kind() == ErrorKind::NotPermitted => {
                Some("run as the user who owns data.dir, or choose another directory")
            }
            StartError::Locked { .. } => {
                Some("stop that process, or give each litefs its own data.dir")
            }
            StartError::Mount(err) => mount_hint(err),
            StartError::SyncSpawn(_) | StartError::Background(_) => {
                Some("`litefs config check` shows how the exec setting is split into words")
            }
            _ => None,
        }
    }
}

/// A stop that left something behind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum CloseError {
    /// The mount, mostly.
    #[error("cannot unmount: {}", chain(.0))]
    Unmount(#[source] MountError),
}

impl CloseError {
    /// What the user can do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            CloseError::Unmount(_) => Some(
                "close the files in it, then run fusermount3 -u DIRECTORY; the next start does it too",
            ),
        }
    }
}

fn mount_hint(err: &MountError) -> Option<&'static str> {
    match err {
        MountError::NoDevice => Some(
            "load the kernel module (modprobe fuse); in a container: \
             docker run --device /dev/fuse --cap-add SYS_ADMIN …",
        ),
        MountError::NotPermitted { .. } => Some(
            "this user may not use FUSE; run as root or give access to /dev/fuse; in a container: \
             docker run --device /dev/fuse --cap-add SYS_ADMIN …",
        ),
        MountError::LeftOver { .. } => {
            Some("a dead process left its mount here; run: fusermount3 -u DIRECTORY")
        }
        MountError::NotEmpty { .. } => Some(
            "the mount would hide these files; choose an empty fuse.dir, \
             or move databases into it after the start",
        ),
        MountError::NoFusermount => Some("install it: apt-get install fuse3"),
        MountError::AllowOther => {
            Some("add the line user_allow_other to /etc/fuse.conf, or set fuse.allow-other: false")
        }
        MountError::Directory { .. } => {
            Some("run as the user who owns fuse.dir, or choose another directory")
        }
        _ => None,
    }
}

/// Opens the HTTP port. `:20202` means all addresses.
///
/// # Errors
/// If the address isn't one, or is taken.
pub(crate) fn listen(addr: &str) -> Result<TcpListener, StartError> {
    let bound = match addr.strip_prefix(':') {
        // Both families, if the machine has IPv6.
        Some(port) => TcpListener::bind(format!("[::]:{port}")).or_else(|err| match err.kind() {
            io::ErrorKind::AddrInUse => Err(err),
            _ => TcpListener::bind(format!("0.0.0.0:{port}")),
        }),
        None => TcpListener::bind(addr),
    };
    bound.map_err(|source| StartError::Listen { addr: addr.into(), source })
}

/// The process that holds a data directory, if it said so.
pub(super) fn holder(dir: &Path) -> Option<u32> {
    fs::read_to_string(dir.join("lock")).ok()?.trim().parse().ok()
}

fn pid_note(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_a_way_out() {
        let held = listen("127.0.0.1:0").unwrap();
        let err = listen(&held.local_addr().unwrap().to_string()).unwrap_err();
        assert!(err.to_string().ends_with("address already in use"), "{err}");
        assert!(err.hint().unwrap().contains("http.addr"));
        assert!(listen("nonsense").is_err());
    }
}
