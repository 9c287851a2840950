//! Stands in for the real one until it is merged: refuses what comes from a primary.

use std::io::Read;

use crate::error::Error;
use crate::types::Pos;

use super::Database;

impl Database {
    /// Logs an LTX file that came from a primary.
    ///
    /// # Errors
    /// Always.
    pub fn receive(&self, _ltx: &mut dyn Read) -> Result<Pos, Error> {
        Err(Error::Replica { db: self.name.clone() })
    }

    /// Brings SQLite's files to the log's end.
    ///
    /// # Errors
    /// None.
    pub fn apply_pending(&self) -> Result<(), Error> {
        Ok(())
    }
}
