//! What is asked of the kernel at the start of a mount, and what it has.
//!
//! | asked for              | so that                                                                  |
//! |------------------------|--------------------------------------------------------------------------|
//! | async read             | read-ahead goes in parallel                                              |
//! | big writes, max pages  | requests carry up to 1 MiB                                               |
//! | parallel dir ops       | lookups don't wait for each other                                        |
//! | explicit invalidation  | a changed size or time drops no cached pages                             |
//! | set-user-ID handling   | the kernel asks for no mode before each `chown`: no file has such bits   |
//! | passthrough            | `-shm` costs no requests (kernel 6.9, `CAP_SYS_ADMIN`)                   |
//!
//! Not asked for, on purpose:
//! - POSIX locks: they stay in the kernel, at full speed. Capture is told by writes.
//! - writeback cache: a write must reach the engine before `write()` returns, which may refuse it.
//! - atomic `O_TRUNC`: without it the kernel opens, then truncates: one meaning of "open" less. SQLite never does it.
//! - automatic invalidation, read-dir-plus, export: they cost requests.

use fuser::{InitFlags, KernelConfig};

use crate::session::Passthrough;

/// The largest read or write request.
pub(crate) const MAX_REQUEST: u32 = 1 << 20;

/// Asks for what this mount uses. Returns whether `-shm` may go through to its backing file.
pub(crate) fn negotiate(config: &mut KernelConfig, passthrough: Passthrough) -> bool {
    for wanted in [
        InitFlags::FUSE_ASYNC_READ,
        InitFlags::FUSE_BIG_WRITES,
        InitFlags::FUSE_MAX_PAGES,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    ] {
        if config.add_capabilities(wanted).is_err() {
            tracing::info!(capability = ?wanted, "the kernel lacks a FUSE feature, goes on without");
        }
    }
    let passthrough = passthrough == Passthrough::Auto
        && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
        // 2: the data directory may itself be on an overlay, as in a container.
        && config.set_max_stack_depth(2).is_ok();
    // Both limits are far above these.
    let _ = config.set_max_write(MAX_REQUEST);
    let _ = config.set_max_background(MAX_BACKGROUND);
    let abi = config.kernel_abi();
    tracing::debug!(abi = %format_args!("{}.{}", abi.0, abi.1), passthrough, "FUSE session");
    passthrough
}

/// Read-ahead requests under way at a time.
const MAX_BACKGROUND: u16 = 64;
