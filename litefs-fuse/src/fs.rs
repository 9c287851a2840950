//! Requests of the kernel in, answers out; every decision is in [`crate::ops`].
//!
//! `ENOSYS` is a message to the kernel, "never ask again", and only used as such: for `access` (always
//! allowed), extended attributes (there are none; the kernel would ask at each write), `lseek` and
//! `copy_file_range` (it has its own way), `poll` and `ioctl`. Refused operations on names say `EPERM`.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BackingId, BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, FileType,
    Filesystem, FopenFlags, Generation, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenAccMode,
    OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{getegid, geteuid};

use crate::caps::{self, MAX_REQUEST};
use crate::handles::Backings;
use crate::ops::{Attr, Caching, Caller, Found, NAME_MAX, Opened, Ops};
use crate::peer::Callers;
use crate::run::{Runner, later};
use crate::session::Passthrough;

/// The file system as `fuser` wants it.
#[derive(Debug)]
pub(crate) struct LiteFs {
    ops: Arc<Ops>,
    callers: Arc<Callers>,
    backings: Backings<BackingId>,
    passthrough: Passthrough,
    look: Look,
    runner: Runner,
}

/// What all files have in common.
#[derive(Debug, Clone, Copy)]
struct Look {
    started: SystemTime,
    uid: u32,
    gid: u32,
}

impl Look {
    fn encode(self, attr: &Attr) -> FileAttr {
        FileAttr {
            ino: INodeNo(attr.number),
            size: attr.len,
            blocks: attr.len.div_ceil(512),
            atime: self.started,
            mtime: attr.modified,
            ctime: self.started,
            crtime: self.started,
            kind: if attr.is_dir { FileType::Directory } else { FileType::RegularFile },
            perm: attr.mode,
            nlink: attr.links,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// The entry that says "no such file" and may be cached: inode 0.
    fn absent(self) -> FileAttr {
        let modified = self.started;
        let ttl = Duration::ZERO;
        self.encode(&Attr { number: 0, len: 0, mode: 0, is_dir: false, links: 0, modified, ttl })
    }
}

impl LiteFs {
    pub(crate) fn new(
        ops: Ops,
        callers: Arc<Callers>,
        started: SystemTime,
        passthrough: Passthrough,
        debug: bool,
    ) -> LiteFs {
        let look = Look { started, uid: geteuid().as_raw(), gid: getegid().as_raw() };
        let backings = Backings::new(false);
        let ops = Arc::new(ops);
        LiteFs { ops, callers, backings, passthrough, look, runner: Runner { debug } }
    }

    fn caller(&self, request: &Request) -> Caller {
        if self.callers.contains(request.pid()) { Caller::Engine } else { Caller::Application }
    }

    /// Runs an operation here; see [`Runner::run`].
    fn run<T>(
        &self,
        operation: &'static str,
        number: INodeNo,
        f: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, fuser::Errno> {
        self.runner.run(operation, number, f)
    }

    /// Runs an operation on a thread of its own, and has it answered there.
    fn run_later<T>(
        &self,
        operation: &'static str,
        number: INodeNo,
        f: impl FnOnce(&Ops) -> Result<T, Errno> + Send + 'static,
        answer: impl FnOnce(Result<T, fuser::Errno>) + Send + 'static,
    ) {
        let (runner, ops) = (self.runner, Arc::clone(&self.ops));
        later(operation, move || answer(runner.run(operation, number, || f(&ops))));
    }

    /// The backing file of a `-shm` handle, if the kernel takes it.
    fn backing(
        &self,
        number: u64,
        opened: &Opened,
        open: impl FnOnce(BorrowedFd<'_>) -> io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        if opened.caching != Caching::Shared {
            return None;
        }
        self.backings.acquire(number, || {
            let unsupported = || io::ErrorKind::Unsupported.into();
            let opened = self.ops.with_file(opened.handle, |file| file.backing_fd().map(open));
            opened.flatten().ok_or_else(unsupported).flatten()
        })
    }
}

impl Filesystem for LiteFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.backings = Backings::new(caps::negotiate(config, self.passthrough));
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.run("lookup", parent, || self.ops.look_up(parent.0, name.to_str())) {
            Ok(Found::File { attr, ttl }) => {
                reply.entry_with_ttls(&attr.ttl, &ttl, &self.look.encode(&attr), GENERATION);
            }
            Ok(Found::Absent { ttl }) if ttl.is_zero() => reply.error(fuser::Errno::ENOENT),
            Ok(Found::Absent { ttl }) => reply.entry(&ttl, &self.look.absent(), GENERATION),
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _: &Request, number: INodeNo, count: u64) {
        let _ = self.run("forget", number, || {
            self.ops.forget(number.0, count);
            Ok(())
        });
    }

    fn getattr(&self, _: &Request, number: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.run("getattr", number, || self.ops.attr(number.0, fh.map(|h| h.0))) {
            Ok(attr) => reply.attr(&attr.ttl, &self.look.encode(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let fh = fh.map(|h| h.0);
        let set = move |ops: &Ops| {
            if let Some(len) = size {
                ops.truncate(number.0, fh, len)?;
            }
            ops.attr(number.0, fh)
        };
        let look = self.look;
        let answer = move |set: Result<Attr, fuser::Errno>| match set {
            Ok(attr) => reply.attr(&attr.ttl, &look.encode(&attr)),
            Err(errno) => reply.error(errno),
        };
        if size.is_some() && self.ops.truncate_waits(number.0) {
            return self.run_later("setattr", number, set, answer);
        }
        answer(self.run("setattr", number, || set(&self.ops)));
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writable = writable(flags.0);
        let caller = self.caller(request);
        if let Some((node, db)) = self.ops.to_halt(number.0, writable) {
            let open = move |ops: &Ops| ops.open_halted(node, &db);
            return self.run_later("open", number, open, |opened| match opened {
                Ok(opened) => {
                    reply.opened(FileHandle(opened.handle), fopen_flags(&opened, false));
                }
                Err(errno) => reply.error(errno),
            });
        }
        let open = || self.ops.open(number.0, writable, caller);
        match self.run("open", number, open) {
            Ok(opened) => {
                let fh = FileHandle(opened.handle);
                match self.backing(number.0, &opened, |fd| reply.open_backing(fd)) {
                    Some(id) => reply.opened_passthrough(fh, fopen_flags(&opened, true), &id),
                    None => reply.opened(fh, fopen_flags(&opened, false)),
                }
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let exclusive = OFlag::from_bits_truncate(flags).contains(OFlag::O_EXCL);
        let caller = self.caller(request);
        let create =
            || self.ops.create(parent.0, name.to_str(), exclusive, writable(flags), caller);
        match self.run("create", parent, create) {
            // One time-out for both: the attributes last longer than elsewhere, until the first write.
            Ok((attr, ttl, opened)) => {
                let fh = FileHandle(opened.handle);
                let entry = self.look.encode(&attr);
                match self.backing(attr.number, &opened, |fd| reply.open_backing(fd)) {
                    Some(id) => {
                        let flags = fopen_flags(&opened, true);
                        reply.created_passthrough(&ttl, &entry, GENERATION, fh, flags, &id);
                    }
                    None => {
                        reply.created(&ttl, &entry, GENERATION, fh, fopen_flags(&opened, false));
                    }
                }
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let size = size.min(MAX_REQUEST) as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let read = || self.ops.read(fh.0, &mut buffer[..size], offset);
            match self.run("read", number, read) {
                Ok(count) => reply.data(&buffer[..count]),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let len = data.len();
        let answer = move |written| match written {
            // A request is far smaller than 4 GiB.
            Ok(()) => reply.written(len as u32),
            Err(errno) => reply.error(errno),
        };
        if self.ops.write_waits(fh.0) {
            let data = data.to_vec();
            let write = move |ops: &Ops| ops.write(fh.0, &data, offset);
            return self.run_later("write", number, write, answer);
        }
        if self.ops.asks_to_write(fh.0) {
            let data = data.to_vec();
            let write = move |ops: &Ops| ops.ask_and_write(fh.0, &data, offset);
            return self.run_later("write", number, write, answer);
        }
        answer(self.run("write", number, || self.ops.write(fh.0, data, offset)));
    }

    fn flush(
        &self,
        _: &Request,
        number: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        if self.ops.asks_to_flush(fh.0) {
            let flush = move |ops: &Ops| ops.flush_asking(fh.0);
            return self.run_later("flush", number, flush, |flushed| answer(reply, flushed));
        }
        answer(reply, self.run("flush", number, || self.ops.flush(fh.0)));
    }

    fn release(
        &self,
        _: &Request,
        number: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let release = || {
            self.backings.release(number.0);
            self.ops.release(fh.0);
            Ok(())
        };
        answer(reply, self.run("release", number, release));
    }

    fn fsync(
        &self,
        _: &Request,
        number: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        answer(reply, self.run("fsync", number, || self.ops.sync(fh.0)));
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.run("opendir", number, || Ok(self.ops.open_dir())) {
            // The list isn't cached: a database appears in it at its first commit, unseen by the kernel.
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let list = || {
            self.ops.read_dir(fh.0, offset, |next, entry| {
                reply.add(INodeNo(entry.number), next, FileType::RegularFile, entry.name)
            })
        };
        match self.run("readdir", number, list) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn releasedir(
        &self,
        _: &Request,
        number: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let release = || {
            self.ops.release(fh.0);
            Ok(())
        };
        answer(reply, self.run("releasedir", number, release));
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(reply, self.run("fsyncdir", number, || self.ops.sync_root()));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let caller = self.caller(request);
        if self.ops.unlink_waits(parent.0, name.to_str()) {
            let name = name.to_owned();
            let unlink = move |ops: &Ops| ops.unlink(parent.0, name.to_str(), caller);
            return self.run_later("unlink", parent, unlink, |unlinked| answer(reply, unlinked));
        }
        let unlink = || self.ops.unlink(parent.0, name.to_str(), caller);
        answer(reply, self.run("unlink", parent, unlink));
    }

    fn statfs(&self, _: &Request, number: INodeNo, reply: ReplyStatfs) {
        match self.run("statfs", number, || self.ops.stat_fs()) {
            Ok(s) => reply.statfs(
                s.blocks(),
                s.blocks_free(),
                s.blocks_available(),
                s.files(),
                s.files_free(),
                u32::try_from(s.block_size()).unwrap_or(4096),
                NAME_MAX as u32,
                u32::try_from(s.fragment_size()).unwrap_or(4096),
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(fuser::Errno::EPERM);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::EPERM);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, r: ReplyEntry) {
        r.error(fuser::Errno::EPERM);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(fuser::Errno::EPERM);
    }

    fn readlink(&self, _: &Request, _: INodeNo, reply: ReplyData) {
        reply.error(fuser::Errno::EINVAL);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(fuser::Errno::EPERM);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::EPERM);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::EOPNOTSUPP);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }
}

fn answer(reply: ReplyEmpty, result: Result<(), fuser::Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn writable(flags: i32) -> bool {
    OpenFlags(flags).acc_mode() != OpenAccMode::O_RDONLY
}

fn fopen_flags(opened: &Opened, passthrough: bool) -> FopenFlags {
    let caching = match opened.caching {
        Caching::Shared if passthrough => FopenFlags::empty(),
        Caching::Keep | Caching::Shared => FopenFlags::FOPEN_KEEP_CACHE,
        Caching::Never => FopenFlags::FOPEN_DIRECT_IO,
    };
    let closing = if opened.tell_close { FopenFlags::empty() } else { FopenFlags::FOPEN_NOFLUSH };
    caching | closing
}

thread_local! {
    /// Where reads of this thread land; as large as the largest so far.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Numbers aren't used twice, so generations aren't needed.
const GENERATION: Generation = Generation(0);
