//! What each file operation means for the engine. No type of `fuser` here, so that it runs without a
//! kernel; [`crate::fs`] decodes requests and encodes answers.
//!
//! What the kernel may cache, and why that is safe:
//!
//! | cached                 | how long | it changes                                              |
//! |------------------------|----------|---------------------------------------------------------|
//! | pages                  | for ever | only through the kernel; a new file has a new number    |
//! | pages of a journal     | never    |                                                         |
//! | name of a file         | 1 hour   | through the kernel, or by a drop: [`Notifier`]          |
//! | absence of a companion | 1 hour   | only through the kernel                                 |
//! | absence of a database  | never    | the engine creates them, too                            |
//! | size and mode          | 1 second | through the kernel; the mode also when the role changes |
//! | special files          | never    | at any time                                             |
//!
//! A journal is hardly ever read, and its records lie across the cache's pages: with the cache, the kernel makes four requests
//! of each, without it three.
//!
//! A node that the engine knows to be gone, while the kernel doesn't yet, answers `ESTALE`: the kernel
//! then looks the name up again by itself, and the application sees the truth.
//!
//! Locks: the table of nodes, the table of handles; each held for a look or a change, never across a
//! call to the engine. Nothing here opens, reads or locks a file of the mount.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use litefs_core::db::{Database, FileKind, MountName, OpenFile, OpenHow};
use litefs_core::error::Error;
use litefs_core::store::Store;
use litefs_core::types::DbName;
use nix::errno::Errno;
use nix::sys::statvfs::{Statvfs, statvfs};
use parking_lot::Mutex;

use crate::errno::errno;
use crate::halt;
use crate::handles::{Handle, Handles, OpenNode};
use crate::node::{Node, Nodes, ROOT, UNKNOWN};
use crate::notify::Notifier;
use crate::special::{Special, special};

/// The operations of one mount.
#[derive(Debug)]
pub(crate) struct Ops {
    store: Arc<Store>,
    nodes: Arc<Mutex<Nodes>>,
    handles: Handles,
    notifier: Notifier,
}

/// Attributes of a file or the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attr {
    pub(crate) number: u64,
    pub(crate) len: u64,
    pub(crate) mode: u16,
    pub(crate) is_dir: bool,
    /// 0 once the file has lost its name.
    pub(crate) links: u32,
    pub(crate) modified: SystemTime,
    /// How long the kernel may rely on this.
    pub(crate) ttl: Duration,
}

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A file, and how long the kernel may rely on the name.
    File { attr: Attr, ttl: Duration },
    /// Nothing, and how long the kernel may rely on that.
    Absent { ttl: Duration },
}

/// An open handle, and how the kernel shall treat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) handle: u64,
    pub(crate) caching: Caching,
    /// Whether the engine must hear of `close()` before it returns.
    pub(crate) tell_close: bool,
}

/// Where reads are served from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caching {
    /// The page cache, kept from one open to the next.
    Keep,
    /// The same, or the backing file if the kernel can go there by itself.
    Shared,
    /// Always from here.
    Never,
}

/// On whose behalf a request comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A program that uses the mount.
    Application,
    /// The engine, as one more process of SQLite: see [`crate::peer`].
    Engine,
}

/// One line of the directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DirEntry {
    pub(crate) name: String,
    pub(crate) number: u64,
}

type Result<T> = std::result::Result<T, Errno>;

impl Ops {
    pub(crate) fn new(store: Arc<Store>, nodes: Arc<Mutex<Nodes>>, notifier: Notifier) -> Ops {
        Ops { store, nodes, handles: Handles::default(), notifier }
    }

    /// LOOKUP.
    pub(crate) fn look_up(&self, parent: u64, name: Option<&str>) -> Result<Found> {
        let Some((name, what)) = parse(parent, name)? else {
            return Ok(Found::Absent { ttl: Duration::ZERO });
        };
        let found = match &what {
            MountName::File(db, kind) => {
                let Some(database) = self.store.database(db) else {
                    return Ok(Found::Absent { ttl: Duration::ZERO });
                };
                match database.len(*kind).map_err(|e| errno("lookup", name, &e))? {
                    Some(len) => self.file_attr(*kind, len),
                    None if *kind == FileKind::Database => {
                        return Ok(Found::Absent { ttl: Duration::ZERO });
                    }
                    None => return Ok(Found::Absent { ttl: NAME_TTL }),
                }
            }
            _ => match special(&self.store, &what) {
                Some(special) => special_attr(&special),
                None => return Ok(Found::Absent { ttl: Duration::ZERO }),
            },
        };
        let ttl = if matches!(what, MountName::Primary) { Duration::ZERO } else { NAME_TTL };
        let node = self.nodes.lock().look_up(name, what);
        Ok(Found::File { attr: Attr { number: node.number, ..found }, ttl })
    }

    /// FORGET.
    pub(crate) fn forget(&self, number: u64, count: u64) {
        self.nodes.lock().forget(number, count);
    }

    /// GETATTR.
    pub(crate) fn attr(&self, number: u64, handle: Option<u64>) -> Result<Attr> {
        if number == ROOT {
            return Ok(self.root_attr());
        }
        let node = self.node(number)?;
        let MountName::File(db, kind) = &node.what else {
            let special = special(&self.store, &node.what).ok_or(Errno::ESTALE)?;
            return Ok(Attr { number, ..special_attr(&special) });
        };
        let failed = |e: Error| errno("getattr", &node.name, &e);
        if let Some(open) = self.open_file(&node, handle) {
            let len = open.file.len().map_err(failed)?;
            let links = u32::from(self.is_current(&node));
            return Ok(Attr { number, links, ..self.file_attr(*kind, len) });
        }
        match self.database(db)?.len(*kind).map_err(failed)? {
            Some(len) if self.is_current(&node) => {
                Ok(Attr { number, ..self.file_attr(*kind, len) })
            }
            _ => Err(Errno::ESTALE),
        }
    }

    /// Whether [`Ops::truncate`] may wait for the primary.
    pub(crate) fn truncate_waits(&self, number: u64) -> bool {
        !self.store.is_primary() && self.node(number).is_ok_and(|node| self.waits(&node.what))
    }

    /// SETATTR of a size. Mode, owner and times stay as they are: setting them succeeds without effect.
    pub(crate) fn truncate(&self, number: u64, handle: Option<u64>, len: u64) -> Result<()> {
        let node = self.node(number)?;
        let MountName::File(db, kind) = &node.what else { return Ok(()) };
        let result = match self.open_file(&node, handle) {
            Some(open) => open.file.truncate(len),
            None if self.is_current(&node) => self.database(db)?.truncate(*kind, len),
            None => return Err(Errno::ESTALE),
        };
        result.map_err(|e| errno("truncate", &node.name, &e))
    }

    /// OPEN.
    pub(crate) fn open(&self, number: u64, writable: bool, caller: Caller) -> Result<Opened> {
        let node = self.node(number)?;
        let MountName::File(db, kind) = &node.what else {
            special(&self.store, &node.what).ok_or(Errno::ESTALE)?;
            let handle = self.handles.insert(Handle::Special(node));
            return Ok(Opened { handle, caching: Caching::Never, tell_close: false });
        };
        if !self.is_current(&node) {
            return Err(Errno::ESTALE);
        }
        let database = self.database(db)?;
        let opened = match caller {
            Caller::Application => database.open_file(*kind, OpenHow::Existing),
            Caller::Engine => database.open_own_file(*kind, false),
        };
        match opened.map_err(|e| errno("open", &node.name, &e)) {
            Ok(file) => Ok(self.opened(node, file, writable, caller)),
            // It went without the kernel's knowledge: let it look again.
            Err(Errno::ENOENT) => Err(Errno::ESTALE),
            Err(errno) => Err(errno),
        }
    }

    /// CREATE.
    pub(crate) fn create(
        &self,
        parent: u64,
        name: Option<&str>,
        exclusive: bool,
        writable: bool,
        caller: Caller,
    ) -> Result<(Attr, Duration, Opened)> {
        let (name, what) = parse(parent, name)?.ok_or(Errno::EINVAL)?;
        // Never ENOSYS for special files: the kernel would send no CREATE for any file again.
        let MountName::File(db, kind) = &what else { return Err(Errno::EACCES) };
        let kind = *kind;
        let failed = |e: Error| errno("create", name, &e);
        let database = match (kind, caller) {
            (FileKind::Database, Caller::Application) => {
                self.store.create_database(db).map_err(failed)?
            }
            _ => self.store.database(db).ok_or(Errno::ENOENT)?,
        };
        let how = if exclusive { OpenHow::CreateNew } else { OpenHow::Create };
        let file = match caller {
            Caller::Application => database.open_file(kind, how),
            Caller::Engine => database.open_own_file(kind, true),
        };
        let file = file.map_err(failed)?;
        let len = file.len().map_err(failed)?;
        let node = self.nodes.lock().create(name, what);
        let attr = Attr { number: node.number, ..self.file_attr(kind, len) };
        Ok((attr, NAME_TTL, self.opened(node, file, writable, caller)))
    }

    /// READ: fills `buf` but for the end of the file.
    pub(crate) fn read(&self, handle: u64, buf: &mut [u8], offset: u64) -> Result<usize> {
        match self.handle(handle)? {
            Handle::File(open) => {
                open.file.read_at(buf, offset).map_err(|e| errno("read", &open.node.name, &e))
            }
            Handle::Special(node) | Handle::Halted(node, _) => {
                let text = special(&self.store, &node.what).ok_or(Errno::EIO)?.text;
                let start = usize::try_from(offset).map_or(text.len(), |o| o.min(text.len()));
                let rest = &text.as_bytes()[start..];
                let count = rest.len().min(buf.len());
                buf[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            }
            Handle::Directory(_) => Err(Errno::EISDIR),
        }
    }

    /// Whether a WRITE may wait for the primary: not for a thread that serves requests.
    pub(crate) fn write_waits(&self, handle: u64) -> bool {
        let is_lent = |handle| matches!(handle, Handle::File(open) if self.waits(&open.node.what));
        !self.store.is_primary() && self.handle(handle).is_ok_and(is_lent)
    }

    /// WRITE: all of `data`, or an error.
    pub(crate) fn write(&self, handle: u64, data: &[u8], offset: u64) -> Result<()> {
        match self.handle(handle)? {
            Handle::File(open) => {
                open.file.write_at(data, offset).map_err(|e| errno("write", &open.node.name, &e))
            }
            Handle::Special(_) | Handle::Halted(..) => Err(Errno::EIO),
            Handle::Directory(_) => Err(Errno::EISDIR),
        }
    }

    /// FLUSH: a descriptor was closed, the handle may have more.
    pub(crate) fn flush(&self, handle: u64) -> Result<()> {
        match self.handle(handle)? {
            Handle::File(open) => {
                open.file.flush().map_err(|e| errno("flush", &open.node.name, &e))
            }
            Handle::Special(_) | Handle::Halted(..) | Handle::Directory(_) => Ok(()),
        }
    }

    /// Whether a WRITE is one for [`Ops::ask_and_write`].
    pub(crate) fn asks_to_write(&self, handle: u64) -> bool {
        self.with_file(handle, OpenFile::asks_to_write).unwrap_or(false)
    }

    /// WRITE, after the engine has found out who writes. Waits for the mount: not for a thread that serves requests.
    pub(crate) fn ask_and_write(&self, handle: u64, data: &[u8], offset: u64) -> Result<()> {
        self.with_file(handle, OpenFile::ask);
        self.write(handle, data, offset)
    }

    /// Whether a FLUSH is one for [`Ops::flush_asking`].
    pub(crate) fn asks_to_flush(&self, handle: u64) -> bool {
        self.with_file(handle, OpenFile::asks_to_flush).unwrap_or(false)
    }

    /// FLUSH, where that takes the mount: not for a thread that serves requests.
    pub(crate) fn flush_asking(&self, handle: u64) -> Result<()> {
        match self.handle(handle)? {
            Handle::File(open) => {
                open.file.flush_asking().map_err(|e| errno("flush", &open.node.name, &e))
            }
            Handle::Special(_) | Handle::Halted(..) | Handle::Directory(_) => Ok(()),
        }
    }

    /// FSYNC.
    pub(crate) fn sync(&self, handle: u64) -> Result<()> {
        match self.handle(handle)? {
            Handle::File(open) => open.file.sync().map_err(|e| errno("fsync", &open.node.name, &e)),
            Handle::Special(_) | Handle::Halted(..) => Err(Errno::EIO),
            Handle::Directory(_) => self.sync_root(),
        }
    }

    /// RELEASE and RELEASEDIR.
    pub(crate) fn release(&self, handle: u64) {
        // Dropped here, with no lock held: closing may wait for the disk.
        match self.handles.remove(handle) {
            Some(Handle::Halted(_, halted)) => halt::give_back(halted),
            other => drop(other),
        }
    }

    /// OPEN of a file for which the halt lock is to be asked first, which takes its time: of which database.
    pub(crate) fn to_halt(&self, number: u64, writable: bool) -> Option<(Arc<Node>, DbName)> {
        let node =
            self.nodes.lock().node(number).filter(|_| writable && !self.store.is_primary())?;
        match &node.what {
            MountName::Lock(db) => Some((Arc::clone(&node), db.clone())),
            _ => None,
        }
    }

    /// The rest of such an OPEN. Waits for the primary and for this node's own files: not for a thread that serves requests.
    pub(crate) fn open_halted(&self, node: Arc<Node>, db: &DbName) -> Result<Opened> {
        let handle = match halt::ask(&self.store, db)? {
            Some(halted) => Handle::Halted(node, Arc::new(halted)),
            None => Handle::Special(node),
        };
        let handle = self.handles.insert(handle);
        Ok(Opened { handle, caching: Caching::Never, tell_close: false })
    }

    /// FSYNCDIR.
    pub(crate) fn sync_root(&self) -> Result<()> {
        self.store.sync_dirs().map_err(|e| errno("fsyncdir", "/", &e))
    }

    /// Whether an UNLINK may wait for the primary.
    pub(crate) fn unlink_waits(&self, parent: u64, name: Option<&str>) -> bool {
        let of_database = |(_, what): (&str, MountName)| self.waits(&what);
        !self.store.is_primary() && parse(parent, name).ok().flatten().is_some_and(of_database)
    }

    /// UNLINK.
    pub(crate) fn unlink(&self, parent: u64, name: Option<&str>, caller: Caller) -> Result<()> {
        let (name, what) = parse(parent, name)?.ok_or(Errno::ENOENT)?;
        let MountName::File(db, kind) = &what else { return Err(Errno::EACCES) };
        let database = self.store.database(db).ok_or(Errno::ENOENT)?;
        let unlinked = match caller {
            Caller::Application => database.unlink(*kind),
            Caller::Engine => database.unlink_own_file(*kind),
        };
        unlinked.map_err(|e| errno("unlink", name, &e))?;
        self.nodes.lock().detach(name);
        if *kind == FileKind::Database {
            self.notifier.companions_dropped(db);
        }
        Ok(())
    }

    /// OPENDIR.
    pub(crate) fn open_dir(&self) -> u64 {
        self.handles.insert(Handle::Directory(Arc::default()))
    }

    /// READDIR: the names from `offset` on. Reading from 0 takes a new list, so that one pass sees each name once.
    pub(crate) fn read_dir(
        &self,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(u64, DirEntry) -> bool,
    ) -> Result<()> {
        let Handle::Directory(names) = self.handle(handle)? else { return Err(Errno::ENOTDIR) };
        let fresh = if offset == 0 { Some(self.list()) } else { None };
        let mut names = names.lock();
        if let Some(fresh) = fresh {
            *names = fresh;
        }
        for (next, name) in
            (1..).zip(names.iter()).skip(usize::try_from(offset).unwrap_or(usize::MAX))
        {
            let number = self.nodes.lock().number(name).unwrap_or(UNKNOWN);
            if add(next, DirEntry { name: name.clone(), number }) {
                break;
            }
        }
        Ok(())
    }

    /// STATFS: the disk of the data directory.
    pub(crate) fn stat_fs(&self) -> Result<Statvfs> {
        statvfs(self.store.data_dir())
    }

    /// Calls `f` with the file of a handle, if it is one of a database.
    pub(crate) fn with_file<T>(&self, handle: u64, f: impl FnOnce(&OpenFile) -> T) -> Option<T> {
        match self.handles.get(handle)? {
            Handle::File(open) => Some(f(&open.file)),
            Handle::Special(_) | Handle::Halted(..) | Handle::Directory(_) => None,
        }
    }

    fn opened(&self, node: Arc<Node>, file: OpenFile, writable: bool, caller: Caller) -> Opened {
        // The engine's own files are closed when this process dies, and then nobody would answer.
        let may_tell = writable && caller == Caller::Application;
        let (caching, tell_close) = match file.kind() {
            FileKind::Database => (Caching::Keep, may_tell),
            FileKind::Journal => (Caching::Never, false),
            FileKind::Wal | FileKind::Super(_) => (Caching::Keep, false),
            FileKind::Shm => (Caching::Shared, false),
        };
        Opened {
            handle: self.handles.insert(Handle::File(Arc::new(OpenNode { node, file }))),
            caching,
            tell_close,
        }
    }

    fn waits(&self, what: &MountName) -> bool {
        let MountName::File(db, _) = what else { return false };
        self.store.database(db).is_some_and(|db| db.is_lent())
    }

    fn node(&self, number: u64) -> Result<Arc<Node>> {
        self.nodes.lock().node(number).ok_or(Errno::ESTALE)
    }

    fn handle(&self, number: u64) -> Result<Handle> {
        self.handles.get(number).ok_or(Errno::EBADF)
    }

    fn database(&self, name: &DbName) -> Result<Arc<Database>> {
        self.store.database(name).ok_or(Errno::ESTALE)
    }

    fn is_current(&self, node: &Node) -> bool {
        self.nodes.lock().is_current(node)
    }

    /// The handle a request came with, or, for a file without a name, any: the kernel leaves it out of `fstat`.
    fn open_file(&self, node: &Node, handle: Option<u64>) -> Option<Arc<OpenNode>> {
        match handle {
            Some(handle) => match self.handles.get(handle) {
                Some(Handle::File(open)) => Some(open),
                _ => None,
            },
            None if self.is_current(node) => None,
            None => self.handles.of_node(node.number),
        }
    }

    fn file_attr(&self, kind: FileKind, len: u64) -> Attr {
        let mode =
            if kind == FileKind::Database && !self.store.is_primary() { 0o444 } else { 0o666 };
        let modified = self.store.started();
        Attr { number: 0, len, mode, is_dir: false, links: 1, modified, ttl: ATTR_TTL }
    }

    fn root_attr(&self) -> Attr {
        let mode = if self.store.is_primary() { 0o777 } else { 0o555 };
        let modified = self.store.started();
        Attr { number: ROOT, len: 0, mode, is_dir: true, links: 1, modified, ttl: ATTR_TTL }
    }

    fn list(&self) -> Vec<String> {
        let mut names = vec![".lag".to_owned()];
        if self.store.primary_hostname().is_some() {
            names.push(".primary".to_owned());
        }
        for database in self.store.databases() {
            if database.page_count().is_zero() {
                continue;
            }
            let db = database.name();
            names.extend([db.to_string(), format!("{db}-pos")]);
            let companions =
                [("-journal", FileKind::Journal), ("-shm", FileKind::Shm), ("-wal", FileKind::Wal)];
            for (suffix, kind) in companions {
                if matches!(database.len(kind), Ok(Some(_))) {
                    names.push(format!("{db}{suffix}"));
                }
            }
        }
        names
    }
}

/// What a name stands for; `None` if it can't stand for anything.
fn parse(parent: u64, name: Option<&str>) -> Result<Option<(&str, MountName)>> {
    if parent != ROOT {
        return Err(Errno::ENOTDIR);
    }
    let Some(name) = name else { return Ok(None) };
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(MountName::parse(name).map(|what| (name, what)))
}

fn special_attr(special: &Special) -> Attr {
    Attr {
        number: 0,
        len: special.text.len() as u64,
        mode: special.mode,
        is_dir: false,
        links: 1,
        modified: special.modified,
        ttl: Duration::ZERO,
    }
}

/// The longest name, in bytes.
pub(crate) const NAME_MAX: usize = 255;
const NAME_TTL: Duration = Duration::from_secs(3600);
/// Long enough to cost nothing, short enough that a change of role shows without anybody telling.
const ATTR_TTL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
