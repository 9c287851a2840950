//! A disk in memory that can refuse calls and lose what wasn't synced. Only for the tests of the log.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::env::{Env, File, LockGuard, Metadata, OpenMode};

#[derive(Debug, Clone)]
pub(super) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<PathBuf, Arc<MemFile>>,
    dirs: BTreeSet<PathBuf>,
    durable: BTreeMap<PathBuf, Arc<MemFile>>,
    /// Changes of names since the last sync of their directory, in order.
    names: Vec<NameOp>,
    clock: Duration,
    calls: u64,
    fail: Option<Fail>,
    writes: u64,
    syncs: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Fail {
    Once(u64),
    From(u64),
}

#[derive(Debug, Clone)]
enum NameOp {
    Link(PathBuf, Arc<MemFile>),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl NameOp {
    fn apply(self, names: &mut BTreeMap<PathBuf, Arc<MemFile>>) {
        match self {
            NameOp::Link(path, file) => drop(names.insert(path, file)),
            NameOp::Unlink(path) => drop(names.remove(&path)),
            NameOp::Rename(from, to) => {
                if let Some(file) = names.remove(&from) {
                    names.insert(to, file);
                }
            }
        }
    }

    fn dir(&self) -> Option<&Path> {
        match self {
            NameOp::Link(path, _) | NameOp::Unlink(path) | NameOp::Rename(path, _) => path.parent(),
        }
    }
}

#[derive(Debug)]
struct MemFile {
    disk: Disk,
    content: Mutex<Content>,
}

#[derive(Debug, Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    modified: Duration,
}

impl Disk {
    pub(super) fn new(dirs: &[&str]) -> Disk {
        let dirs = dirs.iter().map(PathBuf::from).collect();
        Disk(Arc::new(Mutex::new(State { dirs, ..State::default() })))
    }

    /// Fails calls that change something, counted from now.
    pub(super) fn fail(&self, fail: Option<Fail>) {
        let mut state = self.0.lock();
        state.calls = 0;
        state.fail = fail;
    }

    /// Whether the failure asked for has happened.
    pub(super) fn has_failed(&self) -> bool {
        let state = self.0.lock();
        state.fail.is_some_and(|(Fail::Once(n) | Fail::From(n))| state.calls >= n)
    }

    pub(super) fn advance(&self, by: Duration) {
        self.0.lock().clock += by;
    }

    /// How many writes and syncs of files there were.
    pub(super) fn counts(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.writes, state.syncs)
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.0.lock().files.keys().map(|p| p.display().to_string()).collect()
    }

    pub(super) fn content(&self, path: &str) -> Vec<u8> {
        self.0.lock().files[Path::new(path)].content.lock().now.clone()
    }

    pub(super) fn put(&self, path: &str, bytes: &[u8]) {
        let file = self.open(Path::new(path), OpenMode::Create).unwrap();
        file.set_len(0).unwrap();
        file.write_at(bytes, 0).unwrap();
    }

    /// The disk after the power failed: what was synced, and of the rest whatever `pick` says.
    pub(super) fn crash(&self, mut pick: impl FnMut(u64) -> u64) -> Disk {
        let state = self.0.lock();
        let mut names = state.durable.clone();
        let survive = pick(state.names.len() as u64 + 1) as usize;
        for op in &state.names[..survive] {
            op.clone().apply(&mut names);
        }
        let disk = Disk::new(&[]);
        let files: BTreeMap<_, _> = names
            .into_iter()
            .map(|(path, file)| {
                let Content { now, durable, modified } = file.content.lock().clone();
                let (short, long) =
                    (now.len().min(durable.len()) as u64, now.len().max(durable.len()) as u64);
                let mut torn = vec![0; (short + pick(long - short + 1)) as usize];
                for (i, sector) in torn.chunks_mut(SECTOR).enumerate() {
                    let from = if pick(2) == 0 { &now } else { &durable };
                    let rest = from.get(i * SECTOR..).unwrap_or_default();
                    let len = rest.len().min(sector.len());
                    sector[..len].copy_from_slice(&rest[..len]);
                }
                let content = Content { now: torn.clone(), durable: torn, modified };
                let disk = disk.clone();
                (path, Arc::new(MemFile { disk, content: Mutex::new(content) }))
            })
            .collect();
        {
            let mut new = disk.0.lock();
            new.dirs = state.dirs.clone();
            new.durable = files.clone();
            new.files = files;
            new.clock = state.clock;
        }
        disk
    }

    fn change(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.calls += 1;
        match state.fail {
            Some(Fail::Once(n)) if state.calls == n => Err(io::ErrorKind::StorageFull.into()),
            Some(Fail::From(n)) if state.calls >= n => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl Env for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if let Some(file) = self.0.lock().files.get(path) {
            return Ok(Arc::clone(file) as Arc<dyn File>);
        }
        let known = path.parent().is_some_and(|dir| self.0.lock().dirs.contains(dir));
        if mode == OpenMode::Existing || !known {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change()?;
        let file = Arc::new(MemFile { disk: self.clone(), content: Mutex::default() });
        let mut state = self.0.lock();
        state.files.insert(path.into(), Arc::clone(&file));
        state.names.push(NameOp::Link(path.into(), Arc::clone(&file)));
        Ok(file)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let file = self.0.lock().files.get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Metadata { len: file.len()?, modified: file.modified()?, is_dir: false })
    }

    fn lock(&self, _: &Path) -> io::Result<LockGuard> {
        Ok(LockGuard::new(()))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.0.lock();
        if !state.dirs.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.files.keys().filter(|p| p.parent() == Some(path));
        Ok(inside.filter_map(|p| p.file_name().map(PathBuf::from)).collect())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.0.lock().dirs.insert(path.into());
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        if !self.0.lock().files.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change()?;
        let mut state = self.0.lock();
        state.files.remove(path);
        state.names.push(NameOp::Unlink(path.into()));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        let mut state = self.0.lock();
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.into(), file);
        state.names.push(NameOp::Rename(from.into(), to.into()));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if !self.0.lock().dirs.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change()?;
        let state = &mut *self.0.lock();
        let (now, later) =
            state.names.drain(..).partition::<Vec<_>, _>(|op| op.dir() == Some(path));
        state.names = later;
        now.into_iter().for_each(|op| op.apply(&mut state.durable));
        Ok(())
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0.lock().clock
    }

    fn random(&self) -> u64 {
        0
    }
}

impl File for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.content.lock();
        let rest = content.now.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let result = self.disk.change();
        // A failed write may have got half-way.
        let data = if result.is_ok() { data } else { &data[..data.len() / 2] };
        let mut state = self.disk.0.lock();
        state.writes += 1;
        let mut content = self.content.lock();
        content.modified = state.clock;
        let (from, to) = (offset as usize, offset as usize + data.len());
        let len = content.now.len().max(to);
        content.now.resize(len, 0);
        content.now[from..to].copy_from_slice(data);
        result
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change()?;
        self.content.lock().now.resize(len as usize, 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().now.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.change()?;
        self.disk.0.lock().syncs += 1;
        let mut content = self.content.lock();
        content.durable = content.now.clone();
        Ok(())
    }

    fn modified(&self) -> io::Result<SystemTime> {
        Ok(SystemTime::UNIX_EPOCH + self.content.lock().modified)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Small, so that small records tear in many ways.
const SECTOR: usize = 16;
