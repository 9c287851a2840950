//! A mount without a kernel: names, files and locks as SQLite's processes see them.
//!
//! [`Mount`] is one mounted store, [`Process`] one process that uses it. The byte locks and the shared memory
//! that the kernel keeps under a real mount are kept here, with the kernel's semantics: they belong to an open
//! file and vanish with its process. What isn't here: SQLite's C interface (see `vfs`).
//!
//! A process can die ([`Process::kill`]): its locks and files are released as the kernel does, and its
//! connections must be forgotten. A [`Hook`] makes a chosen call fail, before or after it took effect.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use litefs_core::db::{Database, FileKind, MountName, OpenFile, OpenHow};
use litefs_core::error::{Error, ErrorKind};
use litefs_core::store::Store;
use parking_lot::Mutex;

/// Where the mount seems to be.
pub const MOUNT_POINT: &str = "/mnt/";

/// A mounted store.
#[derive(Debug)]
pub struct Mount {
    store: Arc<Store>,
    next_id: AtomicU64,
    locks: Mutex<BTreeMap<FileName, Levels>>,
    shared: Mutex<BTreeMap<FileName, Shm>>,
}

/// A name in the mount.
type FileName = String;
/// Names an open file.
pub(crate) type FileId = u64;
type Levels = BTreeMap<FileId, Level>;

/// SQLite's lock levels of a database file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    None,
    Shared,
    Reserved,
    Pending,
    Exclusive,
}

/// A call that a [`Hook`] sees.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// What is done.
    pub op: FileOp<'a>,
    /// To which file.
    pub kind: FileKind,
}

/// What is done to a file.
#[derive(Debug, Clone, Copy)]
pub enum FileOp<'a> {
    /// Bytes at an offset.
    Write(&'a [u8], u64),
    /// A new length.
    Truncate(u64),
    /// An fsync.
    Sync,
    /// The name goes.
    Delete,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It fails and has no effect.
    Refused,
    /// It takes effect, but fails for SQLite.
    DoneButFailed,
    /// It takes effect and is the last: all later calls of the process fail without effect.
    LastOne,
}

/// Decides about calls of a process.
pub type Hook = Box<dyn FnMut(Event<'_>) -> Outcome + Send>;

/// A process that uses a mount.
pub struct Process {
    /// `None` once the process is dead.
    mount: Mutex<Option<Arc<Mount>>>,
    files: Mutex<BTreeMap<FileId, Arc<Opened>>>,
    hook: Mutex<Option<Hook>>,
    ended: AtomicBool,
    pub(crate) powersafe_overwrite: AtomicBool,
}

#[derive(Debug)]
struct Opened {
    name: FileName,
    file: OpenFile,
    /// A new journal or WAL: its first fsync is followed by one of the directory.
    new_name: AtomicBool,
}

/// Why a call failed, in SQLite's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fail {
    Busy,
    NotFound,
    Full,
    Io,
}

type Done<T = ()> = Result<T, Fail>;

#[derive(Debug, Default)]
struct Shm {
    users: BTreeSet<FileId>,
    regions: Vec<Region>,
    slots: [Slot; 8],
}

/// Memory that several connections map.
pub(crate) type Region = Arc<[AtomicU32]>;

#[derive(Debug, Default)]
struct Slot {
    shared: BTreeSet<FileId>,
    exclusive: Option<FileId>,
}

impl Mount {
    /// Mounts a store.
    pub fn new(store: Arc<Store>) -> Arc<Mount> {
        Arc::new(Mount {
            store,
            next_id: AtomicU64::new(1),
            locks: Mutex::default(),
            shared: Mutex::default(),
        })
    }

    fn resolve(&self, name: &str) -> Option<(Arc<Database>, FileKind)> {
        match MountName::parse(name)? {
            MountName::File(db, kind) => Some((self.store.database(&db)?, kind)),
            _ => None,
        }
    }

    fn release(&self, name: &str, id: FileId) {
        if let Some(levels) = self.locks.lock().get_mut(name) {
            levels.remove(&id);
        }
        let mut shared = self.shared.lock();
        if let Some(shm) = shared.get_mut(name) {
            shm.leave(id);
            if shm.users.is_empty() {
                shared.remove(name);
            }
        }
    }
}

impl Shm {
    fn leave(&mut self, id: FileId) {
        self.users.remove(&id);
        for slot in &mut self.slots {
            slot.shared.remove(&id);
            slot.exclusive = slot.exclusive.filter(|holder| *holder != id);
        }
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Process {
    /// A new process.
    pub fn new(mount: &Arc<Mount>) -> Arc<Process> {
        Arc::new(Process {
            mount: Mutex::new(Some(Arc::clone(mount))),
            files: Mutex::default(),
            hook: Mutex::default(),
            ended: AtomicBool::new(false),
            powersafe_overwrite: AtomicBool::new(true),
        })
    }

    /// Whether SQLite is told that a write never damages its neighbours in the sector.
    pub fn set_powersafe_overwrite(&self, yes: bool) {
        self.powersafe_overwrite.store(yes, Ordering::Relaxed);
    }

    /// Has `hook` decide about every change from now on.
    pub fn hook(&self, hook: impl FnMut(Event<'_>) -> Outcome + Send + 'static) {
        *self.hook.lock() = Some(Box::new(hook));
    }

    /// Ends the hook.
    pub fn unhook(&self) {
        *self.hook.lock() = None;
    }

    /// Kills the process: the kernel closes its files and releases its locks. Its connections must be forgotten
    /// (`std::mem::forget`), since no code of a dead process runs.
    pub fn kill(&self) {
        self.ended.store(true, Ordering::SeqCst);
        let Some(mount) = self.mount.lock().take() else { return };
        for (id, opened) in std::mem::take(&mut *self.files.lock()) {
            mount.release(&opened.name, id);
        }
    }

    pub(crate) fn open(
        &self,
        path: &str,
        create: bool,
        exclusive: bool,
        new_name: bool,
    ) -> Done<FileId> {
        let (mount, name) = (self.mount()?, mount_name(path));
        let Some(MountName::File(db, kind)) = MountName::parse(name) else {
            return Err(Fail::NotFound);
        };
        let how = match (create, exclusive) {
            (true, true) => OpenHow::CreateNew,
            (true, false) => OpenHow::Create,
            (false, _) => OpenHow::Existing,
        };
        let db = match mount.store.database(&db) {
            Some(db) => db,
            None if create => mount.store.create_database(&db).map_err(fail)?,
            None => return Err(Fail::NotFound),
        };
        let existed = db.len(kind).map_err(fail)?.is_some();
        let file = db.open_file(kind, how).map_err(fail)?;
        let id = mount.next_id.fetch_add(1, Ordering::Relaxed);
        let new_name = AtomicBool::new(new_name && !existed);
        self.files.lock().insert(id, Arc::new(Opened { name: name.into(), file, new_name }));
        Ok(id)
    }

    pub(crate) fn close(&self, id: FileId) {
        let opened = self.files.lock().remove(&id);
        if let (Some(mount), Some(opened)) = (self.mount.lock().clone(), opened) {
            mount.release(&opened.name, id);
        }
    }

    pub(crate) fn delete(&self, path: &str, sync_dir: bool) -> Done {
        let (db, kind) = self.mount()?.resolve(mount_name(path)).ok_or(Fail::NotFound)?;
        self.change(FileOp::Delete, kind, || {
            db.unlink(kind)?;
            if sync_dir { db.sync_dir() } else { Ok(()) }
        })
    }

    /// Size of a file, if it exists.
    pub(crate) fn stat(&self, path: &str) -> Done<Option<u64>> {
        match self.mount()?.resolve(mount_name(path)) {
            Some((db, kind)) => db.len(kind).map_err(fail),
            None => Ok(None),
        }
    }

    pub(crate) fn read(&self, id: FileId, buf: &mut [u8], offset: u64) -> Done<usize> {
        self.opened(id)?.file.read_at(buf, offset).map_err(fail)
    }

    pub(crate) fn write(&self, id: FileId, data: &[u8], offset: u64) -> Done {
        let opened = self.opened(id)?;
        let file = &opened.file;
        self.change(FileOp::Write(data, offset), file.kind(), || file.write_at(data, offset))
    }

    pub(crate) fn truncate(&self, id: FileId, len: u64) -> Done {
        let opened = self.opened(id)?;
        let file = &opened.file;
        self.change(FileOp::Truncate(len), file.kind(), || file.truncate(len))
    }

    pub(crate) fn sync(&self, id: FileId) -> Done {
        let opened = self.opened(id)?;
        let file = &opened.file;
        self.change(FileOp::Sync, file.kind(), || {
            file.sync()?;
            if opened.new_name.swap(false, Ordering::Relaxed) {
                return file.database().sync_dir();
            }
            Ok(())
        })
    }

    pub(crate) fn len(&self, id: FileId) -> Done<u64> {
        self.opened(id)?.file.len().map_err(fail)
    }

    pub(crate) fn lock(&self, id: FileId, want: Level) -> Done {
        let (mount, opened) = (self.mount()?, self.opened(id)?);
        let mut locks = mount.locks.lock();
        let levels = locks.entry(opened.name.clone()).or_default();
        let own = levels.get(&id).copied().unwrap_or(Level::None);
        if own >= want {
            return Ok(());
        }
        let others = levels.iter().filter(|(other, _)| **other != id).map(|(_, level)| *level);
        let highest = others.max().unwrap_or(Level::None);
        let allowed = match want {
            Level::Shared => highest < Level::Pending,
            Level::Exclusive if highest < Level::Reserved => {
                levels.insert(id, Level::Pending);
                highest < Level::Shared
            }
            _ => highest < Level::Reserved,
        };
        if !allowed {
            return Err(Fail::Busy);
        }
        levels.insert(id, want);
        Ok(())
    }

    pub(crate) fn unlock(&self, id: FileId, to: Level) {
        let (Ok(mount), Ok(opened)) = (self.mount(), self.opened(id)) else { return };
        let mut locks = mount.locks.lock();
        let levels = locks.entry(opened.name.clone()).or_default();
        if levels.get(&id).is_some_and(|level| *level > to) {
            levels.insert(id, to);
        }
    }

    pub(crate) fn is_reserved(&self, id: FileId) -> Done<bool> {
        let (mount, opened) = (self.mount()?, self.opened(id)?);
        let locks = mount.locks.lock();
        let levels = locks.get(&opened.name);
        Ok(levels.is_some_and(|levels| levels.values().any(|level| *level >= Level::Reserved)))
    }

    /// Maps a region of the WAL index; `None` if it isn't there and shall not be made.
    pub(crate) fn map(
        &self,
        id: FileId,
        index: usize,
        len: usize,
        extend: bool,
    ) -> Done<Option<Region>> {
        let (mount, opened) = (self.mount()?, self.opened(id)?);
        if self.ended.load(Ordering::SeqCst) {
            return Err(Fail::Io);
        }
        let mut shared = mount.shared.lock();
        let shm = shared.entry(opened.name.clone()).or_default();
        shm.users.insert(id);
        while extend && shm.regions.len() <= index {
            shm.regions.push((0..len / 4).map(|_| AtomicU32::new(0)).collect());
        }
        Ok(shm.regions.get(index).map(Arc::clone))
    }

    pub(crate) fn unmap(&self, id: FileId) {
        let (Ok(mount), Ok(opened)) = (self.mount(), self.opened(id)) else { return };
        let mut shared = mount.shared.lock();
        if let Some(shm) = shared.get_mut(&opened.name) {
            shm.leave(id);
            if shm.users.is_empty() {
                shared.remove(&opened.name);
            }
        }
    }

    pub(crate) fn shm_lock(
        &self,
        id: FileId,
        slots: std::ops::Range<usize>,
        exclusive: bool,
    ) -> Done {
        let (mount, opened) = (self.mount()?, self.opened(id)?);
        if self.ended.load(Ordering::SeqCst) {
            return Err(Fail::Io);
        }
        let mut shared = mount.shared.lock();
        let shm = shared.entry(opened.name.clone()).or_default();
        shm.users.insert(id);
        let slots = shm.slots.get_mut(slots).ok_or(Fail::Io)?;
        let free = |slot: &Slot| {
            slot.exclusive.is_none_or(|holder| holder == id)
                && (!exclusive || slot.shared.iter().all(|holder| *holder == id))
        };
        if !slots.iter().all(free) {
            return Err(Fail::Busy);
        }
        for slot in slots {
            if exclusive {
                slot.exclusive = Some(id);
            } else {
                slot.shared.insert(id);
            }
        }
        Ok(())
    }

    pub(crate) fn shm_unlock(&self, id: FileId, slots: std::ops::Range<usize>, exclusive: bool) {
        let (Ok(mount), Ok(opened)) = (self.mount(), self.opened(id)) else { return };
        let mut shared = mount.shared.lock();
        let shm = shared.get_mut(&opened.name).and_then(|shm| shm.slots.get_mut(slots));
        for slot in shm.into_iter().flatten() {
            if exclusive {
                slot.exclusive = slot.exclusive.filter(|holder| *holder != id);
            } else {
                slot.shared.remove(&id);
            }
        }
    }

    fn mount(&self) -> Done<Arc<Mount>> {
        self.mount.lock().clone().ok_or(Fail::Io)
    }

    fn opened(&self, id: FileId) -> Done<Arc<Opened>> {
        self.files.lock().get(&id).map(Arc::clone).ok_or(Fail::Io)
    }

    fn change(
        &self,
        op: FileOp<'_>,
        kind: FileKind,
        run: impl FnOnce() -> Result<(), Error>,
    ) -> Done {
        if self.ended.load(Ordering::SeqCst) {
            return Err(Fail::Io);
        }
        let outcome = match &mut *self.hook.lock() {
            Some(hook) => hook(Event { op, kind }),
            None => Outcome::Done,
        };
        if outcome == Outcome::Refused {
            return Err(Fail::Io);
        }
        run().map_err(fail)?;
        if outcome == Outcome::LastOne {
            self.ended.store(true, Ordering::SeqCst);
        }
        if outcome == Outcome::Done { Ok(()) } else { Err(Fail::Io) }
    }
}

fn mount_name(path: &str) -> &str {
    path.strip_prefix(MOUNT_POINT).unwrap_or(path)
}

fn fail(err: Error) -> Fail {
    match err.kind() {
        ErrorKind::NotFound => Fail::NotFound,
        ErrorKind::NoSpace | ErrorKind::Quota => Fail::Full,
        _ => Fail::Io,
    }
}
