//! The position map: what a replica has, told when it asks for a stream.
//!
//! ```text
//! count u32 | name length u32 | name | txid u64 | post-apply u64 | name length u32 | ...
//! ```

use std::collections::BTreeMap;

use thiserror::Error;

use super::{Fields, Flaw, FrameError, put_text};
use crate::types::{Checksum, DbName, Pos, Txid};

/// The position of each database of a node, dropped ones included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PositionMap(pub BTreeMap<DbName, Option<Pos>>);

impl PositionMap {
    /// A map that is longer than this is refused.
    pub const MAX_LEN: usize = 16 << 20;

    /// The map's bytes, sorted by name.
    pub fn encode(&self) -> Vec<u8> {
        let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let mut out = Vec::from(count.to_be_bytes());
        for (name, pos) in &self.0 {
            put_text(&mut out, name.as_str());
            out.extend(pos.map_or(0, |p| p.txid.as_u64()).to_be_bytes());
            out.extend(pos.map_or(0, |p| p.post_apply.as_u64()).to_be_bytes());
        }
        out
    }

    /// Reads a map; bytes after it are ignored.
    ///
    /// # Errors
    /// If it is cut short, or has more databases than [`PositionMap::MAX_LEN`] leaves room for, or a name that is none.
    pub fn decode(bytes: &[u8]) -> Result<PositionMap, PositionMapError> {
        if bytes.is_empty() {
            return Err(PositionMapError::Empty);
        }
        let mut fields = Fields { bytes, at: 0 };
        match decode(&mut fields) {
            Ok(map) => Ok(map),
            Err(Flaw::Short) => Err(PositionMapError::Entry(FrameError::Truncated)),
            Err(Flaw::Bad(err)) => Err(PositionMapError::Entry(err)),
        }
    }
}

/// What is wrong with a position map.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PositionMapError {
    /// There is none.
    #[error("EOF")]
    Empty,
    /// An entry is cut short or makes no sense.
    #[error(transparent)]
    Entry(#[from] FrameError),
}

/// Nothing is allocated by the count alone: it may be a lie.
fn decode(fields: &mut Fields<'_>) -> Result<PositionMap, Flaw> {
    let count = fields.u32()?;
    let mut map = BTreeMap::new();
    for _ in 0..count {
        let name = fields.name()?;
        let (txid, checksum) = (fields.u64()?, fields.u64()?);
        // A position that can't be is like none: the replica gets a snapshot.
        let pos = Txid::new(txid).zip(Checksum::new(checksum));
        map.insert(name, pos.map(|(txid, post_apply)| Pos { txid, post_apply }));
    }
    Ok(PositionMap(map))
}
