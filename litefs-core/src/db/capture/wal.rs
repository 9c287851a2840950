//! Follows a WAL's checksum chain from the last captured transaction and cuts the next ones.
//!
//! ```text
//!  0         32                 captured            frontier
//!  | header  | frame | frame ...   | frame | frame     | next frame
//!            |---- captured -------|---- pending ------|
//! ```
//!
//! A frame is valid only if all before it are; a transaction ends at a valid frame with a commit size.
//! Pending frames are valid but have no commit frame yet. Who tells the tailer that the WAL may have
//! grown, and whether a transaction is accepted, is none of its business: see [`super`].
//!
//! SQLite: fileformat2, "The WAL File Format"; `wal.c`. What it does beside appending:
//! * a transaction that spilled overwrites its own earlier frames in place and rewrites the frame
//!   headers *after* writing the commit frame (`walRewriteChecksums`): the chain then becomes valid late;
//! * a rolled-back transaction's frames are overwritten by the next one: pending frames are given up;
//! * the app dies, or its fsync fails, between commit frame and wal-index: the captured transaction is an
//!   **orphan**, and the next writer overwrites captured frames. [`WalTail::rewind`] then says which pages
//!   the log has in a version that SQLite forgot.
//!
//! Invariant: `pages` holds, for each page with a captured frame, the latest such frame and its checksum.

use std::io;

use crate::env::File;
use crate::ltx::page_checksum;
use crate::sqlite::wal::{FRAME_HEADER_LEN, WAL_HEADER_LEN, frame_offset};
use crate::sqlite::{Chain, FrameHeader, WalHeader};
use crate::types::{Checksum, PageCount, PageSize, Pgno};

use crate::db::plan::{WalPage, WalPages, WalSpan};

/// The checkpoint sequence number of WALs that a replica begins. SQLite counts on from it when it begins the next,
/// and gives it no meaning.
pub(in crate::db) const APPLY_SEQ: u32 = 0x4c46_4150;

/// The state of the tailer for one generation of a WAL (from one header to the next).
#[derive(Debug)]
pub(in crate::db) struct WalTail {
    header: WalHeader,
    pages: WalPages,
    /// Frames in captured transactions.
    captured: u32,
    /// At the end of the captured frames.
    chain: Chain,
    /// Valid frames after them.
    pending: Vec<(Pgno, Checksum)>,
    pending_chain: Chain,
    /// One frame.
    buf: Vec<u8>,
}

/// A transaction found at the end of the captured frames.
#[derive(Debug)]
pub(in crate::db) struct WalTx {
    /// Pages in the database after it.
    pub(in crate::db) commit: PageCount,
    /// Its pages, each by its last frame.
    pub(in crate::db) pages: WalPages,
    /// Its bytes.
    pub(in crate::db) span: WalSpan,
    frames: u32,
    chain: Chain,
}

impl WalTail {
    /// Begins with the WAL's header; `None` while the file has no valid one.
    pub(in crate::db) fn open(wal: &dyn File) -> io::Result<Option<WalTail>> {
        let mut bytes = [0; WAL_HEADER_LEN];
        if wal.read_at(&mut bytes, 0)? < WAL_HEADER_LEN {
            return Ok(None);
        }
        let Ok(header) = WalHeader::decode(&bytes) else { return Ok(None) };
        let chain = Chain::start(&header);
        Ok(Some(WalTail {
            buf: vec![0; FRAME_HEADER_LEN + header.page_size.as_usize()],
            header,
            pages: WalPages::new(),
            captured: 0,
            chain,
            pending: Vec::new(),
            pending_chain: chain,
        }))
    }

    pub(in crate::db) fn page_size(&self) -> PageSize {
        self.header.page_size
    }

    /// Whether a replica has begun it: see [`APPLY_SEQ`].
    pub(in crate::db) fn is_by_apply(&self) -> bool {
        self.header.checkpoint_seq == APPLY_SEQ
    }

    pub(in crate::db) fn header(&self) -> WalHeader {
        self.header
    }

    /// The chain at the end of the captured frames.
    pub(in crate::db) fn chain(&self) -> Chain {
        self.chain
    }

    pub(in crate::db) fn salt(&self) -> [u32; 2] {
        self.header.salt
    }

    /// Captured pages.
    pub(in crate::db) fn pages(&self) -> &WalPages {
        &self.pages
    }

    /// Number of captured frames.
    pub(in crate::db) fn captured(&self) -> u32 {
        self.captured
    }

    /// Where the captured frames end.
    pub(in crate::db) fn captured_end(&self) -> u64 {
        frame_offset(self.captured, self.header.page_size)
    }

    /// Where the next frame will be looked for.
    pub(in crate::db) fn frontier(&self) -> u64 {
        frame_offset(self.captured + self.pending.len() as u32, self.header.page_size)
    }

    /// The index of the frame that holds the byte at `offset`, which lies past the header.
    pub(in crate::db) fn frame_at(&self, offset: u64) -> u32 {
        let index = (offset - WAL_HEADER_LEN as u64) / self.buf.len() as u64;
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// Follows the chain to the next commit frame, if the file has it.
    pub(in crate::db) fn advance(&mut self, wal: &dyn File) -> io::Result<Option<WalTx>> {
        while let Some(frame) = self.next_frame(wal)? {
            if !frame.commit.is_zero() {
                return Ok(Some(self.cut(frame.commit)));
            }
        }
        Ok(None)
    }

    /// Takes a found transaction as captured.
    pub(in crate::db) fn accept(&mut self, tx: WalTx) {
        self.captured += tx.frames;
        self.chain = tx.chain;
        self.pending.drain(..tx.frames as usize);
        self.pages.extend(tx.pages);
    }

    /// Gives up pending frames from `frame` on: they were, or will be, overwritten.
    pub(in crate::db) fn give_up(&mut self, wal: &dyn File, frame: u32) -> io::Result<()> {
        let keep = frame.saturating_sub(self.captured) as usize;
        if keep < self.pending.len() {
            self.pending_chain = self.chain_at(wal, self.captured + keep as u32)?;
            self.pending.truncate(keep);
        }
        Ok(())
    }

    /// Forgets captured frames from `frame` on, before they are overwritten. Returns the pages whose
    /// logged version is lost by that, with its checksum.
    pub(in crate::db) fn rewind(
        &mut self,
        wal: &dyn File,
        frame: u32,
    ) -> io::Result<Vec<(Pgno, Checksum)>> {
        let chain = self.chain_at(wal, frame)?;
        let lost: Vec<(Pgno, Checksum)> = self
            .pages
            .iter()
            .filter(|(_, page)| page.frame >= frame)
            .map(|(pgno, page)| (*pgno, page.sum))
            .collect();
        // Nothing changes before all reads have succeeded.
        let mut before = WalPages::new();
        for index in 0..frame {
            wal.read_exact_at(&mut self.buf, frame_offset(index, self.header.page_size))?;
            let Some((head, content)) = self.buf.split_first_chunk() else { continue };
            let Some(FrameHeader { pgno, .. }) = FrameHeader::decode(head) else { continue };
            if lost.binary_search_by_key(&pgno, |(p, _)| *p).is_ok() {
                let sum = page_checksum(pgno, content);
                before.insert(pgno, WalPage { frame: index, sum, backfilled: false });
            }
        }
        for (pgno, _) in &lost {
            self.pages.remove(pgno);
        }
        self.pages.extend(before);
        self.captured = frame;
        self.chain = chain;
        self.pending.clear();
        self.pending_chain = chain;
        Ok(lost)
    }

    /// Notes that a page was written to the database file: `sum` if exactly one page of content was.
    pub(in crate::db) fn backfilled(&mut self, pgno: Pgno, sum: Option<Checksum>) {
        if let Some(page) = self.pages.get_mut(&pgno) {
            page.backfilled = sum == Some(page.sum);
        }
    }

    fn next_frame(&mut self, wal: &dyn File) -> io::Result<Option<FrameHeader>> {
        let offset = self.frontier();
        if wal.read_at(&mut self.buf, offset)? < self.buf.len() {
            return Ok(None);
        }
        let Some((head, content)) = self.buf.split_first_chunk() else { return Ok(None) };
        let Some((frame, chain)) = self.pending_chain.check(head, content) else { return Ok(None) };
        self.pending.push((frame.pgno, page_checksum(frame.pgno, content)));
        self.pending_chain = chain;
        Ok(Some(frame))
    }

    fn cut(&self, commit: PageCount) -> WalTx {
        let mut pages = WalPages::new();
        for (frame, (pgno, sum)) in (self.captured..).zip(&self.pending) {
            pages.insert(*pgno, WalPage { frame, sum: *sum, backfilled: false });
        }
        let offset = frame_offset(self.captured, self.header.page_size);
        let span = WalSpan { salt: self.header.salt, offset, len_bytes: self.frontier() - offset };
        WalTx { commit, pages, span, frames: self.pending.len() as u32, chain: self.pending_chain }
    }

    /// The chain before `frame`, from the checksum that the frame before it carries.
    fn chain_at(&self, wal: &dyn File, frame: u32) -> io::Result<Chain> {
        let Some(before) = frame.checked_sub(1) else { return Ok(Chain::start(&self.header)) };
        if frame == self.captured {
            return Ok(self.chain);
        }
        let mut head = [0; FRAME_HEADER_LEN];
        wal.read_exact_at(&mut head, frame_offset(before, self.header.page_size))?;
        let frame = FrameHeader::decode(&head).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Chain::resume(&self.header, frame.checksum))
    }
}
