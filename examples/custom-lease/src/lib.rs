//! A lease of one's own: whoever has the lock on a file is the primary. For nodes on one host.
//!
//! ```text
//!   DIR/lock         locked by the primary, as long as it lives
//!   DIR/primary      who that is: host name and advertise URL, a line each
//!   DIR/cluster-id   written once
//! ```
//!
//! The kernel gives the lock to one process at a time and takes it back when that process ends, however it ends. So this
//! lease has no deadline and nothing needs renewing: a holder that is alive is the primary. Over a network that would be
//! wrong, since nobody there sees a process end; such a lease needs a [`Lease::deadline`].
//!
//! What this place can't do is left out: a lock can't be handed to another process, and nobody's progress is remembered.
//! Calls read and write a few bytes without `spawn_blocking`, as few as the kernel keeps in memory anyway.

#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use litefs_lease::{ClusterId, Lease, LeaseError, Leaser, PrimaryInfo, Progress};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Takes the lease in a directory.
#[derive(Debug)]
pub struct FileLeaser {
    place: Arc<Place>,
    own: PrimaryInfo,
}

#[derive(Debug)]
struct Place {
    dir: PathBuf,
    /// One lock belongs to one opened file, so it lives as long as the leaser or its lease. Two leasers are two nodes,
    /// in one process, too.
    lock: File,
}

#[derive(Debug)]
struct FileLease(Arc<Place>);

impl FileLeaser {
    /// The directory must be there; the files in it must stay.
    ///
    /// # Errors
    /// If the lock file can't be opened.
    pub fn new(dir: impl Into<PathBuf>, own: PrimaryInfo) -> io::Result<FileLeaser> {
        let dir = dir.into();
        let lock = open_lock(&dir)?;
        Ok(FileLeaser { place: Arc::new(Place { dir, lock }), own })
    }

    fn primary(&self) -> Result<Option<PrimaryInfo>, LeaseError> {
        // A file opened anew asks for everybody, this leaser included.
        let asking = open_lock(&self.place.dir).map_err(failed)?;
        if !is_locked_by_another(&asking).map_err(failed)? {
            return Ok(None);
        }
        let text = read(&self.place.file("primary")).map_err(failed)?;
        Ok(text.as_deref().and_then(parse))
    }
}

impl Place {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A file with this content, which is nowhere yet.
    fn draft(&self, content: &str) -> io::Result<PathBuf> {
        let path = self.file(&format!("draft-{}-{:p}", std::process::id(), self));
        File::create(&path)?.write_all(content.as_bytes())?;
        Ok(path)
    }
}

#[async_trait]
impl Leaser for FileLeaser {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn own_info(&self) -> &PrimaryInfo {
        &self.own
    }

    async fn acquire(&self) -> Result<Box<dyn Lease>, LeaseError> {
        // Who has the lock gets it again.
        match fcntl(&self.place.lock, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Err(LeaseError::PrimaryExists),
            Err(err) => return Err(failed(err.into())),
        }
        let lease = FileLease(Arc::clone(&self.place));
        let PrimaryInfo { hostname, advertise_url } = &self.own;
        let told = self.place.draft(&format!("{hostname}\n{advertise_url}\n"));
        match told.and_then(|draft| fs::rename(draft, self.place.file("primary"))) {
            Ok(()) => Ok(Box::new(lease)),
            Err(err) => {
                lease.unlock()?;
                Err(failed(err))
            }
        }
    }

    async fn primary_info(&self) -> Result<PrimaryInfo, LeaseError> {
        self.primary()?.ok_or(LeaseError::NoPrimary)
    }

    async fn primary_changed(
        &self,
        known: Option<&PrimaryInfo>,
    ) -> Result<Option<PrimaryInfo>, LeaseError> {
        loop {
            let primary = self.primary()?;
            if primary.as_ref() != known {
                return Ok(primary);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn cluster_id(&self) -> Result<Option<ClusterId>, LeaseError> {
        let path = self.place.file("cluster-id");
        let Some(text) = read(&path).map_err(failed)? else { return Ok(None) };
        let invalid = |err| io::Error::new(io::ErrorKind::InvalidData, err);
        text.parse().map(Some).map_err(|err| failed(invalid(err)))
    }

    async fn set_cluster_id(&self, id: &ClusterId) -> Result<(), LeaseError> {
        // A link never replaces: the first one stays.
        let draft = self.place.draft(&id.to_string()).map_err(failed)?;
        let linked = fs::hard_link(&draft, self.place.file("cluster-id"));
        fs::remove_file(draft).map_err(failed)?;
        linked.map_err(|err| match err.kind() {
            io::ErrorKind::AlreadyExists => LeaseError::HasClusterId,
            _ => failed(err),
        })
    }
}

#[async_trait]
impl Lease for FileLease {
    fn deadline(&self) -> Option<Instant> {
        None
    }

    async fn renew(&mut self, _: Progress) -> Result<(), LeaseError> {
        Ok(())
    }

    async fn release(self: Box<Self>) -> Result<(), LeaseError> {
        self.unlock()
    }
}

impl FileLease {
    fn unlock(&self) -> Result<(), LeaseError> {
        let unlocked = fcntl(&self.0.lock, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_UNLCK)));
        unlocked.map(drop).map_err(|err| failed(err.into()))
    }
}

fn open_lock(dir: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join("lock"))
}

/// Asks without taking it, so nobody is in anybody's way.
fn is_locked_by_another(lock: &File) -> io::Result<bool> {
    let mut found = whole_file(libc::F_WRLCK);
    fcntl(lock, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(found.l_type != libc::F_UNLCK as libc::c_short)
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

fn parse(text: &str) -> Option<PrimaryInfo> {
    let (hostname, advertise_url) = text.trim_end().split_once('\n')?;
    Some(PrimaryInfo { hostname: hostname.into(), advertise_url: advertise_url.into() })
}

fn failed(err: io::Error) -> LeaseError {
    LeaseError::Unavailable { message: format!("file lease: {err}") }
}

const LOOK_EVERY: Duration = Duration::from_millis(50);
