//! The one door to files, time and chance: [`Env`] and [`File`].
//!
//! Everything the engine does to a disk goes through these two traits, so that a test can refuse the
//! n-th call, tear a write or cut the power. [`SystemEnv`] is the real thing.
//!
//! The `testing` feature adds `sim`, a disk in memory that fails on command.
//!
//! What isn't here: any knowledge of what the files hold. Paths are absolute or relative to the
//! process; the engine builds them in [`crate::store`] only.

#[cfg(feature = "testing")]
pub mod sim;

use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// How to open a file. Files are always opened for reading and writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist.
    Existing,
    /// Create it if it doesn't exist.
    Create,
    /// It must not exist.
    CreateNew,
}

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Size in bytes; 0 for a directory.
    pub len: u64,
    /// Last change of the content.
    pub modified: SystemTime,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Files, clock and chance.
pub trait Env: Debug + Send + Sync + 'static {
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// As the operating system says; likewise for all other methods.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Says what is at `path`.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// Names of the entries of a directory, in no order.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// Creates a directory and its parents.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Renames a file, replacing the target.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes an exclusive lock on a file, created if need be, until the guard is dropped.
    ///
    /// # Errors
    /// `WouldBlock` if another process holds it.
    fn lock(&self, path: &Path) -> io::Result<LockGuard>;
    /// The wall clock.
    fn now(&self) -> SystemTime;
    /// A random number.
    fn random(&self) -> u64;
}

/// Holds a lock on a file; what it holds is the implementation's.
#[derive(Debug)]
pub struct LockGuard {
    _held: Box<dyn Debug + Send + Sync>,
}

impl LockGuard {
    /// A guard that releases by dropping `held`.
    pub fn new(held: impl Debug + Send + Sync + 'static) -> LockGuard {
        LockGuard { _held: Box::new(held) }
    }
}

/// An open file.
pub trait File: Debug + Send + Sync + 'static {
    /// Reads at `offset` until the buffer is full or the file ends; returns the number of bytes read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `data` at `offset`. On error, any part of it may have been written.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Size in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Makes content and size durable.
    fn sync(&self) -> io::Result<()>;
    /// Last change of the content.
    fn modified(&self) -> io::Result<SystemTime>;
    /// The descriptor, if there is one: frontends hand it to the kernel for passthrough.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Reads exactly `buf.len()` bytes at `offset`.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.read_at(buf, offset)? == buf.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|n| n == 0)
    }
}

/// The operating system's files and clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEnv;

impl Env for SystemEnv {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true);
        match mode {
            OpenMode::Existing => &mut options,
            OpenMode::Create => options.create(true),
            OpenMode::CreateNew => options.create_new(true),
        };
        Ok(Arc::new(SystemFile(options.open(path)?)))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let m = fs::metadata(path)?;
        let len = if m.is_dir() { 0 } else { m.len() };
        Ok(Metadata { len, modified: m.modified()?, is_dir: m.is_dir() })
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(path)?.map(|entry| Ok(PathBuf::from(entry?.file_name()))).collect()
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<LockGuard> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {
                // Only to tell others who it is; the lock is what counts.
                let pid = format!("{}\n", std::process::id());
                drop(file.set_len(0).and_then(|()| file.write_all_at(pid.as_bytes(), 0)));
                Ok(LockGuard::new(file))
            }
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(e)) => Err(e),
        }
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn random(&self) -> u64 {
        use std::hash::{BuildHasher, Hasher, RandomState};
        // RandomState is seeded by the operating system once per thread and counts up from there.
        RandomState::new().build_hasher().finish()
    }
}

#[derive(Debug)]
struct SystemFile(fs::File);

impl File for SystemFile {
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

    fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|m| m.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.0.metadata()?.modified()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}
