//! The LTX file format: one file carries the pages that a range of transactions changed.
//!
//! What lives here: the codec, over [`std::io::Read`] and [`std::io::Write`]. What doesn't: files and
//! names of directories (see `log`), what a transaction does to SQLite's files (see `db`). Nothing
//! here opens a file or asks a clock.
//!
//! ```text
//! offset 0        100                                  end-16        end
//! | header        | page block                         | trailer     |
//! | 100 bytes     | pgno u32, page  (repeated)         | post-apply  | u64
//! |               | 0 u32           (end marker)       | file sum    | u64
//!                   `- with the flag LZ4: one LZ4 frame, end marker included
//! ```
//!
//! All integers are big-endian. The file checksum covers the header, the *uncompressed* page block and
//! the post-apply checksum.
//!
//! Invariants: an [`Encoder`] never writes what the format forbids; a [`Decoder`] never reads past the
//! trailer, and memory doesn't grow with the size of a file: at most a page per input plus, for
//! LZ4, one block (64 KiB as written here, 4 MiB at most).
//!
//! Texts of errors are those of the original's library where it has one.
//!
//! Source: LTX library 0.3.14, the version that LiteFS 0.5.14 uses. The later file format of the same
//! magic (page index, LZ4 per page) is another one.

mod checksum;
mod compact;
mod database;
mod decoder;
mod encoder;
mod header;
mod lz4;
mod name;
mod timestamp;
mod verify;

#[cfg(test)]
mod tests;

pub use checksum::page_checksum;
pub use compact::{CompactError, CompactOptions, compact};
pub use database::{DatabaseError, write_database};
pub use decoder::{DecodeError, Decoder};
pub use encoder::{EncodeError, Encoder};
pub use header::{Header, HeaderError, WalSource};
pub use lz4::{Lz4Error, Scratch};
pub use name::{FileName, FileNameError};
pub use timestamp::{Timestamp, TimestampError};
pub use verify::{Summary, VerifyError, verify};

use crate::types::Checksum;

/// The last 16 bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// The rolling checksum of the database after the file is applied.
    pub post_apply: Checksum,
    /// The checksum of the file.
    pub file_checksum: Checksum,
}

/// Size of the header in bytes.
pub const HEADER_LEN: usize = 100;

/// Size of the trailer in bytes.
pub const TRAILER_LEN: usize = 16;

/// Size in bytes of the page number before each page.
const PAGE_HEADER_LEN: usize = 4;
