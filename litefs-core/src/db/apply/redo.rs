//! The note that pages are being written directly: a start that finds it writes them again, from the log.
//!
//! ```text
//!  0  first transaction to write again, u64; 0: nothing
//! ```
//!
//! The file stays, as overwriting eight bytes costs less than making and removing a name.

use crate::env::OpenMode;
use crate::error::{Error, IoContext};
use crate::types::Txid;

use crate::db::Database;

/// Pages are being written. Dropped without [`Redo::end`], they are written again at the next start.
#[derive(Debug)]
pub(super) struct Redo(());

impl Redo {
    /// Notes where the files are.
    pub(super) fn begin(db: &Database) -> Result<Redo, Error> {
        let pos = db.capture.lock().logged.pos;
        let next = Txid::after(pos.map(|pos| pos.txid))
            .ok_or_else(|| Error::TxidsExhausted { db: db.name.clone() })?;
        write(db, next.as_u64())?;
        Ok(Redo(()))
    }

    /// All pages are there.
    pub(super) fn end(self, db: &Database) -> Result<(), Error> {
        write(db, 0)
    }
}

impl Database {
    /// From which transaction on pages must be written again after a crash.
    pub(in crate::db) fn to_redo(&self) -> Result<Option<Txid>, Error> {
        let path = self.paths.redo();
        let file = match self.env.open(&path, OpenMode::Existing) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).at("open", path),
        };
        let mut bytes = [0; 8];
        file.read_at(&mut bytes, 0).at("read", path)?;
        Ok(Txid::new(u64::from_be_bytes(bytes)))
    }

    /// Pages were written again.
    pub(in crate::db) fn end_redo(&self) -> Result<(), Error> {
        write(self, 0)
    }
}

fn write(db: &Database, from: u64) -> Result<(), Error> {
    let path = db.paths.redo();
    let file = db.env.open(&path, OpenMode::Create).at("create", &path)?;
    file.write_at(&from.to_be_bytes(), 0).at("write", path)
}
