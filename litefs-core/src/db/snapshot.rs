//! Stands in for the real one until it is merged: there are no snapshots yet.

use std::io::Write;

use crate::error::Error;
use crate::types::Pos;

/// A database as it was at one position.
#[derive(Debug)]
pub struct Snapshot(std::convert::Infallible);

impl Snapshot {
    /// The position.
    pub fn pos(&self) -> Pos {
        match self.0 {}
    }

    /// Writes it as an LTX file.
    ///
    /// # Errors
    /// None.
    pub fn write_ltx(self, _: &mut dyn Write) -> Result<(), Error> {
        match self.0 {}
    }
}
