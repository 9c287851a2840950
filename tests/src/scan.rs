//! The oracle of positions: a database's checksum, computed from its files alone.
//!
//! Deliberately written a second time, in the plainest way, from the formats' descriptions; it shares no
//! code with the engine.
//!
//! ```text
//!   database   page 1 │ page 2 │ …            WAL   header 32 │ frame 24 + page │ frame …
//!   checksum = XOR of CRC-64/GO-ISO(page number as u32be, page), bit 63 set, without the lock page;
//!              a page that has a committed frame counts as in its last one
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crc::{CRC_64_GO_ISO, Crc, Table};

pub(crate) const CRC64: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);
/// The checksum of a database without pages.
pub const EMPTY: u64 = FLAG;

pub(crate) const FLAG: u64 = 1 << 63;

/// The checksum of a database with its WAL, which need not exist.
///
/// # Errors
/// If the database can't be read or is no database.
pub fn checksum(database: &Path, wal: &Path) -> io::Result<u64> {
    let file = File::open(database)?;
    let len = file.metadata()?.len();
    let wal = File::open(wal).ok().map(|wal| Wal::read(&wal).map(|index| (wal, index)));
    let wal = wal.transpose()?.filter(|(_, index)| index.pages > 0);

    let (page_size, pages) = match &wal {
        Some((_, index)) => (index.page_size, index.pages.into()),
        None if len == 0 => return Ok(EMPTY),
        None => size(&file, len)?,
    };
    let lock_page = (1 << 30) / page_size + 1;

    let mut sum = 0;
    let mut page = vec![0; usize::try_from(page_size).expect("64 bits")];
    for number in (1..=pages).filter(|n| *n != lock_page) {
        let number32 = u32::try_from(number).map_err(io::Error::other)?;
        match wal.as_ref().and_then(|(wal, index)| Some((wal, index.frames.get(&number32)?))) {
            Some((wal, offset)) => wal.read_exact_at(&mut page, *offset)?,
            None => {
                // What lies past the end reads as zeros.
                page.fill(0);
                let mut done = 0;
                let offset = (number - 1) * page_size;
                while let n @ 1.. = file.read_at(&mut page[done..], offset + done as u64)? {
                    done += n;
                }
            }
        }
        sum ^= page_checksum(number32, &page);
    }
    Ok(sum | FLAG)
}

/// The checksum of one page.
pub(crate) fn page_checksum(number: u32, page: &[u8]) -> u64 {
    let mut digest = CRC64.digest();
    digest.update(&number.to_be_bytes());
    digest.update(page);
    digest.finalize() | FLAG
}

/// Page size and page count, as SQLite takes them: the header's count, if nobody older wrote last.
fn size(file: &File, len: u64) -> io::Result<(u64, u64)> {
    let mut header = [0; 100];
    file.read_exact_at(&mut header, 0)?;
    let page_size = match u64::from(u16::from_be_bytes([header[16], header[17]])) {
        1 => 65536,
        n if n >= 512 => n,
        _ => return Err(io::Error::other("not a database")),
    };
    let (counter, count, valid_for) =
        (u32_at(&header, 24), u32_at(&header, 28), u32_at(&header, 92));
    let in_header = (counter == valid_for && count > 0).then_some(count);
    Ok((page_size, in_header.map_or(len / page_size, u64::from)))
}

/// Where the committed pages of a WAL are.
#[derive(Debug, Default)]
struct Wal {
    page_size: u64,
    /// Size of the database after the last commit, in pages; 0 if there was none.
    pages: u32,
    /// Page number → offset of its content.
    frames: HashMap<u32, u64>,
}

impl Wal {
    /// Follows the checksum chain from the header to where it breaks.
    fn read(file: &File) -> io::Result<Wal> {
        let mut wal = Wal::default();
        let mut header = [0; 32];
        if file.read_exact_at(&mut header, 0).is_err() {
            return Ok(wal);
        }
        let big_endian = match u32_at(&header, 0) {
            0x377f_0682 => false,
            0x377f_0683 => true,
            _ => return Ok(wal),
        };
        let mut chain = fold((0, 0), &header[..24], big_endian);
        if chain != (u32_at(&header, 24), u32_at(&header, 28)) {
            return Ok(wal);
        }
        wal.page_size = u32_at(&header, 8).into();

        let mut frame = vec![0; 24 + usize::try_from(wal.page_size).expect("64 bits")];
        let mut offset = 32;
        let mut uncommitted = HashMap::new();
        while file.read_exact_at(&mut frame, offset).is_ok() {
            chain = fold(fold(chain, &frame[..8], big_endian), &frame[24..], big_endian);
            if frame[8..16] != header[16..24] || chain != (u32_at(&frame, 16), u32_at(&frame, 20)) {
                break;
            }
            uncommitted.insert(u32_at(&frame, 0), offset + 24);
            let commit = u32_at(&frame, 4);
            if commit != 0 {
                wal.pages = commit;
                wal.frames.extend(uncommitted.drain());
            }
            offset += 24 + wal.page_size;
        }
        Ok(wal)
    }
}

fn fold((mut a, mut b): (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        let word = |at| {
            let word = u32_at(pair, at);
            if big_endian { word } else { word.swap_bytes() }
        };
        a = a.wrapping_add(word(0)).wrapping_add(b);
        b = b.wrapping_add(word(4)).wrapping_add(a);
    }
    (a, b)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
