//! The engine as one more process of SQLite in the mount: it opens the files by their names, like any application.
//!
//! Its requests are told from those of applications by the thread they come from: [`Callers`] holds the IDs of
//! the threads that are opening, creating or removing a file on the engine's behalf at this moment. An application
//! in the same process has other threads, so it stays an application.
//!
//! A descriptor that was opened here stays open as long as its file has its name: what is dropped is a lock, not the
//! file. So handles of a file share their locks, as those of one process do; each releases what it has locked.
//!
//! Invariants:
//! * no thread that serves the mount calls in here, as it would wait for itself;
//! * the mount is touched by one thread only, which may be killed while it waits: see [`crate::apart`].

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

use crate::apart::Apart;

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
    apart: Arc<Apart<Files>>,
}

/// What the thread has open.
#[derive(Debug, Default)]
struct Files {
    by_path: HashMap<PathBuf, Arc<File>>,
    by_number: HashMap<u64, Arc<File>>,
    last_number: u64,
}

impl MountPeer {
    pub(crate) fn new(dir: PathBuf, callers: Arc<Callers>) -> io::Result<MountPeer> {
        Ok(MountPeer { dir, callers, apart: Arc::new(Apart::start("litefs-peer")?) })
    }

    fn path(&self, db: &DbName, kind: FileKind) -> PathBuf {
        self.dir.join(kind.name_in_mount(db))
    }
}

impl Peer for MountPeer {
    fn open(&self, db: &DbName, kind: FileKind, create: bool) -> io::Result<Box<dyn PeerFile>> {
        let (path, callers) = (self.path(db, kind), Arc::clone(&self.callers));
        let number = self.apart.call(move |files| files.open(path, create, &callers))?;
        let locked = Mutex::default();
        Ok(Box::new(MountFile { number, apart: Arc::clone(&self.apart), locked }))
    }

    fn remove(&self, db: &DbName, kind: FileKind) -> io::Result<()> {
        let (path, callers) = (self.path(db, kind), Arc::clone(&self.callers));
        self.apart.call(move |files| {
            callers.call(|| std::fs::remove_file(&path))?;
            files.by_path.remove(&path);
            Ok(())
        })
    }
}

impl Files {
    fn open(&mut self, path: PathBuf, create: bool, callers: &Callers) -> io::Result<u64> {
        let file = match self.by_path.get(&path) {
            Some(file) if has_name(file, &path)? => Arc::clone(file),
            _ => {
                let open = || OpenOptions::new().read(true).write(true).create(create).open(&path);
                let file = Arc::new(callers.call(open)?);
                self.by_path.insert(path, Arc::clone(&file));
                file
            }
        };
        self.last_number += 1;
        self.by_number.insert(self.last_number, file);
        Ok(self.last_number)
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

/// A file that the thread has open.
#[derive(Debug)]
struct MountFile {
    number: u64,
    apart: Arc<Apart<Files>>,
    /// What this handle has locked and not released.
    locked: Mutex<Vec<Range<u64>>>,
}

impl MountFile {
    fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let number = self.number;
        self.apart.call(move |files| f(files.by_number.get(&number).ok_or(Errno::EBADF)?))
    }
}

impl Drop for MountFile {
    fn drop(&mut self) {
        let (number, locked) = (self.number, std::mem::take(&mut *self.locked.lock()));
        let closed = self.apart.call(move |files| {
            let file = files.by_number.remove(&number).ok_or(Errno::EBADF)?;
            locked.into_iter().try_for_each(|bytes| lock(&file, bytes, ByteLock::None).map(drop))
        });
        // Fails only if the mount is gone, and the lock with it.
        drop(closed);
    }
}

impl PeerFile for MountFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let len = buf.len();
        let bytes = self.call(move |file| {
            let mut bytes = vec![0; len];
            let mut done = 0;
            while done < len {
                match file.read_at(&mut bytes[done..], offset + done as u64) {
                    Ok(0) => break,
                    Ok(n) => done += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            bytes.truncate(done);
            Ok(bytes)
        })?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let data = data.to_vec();
        self.call(move |file| file.write_all_at(&data, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call(move |file| file.set_len(len))
    }

    fn sync(&self) -> io::Result<()> {
        self.call(File::sync_data)
    }

    fn lock(&self, bytes: Range<u64>, kind: ByteLock) -> io::Result<bool> {
        let mut locked = self.locked.lock();
        let range = bytes.clone();
        let done = self.call(move |file| lock(file, range, kind))?;
        if kind == ByteLock::None {
            *locked = locked.drain(..).flat_map(|held| without(held, &bytes)).collect();
        } else if done && !locked.contains(&bytes) {
            locked.push(bytes);
        }
        Ok(done)
    }

    fn locked_by_others(&self, bytes: Range<u64>) -> io::Result<ByteLock> {
        self.call(move |file| {
            let mut lock = flock(bytes, ByteLock::Exclusive)?;
            fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
            Ok(match libc::c_int::from(lock.l_type) {
                libc::F_RDLCK => ByteLock::Shared,
                libc::F_WRLCK => ByteLock::Exclusive,
                _ => ByteLock::None,
            })
        })
    }
}

/// What is left of `held`.
fn without(held: Range<u64>, released: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let before = held.start..held.end.min(released.start);
    let after = held.start.max(released.end)..held.end;
    [before, after].into_iter().filter(|rest| !rest.is_empty())
}

fn lock(file: &File, bytes: Range<u64>, lock: ByteLock) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&flock(bytes, lock)?)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_range_leaves_the_rest_of_what_was_held() {
        for (released, want) in [
            (10..20, "[]"),
            (0..100, "[]"),
            (12..15, "[10..12, 15..20]"),
            (0..15, "[15..20]"),
            (15..30, "[10..15]"),
            (20..30, "[10..20]"),
            (0..10, "[10..20]"),
        ] {
            let rest: Vec<_> = without(10..20, &released).collect();
            assert_eq!(format!("{rest:?}"), want, "{released:?}");
        }
    }
}
