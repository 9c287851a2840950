//! SQLite's VFS interface in front of [`crate::sim::mount`]: the only unsafe code of this crate.
//!
//! One VFS is registered per process of the simulation. Main databases, journals, WALs and super-journals
//! go to the mount; temporary files live in memory.
//!
//! # Safety
//! * SQLite calls the methods with the pointers that it got from [`open`]: `pAppData` is a leaked
//!   `Weak<Process>`, `File::handle` a box made by `open` and freed by `close`.
//! * Names are NUL-terminated. Buffers have the length that SQLite says.
//! * A mapped region lives as long as the handle that mapped it: the handle keeps its `Arc`.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use rusqlite::ffi;
use rusqlite::{Connection, OpenFlags};

use crate::sim::mount::{Fail, FileId, Level, MOUNT_POINT, Process, Region};

/// A registered VFS. Its memory is never freed: open connections go on using it.
#[derive(Debug)]
pub(crate) struct Vfs {
    name: CString,
    vfs: usize,
}

impl Drop for Vfs {
    fn drop(&mut self) {
        // SAFETY: `register` leaked it, so the address is valid.
        unsafe { ffi::sqlite3_vfs_unregister(self.vfs as *mut ffi::sqlite3_vfs) };
    }
}

impl Vfs {
    pub(crate) fn register(process: &Arc<Process>) -> Vfs {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = CString::new(format!("sim-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let name = name.expect("the text above has no NUL");
        let app = Box::into_raw(Box::new(Arc::downgrade(process)));
        let vfs = Box::leak(Box::new(ffi::sqlite3_vfs {
            iVersion: 2,
            szOsFile: size_of::<File>() as c_int,
            mxPathname: 512,
            pNext: std::ptr::null_mut(),
            zName: name.clone().into_raw(),
            pAppData: app.cast(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: None,
            xDlError: None,
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: Some(current_time),
            xGetLastError: None,
            xCurrentTimeInt64: Some(current_time_int64),
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        }));
        // SAFETY: the structure, its name and its data live for ever.
        let rc = unsafe { ffi::sqlite3_vfs_register(vfs, 0) };
        assert_eq!(rc, ffi::SQLITE_OK);
        Vfs { name, vfs: std::ptr::from_mut(vfs) as usize }
    }

    pub(crate) fn connect(&self, db: &str) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        Connection::open_with_flags_and_vfs(
            format!("{MOUNT_POINT}{db}"),
            flags,
            self.name.as_c_str(),
        )
    }
}

/// What SQLite allocates for an open file.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    handle: *mut Handle,
}

enum Handle {
    Mounted { process: Arc<Process>, id: FileId, regions: Vec<Region> },
    Memory(Vec<u8>),
}

impl Handle {
    fn mounted(&self) -> Option<(&Process, FileId)> {
        match self {
            Handle::Mounted { process, id, .. } => Some((process, *id)),
            Handle::Memory(_) => None,
        }
    }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let file = file.cast::<File>();
    // SAFETY: SQLite gives room for `szOsFile` bytes; no methods means that it isn't open.
    unsafe { (*file).base.pMethods = std::ptr::null() };
    let ours = ffi::SQLITE_OPEN_MAIN_DB
        | ffi::SQLITE_OPEN_MAIN_JOURNAL
        | ffi::SQLITE_OPEN_WAL
        | ffi::SQLITE_OPEN_SUPER_JOURNAL;
    let handle = if flags & ours == 0 || name.is_null() {
        Handle::Memory(Vec::new())
    } else {
        // SAFETY: see the module's contract.
        let (process, path) = unsafe { (process(vfs), text(name)) };
        let (Some(process), Some(path)) = (process, path) else { return ffi::SQLITE_CANTOPEN };
        let create = flags & ffi::SQLITE_OPEN_CREATE != 0;
        let exclusive = flags & ffi::SQLITE_OPEN_EXCLUSIVE != 0;
        let new_name = flags & ffi::SQLITE_OPEN_MAIN_DB == 0;
        match process.open(path, create, exclusive, new_name) {
            Ok(id) => Handle::Mounted { process, id, regions: Vec::new() },
            Err(_) => return ffi::SQLITE_CANTOPEN,
        }
    };
    // SAFETY: as above; `out_flags` may be null.
    unsafe {
        (*file).handle = Box::into_raw(Box::new(handle));
        (*file).base.pMethods = &raw const METHODS;
        if !out_flags.is_null() {
            *out_flags = flags;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: the box was made by `open` and is freed once, here.
    let handle = unsafe { Box::from_raw((*file.cast::<File>()).handle) };
    if let Some((process, id)) = handle.mounted() {
        process.close(id);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    buf: *mut c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: see the module's contract.
    let (handle, buf) =
        unsafe { (handle(file), std::slice::from_raw_parts_mut(buf.cast::<u8>(), len as usize)) };
    let n = match handle {
        Handle::Mounted { process, id, .. } => match process.read(*id, buf, offset as u64) {
            Ok(n) => n,
            Err(_) => return ffi::SQLITE_IOERR_READ,
        },
        Handle::Memory(data) => {
            let from = (offset as usize).min(data.len());
            let n = buf.len().min(data.len() - from);
            buf[..n].copy_from_slice(&data[from..from + n]);
            n
        }
    };
    buf[n..].fill(0);
    if n < buf.len() { ffi::SQLITE_IOERR_SHORT_READ } else { ffi::SQLITE_OK }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    data: *const c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: see the module's contract.
    let (handle, data) =
        unsafe { (handle(file), std::slice::from_raw_parts(data.cast::<u8>(), len as usize)) };
    match handle {
        Handle::Mounted { process, id, .. } => {
            code(process.write(*id, data, offset as u64), ffi::SQLITE_IOERR_WRITE)
        }
        Handle::Memory(content) => {
            let end = offset as usize + data.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[offset as usize..end].copy_from_slice(data);
            ffi::SQLITE_OK
        }
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, len: ffi::sqlite3_int64) -> c_int {
    // SAFETY: see the module's contract.
    match unsafe { handle(file) } {
        Handle::Mounted { process, id, .. } => {
            code(process.truncate(*id, len as u64), ffi::SQLITE_IOERR_TRUNCATE)
        }
        Handle::Memory(content) => {
            content.truncate(len as usize);
            ffi::SQLITE_OK
        }
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: see the module's contract.
    match unsafe { handle(file) }.mounted() {
        Some((process, id)) => code(process.sync(id), ffi::SQLITE_IOERR_FSYNC),
        None => ffi::SQLITE_OK,
    }
}

unsafe extern "C" fn file_size(
    file: *mut ffi::sqlite3_file,
    out: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: see the module's contract.
    let len = match unsafe { handle(file) } {
        Handle::Mounted { process, id, .. } => process.len(*id),
        Handle::Memory(content) => Ok(content.len() as u64),
    };
    let Ok(len) = len else { return ffi::SQLITE_IOERR_FSTAT };
    // SAFETY: SQLite's own variable.
    unsafe { *out = len as i64 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: see the module's contract.
    match unsafe { handle(file) }.mounted() {
        Some((process, id)) => code(process.lock(id, level_of(level)), ffi::SQLITE_IOERR_LOCK),
        None => ffi::SQLITE_OK,
    }
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: see the module's contract.
    if let Some((process, id)) = unsafe { handle(file) }.mounted() {
        process.unlock(id, level_of(level));
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: see the module's contract.
    let reserved = match unsafe { handle(file) }.mounted() {
        Some((process, id)) => process.is_reserved(id),
        None => Ok(false),
    };
    let Ok(reserved) = reserved else { return ffi::SQLITE_IOERR_CHECKRESERVEDLOCK };
    // SAFETY: SQLite's own variable.
    unsafe { *out = c_int::from(reserved) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    4096
}

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: see the module's contract.
    match unsafe { handle(file) }.mounted() {
        Some((process, _)) if !process.powersafe_overwrite.load(Ordering::Relaxed) => 0,
        _ => ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE,
    }
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    index: c_int,
    len: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: see the module's contract.
    let Handle::Mounted { process, id, regions } = (unsafe { handle(file) }) else {
        return ffi::SQLITE_IOERR_SHMMAP;
    };
    let Ok(region) = process.map(*id, index as usize, len as usize, extend != 0) else {
        return ffi::SQLITE_IOERR_SHMMAP;
    };
    let start = region.as_ref().map_or(std::ptr::null_mut(), |r| r.as_ptr().cast_mut().cast());
    regions.extend(region);
    // SAFETY: SQLite's own variable.
    unsafe { *out = start };
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_lock(
    file: *mut ffi::sqlite3_file,
    first: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    // SAFETY: see the module's contract.
    let Some((process, id)) = (unsafe { handle(file) }).mounted() else {
        return ffi::SQLITE_IOERR_SHMLOCK;
    };
    let slots = first as usize..(first + count) as usize;
    let exclusive = flags & ffi::SQLITE_SHM_EXCLUSIVE != 0;
    if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
        process.shm_unlock(id, slots, exclusive);
        return ffi::SQLITE_OK;
    }
    code(process.shm_lock(id, slots, exclusive), ffi::SQLITE_IOERR_SHMLOCK)
}

unsafe extern "C" fn shm_barrier(_: *mut ffi::sqlite3_file) {
    std::sync::atomic::fence(Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    let _ = delete;
    // SAFETY: see the module's contract.
    if let Handle::Mounted { process, id, regions } = unsafe { handle(file) } {
        process.unmap(*id);
        regions.clear();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_dir: c_int,
) -> c_int {
    // SAFETY: see the module's contract.
    let (process, path) = unsafe { (process(vfs), text(name)) };
    let (Some(process), Some(path)) = (process, path) else { return ffi::SQLITE_IOERR_DELETE };
    match process.delete(path, sync_dir != 0) {
        Err(Fail::NotFound) => ffi::SQLITE_IOERR_DELETE_NOENT,
        done => code(done, ffi::SQLITE_IOERR_DELETE),
    }
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: see the module's contract.
    let (process, path) = unsafe { (process(vfs), text(name)) };
    let (Some(process), Some(path)) = (process, path) else { return ffi::SQLITE_IOERR_ACCESS };
    let Ok(len) = process.stat(path) else { return ffi::SQLITE_IOERR_ACCESS };
    // As SQLite's own VFS does: an empty file doesn't exist.
    let yes = len.is_some_and(|len| flags != ffi::SQLITE_ACCESS_EXISTS || len > 0);
    // SAFETY: SQLite's own variable.
    unsafe { *out = c_int::from(yes) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    len: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: see the module's contract.
    let bytes = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    if bytes.len() > len as usize {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: `out` has room for `len` bytes.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), out.cast(), bytes.len()) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn randomness(_: *mut ffi::sqlite3_vfs, len: c_int, out: *mut c_char) -> c_int {
    static SEED: AtomicU64 = AtomicU64::new(1);
    // SAFETY: `out` has room for `len` bytes.
    let out = unsafe { std::slice::from_raw_parts_mut(out.cast::<u8>(), len as usize) };
    for chunk in out.chunks_mut(8) {
        let mixed = SEED.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        chunk.copy_from_slice(&mixed.to_le_bytes()[..chunk.len()]);
    }
    len
}

unsafe extern "C" fn sleep(_: *mut ffi::sqlite3_vfs, _: c_int) -> c_int {
    0
}

unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: SQLite's own variable.
    unsafe { *out = JULIAN_MS as f64 / 86_400_000.0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn current_time_int64(
    _: *mut ffi::sqlite3_vfs,
    out: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite's own variable.
    unsafe { *out = JULIAN_MS };
    ffi::SQLITE_OK
}

/// # Safety
/// `file` was opened by [`open`]. SQLite uses a file from one thread at a time, so the reference is the only one.
unsafe fn handle<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Handle {
    // SAFETY: the caller's promise.
    unsafe { &mut *(*file.cast::<File>()).handle }
}

/// # Safety
/// `vfs` was made by [`Vfs::register`].
unsafe fn process(vfs: *mut ffi::sqlite3_vfs) -> Option<Arc<Process>> {
    // SAFETY: the caller's promise.
    unsafe { (*(*vfs).pAppData.cast::<Weak<Process>>()).upgrade() }
}

/// # Safety
/// `name` is NUL-terminated and outlives the result.
unsafe fn text<'a>(name: *const c_char) -> Option<&'a str> {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(name) }.to_str().ok()
}

fn code(done: Result<(), Fail>, io: c_int) -> c_int {
    match done {
        Ok(()) => ffi::SQLITE_OK,
        Err(Fail::Busy) => ffi::SQLITE_BUSY,
        Err(Fail::Full) => ffi::SQLITE_FULL,
        Err(Fail::NotFound | Fail::Io) => io,
    }
}

fn level_of(level: c_int) -> Level {
    match level {
        ffi::SQLITE_LOCK_NONE => Level::None,
        ffi::SQLITE_LOCK_SHARED => Level::Shared,
        ffi::SQLITE_LOCK_RESERVED => Level::Reserved,
        ffi::SQLITE_LOCK_PENDING => Level::Pending,
        _ => Level::Exclusive,
    }
}

/// A fixed day in 2023, in milliseconds of the Julian calendar.
const JULIAN_MS: i64 = 212_567_040_000_000;
