//! Paths of the data directory.
//!
//! ```text
//! <data>/lock                 held by the process that uses the directory
//! <data>/clusterid
//! <data>/identity             tells this data directory from all others
//! <data>/reign                the reign in which the node last had all that the primary had
//! <data>/import-…             a database that is being imported, before it has come whole
//! <data>/dbs/<db>/database    the SQLite file                     <db>
//!                 journal     its rollback journal                <db>-journal
//!                 wal         its write-ahead log                 <db>-wal
//!                 shm         its WAL index                       <db>-shm
//!                 super-…     a super-journal                     <db>-mj…
//!                 log/        transactions, as segments
//!                 ltx/        transactions of an original data directory
//!                 undo        pre-images of pages written without a journal
//!                 clean       mark of a clean shutdown
//!                 own         note that transactions of this node's own may be unknown to others
//!                 diverged/   transactions that the cluster never saw, kept aside
//!                 redo        note that a replica is writing pages
//!                 image-…     a snapshot from the primary, or an import, that is to be put in place
//!                 spill       old pages for an open snapshot; its name is removed at once
//! ```
//!
//! Same as the original but for identity, reign, imports and the last nine; its `ltx/` is read where it is.

use std::path::{Path, PathBuf};

use crate::db::{FileKind, SPOOL_PREFIX};
use crate::types::{DbName, Pos};

/// How the names of transactions begin that are on their way.
pub(crate) const INCOMING_PREFIX: &str = "incoming-";

/// Paths of one data directory.
#[derive(Debug, Clone)]
pub(crate) struct DataPaths(PathBuf);

/// Paths of one database.
#[derive(Debug, Clone)]
pub(crate) struct DbPaths(PathBuf);

impl DataPaths {
    pub(crate) fn new(dir: &Path) -> DataPaths {
        DataPaths(dir.into())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// A file of the original, removed at start.
    pub(crate) fn legacy_id(&self) -> PathBuf {
        self.0.join("id")
    }

    pub(crate) fn cluster_id(&self) -> PathBuf {
        self.0.join("clusterid")
    }

    pub(crate) fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    pub(crate) fn reign(&self) -> PathBuf {
        self.0.join("reign")
    }

    /// A database that is being imported.
    pub(crate) fn spooled(&self, random: u64) -> PathBuf {
        self.0.join(format!("{SPOOL_PREFIX}{random:016x}"))
    }

    pub(crate) fn databases(&self) -> PathBuf {
        self.0.join("dbs")
    }

    pub(crate) fn database(&self, name: &DbName) -> DbPaths {
        DbPaths(self.databases().join(name.as_str()))
    }
}

impl DbPaths {
    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, kind: FileKind) -> PathBuf {
        match kind {
            FileKind::Database => self.database(),
            FileKind::Journal => self.journal(),
            FileKind::Wal => self.wal(),
            FileKind::Shm => self.shm(),
            FileKind::Super(suffix) => self.0.join(format!("super-{}", suffix.as_str())),
        }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.0.join("database")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    pub(crate) fn wal(&self) -> PathBuf {
        self.0.join("wal")
    }

    pub(crate) fn shm(&self) -> PathBuf {
        self.0.join("shm")
    }

    /// Where a transaction is held while it comes or goes; without a name at once.
    pub(crate) fn incoming(&self, random: u64) -> PathBuf {
        self.0.join(format!("{INCOMING_PREFIX}{random:016x}"))
    }

    /// Where the image of a snapshot is written.
    pub(crate) fn image_tmp(&self) -> PathBuf {
        self.0.join("image.tmp")
    }

    /// A complete image of that position.
    pub(crate) fn image(&self, pos: Pos) -> PathBuf {
        self.0.join(format!("image-{}-{}", pos.txid, pos.post_apply))
    }

    /// Notes that transactions of this node's own may be unknown to others.
    pub(crate) fn own(&self) -> PathBuf {
        self.0.join("own")
    }

    pub(crate) fn diverged_root(&self) -> PathBuf {
        self.0.join("diverged")
    }

    /// Where transactions are kept that end at that position and that the cluster doesn't know.
    pub(crate) fn diverged(&self, pos: Pos) -> PathBuf {
        self.diverged_root().join(format!("{}-{}", pos.txid, pos.post_apply))
    }

    pub(crate) fn redo(&self) -> PathBuf {
        self.0.join("redo")
    }

    pub(crate) fn undo(&self) -> PathBuf {
        self.0.join("undo")
    }

    pub(crate) fn clean(&self) -> PathBuf {
        self.0.join("clean")
    }

    pub(crate) fn spill(&self) -> PathBuf {
        self.0.join("spill")
    }
}
