//! A mount from its beginning to its end.
//!
//! ```text
//!   check directory ─▶ mount ─▶ INIT ─▶ serve ─▶ unmount ────────────────▶ threads end
//!        │ left over from                          │ files are open            ▲
//!        │ a dead process                          ▼                           │
//!        └▶ detach                                 detach and abort ───────────┘
//!                                                  (applications get errors, nobody hangs)
//! ```
//!
//! Invariants:
//! - [`Mount::new`] returns a mount that answers requests, or none. It may wait for the kernel or for
//!   `fusermount3`, so it does all of it on a thread of its own and gives up after [`START_TIMEOUT`].
//! - After [`Mount::unmount`] or a drop the directory is what it was, whatever applications hold open.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, SystemTime};

use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use litefs_core::store::Store;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::minor;
use parking_lot::Mutex;
use thiserror::Error;

use crate::fs::LiteFs;
use crate::node::Nodes;
use crate::notify::{self, Notifier};
use crate::ops::Ops;
use crate::peer::{Callers, MountPeer};

/// How to mount.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MountOptions {
    /// Where. Created if missing; must be empty.
    pub dir: PathBuf,
    /// Whether other users than the owner may use it.
    pub allow_other: bool,
    /// Log each request at level debug.
    pub debug: bool,
    /// How `-shm` files are served.
    pub passthrough: Passthrough,
    /// Threads that answer requests.
    pub threads: usize,
    /// Leave alone what is mounted there, even by a process that is dead.
    pub skip_unmount: bool,
}

/// How `-shm` files are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Passthrough {
    /// By the kernel from the backing file, if it can and we may; else from the page cache.
    #[default]
    Auto,
    /// From the page cache.
    Off,
}

/// A live mount. Dropping it unmounts.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use litefs_core::store::Store;
/// use litefs_fuse::{Mount, MountError, MountOptions};
///
/// fn serve(store: Arc<Store>) -> Result<(), MountError> {
///     let mount = Mount::new(store, MountOptions::new("/litefs"))?;
///     // Any program can now open /litefs/app.db.
///     mount.unmount()?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Mount {
    store: Arc<Store>,
    dir: PathBuf,
    unmounter: SessionUnmounter,
    notifier: Notifier,
    /// Number of the mount's device; names it in `/sys`.
    device: u64,
    /// Tells the end of the last serving thread.
    ended: Receiver<()>,
    open: bool,
}

/// How an unmount went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unmounted {
    /// Files were open: the mount was detached and their operations fail from now on.
    pub lazy: bool,
}

/// Why there is no mount, or still one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MountError {
    /// The mount point is something else.
    #[error("{dir}: not a directory")]
    NotADirectory {
        /// The mount point.
        dir: PathBuf,
    },
    /// Files would be hidden.
    #[error(
        "{dir}: not empty; move its files away, unmount what is mounted there, or choose another mount point"
    )]
    NotEmpty {
        /// The mount point.
        dir: PathBuf,
    },
    /// The mount point can't be read or made.
    #[error("{dir}: can't be used as a mount point")]
    Directory {
        /// The mount point.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A dead process left its mount.
    #[error("{dir}: a mount of a dead process is still there; unmount it (umount -l {dir})")]
    LeftOver {
        /// The mount point.
        dir: PathBuf,
    },
    /// No FUSE.
    #[error(
        "no /dev/fuse; load the module (modprobe fuse), or start the container with --device /dev/fuse"
    )]
    NoDevice,
    /// No rights.
    #[error(
        "no permission to mount; run as root, or give the container --device /dev/fuse --cap-add SYS_ADMIN"
    )]
    NotPermitted {
        /// Why.
        source: io::Error,
    },
    /// No rights, and no helper that has them.
    #[error("not root, and fusermount3 isn't installed (package fuse3)")]
    NoFusermount,
    /// The administrator doesn't allow it.
    #[error("allow-other needs the line user_allow_other in /etc/fuse.conf, or root")]
    AllowOther,
    /// Anything else.
    #[error("{dir}: mounting failed")]
    Mount {
        /// The mount point.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel or `fusermount3` didn't answer.
    #[error("{dir}: the mount didn't come up within {} s", START_TIMEOUT.as_secs())]
    TimedOut {
        /// The mount point.
        dir: PathBuf,
    },
    /// It is still there.
    #[error("{dir}: unmounting failed")]
    Unmount {
        /// The mount point.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is gone from the directory, but an operation hasn't ended.
    #[error("{dir}: unmounted, but an operation is still running")]
    StillServing {
        /// The mount point.
        dir: PathBuf,
    },
}

impl MountOptions {
    /// Mounts at `dir`, otherwise as usual: for the owner only, with a thread for each CPU, but at least two
    /// and at most four. Idle threads aren't free: the kernel wakes the one that has slept longest, so a
    /// lone writer with many of them finds each request handled on another CPU.
    pub fn new(dir: impl Into<PathBuf>) -> MountOptions {
        MountOptions {
            dir: dir.into(),
            allow_other: false,
            debug: false,
            passthrough: Passthrough::Auto,
            threads: thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4)),
            skip_unmount: false,
        }
    }
}

impl Mount {
    /// Mounts the store, and returns when the mount answers.
    ///
    /// # Errors
    /// See [`MountError`]; each says what to do.
    pub fn new(store: Arc<Store>, options: MountOptions) -> Result<Mount, MountError> {
        let (result, received) = mpsc::channel();
        let dir = options.dir.clone();
        // A mount that comes up too late is sent to nobody, so dropped, so unmounted.
        let start = move || drop(result.send(Mount::start(store, options)));
        let spawned = thread::Builder::new().name("litefs-mount".into()).spawn(start);
        if let Err(source) = spawned {
            return Err(MountError::Mount { dir, source });
        }
        received.recv_timeout(START_TIMEOUT).unwrap_or(Err(MountError::TimedOut { dir }))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Tells the kernel of changes it didn't make.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Unmounts, whether or not files are open.
    ///
    /// # Errors
    /// If the directory is still mounted, or an operation doesn't end.
    pub fn unmount(mut self) -> Result<Unmounted, MountError> {
        self.close()
    }

    fn start(store: Arc<Store>, options: MountOptions) -> Result<Mount, MountError> {
        prepare_dir(&options.dir, options.skip_unmount)?;
        check_device()?;
        let dir = fs::canonicalize(&options.dir)
            .map_err(|source| MountError::Directory { dir: options.dir.clone(), source })?;
        let failed = |source| MountError::Mount { dir: dir.clone(), source };

        let before = fs::metadata(&dir).map_err(failed)?.dev();

        let started = store.started();
        let nodes = Arc::new(Mutex::new(Nodes::new(SystemTime::now())));
        let (queue, notices) = mpsc::channel();
        let notifier = Notifier::new(nodes.clone(), queue);
        let callers = Arc::new(Callers::default());
        let ops = Ops::new(store.clone(), nodes, notifier.clone());
        let fs = LiteFs::new(ops, callers.clone(), started, options.passthrough, options.debug);

        let mut session =
            Session::new(fs, &dir, &config(&options)).map_err(|e| explain(&dir, e))?;
        let unmounter = session.unmount_callable();
        let kernel = session.notifier();
        let (serving, ended) = mpsc::channel();
        let mut mount =
            Mount { store, dir: dir.clone(), unmounter, notifier, device: 0, ended, open: true };
        notify::spawn(kernel, notices).map_err(failed)?;
        let serve = move || {
            if let Err(err) = session.run() {
                tracing::error!(%err, "FUSE session ended");
            }
            drop(serving);
        };
        thread::Builder::new().name("litefs-fuse".into()).spawn(serve).map_err(failed)?;

        // The first request: an answer, and not from the directory below, proves that the threads serve.
        mount.device = fs::metadata(&dir).map_err(failed)?.dev();
        if mount.device == before {
            return Err(failed(io::ErrorKind::NotConnected.into()));
        }
        let peer = MountPeer::new(dir.clone(), callers).map_err(failed)?;
        mount.store.attach_peer(Arc::new(peer));
        Ok(mount)
    }

    fn close(&mut self) -> Result<Unmounted, MountError> {
        self.open = false;
        // The engine's own files would keep the mount busy.
        drop(self.store.detach_peer());
        if self.wait(Duration::ZERO) {
            // Somebody else unmounted it.
            return Ok(Unmounted { lazy: false });
        }
        let mut lazy = false;
        if let Err(err) = self.unmounter.unmount() {
            match err.raw_os_error().map(Errno::from_raw) {
                // Nothing is mounted there any more.
                Some(Errno::EINVAL | Errno::ENOENT) => {}
                _ => {
                    lazy = true;
                    abort_and_detach(&self.dir)
                        .map_err(|source| MountError::Unmount { dir: self.dir.clone(), source })?;
                }
            }
        }
        if self.wait(END_TIMEOUT) {
            return Ok(Unmounted { lazy });
        }
        // Detached, but files are open: without root that looks like success.
        let abort = format!("/sys/fs/fuse/connections/{}/abort", minor(self.device));
        if let Err(err) = fs::write(&abort, "1") {
            tracing::debug!(file = abort, %err, "can't abort the FUSE connection");
        }
        if self.wait(END_TIMEOUT) {
            Ok(Unmounted { lazy: true })
        } else {
            Err(MountError::StillServing { dir: self.dir.clone() })
        }
    }

    /// Whether all serving threads ended within that time.
    fn wait(&self, timeout: Duration) -> bool {
        self.ended.recv_timeout(timeout) == Err(RecvTimeoutError::Disconnected)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.open
            && let Err(err) = self.close()
        {
            tracing::error!(%err, "unmount");
        }
    }
}

fn config(options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("litefs".into())];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads.max(1));
    config.clone_fd = options.threads > 1;
    config
}

/// Makes the directory ready: there, empty, and without the mount of a dead process.
fn prepare_dir(dir: &Path, skip_unmount: bool) -> Result<(), MountError> {
    let owned = || dir.to_owned();
    let failed = |source| MountError::Directory { dir: dir.to_owned(), source };
    // Mounts can be stacked.
    for _ in 0..MAX_STACKED {
        match first_entry(dir) {
            Ok(None) => return Ok(()),
            Ok(Some(_)) => return Err(MountError::NotEmpty { dir: owned() }),
            Err(err) => match err.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOTCONN) if skip_unmount => {
                    return Err(MountError::LeftOver { dir: owned() });
                }
                Some(Errno::ENOTCONN) => {
                    tracing::info!(dir = %dir.display(), "unmounts what a dead process left");
                    abort_and_detach(dir).map_err(failed)?;
                }
                Some(Errno::ENOENT) => return fs::create_dir_all(dir).map_err(failed),
                Some(Errno::ENOTDIR) if dir.exists() => {
                    return Err(MountError::NotADirectory { dir: owned() });
                }
                _ => return Err(failed(err)),
            },
        }
    }
    Err(MountError::LeftOver { dir: owned() })
}

/// A name in the directory that the mount must not hide. Asks for one even though a `stat` would do for most: of a dead
/// mount the kernel may still know the attributes.
///
/// A process that has outlived an earlier mount, with a database open, may have begun a journal by its path, and so here. It
/// belongs to no database here, and to no transaction that was committed.
fn first_entry(dir: &Path) -> io::Result<Option<fs::DirEntry>> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !SIDE_FILES.iter().any(|suffix| name.as_encoded_bytes().ends_with(suffix)) {
            return Ok(Some(entry));
        }
        tracing::warn!(file = %entry.path().display(), "a process has written beside the mount; the mount hides it");
    }
    Ok(None)
}

const SIDE_FILES: [&[u8]; 3] = [b"-journal", b"-wal", b"-shm"];

fn check_device() -> Result<(), MountError> {
    match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
            Err(MountError::NotPermitted { source: err })
        }
        Err(_) => Err(MountError::NoDevice),
    }
}

fn explain(dir: &Path, source: io::Error) -> MountError {
    match source.kind() {
        // The text is that of fusermount3, which has nothing else to tell by.
        io::ErrorKind::PermissionDenied if source.to_string().contains("user_allow_other") => {
            MountError::AllowOther
        }
        io::ErrorKind::PermissionDenied => MountError::NotPermitted { source },
        // The directory and the device are there, so it is the helper that isn't.
        io::ErrorKind::NotFound => MountError::NoFusermount,
        _ => MountError::Mount { dir: dir.to_owned(), source },
    }
}

/// Takes a mount away from its directory though files are open, and ends its connection, so that their
/// operations fail instead of waiting for an answer.
fn abort_and_detach(dir: &Path) -> io::Result<()> {
    // For FUSE "force" means: abort the connection.
    if umount2(dir, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).is_ok()
        || umount2(dir, MntFlags::MNT_DETACH).is_ok()
    {
        return Ok(());
    }
    let output = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(dir).output()?;
    if output.status.success() {
        Ok(())
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

const START_TIMEOUT: Duration = Duration::from_secs(10);
const END_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_STACKED: usize = 16;
