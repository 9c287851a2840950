//! Where the wal-index keeps which frame holds which page.
//!
//! ```text
//!  block 0:  | header 136 | page numbers 4062 × 4 | hash slots 8192 × 2 |   32 KiB
//!  block n:  |              page numbers 4096 × 4 | hash slots 8192 × 2 |   32 KiB
//! ```
//!
//! Frames are numbered from 1 here, as in the wal-index. A block's *i*-th page number is that of its *i*-th frame;
//! a slot holds *i* (from 1), at the first free place from `page × 383 mod 8192` on.
//!
//! Invariant of [`Block::insert`]: what a reader finds of earlier frames is never disturbed; a page number is
//! there before the slot that leads to it.
//!
//! Source: SQLite fileformat2, "WAL-Index Hash Table"; `wal.c`, `walIndexAppend`, `walCleanupHash`.

use crate::types::Pgno;

/// Length of a block in bytes.
pub const BLOCK_LEN: usize = 32 * 1024;

/// One block of the wal-index, as bytes of the file.
#[derive(Debug, Clone)]
pub struct Block {
    index: u32,
    bytes: Vec<u8>,
}

/// Where an insertion changed the block: offsets in the file and their new content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inserted {
    /// The page number.
    pub page: (u64, [u8; 4]),
    /// The slot, to be written after it.
    pub slot: (u64, [u8; 2]),
}

impl Block {
    /// The index of the block that has a frame.
    pub fn of_frame(frame: u32) -> u32 {
        (frame + FRAMES - FRAMES_FIRST - 1) / FRAMES
    }

    /// Where a block begins in the file.
    pub fn offset(index: u32) -> u64 {
        u64::from(index) * BLOCK_LEN as u64
    }

    /// From the bytes that the file has; what is missing is zero.
    pub fn new(index: u32, mut bytes: Vec<u8>) -> Block {
        bytes.resize(BLOCK_LEN, 0);
        Block { index, bytes }
    }

    /// The bytes after the header.
    pub fn table(&self) -> (u64, &[u8]) {
        let start = self.pages_start();
        (Block::offset(self.index) + start as u64, &self.bytes[start..])
    }

    /// Forgets the frames after `last`, whose entries a writer may have left that didn't finish.
    /// Returns whether there were any.
    pub fn forget_after(&mut self, last: u32) -> bool {
        let keep = last.saturating_sub(self.frames_before()).min(FRAMES);
        let mut found = false;
        for slot in self.bytes[SLOTS_START..].as_chunks_mut::<2>().0 {
            if u32::from(u16::from_ne_bytes(*slot)) > keep {
                *slot = [0; 2];
                found = true;
            }
        }
        let pages = self.pages_start() + keep as usize * 4;
        for byte in &mut self.bytes[pages.min(SLOTS_START)..SLOTS_START] {
            found |= *byte != 0;
            *byte = 0;
        }
        found
    }

    /// Enters a frame, which must be one of the block's. `None` if the block is damaged: it has no free slot.
    pub fn insert(&mut self, frame: u32, pgno: Pgno) -> Option<Inserted> {
        let number = u16::try_from(frame.checked_sub(self.frames_before())?).ok()?;
        let page_at = self.pages_start() + usize::from(number.checked_sub(1)?) * 4;
        let page = pgno.as_u32().to_ne_bytes();
        self.bytes.get_mut(..SLOTS_START)?.get_mut(page_at..page_at + 4)?.copy_from_slice(&page);
        let first = pgno.as_u32().wrapping_mul(HASH) % SLOTS;
        let slot_at = (0..SLOTS)
            .map(|step| SLOTS_START + ((first + step) % SLOTS) as usize * 2)
            .find(|at| self.bytes[*at..*at + 2] == [0; 2])?;
        let slot = number.to_ne_bytes();
        self.bytes[slot_at..slot_at + 2].copy_from_slice(&slot);
        let base = Block::offset(self.index);
        Some(Inserted { page: (base + page_at as u64, page), slot: (base + slot_at as u64, slot) })
    }

    fn frames_before(&self) -> u32 {
        match self.index {
            0 => 0,
            n => FRAMES_FIRST + (n - 1) * FRAMES,
        }
    }

    fn pages_start(&self) -> usize {
        if self.index == 0 { HEADER_LEN } else { 0 }
    }
}

const HEADER_LEN: usize = 136;
const FRAMES: u32 = 4096;
const FRAMES_FIRST: u32 = FRAMES - HEADER_LEN as u32 / 4;
const SLOTS_START: usize = FRAMES as usize * 4;
const SLOTS: u32 = 8192;
const HASH: u32 = 383;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_begin_where_sqlite_says() {
        for (frame, block) in [(1, 0), (4062, 0), (4063, 1), (8158, 1), (8159, 2)] {
            assert_eq!(Block::of_frame(frame), block, "frame {frame}");
        }
    }

    /// Looks a page up as SQLite's `walFindFrame` does.
    fn find(block: &Block, pgno: Pgno, last: u32) -> Option<u32> {
        let number = |bytes: &[u8]| u32::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let mut at = pgno.as_u32().wrapping_mul(HASH) % SLOTS;
        let mut found = None;
        loop {
            let slot = number(&block.bytes[SLOTS_START + at as usize * 2..]);
            if slot == 0 {
                return found;
            }
            let page = block.pages_start() + (slot as usize - 1) * 4;
            let frame = block.frames_before() + slot;
            if frame <= last && block.bytes[page..page + 4] == pgno.as_u32().to_ne_bytes() {
                found = found.max(Some(frame));
            }
            at = (at + 1) % SLOTS;
        }
    }

    #[test]
    fn the_latest_frame_of_a_page_is_found() {
        for index in [0, 2] {
            let mut block = Block::new(index, Vec::new());
            let first = block.frames_before() + 1;
            let pages: Vec<u32> = (0..3000).map(|i| 1 + i * 7919 % 977).collect();
            for (frame, page) in (first..).zip(&pages) {
                block.insert(frame, Pgno::new(*page).unwrap()).unwrap();
            }
            for last in [first, first + 500, first + 2999] {
                for page in [1, 2, 500, 977, 978] {
                    let seen = &pages[..=(last - first) as usize];
                    let want = seen.iter().rposition(|p| *p == page).map(|i| first + i as u32);
                    assert_eq!(find(&block, Pgno::new(page).unwrap(), last), want, "page {page}");
                }
            }
        }
    }

    #[test]
    fn forgets_what_an_unfinished_writer_left() {
        let pgno = |n| Pgno::new(n).unwrap();
        let mut block = Block::new(0, Vec::new());
        for frame in 1..=3 {
            block.insert(frame, pgno(frame * 7)).unwrap();
        }
        let kept = block.clone();
        block.insert(4, pgno(21)).unwrap();
        block.insert(5, pgno(8)).unwrap();
        assert!(block.forget_after(3));
        assert_eq!(block.bytes, kept.bytes);
        assert!(!block.forget_after(3));
    }

    #[test]
    fn a_full_block_takes_no_more() {
        let mut block = Block::new(1, Vec::new());
        let first = FRAMES_FIRST + 1;
        for i in 0..FRAMES {
            // All want the same slot.
            assert!(block.insert(first + i, Pgno::new(8192).unwrap()).is_some());
        }
        assert!(block.insert(first + FRAMES, Pgno::FIRST).is_none());
        assert!(block.insert(first - 1, Pgno::FIRST).is_none());
    }
}
