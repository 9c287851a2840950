//! One file of the log, by name, and how much of it counts. Not what is in it: see [`super::reader`].
//!
//! Invariant: a reader that holds an [`Extent`] can open it for as long as it likes. Before the log removes
//! a file that somebody else holds, it opens it and keeps it open for them ([`Segment::pin`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::LogError;
use crate::env::{Env, File, OpenMode};
use crate::types::Txid;

/// A file of the log.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) first: Txid,
    pub(super) format: Format,
    /// Set while the log appends to the file and when its name is gone.
    pinned: Mutex<Option<Arc<dyn File>>>,
}

/// What a file of the log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Records.
    Records,
    /// One bare LTX file of the original, up to this transaction.
    Legacy(Txid),
}

impl Segment {
    pub(super) fn new(path: PathBuf, first: Txid, format: Format) -> Arc<Segment> {
        Arc::new(Segment { path, first, format, pinned: Mutex::new(None) })
    }

    /// Opens the file, unless somebody keeps it open.
    pub(super) fn open(&self, env: &dyn Env) -> Result<Arc<dyn File>, LogError> {
        // The lock is held while opening, so that the file isn't removed between the two.
        let pinned = self.pinned.lock();
        match &*pinned {
            Some(file) => Ok(Arc::clone(file)),
            None => {
                env.open(&self.path, OpenMode::Existing).map_err(LogError::io("open", &self.path))
            }
        }
    }

    /// Keeps the file open until [`Segment::unpin`].
    pub(super) fn pin(&self, file: Arc<dyn File>) {
        *self.pinned.lock() = Some(file);
    }

    pub(super) fn unpin(&self) {
        *self.pinned.lock() = None;
    }
}

/// A file of the log, up to an offset.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    pub(super) segment: Arc<Segment>,
    pub(super) len: u64,
}

impl Extent {
    /// Removes the file's name; who holds the extent can go on reading.
    pub(super) fn remove(&self, env: &dyn Env) -> Result<(), LogError> {
        if Arc::strong_count(&self.segment) > 1 {
            match self.segment.open(env) {
                Ok(file) => self.segment.pin(file),
                Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        remove_if_exists(env, &self.segment.path)
    }
}

/// Removes a file's name, which may be gone already.
pub(super) fn remove_if_exists(env: &dyn Env, path: &Path) -> Result<(), LogError> {
    match env.remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(LogError::io("remove", path)),
    }
}

/// The names in a directory, which may not exist.
pub(super) fn list(env: &dyn Env, dir: &Path) -> Result<Vec<String>, LogError> {
    match env.read_dir(dir) {
        Ok(names) => {
            Ok(names.into_iter().filter_map(|n| n.into_os_string().into_string().ok()).collect())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(LogError::io("list", dir)(e)),
    }
}
