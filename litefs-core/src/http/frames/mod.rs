//! The bytes of a replication stream: position map, frames, chunks.
//!
//! Sans-IO: bytes in, values out. What isn't here: HTTP (see `http::stream` for the side that sends, `http::client`
//! for the one that receives) and what a frame makes a node do.
//!
//! ```text
//! replica ──► position map: count u32, then per database: name, txid u64, post-apply u64
//! primary ──► frames:       type u32, then
//!
//! | 1 | LTX       | size u64 (0), name; then the file as chunks: len u16, bytes ... 0 u16
//! | 2 | Ready     |                  all that the replica lacked has been sent
//! | 3 | End       |                  the primary ends the stream
//! | 4 | DropDB    | name             not acted upon
//! | 5 | Handoff   | lease ID
//! | 6 | HWM       | txid u64, name   the backup has the database up to there
//! | 7 | Heartbeat | ms i64           the primary's clock
//! ```
//!
//! A name is a u32 length and bytes. All integers are big-endian. A stream may end between two frames only.
//!
//! Invariant: no length read from the wire is allocated before it was compared with a limit.

mod chunks;
mod decoder;
mod positions;

#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::ltx::Timestamp;
use crate::types::{DbName, ParseError, Txid};

pub use chunks::ChunkWriter;
pub use decoder::{Event, FrameDecoder};
pub use positions::{PositionMap, PositionMapError};

/// One message of a primary to its replica. An LTX file follows its frame, in chunks: see [`ChunkWriter`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A transaction, or a snapshot, of a database follows.
    Ltx {
        /// The database.
        name: DbName,
    },
    /// All that the replica lacked when it connected has been sent.
    Ready,
    /// The primary ends the stream.
    End,
    /// The primary doesn't have that database. Replicas ignore it.
    DropDb {
        /// The database.
        name: DbName,
    },
    /// The replica shall take over the lease.
    Handoff {
        /// The lease.
        lease_id: String,
    },
    /// Up to where the backup has a database.
    Hwm {
        /// `None`: there is no backup.
        txid: Option<Txid>,
        /// The database.
        name: DbName,
    },
    /// The primary is there, and this is its time.
    Heartbeat {
        /// By the primary's clock.
        timestamp: Timestamp,
    },
}

impl Frame {
    /// Appends the frame's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.kind().to_be_bytes());
        match self {
            Frame::Ltx { name } => {
                out.extend(0u64.to_be_bytes());
                put_text(out, name.as_str());
            }
            Frame::Ready | Frame::End => {}
            Frame::DropDb { name } => put_text(out, name.as_str()),
            Frame::Handoff { lease_id } => put_text(out, lease_id),
            Frame::Hwm { txid, name } => {
                out.extend(txid.map_or(0, Txid::as_u64).to_be_bytes());
                put_text(out, name.as_str());
            }
            Frame::Heartbeat { timestamp } => out.extend(timestamp.as_millis().to_be_bytes()),
        }
    }

    /// Reads a frame that `bytes` begins with.
    fn decode(bytes: &[u8]) -> Result<Parsed, FrameError> {
        let mut fields = Fields { bytes, at: 0 };
        let frame = fields.frame();
        match frame {
            Ok(frame) => Ok(Parsed::Frame(frame)),
            Err(Flaw::Short) => Ok(Parsed::Short { want: fields.at }),
            Err(Flaw::Bad(err)) => Err(err),
        }
    }

    fn kind(&self) -> u32 {
        match self {
            Frame::Ltx { .. } => LTX,
            Frame::Ready => READY,
            Frame::End => END,
            Frame::DropDb { .. } => DROP_DB,
            Frame::Handoff { .. } => HANDOFF,
            Frame::Hwm { .. } => HWM,
            Frame::Heartbeat { .. } => HEARTBEAT,
        }
    }
}

/// What is wrong with a stream.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A type that doesn't exist.
    #[error("invalid stream frame type: 0x{0:02x}")]
    Kind(u32),
    /// A name or lease ID that is longer than any can be.
    #[error("stream frame has a text of {len} bytes, at most {max} are allowed")]
    TooLong {
        /// As the frame says.
        len: u32,
        /// As it may be.
        max: u32,
    },
    /// Not a name of a database.
    #[error(transparent)]
    Name(#[from] ParseError),
    /// A text that isn't UTF-8.
    #[error("stream frame has a text that isn't UTF-8")]
    NotText,
    /// The stream ended within a frame or its LTX file.
    #[error("unexpected EOF")]
    Truncated,
}

enum Parsed {
    Frame(Frame),
    /// There are fewer than `want` bytes.
    Short {
        want: usize,
    },
}

enum Flaw {
    Short,
    Bad(FrameError),
}

impl<E: Into<FrameError>> From<E> for Flaw {
    fn from(err: E) -> Flaw {
        Flaw::Bad(err.into())
    }
}

/// Takes fields off the start of a frame. After [`Flaw::Short`], `at` is where the missing field would end.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn frame(&mut self) -> Result<Frame, Flaw> {
        Ok(match self.u32()? {
            LTX => {
                // The size was never anything but 0.
                self.u64()?;
                Frame::Ltx { name: self.name()? }
            }
            READY => Frame::Ready,
            END => Frame::End,
            DROP_DB => Frame::DropDb { name: self.name()? },
            HANDOFF => Frame::Handoff { lease_id: self.text(MAX_LEASE_ID_LEN)?.to_owned() },
            HWM => Frame::Hwm { txid: Txid::new(self.u64()?), name: self.name()? },
            HEARTBEAT => {
                let millis = i64::from_be_bytes(self.array()?);
                Frame::Heartbeat { timestamp: Timestamp::from_millis(millis) }
            }
            other => return Err(FrameError::Kind(other).into()),
        })
    }

    fn name(&mut self) -> Result<DbName, Flaw> {
        Ok(DbName::new(self.text(MAX_NAME_LEN)?)?)
    }

    fn text(&mut self, max: u32) -> Result<&'a str, Flaw> {
        let len = self.u32()?;
        if len > max {
            return Err(FrameError::TooLong { len, max }.into());
        }
        let bytes = self.take(len as usize)?;
        Ok(std::str::from_utf8(bytes).map_err(|_| FrameError::NotText)?)
    }

    fn u32(&mut self) -> Result<u32, Flaw> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Flaw> {
        self.array().map(u64::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        self.take(N)?.try_into().map_err(|_| Flaw::Short)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Flaw> {
        let from = self.at;
        self.at += len;
        self.bytes.get(from..self.at).ok_or(Flaw::Short)
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // Names and lease IDs are short; a longer one would be refused by the reader.
    out.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(text.as_bytes());
}

const LTX: u32 = 1;
const READY: u32 = 2;
const END: u32 = 3;
const DROP_DB: u32 = 4;
const HANDOFF: u32 = 5;
const HWM: u32 = 6;
const HEARTBEAT: u32 = 7;

/// What a file system allows.
const MAX_NAME_LEN: u32 = 255;
const MAX_LEASE_ID_LEN: u32 = 4096;
