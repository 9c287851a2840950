//! What must hold before a node can start, and what to do if it doesn't.
//!
//! The checks only serve good error messages; the calls that matter are made by the engine, which
//! checks again. The exception is [`DataLock`]: it keeps a second process out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

use crate::exec::{Exit, SpawnError};
use crate::ostext::os_text;

/// A start that failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum StartError {
    /// Comes later.
    #[error("cannot init consul: lease.type consul is not supported yet")]
    Consul,
    #[error(
        "cannot init http server: cannot open http server: listen tcp {addr}: {}",
        os_text(source)
    )]
    Listen {
        /// `http.addr`
        addr: String,
        source: io::Error,
    },
    #[error("cannot open store: {}: {}", dir.display(), os_text(source))]
    DataDir { dir: PathBuf, source: io::Error },
    /// Another process works on the same data.
    #[error("cannot open store: data directory {} is used by another process{}", dir.display(), pid_note(*pid))]
    Locked {
        dir: PathBuf,
        /// Who holds it, if it said so.
        pid: Option<u32>,
    },
    #[error("cannot init file system: cannot open file system: /dev/fuse: {}", os_text(.0))]
    Fuse(#[source] io::Error),
    #[error("cannot init file system: cannot open file system: {}: {}", dir.display(), os_text(source))]
    MountDir { dir: PathBuf, source: io::Error },
    #[error("cannot init file system: cannot open file system: {}: directory not empty", .0.display())]
    NotEmpty(PathBuf),
    #[error("cannot exec: sync cmd: cannot run command: {0}")]
    SyncSpawn(#[source] SpawnError),
    #[error("cannot exec: sync cmd: cannot run command: {0}")]
    SyncExit(Exit),
    #[error("cannot exec: background cmd: cannot start exec command: {0}")]
    Background(#[source] SpawnError),
    #[error("internal error while starting, see above")]
    Panicked,
    /// The engine isn't linked in.
    #[error("this build has no file system yet")]
    NotBuilt,
}

impl StartError {
    /// What the user can do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            StartError::Consul => {
                Some("use `lease: {type: static}`, with candidate: true on the one primary")
            }
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
            StartError::DataDir { source, .. } => denied(source)
                .then_some("run as the user who owns data.dir, or choose another directory"),
            StartError::Locked { .. } => {
                Some("stop that process, or give each litefs its own data.dir")
            }
            StartError::Fuse(source) if source.kind() == io::ErrorKind::NotFound => Some(
                "load the kernel module (modprobe fuse); in a container: \
                 docker run --device /dev/fuse --cap-add SYS_ADMIN …",
            ),
            StartError::Fuse(_) => Some(
                "this user may not use FUSE; run as root or give access to /dev/fuse; in a container: \
                 docker run --device /dev/fuse --cap-add SYS_ADMIN …",
            ),
            StartError::MountDir { source, .. }
                if source.raw_os_error() == Some(Errno::ENOTCONN as i32) =>
            {
                Some("a dead process left its mount here; run: fusermount3 -u DIRECTORY")
            }
            StartError::MountDir { source, .. } => denied(source)
                .then_some("run as the user who owns fuse.dir, or choose another directory"),
            StartError::NotEmpty(_) => Some(
                "the mount would hide these files; choose an empty fuse.dir, \
                 or move databases into it after the start",
            ),
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
    /// Somebody has files open in it, or it is somebody's current directory.
    #[error("cannot unmount {}: {}", dir.display(), os_text(source))]
    #[expect(dead_code, reason = "made by the file system, which this build doesn't have yet")]
    Unmount { dir: PathBuf, source: io::Error },
}

impl CloseError {
    /// What the user can do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            CloseError::Unmount { .. } => Some(
                "close the files in it, then run fusermount3 -u DIRECTORY; the next start does it too",
            ),
        }
    }
}

/// Holds a data directory for this process, until it is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct DataLock {
    _file: Flock<File>,
}

impl DataLock {
    /// Creates the directory if needed, and locks it.
    ///
    /// # Errors
    /// If it can't be created, or another process holds it.
    pub(crate) fn acquire(dir: &Path) -> Result<DataLock, StartError> {
        let failed = |source| StartError::DataDir { dir: dir.into(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(LOCK_FILE))
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                // Only for the message above; the lock is what counts.
                let _ = file.set_len(0).and_then(|()| writeln!(*file, "{}", std::process::id()));
                Ok(DataLock { _file: file })
            }
            Err((file, Errno::EWOULDBLOCK)) => {
                Err(StartError::Locked { dir: dir.into(), pid: holder(&file) })
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
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

/// Whether the kernel lets us serve a file system.
///
/// # Errors
/// If there is no FUSE, or not for this user.
pub(crate) fn check_fuse() -> Result<(), StartError> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    opened.map(drop).map_err(StartError::Fuse)
}

/// Creates the mount point if needed. Files in it would vanish behind the mount.
///
/// # Errors
/// If it can't be created or read, or isn't empty.
pub(crate) fn check_mount_dir(dir: &Path) -> Result<(), StartError> {
    let failed = |source| StartError::MountDir { dir: dir.into(), source };
    fs::create_dir_all(dir).map_err(failed)?;
    match fs::read_dir(dir).map_err(failed)?.next() {
        None => Ok(()),
        Some(_) => Err(StartError::NotEmpty(dir.into())),
    }
}

fn holder(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn pid_note(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

fn denied(err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::PermissionDenied
}

const LOCK_FILE: &str = "lock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b");
        let first = DataLock::acquire(&data).unwrap();
        let err = DataLock::acquire(&data).unwrap_err();
        let want = format!("is used by another process (pid {})", std::process::id());
        assert!(err.to_string().ends_with(&want), "{err}");
        assert!(err.hint().is_some());
        drop(first);
        DataLock::acquire(&data).unwrap();
    }

    #[test]
    fn a_taken_port_is_told_with_a_way_out() {
        let held = listen("127.0.0.1:0").unwrap();
        let err = listen(&held.local_addr().unwrap().to_string()).unwrap_err();
        assert!(err.to_string().ends_with("address already in use"), "{err}");
        assert!(err.hint().unwrap().contains("http.addr"));
        assert!(listen("nonsense").is_err());
    }

    #[test]
    fn a_mount_point_must_be_an_empty_directory() {
        let dir = tempfile::tempdir().unwrap();
        check_mount_dir(&dir.path().join("new/dir")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(matches!(check_mount_dir(dir.path()), Err(StartError::NotEmpty(_))));
        let err = check_mount_dir(&dir.path().join("file")).unwrap_err();
        assert!(matches!(err, StartError::MountDir { .. }), "{err}");
    }
}
