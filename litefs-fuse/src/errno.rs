//! The one table from engine errors to errno values.
//!
//! `ENOSYS` is in no row: for several operations the kernel takes it as "never ask again" and
//! remembers it for the whole mount. Nor is `ESTALE`: it makes the kernel look the name up again, and
//! only [`crate::ops`] knows when that helps.

use litefs_core::error::{Error, ErrorKind};
use nix::errno::Errno;

/// The errno an application sees for an engine error; logs what isn't an everyday answer.
pub(crate) fn errno(operation: &'static str, file: &str, error: &Error) -> Errno {
    let errno = table(error.kind(), error.raw_os_error());
    match error.kind() {
        ErrorKind::NoSpace | ErrorKind::Quota | ErrorKind::Corrupt | ErrorKind::Io => {
            tracing::warn!(operation, file, err = error as &dyn std::error::Error, %errno, "file operation failed");
        }
        ErrorKind::NotFound
        | ErrorKind::Exists
        | ErrorKind::ReadOnly
        | ErrorKind::InvalidInput
        | ErrorKind::NotPermitted
        | ErrorKind::Unsupported
        | ErrorKind::Busy
        | ErrorKind::TooLarge => {
            tracing::debug!(operation, file, err = %error, %errno, "file operation refused");
        }
    }
    errno
}

fn table(kind: ErrorKind, beneath: Option<i32>) -> Errno {
    match kind {
        ErrorKind::NotFound => Errno::ENOENT,
        ErrorKind::Exists => Errno::EEXIST,
        ErrorKind::ReadOnly => Errno::EACCES,
        ErrorKind::NoSpace => Errno::ENOSPC,
        ErrorKind::Quota => Errno::EDQUOT,
        ErrorKind::InvalidInput => Errno::EINVAL,
        ErrorKind::NotPermitted => Errno::EPERM,
        ErrorKind::Unsupported => Errno::EOPNOTSUPP,
        ErrorKind::Busy => Errno::EBUSY,
        ErrorKind::TooLarge => Errno::EFBIG,
        ErrorKind::Corrupt => Errno::EIO,
        // What the disk said, where it means the same to the application as it does to us.
        ErrorKind::Io => match beneath.map(Errno::from_raw) {
            Some(
                errno @ (Errno::ENOSPC
                | Errno::EDQUOT
                | Errno::EFBIG
                | Errno::EROFS
                | Errno::ENOMEM
                | Errno::EMFILE
                | Errno::ENFILE),
            ) => errno,
            _ => Errno::EIO,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_errno() {
        for (kind, beneath, want) in [
            (ErrorKind::NotFound, None, Errno::ENOENT),
            (ErrorKind::Exists, None, Errno::EEXIST),
            (ErrorKind::ReadOnly, None, Errno::EACCES),
            (ErrorKind::NoSpace, None, Errno::ENOSPC),
            (ErrorKind::Quota, None, Errno::EDQUOT),
            (ErrorKind::InvalidInput, None, Errno::EINVAL),
            (ErrorKind::NotPermitted, None, Errno::EPERM),
            (ErrorKind::Unsupported, None, Errno::EOPNOTSUPP),
            (ErrorKind::Busy, None, Errno::EBUSY),
            (ErrorKind::TooLarge, None, Errno::EFBIG),
            (ErrorKind::Corrupt, Some(Errno::ENOSPC), Errno::EIO),
            (ErrorKind::Io, None, Errno::EIO),
            (ErrorKind::Io, Some(Errno::ENOSPC), Errno::ENOSPC),
            (ErrorKind::Io, Some(Errno::EMFILE), Errno::EMFILE),
            (ErrorKind::Io, Some(Errno::EBADF), Errno::EIO),
            (ErrorKind::Io, Some(Errno::ENOSYS), Errno::EIO),
            (ErrorKind::Io, Some(Errno::ESTALE), Errno::EIO),
        ] {
            assert_eq!(table(kind, beneath.map(|e| e as i32)), want, "{kind:?} {beneath:?}");
        }
    }

    #[test]
    fn a_file_system_that_became_read_only_is_a_fault_of_the_disk() {
        let source = std::io::Error::from_raw_os_error(Errno::EROFS as i32);
        let error = Error::Io { op: "write", path: "journal".into(), source };
        assert_eq!(errno("write", "db-journal", &error), Errno::EROFS);
    }

    #[test]
    fn no_errno_of_a_disk_makes_the_kernel_remember_or_retry() {
        for raw in 0..200 {
            let errno = table(ErrorKind::Io, Some(raw));
            assert!(!matches!(errno, Errno::ENOSYS | Errno::ESTALE), "{raw}");
        }
    }
}
