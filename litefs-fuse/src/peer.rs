//! The engine as one more process of SQLite in the mount: it opens the files by their names, like any application.
//!
//! Its requests are told from those of applications by the thread they come from: [`Callers`] holds the IDs of
//! the threads that are opening, creating or removing a file on the engine's behalf at this moment. An application
//! in the same process has other threads, so it stays an application.
//!
//! POSIX locks of a process on a file vanish when any of its descriptors of that file is closed. SQLite may run in
//! this very process, so a descriptor that was opened here stays open as long as its file has its name: what is
//! dropped is a lock, not the file.
//!
//! Invariant: no thread that serves the mount calls in here, as it would wait for itself.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use litefs_core::db::{ByteLock, FileKind, Peer, PeerFile};
use litefs_core::types::DbName;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::unistd::gettid;
use parking_lot::Mutex;

/// The threads that are at work for the engine.
#[derive(Debug, Default)]
pub(crate) struct Callers(Mutex<Vec<u32>>);

impl Callers {
    /// Whether a request of that thread is the engine's.
    pub(crate) fn contains(&self, thread: u32) -> bool {
        self.0.lock().contains(&thread)
    }

    fn call<T>(&self, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let thread = gettid().as_raw().unsigned_abs();
        self.0.lock().push(thread);
        let result = f();
        self.0.lock().retain(|other| *other != thread);
        result
    }
}

/// The way through a mount.
#[derive(Debug)]
pub(crate) struct MountPeer {
    dir: PathBuf,
    callers: Arc<Callers>,
    files: Mutex<HashMap<PathBuf, Arc<File>>>,
}

impl MountPeer {
    pub(crate) fn new(dir: PathBuf, callers: Arc<Callers>) -> MountPeer {
        MountPeer { dir, callers, files: Mutex::default() }
    }

    fn path(&self, db: &DbName, kind: FileKind) -> PathBuf {
        self.dir.join(kind.name_in_mount(db))
    }
}

impl Peer for MountPeer {
    fn open(&self, db: &DbName, kind: FileKind, create: bool) -> io::Result<Box<dyn PeerFile>> {
        let path = self.path(db, kind);
        let mut files = self.files.lock();
        if let Some(file) = files.get(&path)
            && has_name(file, &path)?
        {
            return Ok(Box::new(MountFile(Arc::clone(file))));
        }
        let open = || OpenOptions::new().read(true).write(true).create(create).open(&path);
        let file = Arc::new(self.callers.call(open)?);
        files.insert(path, Arc::clone(&file));
        Ok(Box::new(MountFile(file)))
    }

    fn remove(&self, db: &DbName, kind: FileKind) -> io::Result<()> {
        let path = self.path(db, kind);
        self.callers.call(|| std::fs::remove_file(&path))?;
        self.files.lock().remove(&path);
        Ok(())
    }
}

/// Whether the path still leads to that file.
fn has_name(file: &File, path: &Path) -> io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(there) => Ok(there.ino() == file.metadata()?.ino()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[derive(Debug)]
struct MountFile(Arc<File>);

impl Drop for MountFile {
    fn drop(&mut self) {
        // Fails only if the mount is gone, and the lock with it.
        let _ = self.lock(0..0, ByteLock::None);
    }
}

impl PeerFile for MountFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn lock(&self, bytes: Range<u64>, lock: ByteLock) -> io::Result<bool> {
        match fcntl(self.0.as_ref(), FcntlArg::F_OFD_SETLK(&flock(bytes, lock)?)) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn locked_by_others(&self, bytes: Range<u64>) -> io::Result<ByteLock> {
        let mut lock = flock(bytes, ByteLock::Exclusive)?;
        fcntl(self.0.as_ref(), FcntlArg::F_OFD_GETLK(&mut lock))?;
        Ok(match libc::c_int::from(lock.l_type) {
            libc::F_RDLCK => ByteLock::Shared,
            libc::F_WRLCK => ByteLock::Exclusive,
            _ => ByteLock::None,
        })
    }
}

/// The empty range at 0 stands for all bytes, as in the structure itself.
fn flock(bytes: Range<u64>, lock: ByteLock) -> io::Result<libc::flock> {
    let kind = match lock {
        ByteLock::None => libc::F_UNLCK,
        ByteLock::Shared => libc::F_RDLCK,
        ByteLock::Exclusive => libc::F_WRLCK,
    };
    let out_of_range = |_| io::Error::from(io::ErrorKind::InvalidInput);
    Ok(libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: bytes.start.try_into().map_err(out_of_range)?,
        l_len: (bytes.end - bytes.start).try_into().map_err(out_of_range)?,
        l_pid: 0,
    })
}
