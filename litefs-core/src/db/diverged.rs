//! Transactions of this node that the cluster never saw: kept aside before a snapshot replaces them.
//!
//! ```text
//!  first own write ──► note `own` ──► a transaction of a primary follows ours: all before is known ──► note removed
//!                          │
//!                          └─► a snapshot comes instead: ours may be unknown ──► diverged/<position>/*.ltx, report.json
//! ```
//!
//! A node that was a primary may have committed what nobody has received. When it comes back as a replica and
//! the primary can't go on from its position, nobody can tell which of its last transactions are in the
//! primary's history. So all that the log still has is kept, as LTX files that `litefs ltx` reads. A node that only ever followed has
//! nothing of its own, and keeps nothing.

use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use crate::env::OpenMode;
use crate::error::{Error, IoContext};
use crate::log::{RecordKind, RecordMeta};
use crate::types::Pos;

use super::Database;

impl Database {
    /// Notes, durably, that transactions of this node's own may follow. Once per start, before the first.
    pub(super) fn note_own(&self) -> Result<(), Error> {
        if self.own_noted.load(Ordering::Acquire) {
            return Ok(());
        }
        let path = self.paths.own();
        self.env.open(&path, OpenMode::Create).at("create", &path)?;
        self.env.sync_dir(self.paths.dir()).at("sync", self.paths.dir())?;
        self.own_noted.store(true, Ordering::Release);
        Ok(())
    }

    /// A primary has gone on from this node's position: all of it is known.
    pub(super) fn forget_own(&self) -> Result<(), Error> {
        if !self.own_noted.load(Ordering::Acquire) {
            return Ok(());
        }
        self.env.remove_file(&self.paths.own()).at("remove", self.paths.own())?;
        self.own_noted.store(false, Ordering::Release);
        Ok(())
    }

    /// Before a snapshot at `theirs` replaces the log: keeps what may be this node's only.
    pub(super) fn keep_diverged(&self, theirs: Pos) -> Result<(), Error> {
        let ours = self.log.lock().log.last().map(RecordMeta::pos);
        let has_own = self.own_noted.load(Ordering::Acquire);
        let Some(ours) = ours.filter(|ours| has_own && *ours != theirs) else {
            return self.forget_own();
        };
        let dir = self.paths.diverged(ours);
        self.env.create_dir_all(&dir).at("create", &dir)?;
        let (mut first, mut count) = (None, 0);
        for record in self.records()? {
            let (meta, mut blob) = record.map_err(|e| self.log_error(e))?;
            // It has no pages: what was received as a snapshot is the primary's, and not in the log.
            if meta.kind == RecordKind::PositionOnly {
                continue;
            }
            let path = dir.join(format!("{}-{}.ltx", meta.min_txid, meta.max_txid));
            let out = self.env.open(&path, OpenMode::Create).at("create", &path)?;
            let (mut buf, mut offset) = (vec![0; 64 * 1024], 0);
            loop {
                let n = blob.read(&mut buf).at("read", self.paths.dir())?;
                if n == 0 {
                    break;
                }
                out.write_at(&buf[..n], offset).at("write", &path)?;
                offset += n as u64;
            }
            out.sync().at("sync", &path)?;
            first.get_or_insert(meta.min_txid);
            count += 1;
        }
        self.report(&dir, ours, theirs)?;
        self.env.sync_dir(&dir).at("sync", &dir)?;
        tracing::error!(db = %self.name, ours = %ours, primary = %theirs, transactions = count,
            first = first.map(|txid| txid.to_string()), dir = %dir.display(),
            "the primary doesn't know this node's position; its transactions are kept aside, a snapshot replaces them");
        self.forget_own()
    }

    /// Where transactions were kept aside that the cluster never saw; each needs a look by somebody.
    ///
    /// # Errors
    /// I/O errors.
    pub fn diverged_dirs(&self) -> Result<Vec<PathBuf>, Error> {
        let dir = self.paths.diverged_root();
        match self.env.read_dir(&dir) {
            Ok(names) => Ok(names.into_iter().map(|name| dir.join(name)).collect()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e).at("read", dir),
        }
    }

    fn report(&self, dir: &std::path::Path, ours: Pos, theirs: Pos) -> Result<(), Error> {
        let path = dir.join("report.json");
        let since = self.env.now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        let report = serde_json::json!({
            "db": self.name.as_str(),
            "position": ours.to_string(),
            "primaryPosition": theirs.to_string(),
            "keptAt": since.unwrap_or_default().as_secs(),
        });
        let text = format!("{report:#}\n");
        let file = self.env.open(&path, OpenMode::Create).at("create", &path)?;
        file.write_at(text.as_bytes(), 0).at("write", &path)?;
        file.sync().at("sync", path)
    }
}
