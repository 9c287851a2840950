//! The vocabulary of numbers and names: transaction IDs, page numbers, page sizes, checksums, positions, database names.
//!
//! What isn't here: bytes on disk (see [`crate::ltx`], [`crate::sqlite`]). Values are parsed once at
//! the edge; inside the engine an invalid one can't exist, so no raw integer stands for any of them.
//!
//! Sources: LTX format (header fields, rolling checksum), SQLite file format ("The Database Header",
//! "The Lock-Byte Page").

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;

use thiserror::Error;

/// Offset of SQLite's lock bytes in a database file: 1 GiB. The page that holds it is never written.
pub const PENDING_BYTE: u64 = 0x4000_0000;

/// A transaction ID. The first transaction of a database is 1; "none yet" is `Option<Txid>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txid(NonZeroU64);

impl Txid {
    /// The first transaction of every database.
    pub const FIRST: Txid = Txid(NonZeroU64::MIN);
    /// The last that there can be.
    pub const MAX: Txid = Txid(NonZeroU64::MAX);

    /// `None` for 0, which on the wire means "no transaction".
    pub const fn new(raw: u64) -> Option<Txid> {
        match NonZeroU64::new(raw) {
            Some(n) => Some(Txid(n)),
            None => None,
        }
    }

    /// The number as it stands in LTX headers.
    pub const fn as_u64(self) -> u64 {
        self.0.get()
    }

    /// The transaction after this one; `None` past the largest representable.
    pub fn next(self) -> Option<Txid> {
        self.0.checked_add(1).map(Txid)
    }

    /// The transaction before this one; `None` before the first.
    pub fn prev(self) -> Option<Txid> {
        Txid::new(self.0.get() - 1)
    }

    /// The transaction that follows `last`, which may be none.
    pub fn after(last: Option<Txid>) -> Option<Txid> {
        last.map_or(Some(Txid::FIRST), Txid::next)
    }
}

/// 16 lower-case hex digits.
impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Txid {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Txid, ParseError> {
        if s.len() != 16 {
            return Err(ParseError::TxidLength(s.into()));
        }
        parse_hex16(s).and_then(Txid::new).ok_or_else(|| ParseError::Txid(s.into()))
    }
}

/// A page number; the first page of a database is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pgno(NonZeroU32);

impl Pgno {
    /// Page 1, which begins with the database header.
    pub const FIRST: Pgno = Pgno(NonZeroU32::MIN);

    /// `None` for 0.
    pub const fn new(raw: u32) -> Option<Pgno> {
        match NonZeroU32::new(raw) {
            Some(n) => Some(Pgno(n)),
            None => None,
        }
    }

    /// The number as it stands in files.
    pub const fn as_u32(self) -> u32 {
        self.0.get()
    }

    /// The page that holds the byte at `offset` of a database file.
    pub fn at_offset(offset: u64, page_size: PageSize) -> Option<Pgno> {
        u32::try_from(offset / u64::from(page_size.as_u32()))
            .ok()?
            .checked_add(1)
            .and_then(Pgno::new)
    }

    /// Where the page begins in a database file, in bytes.
    pub fn offset(self, page_size: PageSize) -> u64 {
        u64::from(self.0.get() - 1) * u64::from(page_size.as_u32())
    }

    /// All pages of a database of `count` pages, in order, without the lock page.
    pub fn all(count: PageCount, page_size: PageSize) -> impl Iterator<Item = Pgno> {
        let lock = page_size.lock_page();
        (1..=count.as_u32()).filter_map(Pgno::new).filter(move |p| *p != lock)
    }
}

impl fmt::Display for Pgno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number of pages, such as the size of a database after a transaction. 0 means deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageCount(u32);

impl PageCount {
    /// No pages: the database doesn't exist or was deleted.
    pub const ZERO: PageCount = PageCount(0);

    /// Any count is valid.
    pub const fn new(raw: u32) -> PageCount {
        PageCount(raw)
    }

    /// The number as it stands in files.
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// Whether there are no pages.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether `pgno` lies within a database of this many pages.
    pub const fn contains(self, pgno: Pgno) -> bool {
        pgno.as_u32() <= self.0
    }

    /// Size of a file of this many pages.
    pub fn len_bytes(self, page_size: PageSize) -> u64 {
        u64::from(self.0) * u64::from(page_size.as_u32())
    }

    /// How many whole pages fit in `len_bytes`; saturates at `u32::MAX`.
    pub fn in_file(len_bytes: u64, page_size: PageSize) -> PageCount {
        PageCount(u32::try_from(len_bytes / u64::from(page_size.as_u32())).unwrap_or(u32::MAX))
    }
}

impl fmt::Display for PageCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A page size in bytes: a power of two from 512 to 65536.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u32);

impl PageSize {
    /// The largest page SQLite knows.
    pub const MAX: PageSize = PageSize(65536);

    /// `None` unless a power of two from 512 to 65536.
    pub const fn new(raw: u32) -> Option<PageSize> {
        if raw >= 512 && raw <= 65536 && raw.is_power_of_two() { Some(PageSize(raw)) } else { None }
    }

    /// From the two bytes of a database header, where 1 stands for 65536.
    ///
    /// SQLite: fileformat2, "Page Size".
    pub const fn from_db_header(raw: u16) -> Option<PageSize> {
        match raw {
            1 => Some(PageSize(65536)),
            n => PageSize::new(n as u32),
        }
    }

    /// The size in bytes.
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// The size in bytes, for slices.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// The page that holds the lock bytes: never stored, never part of a checksum.
    pub const fn lock_page(self) -> Pgno {
        match Pgno::new((PENDING_BYTE / self.0 as u64) as u32 + 1) {
            Some(pgno) => pgno,
            None => Pgno::FIRST,
        }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A checksum of a page or of a whole database (rolling). Bit 63 is always set.
///
/// The rolling checksum is the XOR of the checksums of all pages, without the lock page; it doesn't
/// depend on their order, so a transaction changes it by its own pages alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum(u64);

impl Checksum {
    const FLAG: u64 = 1 << 63;

    /// The checksum of a database without pages.
    pub const EMPTY: Checksum = Checksum(Checksum::FLAG);

    /// `None` if bit 63 isn't set; 0 on the wire means "no checksum".
    pub const fn new(raw: u64) -> Option<Checksum> {
        if raw & Checksum::FLAG != 0 { Some(Checksum(raw)) } else { None }
    }

    /// From a CRC, by setting bit 63.
    pub const fn from_crc(crc: u64) -> Checksum {
        Checksum(crc | Checksum::FLAG)
    }

    /// The number as it stands in files.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Adds a page's checksum to a rolling checksum, or takes it out again: XOR is its own inverse.
    #[must_use]
    pub const fn toggle(self, page: Checksum) -> Checksum {
        Checksum(self.0 ^ page.0 | Checksum::FLAG)
    }

    /// The rolling checksum after one page went from `old` to `new`; `None` where the page doesn't exist.
    #[must_use]
    pub fn with_page(self, old: Option<Checksum>, new: Option<Checksum>) -> Checksum {
        let sum = old.map_or(self, |c| self.toggle(c));
        new.map_or(sum, |c| sum.toggle(c))
    }
}

/// 16 lower-case hex digits.
impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({self})")
    }
}

impl FromStr for Checksum {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Checksum, ParseError> {
        if s.len() != 16 {
            return Err(ParseError::ChecksumLength(s.into()));
        }
        parse_hex16(s).and_then(Checksum::new).ok_or_else(|| ParseError::Checksum(s.into()))
    }
}

/// A point in the history of a database: its last transaction and the rolling checksum after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pos {
    /// The last transaction.
    pub txid: Txid,
    /// The rolling checksum after it.
    pub post_apply: Checksum,
}

impl Pos {
    /// The text of a position that may be none: `<txid>/<checksum>`, 33 characters, zeros for none.
    pub fn text(pos: Option<Pos>) -> String {
        pos.map_or_else(|| format!("{:016x}/{:016x}", 0, 0), |p| p.to_string())
    }

    /// The rolling checksum at a position that may be none.
    pub fn checksum(pos: Option<Pos>) -> Checksum {
        pos.map_or(Checksum::EMPTY, |p| p.post_apply)
    }
}

/// `<txid>/<checksum>`, 33 characters.
impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.txid, self.post_apply)
    }
}

impl FromStr for Pos {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Pos, ParseError> {
        match (s.len(), s.get(..16), s.get(17..)) {
            (33, Some(txid), Some(sum)) => {
                Ok(Pos { txid: txid.parse()?, post_apply: sum.parse()? })
            }
            _ => Err(ParseError::PosLength(s.into())),
        }
    }
}

/// The name of a database: one path component, and none that stands for a companion file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DbName(Box<str>);

impl DbName {
    /// Endings that stand for a database's companion files in the mount.
    pub const SUFFIXES: [&'static str; 5] = ["-journal", "-wal", "-shm", "-pos", "-lock"];

    /// Checks the name.
    ///
    /// # Errors
    /// If it is empty, longer than 255 bytes, `.` or `..`, has a `/` or NUL, or ends like a companion file.
    pub fn new(name: &str) -> Result<DbName, ParseError> {
        let bad = name.is_empty()
            || name.len() > 255
            || matches!(name, "." | ".." | ".lag" | ".primary")
            || name.contains(['/', '\0'])
            || DbName::SUFFIXES.iter().any(|s| name.ends_with(s));
        if bad { Err(ParseError::DbName(name.into())) } else { Ok(DbName(name.into())) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DbName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that isn't what it should be. The texts are those of the original's library.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Not 16 characters.
    #[error("invalid formatted transaction id length: {0:?}")]
    TxidLength(String),
    /// Not hexadecimal, or 0.
    #[error("invalid transaction id format: {0:?}")]
    Txid(String),
    /// Not 16 characters.
    #[error("invalid formatted checksum length: {0:?}")]
    ChecksumLength(String),
    /// Not hexadecimal, or bit 63 missing.
    #[error("invalid checksum format: {0:?}")]
    Checksum(String),
    /// Not 33 characters.
    #[error("invalid formatted position length: {0:?}")]
    PosLength(String),
    /// See [`DbName::new`].
    #[error("invalid database name: {0:?}")]
    DbName(String),
}

/// `u64::from_str_radix` alone would also accept a leading `+`.
fn parse_hex16(s: &str) -> Option<u64> {
    if s.bytes().all(|b| b.is_ascii_hexdigit()) { u64::from_str_radix(s, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_size_accepts_powers_of_two_only() {
        for (raw, ok) in
            [(256, false), (512, true), (513, false), (4096, true), (65536, true), (131_072, false)]
        {
            assert_eq!(PageSize::new(raw).is_some(), ok, "{raw}");
        }
        assert_eq!(PageSize::from_db_header(1), Some(PageSize::MAX));
        assert_eq!(PageSize::from_db_header(0), None);
    }

    #[test]
    fn lock_page_follows_page_size() {
        let table = [(512, 2_097_153), (4096, 262_145), (65536, 16385)];
        for (size, want) in table {
            assert_eq!(PageSize::new(size).unwrap().lock_page().as_u32(), want);
        }
    }

    #[test]
    fn all_pages_skip_the_lock_page() {
        let size = PageSize::MAX;
        let pages: Vec<u32> = Pgno::all(PageCount::new(16386), size).map(Pgno::as_u32).collect();
        assert_eq!(pages.len(), 16385);
        assert_eq!(&pages[16383..], &[16384, 16386]);
    }

    #[test]
    fn text_round_trips_and_rejects_garbage() {
        let pos: Pos = "000000000000000A/f630f5ae3060002c".parse().unwrap();
        assert_eq!(pos.to_string(), "000000000000000a/f630f5ae3060002c");
        assert_eq!(Pos::text(None), "0000000000000000/0000000000000000");
        for bad in [
            "",
            "0000000000000001",
            "0000000000000000/f630f5ae3060002c",
            "+000000000000001/f630f5ae3060002c",
        ] {
            assert!(bad.parse::<Pos>().is_err(), "{bad}");
        }
    }

    #[test]
    fn toggling_twice_is_identity_and_keeps_the_flag() {
        let sum = Checksum::from_crc(0x1234);
        let page = Checksum::from_crc(0xffff_0000);
        assert_eq!(sum.toggle(page).toggle(page), sum);
        assert_eq!(Checksum::EMPTY.toggle(page), page);
        assert!(Checksum::new(sum.toggle(page).as_u64()).is_some());
    }

    #[test]
    fn database_names_are_one_component_and_no_companion() {
        for good in ["db", "my data.sqlite", "ü.db", "a-mj"] {
            assert!(DbName::new(good).is_ok(), "{good}");
        }
        for bad in
            ["", ".", "..", "a/b", "a\0", "db-wal", "db-journal", "db-pos", ".lag", ".primary"]
        {
            assert!(DbName::new(bad).is_err(), "{bad}");
        }
    }
}
