//! A disk in memory that fails, fills up and loses power on command.
//!
//! What lives here: [`SimDisk`], an [`Env`] for tests. What it keeps of a file after a power cut is in
//! `image`. What isn't here: any idea of what the files hold.
//!
//! ```text
//!                     ┌── Fault: n-th call fails, perhaps after a part of it landed
//!  Env, File calls ───┼── capacity: ENOSPC beyond it
//!                     ├── kill: every later call fails, nothing changes any more
//!                     └── recorded: each change and each sync is an [`image::Op`]
//!
//!  crash_image(at, Landed) ──► another SimDisk, as it was found after op `at`
//! ```
//!
//! The death of a process keeps everything that was written ([`Landed::Everything`]); the loss of power keeps
//! what was synced and any part of the rest. Both are made from the same recording, so one run of a workload
//! gives a crash at each of its operations.
//!
//! Invariants: a clone is another handle of the same disk. The clock moves only by [`SimDisk::advance`] and by
//! one microsecond per change, so that two states of a file differ in their time of change.

mod image;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use self::image::{Ino, Op, Replay};
use super::{Env, File, LockGuard, Metadata, OpenMode};

/// A disk in memory; clones are handles of the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<Disk>>);

/// What of the changes that weren't synced is found after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landed {
    /// None of them: the power went, and nothing had been written back.
    Nothing,
    /// All of them: only the process died, or everything happened to be written back.
    Everything,
    /// Some of them, chosen by a seed.
    Some(u64),
}

/// The calls that a [`Fault`] can hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`Env::open`] of a file that exists.
    Open,
    /// [`Env::open`] that creates.
    Create,
    /// [`Env::metadata`], [`File::len`], [`File::modified`].
    Stat,
    /// [`Env::read_dir`].
    ReadDir,
    /// [`Env::create_dir_all`].
    CreateDir,
    /// [`Env::remove_file`].
    Remove,
    /// [`Env::rename`].
    Rename,
    /// [`Env::sync_dir`].
    SyncDir,
    /// [`File::read_at`].
    Read,
    /// [`File::write_at`].
    Write,
    /// [`File::set_len`].
    SetLen,
    /// [`File::sync`].
    Sync,
}

/// Makes calls fail.
#[derive(Debug, Clone)]
pub struct Fault {
    calls: Option<Vec<Call>>,
    path_contains: Option<String>,
    skip: u64,
    times: u64,
    errno: i32,
    part: bool,
}

impl Fault {
    /// The next call fails with `errno`.
    pub fn new(errno: i32) -> Fault {
        Fault { calls: None, path_contains: None, skip: 0, times: 1, errno, part: false }
    }

    /// Only these calls count and fail.
    #[must_use]
    pub fn calls(mut self, calls: &[Call]) -> Fault {
        self.calls = Some(calls.to_vec());
        self
    }

    /// Only calls on a path that contains `part` count and fail.
    #[must_use]
    pub fn path(mut self, part: &str) -> Fault {
        self.path_contains = Some(part.into());
        self
    }

    /// The `n`-th matching call is the first to fail; 1 is the next.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Fault {
        self.skip = n.saturating_sub(1);
        self
    }

    /// So many matching calls fail, from the first on.
    #[must_use]
    pub fn times(mut self, times: u64) -> Fault {
        self.times = times;
        self
    }

    /// A failing write leaves its first half.
    #[must_use]
    pub fn part_lands(mut self) -> Fault {
        self.part = true;
        self
    }

    /// Whether it strikes now.
    fn hits(&mut self, call: Call, path: &Path) -> bool {
        let counts = self.calls.as_ref().is_none_or(|calls| calls.contains(&call))
            && self.path_contains.as_ref().is_none_or(|p| path.to_string_lossy().contains(p));
        if !counts || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<Ino, Inode>,
    names: BTreeMap<PathBuf, Ino>,
    dirs: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    next_ino: Ino,
    recorded: Vec<Op>,
    faults: Vec<Fault>,
    faults_hit: Vec<(Call, PathBuf)>,
    capacity: Option<u64>,
    killed: bool,
    now: Duration,
    seed: u64,
}

#[derive(Debug, Clone)]
struct Inode {
    /// Where it was last known; faults match by it even when the name is gone.
    path: PathBuf,
    data: Vec<u8>,
    modified: Duration,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> SimDisk {
        let disk = Disk { seed, now: Duration::from_secs(1_700_000_000), ..Disk::default() };
        SimDisk(Arc::new(Mutex::new(disk)))
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.0.lock().faults.push(fault);
    }

    /// Takes all faults away; returns the calls that they made fail.
    pub fn clear_faults(&self) -> Vec<(Call, PathBuf)> {
        let mut disk = self.0.lock();
        disk.faults.clear();
        std::mem::take(&mut disk.faults_hit)
    }

    /// Limits the bytes in all files together.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity = bytes;
    }

    /// Bytes in all files together.
    pub fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// Every later call fails and changes nothing: the process that uses the disk is as good as dead.
    pub fn kill(&self) {
        self.0.lock().killed = true;
    }

    /// Moves the clock.
    pub fn advance(&self, by: Duration) {
        self.0.lock().now += by;
    }

    /// Makes everything durable, as sync(1) does.
    pub fn sync_all(&self) {
        let mut disk = self.0.lock();
        for ino in disk.names.values().copied().collect::<Vec<_>>() {
            disk.record(Op::Sync { ino });
        }
        for path in disk.dirs.clone() {
            disk.record(Op::SyncDir { path });
        }
    }

    /// How many changes and syncs have been recorded.
    pub fn ops(&self) -> usize {
        self.0.lock().recorded.len()
    }

    /// The recorded operation `at`, for a failed test's report.
    pub fn describe(&self, at: usize) -> String {
        self.0.lock().recorded.get(at).map_or_else(|| "end".into(), Op::to_string)
    }

    /// The disk as it is found if everything ended after the first `at` operations.
    pub fn crash_image(&self, at: usize, landed: Landed) -> SimDisk {
        let disk = self.0.lock();
        let mut replay = Replay::default();
        disk.recorded.iter().take(at).for_each(|op| replay.apply(op));
        let (names, dirs, contents) = replay.crash(landed);
        let mut image = Disk {
            dirs,
            now: disk.now + Duration::from_secs(10),
            seed: disk.seed ^ at as u64,
            ..Disk::default()
        };
        for (path, ino) in &names {
            let data = contents.get(ino).cloned().unwrap_or_default();
            image.files.insert(*ino, Inode { path: path.clone(), data, modified: disk.now });
        }
        image.next_ino = names.values().max().map_or(0, |ino| ino + 1);
        image.names = names;
        image.record_all();
        SimDisk(Arc::new(Mutex::new(image)))
    }

    /// The disk as the next process finds it: nothing is lost.
    pub fn survivor(&self) -> SimDisk {
        let disk = self.0.lock();
        let mut copy = Disk {
            files: disk.files.clone(),
            names: disk.names.clone(),
            dirs: disk.dirs.clone(),
            next_ino: disk.next_ino,
            now: disk.now,
            seed: disk.seed.wrapping_add(1),
            ..Disk::default()
        };
        copy.record_all();
        SimDisk(Arc::new(Mutex::new(copy)))
    }

    /// The content of a file, past all faults; `None` if there is none.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.0.lock();
        disk.names.get(path).and_then(|ino| disk.files.get(ino)).map(|inode| inode.data.clone())
    }

    fn with<T>(
        &self,
        call: Call,
        path: &Path,
        run: impl FnOnce(&mut Disk) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut disk = self.0.lock();
        disk.admit(call, path)?;
        run(&mut disk)
    }
}

impl Env for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let exists = self.0.lock().names.contains_key(path);
        let create = !exists && mode != OpenMode::Existing;
        let call = if create { Call::Create } else { Call::Open };
        let ino = self.with(call, path, |disk| disk.open(path, mode))?;
        Ok(Arc::new(SimFile { disk: self.clone(), ino }))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.with(Call::Stat, path, |disk| {
            if disk.dirs.contains(path) {
                return Ok(Metadata { len: 0, modified: SystemTime::UNIX_EPOCH, is_dir: true });
            }
            let inode = disk.inode(*disk.names.get(path).ok_or(io::ErrorKind::NotFound)?)?;
            Ok(Metadata {
                len: inode.data.len() as u64,
                modified: SystemTime::UNIX_EPOCH + inode.modified,
                is_dir: false,
            })
        })
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.with(Call::ReadDir, path, |disk| {
            if !disk.dirs.contains(path) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let entries = disk.names.keys().chain(&disk.dirs);
            let inside = entries.filter(|entry| entry.parent() == Some(path));
            Ok(inside.filter_map(|entry| entry.file_name().map(PathBuf::from)).collect())
        })
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.with(Call::CreateDir, path, |disk| {
            let mut missing: Vec<&Path> =
                path.ancestors().filter(|dir| !disk.dirs.contains(*dir)).collect();
            missing.reverse();
            for dir in missing {
                disk.dirs.insert(dir.into());
                disk.record(Op::MakeDir { path: dir.into() });
            }
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.with(Call::Remove, path, |disk| {
            let ino = disk.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
            disk.record(Op::Unlink { path: path.into() });
            disk.forget_unnamed(ino);
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.with(Call::Rename, from, |disk| {
            let ino = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            disk.inode_mut(ino)?.path = to.into();
            if let Some(replaced) = disk.names.insert(to.into(), ino) {
                disk.forget_unnamed(replaced);
            }
            disk.record(Op::Rename { from: from.into(), to: to.into() });
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.with(Call::SyncDir, path, |disk| {
            if !disk.dirs.contains(path) {
                return Err(io::ErrorKind::NotFound.into());
            }
            disk.record(Op::SyncDir { path: path.into() });
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> io::Result<LockGuard> {
        let mut disk = self.0.lock();
        disk.admit(Call::Open, path)?;
        if !disk.locked.insert(path.into()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        drop(disk);
        Ok(LockGuard::new(Held { disk: self.clone(), path: path.into() }))
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0.lock().now
    }

    fn random(&self) -> u64 {
        image::next_random(&mut self.0.lock().seed)
    }
}

/// A held lock; dropping it releases.
#[derive(Debug)]
struct Held {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.disk.0.lock().locked.remove(&self.path);
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    ino: Ino,
}

impl SimFile {
    fn with<T>(&self, call: Call, run: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.0.lock();
        let path = disk.inode(self.ino)?.path.clone();
        disk.admit(call, &path)?;
        run(&mut disk)
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(Call::Read, |disk| {
            let data = &disk.inode(self.ino)?.data;
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
            let n = buf.len().min(data.len() - from);
            buf[..n].copy_from_slice(&data[from..from + n]);
            Ok(n)
        })
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        let path = disk.inode(self.ino)?.path.clone();
        if let Err((err, part)) = disk.admit_part(Call::Write, &path) {
            if part {
                disk.write(self.ino, &data[..data.len() / 2], offset)?;
            }
            return Err(err);
        }
        let room = disk.room(self.ino, offset, data.len());
        disk.write(self.ino, &data[..room], offset)?;
        if room < data.len() { Err(io::Error::from_raw_os_error(ENOSPC)) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(Call::SetLen, |disk| {
            let to = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
            let now = disk.now;
            let inode = disk.inode_mut(self.ino)?;
            inode.data.resize(to, 0);
            inode.modified = now;
            disk.record(Op::SetLen { ino: self.ino, len: to });
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(Call::Stat, |disk| Ok(disk.inode(self.ino)?.data.len() as u64))
    }

    fn sync(&self) -> io::Result<()> {
        self.with(Call::Sync, |disk| {
            disk.record(Op::Sync { ino: self.ino });
            Ok(())
        })
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.with(Call::Stat, |disk| Ok(SystemTime::UNIX_EPOCH + disk.inode(self.ino)?.modified))
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Disk {
    fn admit(&mut self, call: Call, path: &Path) -> io::Result<()> {
        self.admit_part(call, path).map_err(|(err, _)| err)
    }

    /// Whether the call may run; if not, whether a part of a write lands nevertheless.
    fn admit_part(&mut self, call: Call, path: &Path) -> Result<(), (io::Error, bool)> {
        if self.killed {
            return Err((io::Error::from_raw_os_error(EIO), false));
        }
        for fault in &mut self.faults {
            if fault.hits(call, path) {
                self.faults_hit.push((call, path.into()));
                return Err((io::Error::from_raw_os_error(fault.errno), fault.part));
            }
        }
        Ok(())
    }

    fn open(&mut self, path: &Path, mode: OpenMode) -> io::Result<Ino> {
        match (self.names.get(path), mode) {
            (Some(_), OpenMode::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Some(ino), _) => Ok(*ino),
            (None, OpenMode::Existing) => Err(io::ErrorKind::NotFound.into()),
            (None, _) if path.parent().is_none_or(|dir| !self.dirs.contains(dir)) => {
                Err(io::ErrorKind::NotFound.into())
            }
            (None, _) => {
                let ino = self.next_ino;
                self.next_ino += 1;
                let inode = Inode { path: path.into(), data: Vec::new(), modified: self.now };
                self.files.insert(ino, inode);
                self.names.insert(path.into(), ino);
                self.record(Op::Create { path: path.into(), ino });
                Ok(ino)
            }
        }
    }

    fn write(&mut self, ino: Ino, data: &[u8], offset: u64) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let now = self.now;
        let inode = self.inode_mut(ino)?;
        image::put(&mut inode.data, data, offset);
        inode.modified = now;
        self.record(Op::Write { ino, offset, data: data.into() });
        Ok(())
    }

    /// How much of a write the capacity lets through.
    fn room(&self, ino: Ino, offset: u64, len: usize) -> usize {
        let Some(capacity) = self.capacity else { return len };
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let now = self.files.get(&ino).map_or(0, |inode| inode.data.len());
        let grows = offset.saturating_add(len).saturating_sub(now);
        let free = usize::try_from(capacity.saturating_sub(self.used())).unwrap_or(usize::MAX);
        len - grows.saturating_sub(free).min(len)
    }

    fn used(&self) -> u64 {
        self.names.values().filter_map(|ino| self.files.get(ino)).map(|i| i.data.len() as u64).sum()
    }

    fn record(&mut self, op: Op) {
        self.now += Duration::from_micros(1);
        self.recorded.push(op);
    }

    /// Makes what is there the durable start of the recording.
    fn record_all(&mut self) {
        for dir in self.dirs.clone() {
            self.record(Op::MakeDir { path: dir });
        }
        for (path, ino) in self.names.clone() {
            let data = self.files.get(&ino).map_or_else(Vec::new, |inode| inode.data.clone());
            self.record(Op::Create { path, ino });
            self.record(Op::Write { ino, offset: 0, data: data.into() });
            self.record(Op::Sync { ino });
        }
        for path in self.dirs.clone() {
            self.record(Op::SyncDir { path });
        }
    }

    /// A file without a name lives as long as handles do; here, as long as the disk.
    fn forget_unnamed(&mut self, ino: Ino) {
        if let Some(inode) = self.files.get_mut(&ino) {
            inode.path.as_mut_os_string().push(" (removed)");
        }
    }

    fn inode(&self, ino: Ino) -> io::Result<&Inode> {
        self.files.get(&ino).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode_mut(&mut self, ino: Ino) -> io::Result<&mut Inode> {
        self.files.get_mut(&ino).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// "Input/output error".
pub const EIO: i32 = 5;
/// "No space left on device".
pub const ENOSPC: i32 = 28;
/// "Disk quota exceeded".
pub const EDQUOT: i32 = 122;

#[cfg(test)]
mod tests;
