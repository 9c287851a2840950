//! The database header: the first 100 bytes of page 1.
//!
//! | offset | size | field (big-endian) |
//! |---|---|---|
//! | 0 | 16 | `SQLite format 3\0` |
//! | 16 | 2 | page size; 1 stands for 65536 |
//! | 18 | 1 | write version: 1 rollback journal, 2 WAL |
//! | 19 | 1 | read version, likewise |
//! | 24 | 4 | change counter |
//! | 28 | 4 | size of the database in pages |
//! | 36 | 4 | free pages |
//! | 40 | 4 | schema cookie |
//! | 92 | 4 | the change counter for which the size in pages is valid |
//!
//! Only what the engine needs is decoded, and it is never written: SQLite owns these bytes.
//!
//! Source: SQLite fileformat2, "The Database Header".

use thiserror::Error;

use super::be_u32;
use crate::types::{PageCount, PageSize};

/// The fields of a database header that the engine looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DbHeader {
    /// Size of every page.
    pub page_size: PageSize,
    /// 2 if writers use a WAL.
    pub write_version: u8,
    /// 2 if readers must look into a WAL.
    pub read_version: u8,
    /// Counts the transactions in rollback mode.
    pub change_counter: u32,
    /// The size as stored, which may be stale: see [`DbHeader::database_size`].
    pub page_count: PageCount,
    /// How many pages hold nothing.
    pub free_pages: u32,
    /// Changes with every change of the schema.
    pub schema_cookie: u32,
    /// The value of the change counter when `page_count` was stored.
    pub version_valid_for: u32,
}

impl DbHeader {
    /// Length in bytes.
    pub const LEN: usize = 100;

    /// The first 16 bytes of every database.
    pub const MAGIC: [u8; 16] = *b"SQLite format 3\0";

    /// Decodes the beginning of page 1.
    ///
    /// # Errors
    /// If there are fewer than 100 bytes, the magic is missing or the page size isn't one.
    pub fn decode(bytes: &[u8]) -> Result<DbHeader, DbHeaderError> {
        let b: &[u8; DbHeader::LEN] =
            bytes.first_chunk().ok_or(DbHeaderError::Short { len: bytes.len() })?;
        if !b.starts_with(&DbHeader::MAGIC) {
            return Err(DbHeaderError::Magic);
        }
        let raw = u16::from_be_bytes([b[16], b[17]]);
        Ok(DbHeader {
            page_size: PageSize::from_db_header(raw).ok_or(DbHeaderError::PageSize { raw })?,
            write_version: b[18],
            read_version: b[19],
            change_counter: be_u32(b, 24),
            page_count: PageCount::new(be_u32(b, 28)),
            free_pages: be_u32(b, 36),
            schema_cookie: be_u32(b, 40),
            version_valid_for: be_u32(b, 92),
        })
    }

    /// Whether the database is in WAL mode.
    pub fn is_wal(&self) -> bool {
        self.write_version == 2 && self.read_version == 2
    }

    /// The size of the database, whose file has `file_len_bytes`.
    ///
    /// Versions of SQLite before 3.7.0 don't maintain the stored size, but do raise the change
    /// counter; so it counts only if both agree. Else the file's length decides, and as in SQLite a
    /// last page that is cut short counts: it reads as if filled up with zeros.
    ///
    /// SQLite: fileformat2, "In-header Database Size".
    pub fn database_size(&self, file_len_bytes: u64) -> PageCount {
        if !self.page_count.is_zero() && self.change_counter == self.version_valid_for {
            return self.page_count;
        }
        let pages = file_len_bytes.div_ceil(u64::from(self.page_size.as_u32()));
        PageCount::new(u32::try_from(pages).unwrap_or(u32::MAX))
    }
}

/// Bytes that aren't a database header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DbHeaderError {
    /// Fewer than 100 bytes.
    #[error("database header is {len} bytes, need {}", DbHeader::LEN)]
    Short {
        /// What there was.
        len: usize,
    },
    /// Doesn't begin with [`DbHeader::MAGIC`].
    #[error("not a sqlite database")]
    Magic,
    /// Not a power of two from 512 to 65536.
    #[error("invalid page size in database header: {raw}")]
    PageSize {
        /// As stored.
        raw: u16,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sqlite::golden;

    #[test]
    fn decodes_what_sqlite_wrote() {
        let rollback = golden!("segments-512.before.db");
        let header = DbHeader::decode(rollback).unwrap();
        assert_eq!(header.page_size, PageSize::new(512).unwrap());
        assert!(!header.is_wal());
        assert_eq!(header.database_size(0).len_bytes(header.page_size), rollback.len() as u64);

        let wal = golden!("two-tx-512.db");
        assert!(DbHeader::decode(wal).unwrap().is_wal());
    }

    #[test]
    fn refuses_what_is_no_header() {
        let valid = golden!("segments-512.before.db");
        let broken = |at: usize, byte: u8| {
            let mut bytes = valid.to_vec();
            bytes[at] = byte;
            DbHeader::decode(&bytes)
        };
        assert_eq!(DbHeader::decode(&valid[..99]), Err(DbHeaderError::Short { len: 99 }));
        assert_eq!(DbHeader::decode(&[]), Err(DbHeaderError::Short { len: 0 }));
        assert_eq!(broken(15, 1), Err(DbHeaderError::Magic));
        assert_eq!(broken(17, 1), Err(DbHeaderError::PageSize { raw: 513 }));
    }

    #[test]
    fn stored_size_counts_only_if_current() {
        let valid = DbHeader::decode(golden!("segments-512.before.db")).unwrap();
        let with = |page_count, version_valid_for| DbHeader {
            page_count: PageCount::new(page_count),
            change_counter: 7,
            version_valid_for,
            ..valid
        };
        for (name, header, file_len_bytes, want) in [
            ("current", with(3, 7), 5 * 512, 3),
            ("stale", with(3, 6), 5 * 512, 5),
            ("never stored", with(0, 7), 5 * 512, 5),
            ("file cut short", with(0, 7), 4 * 512 + 1, 5),
            ("empty file", with(0, 7), 0, 0),
            ("file too large", with(0, 7), u64::MAX, u32::MAX),
        ] {
            assert_eq!(header.database_size(file_len_bytes).as_u32(), want, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(tail in prop::collection::vec(any::<u8>(), 0..120), magic in any::<bool>()) {
            let mut bytes = if magic { DbHeader::MAGIC.to_vec() } else { Vec::new() };
            bytes.extend(tail);
            if let Ok(header) = DbHeader::decode(&bytes) {
                header.database_size(bytes.len() as u64);
            }
        }
    }
}
