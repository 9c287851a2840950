//! What can go wrong in the engine, and into which of a few kinds it falls.
//!
//! Frontends branch on [`ErrorKind`] only, which is exhaustive on purpose: their tables of errno and
//! HTTP status have no catch-all arm. The text of an [`enum@Error`] names the database and the file.

use std::io;
use std::path::PathBuf;

pub use litefs_lease::chain;
use thiserror::Error;

use crate::db::ImportError;
use crate::log::LogError;
use crate::ltx;
use crate::sqlite::DbHeaderError;
use crate::types::{Checksum, DbName, Pos, Txid};

/// An error of the engine.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{op} {}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The transaction log failed.
    #[error("{db}: transaction log")]
    Log {
        /// The database.
        db: DbName,
        /// Why.
        source: LogError,
    },
    /// A transaction couldn't be written as LTX.
    #[error("{db}: encode transaction {txid}")]
    Encode {
        /// The database.
        db: DbName,
        /// The transaction.
        txid: Txid,
        /// Why.
        source: ltx::EncodeError,
    },
    /// A logged transaction couldn't be read.
    #[error("{db}: read transaction {txid} from the log")]
    Decode {
        /// The database.
        db: DbName,
        /// The transaction.
        txid: Txid,
        /// Why.
        source: ltx::DecodeError,
    },
    /// The database file doesn't begin with a valid SQLite header.
    #[error("{db}: not an SQLite database")]
    Header {
        /// The database.
        db: DbName,
        /// Why.
        source: DbHeaderError,
    },
    /// No such file.
    #[error("{db}: no such file")]
    NotFound {
        /// The database.
        db: DbName,
    },
    /// The file exists already.
    #[error("{db}: file exists")]
    Exists {
        /// The database.
        db: DbName,
    },
    /// This node isn't the primary.
    #[error("{db}: read only replica")]
    Replica {
        /// The database.
        db: DbName,
    },
    /// The database was set read-only because going on would risk its data.
    #[error("{db}: read-only: {reason}")]
    Failed {
        /// The database.
        db: DbName,
        /// What happened, and what to do.
        reason: String,
    },
    /// The operation isn't allowed on this kind of file.
    #[error("{db}: {what}")]
    Invalid {
        /// The database.
        db: DbName,
        /// What was tried.
        what: &'static str,
    },
    /// A transaction that came from the primary doesn't follow the last one here.
    #[error("position mismatch on db \"{db}\": {} <> {}", Pos::text(*ours), Pos::text(*theirs))]
    PositionMismatch {
        /// The database.
        db: DbName,
        /// Its position.
        ours: Option<Pos>,
        /// The position that the transaction follows.
        theirs: Option<Pos>,
    },
    /// The transaction counter has come to its end.
    #[error("{db}: no transaction id left")]
    TxidsExhausted {
        /// The database.
        db: DbName,
    },
    /// The pages of the database don't add up to the logged checksum.
    #[error(
        "{db}: database checksum {got} doesn't match position {want}: pages were changed behind the back of \
         the log or its end was lost; restore the database, or remove its log and ltx directories to begin a \
         new history with it as it is"
    )]
    ChecksumMismatch {
        /// The database.
        db: DbName,
        /// Computed from the pages.
        got: Checksum,
        /// From the log.
        want: Pos,
    },
    /// Durable records are missing at the end of the log.
    #[error(
        "{db}: the transaction log ends at {}, but had reached {want}: part of {} is lost; bring it back \
         from a backup, or remove that directory to begin a new history with the database as it is",
        Pos::text(*got),
        log.display()
    )]
    LogLost {
        /// The database.
        db: DbName,
        /// Where the log ends.
        got: Option<Pos>,
        /// What a clean shutdown had noted.
        want: Pos,
        /// Where the log is.
        log: PathBuf,
    },
    /// The pages at the database's position can't be read now; they can after the next transaction.
    #[error("{db}: a transaction is under way that leaves no trace of what was there before")]
    Unsettled {
        /// The database.
        db: DbName,
    },
    /// What a primary has sent isn't a valid LTX file, or didn't come whole.
    #[error("{db}: receive transaction")]
    Received {
        /// The database.
        db: DbName,
        /// Why.
        source: ltx::DecodeError,
    },
    /// A page that an open snapshot still needed was overwritten, and the old one couldn't be kept.
    #[error("{db}: snapshot lost a page to a writer")]
    SnapshotLost {
        /// The database.
        db: DbName,
        /// Why it couldn't be kept.
        source: io::Error,
    },
    /// A snapshot's reader took no more.
    #[error("{db}: write snapshot")]
    Output {
        /// The database.
        db: DbName,
        /// What it said.
        source: io::Error,
    },
    /// A node keeps the cluster ID that it has.
    #[error("this node belongs to cluster {local}, not to {other}")]
    OtherCluster {
        /// The node's.
        local: litefs_lease::ClusterId,
        /// The other.
        other: litefs_lease::ClusterId,
    },
    /// The stored cluster ID isn't one.
    #[error("{}", path.display())]
    ClusterId {
        /// Where it is stored.
        path: PathBuf,
        /// Why.
        source: litefs_lease::ClusterIdError,
    },
    /// What was to be imported isn't a database, or didn't come whole.
    #[error("{db}: {source}")]
    Import {
        /// The database.
        db: DbName,
        /// Why.
        source: ImportError,
    },
    /// The primary didn't confirm a commit that was forwarded to it.
    #[error("{db}: transaction {txid} wasn't confirmed by the primary: {reason}")]
    Forward {
        /// The database.
        db: DbName,
        /// The transaction.
        txid: Txid,
        /// What the primary said, or what kept it from answering.
        reason: String,
    },
    /// Under the halt lock, a write that no journal protects couldn't be taken back.
    #[error("{db}: a replica writes only what a journal or a WAL protects")]
    Unprotected {
        /// The database.
        db: DbName,
    },
    /// Applications keep the database locked.
    #[error("{db}: database is locked")]
    InUse {
        /// The database.
        db: DbName,
    },
    /// Another process uses the data directory.
    #[error("data directory {} is used by another process", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
}

/// What a frontend needs to know of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// There is no such file.
    NotFound,
    /// The file exists already.
    Exists,
    /// This node or this database takes no writes.
    ReadOnly,
    /// The disk is full.
    NoSpace,
    /// The quota is used up.
    Quota,
    /// The arguments make no sense for this file.
    InvalidInput,
    /// The operating system doesn't permit it.
    NotPermitted,
    /// It can't be done on this kind of file.
    Unsupported,
    /// Somebody else is using it.
    Busy,
    /// The file would become too large.
    TooLarge,
    /// Stored data isn't what it should be.
    Corrupt,
    /// Everything else that a disk can do to us.
    Io,
}

impl Error {
    /// Which kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NotFound { .. } => ErrorKind::NotFound,
            Error::Exists { .. } => ErrorKind::Exists,
            Error::Replica { .. } | Error::Failed { .. } | Error::Unprotected { .. } => {
                ErrorKind::ReadOnly
            }
            Error::Invalid { .. } | Error::OtherCluster { .. } => ErrorKind::InvalidInput,
            Error::Locked { .. } | Error::Unsettled { .. } | Error::InUse { .. } => ErrorKind::Busy,
            Error::Header { .. }
            | Error::PositionMismatch { .. }
            | Error::ChecksumMismatch { .. }
            | Error::Import { .. }
            | Error::LogLost { .. }
            | Error::ClusterId { .. } => ErrorKind::Corrupt,
            Error::TxidsExhausted { .. } => ErrorKind::TooLarge,
            Error::Forward { .. } => ErrorKind::Io,
            Error::Io { .. }
            | Error::Log { .. }
            | Error::Encode { .. }
            | Error::Decode { .. }
            | Error::Received { .. }
            | Error::SnapshotLost { .. }
            | Error::Output { .. } => self.io().map_or(ErrorKind::Corrupt, io_kind),
        }
    }

    /// The error number of the failed system call, if there was one.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.io().and_then(io::Error::raw_os_error)
    }

    /// The error of the operating system at the root of this one.
    fn io(&self) -> Option<&io::Error> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(err) = cause {
            if let Some(io) = err.downcast_ref::<io::Error>() {
                return Some(io);
            }
            cause = err.source();
        }
        None
    }
}

/// Attaches what was tried, and where, to an error of the operating system.
pub(crate) trait IoContext<T> {
    fn at(self, op: &'static str, path: impl Into<PathBuf>) -> Result<T, Error>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, op: &'static str, path: impl Into<PathBuf>) -> Result<T, Error> {
        self.map_err(|source| Error::Io { op, path: path.into(), source })
    }
}

fn io_kind(err: &io::Error) -> ErrorKind {
    match err.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => ErrorKind::Exists,
        io::ErrorKind::PermissionDenied => ErrorKind::NotPermitted,
        io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        io::ErrorKind::QuotaExceeded => ErrorKind::Quota,
        io::ErrorKind::FileTooLarge => ErrorKind::TooLarge,
        io::ErrorKind::InvalidInput => ErrorKind::InvalidInput,
        io::ErrorKind::Unsupported => ErrorKind::Unsupported,
        io::ErrorKind::ResourceBusy => ErrorKind::Busy,
        _ => ErrorKind::Io,
    }
}
