//! The rollback journal: which pages to write back, and which super-journal it belongs to.
//!
//! ```text
//! segment: | header, padded to a sector | record | record | … |   the next begins at a sector boundary
//! record:  | pgno u32 | page | checksum u32 |
//! tail:    | pgno of the lock page u32 | name | length of name u32 | sum of name u32 | magic 8 |
//! ```
//!
//! Header, 28 bytes, numbers big-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic; zeros until SQLite has synced the records that follow |
//! | 8 | 4 | number of records; `ffff_ffff` means as many as the file holds |
//! | 12 | 4 | nonce, the seed of each record's checksum |
//! | 16 | 4 | size of the database, in pages, before the transaction |
//! | 20 | 4 | sector size |
//! | 24 | 4 | page size; 0 means that of the database |
//!
//! The tail exists only while a transaction over several databases commits.
//!
//! [`Playback`] follows SQLite's `pager_playback` for a hot journal, step by step. It opens no file:
//! the caller reads the journal, writes the pages and decides whether the journal is hot at all.
//!
//! Invariants: a record counts only if all before it do. Whatever is wrong with a journal is its end,
//! never an error: an unsynced tail is what a power cut leaves, and the pages it holds weren't
//! overwritten yet.
//!
//! Differs from LiteFS: the first magic is checked, no record count is guessed from the file's length,
//! and the journal's page size wins over the database's (VACUUM may have changed the latter).
//!
//! Sources: SQLite fileformat2, "The Rollback Journal"; `pager.c`.

use std::ffi::c_char;

use thiserror::Error;

use super::be_u32;
use crate::types::{PageCount, PageSize, Pgno};

/// Writes a database back to what it was before the transaction of a hot journal.
///
/// ```
/// # use litefs_core::{sqlite::Playback, types::PageSize};
/// # fn roll_back(journal: &[u8], database: &mut Vec<u8>) {
/// let Ok(mut playback) = Playback::new(journal, journal.len() as u64, PageSize::MAX) else { return };
/// let page_size = playback.page_size();
/// database.resize(playback.initial_size().len_bytes(page_size) as usize, 0);
/// while let Some((offset, len)) = playback.next_read() {
///     let bytes = &journal[offset as usize..][..len];
///     if let Some((pgno, page)) = playback.feed(bytes) {
///         database[pgno.offset(page_size) as usize..][..page.len()].copy_from_slice(page);
///     }
/// }
/// # }
/// ```
///
/// Pages past [`Playback::initial_size`] never come out, so the file may be truncated before or after.
/// Pages come in the order of the journal; SQLite journals a page once per transaction.
#[derive(Debug, Clone)]
pub struct Playback {
    journal_len: u64,
    sector_size: u32,
    page_size: PageSize,
    initial_size: PageCount,
    nonce: u32,
    /// End of what was fed.
    offset: u64,
    /// Records still to come in this segment; if none, a header is next.
    records_left: u32,
}

impl Playback {
    /// Begins at a journal's first header. `default_page_size` serves if the header has none, which
    /// only SQLite before 3.5.8 leaves out.
    ///
    /// # Errors
    /// If the journal isn't hot: SQLite deletes such a journal and keeps the database.
    pub fn new(
        first_header: &[u8],
        journal_len: u64,
        default_page_size: PageSize,
    ) -> Result<Playback, JournalError> {
        let header = JournalHeader::decode(first_header)?;
        let page_size = match header.page_size {
            0 => default_page_size,
            raw => PageSize::new(raw).ok_or(JournalError::PageSize { raw })?,
        };
        let sector_size = header.sector_size;
        if !(MIN_SECTOR_SIZE..=MAX_SECTOR_SIZE).contains(&sector_size)
            || !sector_size.is_power_of_two()
        {
            return Err(JournalError::SectorSize { raw: sector_size });
        }
        if u64::from(sector_size) > journal_len {
            return Err(JournalError::Short { len: journal_len });
        }
        Ok(Playback {
            journal_len,
            sector_size,
            page_size,
            initial_size: header.initial_size,
            nonce: header.nonce,
            offset: u64::from(sector_size),
            records_left: header.records,
        })
    }

    /// The page size of the database before the transaction.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The size of the database before the transaction: the length its file must get.
    pub fn initial_size(&self) -> PageCount {
        self.initial_size
    }

    /// Offset and length of what [`Playback::feed`] wants next; `None` at the end. Always inside the file.
    pub fn next_read(&self) -> Option<(u64, usize)> {
        if self.records_left > 0 {
            let len = self.record_len();
            self.fits(self.offset, len as u64).then_some((self.offset, len))
        } else {
            let sector = u64::from(self.sector_size);
            let offset = self.offset.checked_next_multiple_of(sector)?;
            self.fits(offset, sector).then_some((offset, JournalHeader::LEN))
        }
    }

    /// Takes the bytes that [`Playback::next_read`] asked for and gives the page to restore, if they
    /// hold one. Fewer bytes end the playback: the journal was cut meanwhile.
    pub fn feed<'a>(&mut self, bytes: &'a [u8]) -> Option<(Pgno, &'a [u8])> {
        let (offset, len) = self.next_read()?;
        if bytes.len() != len {
            self.end();
            return None;
        }
        if self.records_left > 0 {
            self.offset = offset + len as u64;
            self.records_left -= 1;
            self.feed_record(bytes)
        } else {
            self.offset = offset + u64::from(self.sector_size);
            self.feed_header(bytes);
            None
        }
    }

    fn feed_header(&mut self, bytes: &[u8]) {
        // Only the first header's sizes count, in SQLite too.
        match JournalHeader::decode(bytes) {
            Ok(header) => {
                self.nonce = header.nonce;
                self.records_left = header.records;
            }
            Err(_) => self.end(),
        }
    }

    fn feed_record<'a>(&mut self, bytes: &'a [u8]) -> Option<(Pgno, &'a [u8])> {
        let (pgno, rest) = bytes.split_first_chunk()?;
        let (page, checksum) = rest.split_last_chunk()?;
        let Some(pgno) =
            Pgno::new(u32::from_be_bytes(*pgno)).filter(|p| *p != self.page_size.lock_page())
        else {
            // The lock page's number marks the name of a super-journal; 0 was never written.
            self.end();
            return None;
        };
        // Before the checksum, as in SQLite: what isn't restored can't end the playback.
        if !self.initial_size.contains(pgno) {
            return None;
        }
        if record_checksum(self.nonce, page) != u32::from_be_bytes(*checksum) {
            self.end();
            return None;
        }
        Some((pgno, page))
    }

    fn end(&mut self) {
        self.offset = self.journal_len;
        self.records_left = 0;
    }

    fn record_len(&self) -> usize {
        4 + self.page_size.as_usize() + 4
    }

    fn fits(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.journal_len)
    }
}

/// The header of a segment, valid as far as its magic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalHeader {
    /// Number of records; `u32::MAX`, written with `synchronous=OFF`, is more than any file holds.
    pub records: u32,
    /// Seed of each record's checksum.
    pub nonce: u32,
    /// Size of the database before the transaction.
    pub initial_size: PageCount,
    /// As stored.
    pub sector_size: u32,
    /// As stored; 0 means that of the database.
    pub page_size: u32,
}

impl JournalHeader {
    /// Length in bytes, without the padding up to the sector size.
    pub const LEN: usize = 28;

    /// First bytes of a synced header.
    pub const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

    /// Decodes a header.
    ///
    /// # Errors
    /// If there are fewer than 28 bytes or the magic is missing.
    pub fn decode(bytes: &[u8]) -> Result<JournalHeader, JournalError> {
        let b: &[u8; JournalHeader::LEN] =
            bytes.first_chunk().ok_or(JournalError::Short { len: bytes.len() as u64 })?;
        if !is_hot_header(b) {
            return Err(JournalError::Magic);
        }
        Ok(JournalHeader {
            records: be_u32(b, 8),
            nonce: be_u32(b, 12),
            initial_size: PageCount::new(be_u32(b, 16)),
            sector_size: be_u32(b, 20),
            page_size: be_u32(b, 24),
        })
    }

    /// The page size in a header whose magic may not be written yet.
    pub fn unsynced_page_size(bytes: &[u8]) -> Option<PageSize> {
        let b: &[u8; JournalHeader::LEN] = bytes.first_chunk()?;
        PageSize::new(be_u32(b, 24))
    }
}

/// Whether a journal that begins so may be hot: SQLite has synced it, and not ended the transaction.
pub fn is_hot_header(bytes: &[u8]) -> bool {
    bytes.starts_with(&JournalHeader::MAGIC)
}

/// The checksum of a record: every 200th byte of the page, counted from its end.
///
/// SQLite: `pager_cksum`. Few bytes, as it only has to notice a page that never reached the disk.
pub fn record_checksum(nonce: u32, page: &[u8]) -> u32 {
    let sampled = page.iter().rev().skip(199).step_by(200);
    // Byte 0 isn't sampled, but no power of two is a multiple of 200.
    sampled.fold(nonce, |sum, byte| sum.wrapping_add(u32::from(*byte)))
}

/// The path of the super-journal that a journal names, if it does. `tail` is the end of the journal:
/// its last [`SUPER_JOURNAL_TAIL_LEN`] bytes, or all of it.
///
/// The journal is hot only as long as that file exists. The path is the application's, so look at its
/// last component alone. It need not be UTF-8.
///
/// SQLite: `readSuperJournal`.
pub fn super_journal_name(tail: &[u8]) -> Option<&[u8]> {
    let (rest, fixed) = tail.split_last_chunk::<16>()?;
    let (len, sum) = (be_u32(fixed, 0), be_u32(fixed, 4));
    if len == 0 || len > SUPER_JOURNAL_NAME_MAX || fixed[8..] != JournalHeader::MAGIC {
        return None;
    }
    let name = &rest[rest.len().checked_sub(len as usize)?..];
    // SQLite adds up values of type `char`, whose sign depends on the platform.
    let got = name.iter().fold(0u32, |sum, byte| sum.wrapping_add(*byte as c_char as u32));
    (got == sum).then_some(name)
}

/// How much of a journal's end [`super_journal_name`] can need.
pub const SUPER_JOURNAL_TAIL_LEN: usize = SUPER_JOURNAL_NAME_MAX as usize + 16;

/// The database that a file name belongs to if it is that of a super-journal: `<db>-mj%06X9%02X`.
pub fn super_journal_base(file_name: &str) -> Option<&str> {
    let (base, digits) = file_name.rsplit_once("-mj")?;
    let hex = |b: &u8| matches!(b, b'0'..=b'9' | b'A'..=b'F');
    let matches = digits.len() == 9
        && digits.as_bytes().iter().all(hex)
        && digits.as_bytes()[6] == b'9'
        && !base.is_empty();
    matches.then_some(base)
}

/// A journal with nothing to play back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The header isn't complete.
    #[error("journal header is cut short at {len} bytes")]
    Short {
        /// What there was.
        len: u64,
    },
    /// The journal was never synced, or its transaction has ended.
    #[error("journal header has no magic")]
    Magic,
    /// Not a power of two from 512 to 65536.
    #[error("invalid page size in journal header: {raw}")]
    PageSize {
        /// As stored.
        raw: u32,
    },
    /// Not a power of two from 32 to 65536.
    #[error("invalid sector size in journal header: {raw}")]
    SectorSize {
        /// As stored.
        raw: u32,
    },
}

const MIN_SECTOR_SIZE: u32 = 32;
const MAX_SECTOR_SIZE: u32 = 0x1_0000;

/// The longest path that SQLite's Unix VFS takes (`MAX_PATHNAME`).
const SUPER_JOURNAL_NAME_MAX: u32 = 512;

#[cfg(test)]
mod tests;
