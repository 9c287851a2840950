//! What a transaction changes: from the pages it may have touched to the pages that differ.
//!
//! Reads pages, writes nothing. A [`View`] is the database at the moment of a commit: what the log says
//! (`logged`), where each page's content lies now, and which pages may differ. A [`Plan`] is the
//! transaction to append: its pages and the rolling checksum before and after.
//!
//! Invariant: if every page outside the candidates equals what the log says of it, then
//! `plan.post` is the checksum of the database, and applying `plan.pages` to the database at
//! `plan.pre` gives the database. A commit that leaves every page as it was has no plan.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, IoContext};
use crate::types::{Checksum, DbName, PageCount, PageSize, Pgno, Pos, Txid};

use super::capture::Writer;
use super::pages::{PageFiles, Source};

/// What the log says of the database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Logged {
    /// Position of the last transaction.
    pub(super) pos: Option<Pos>,
    /// Page size of the last transaction that had pages.
    pub(super) page_size: Option<PageSize>,
    /// Pages after the last transaction.
    pub(super) count: PageCount,
}

/// Pages of the database file whose content may differ from what the log says.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Each with its checksum by the log; `None` for a page that the logged database doesn't have.
    pub(super) pages: BTreeMap<Pgno, Option<Checksum>>,
    /// Any page may differ: the file was replaced, or its page size isn't known.
    pub(super) whole: bool,
    /// Who has written without a journal.
    pub(super) writers: Vec<Arc<Writer>>,
}

impl Dirty {
    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty() && !self.whole
    }
}

/// The latest version of a page in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WalPage {
    /// Index of the frame.
    pub(super) frame: u32,
    /// Checksum of its content.
    pub(super) sum: Checksum,
    /// Whether a checkpoint has brought exactly this content to the database file.
    pub(super) backfilled: bool,
}

/// Pages in the WAL, each by its latest frame.
pub(super) type WalPages = BTreeMap<Pgno, WalPage>;

/// Bytes of a WAL that hold one transaction, for the LTX header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WalSpan {
    pub(super) salt: [u32; 2],
    pub(super) offset: u64,
    pub(super) len_bytes: u64,
}

/// A database at the moment of a commit.
pub(super) struct View<'a> {
    pub(super) db: &'a DbName,
    pub(super) logged: &'a Logged,
    pub(super) dirty: &'a Dirty,
    /// Committed before this transaction.
    pub(super) wal: &'a WalPages,
    /// Committed by this transaction.
    pub(super) tx: &'a WalPages,
    pub(super) files: &'a PageFiles,
    /// Pages after this transaction.
    pub(super) commit: PageCount,
}

/// A transaction to append.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) txid: Txid,
    pub(super) pre: Option<Pos>,
    pub(super) post: Checksum,
    pub(super) page_size: PageSize,
    pub(super) commit: PageCount,
    /// Ascending.
    pub(super) pages: Vec<(Pgno, Source)>,
    pub(super) wal: Option<WalSpan>,
}

impl Plan {
    /// The position after the transaction.
    pub(super) fn pos(&self) -> Pos {
        Pos { txid: self.txid, post_apply: self.post }
    }

    /// What the log says once the transaction is in it.
    pub(super) fn logged(&self) -> Logged {
        Logged { pos: Some(self.pos()), page_size: Some(self.page_size), count: self.commit }
    }

    /// Size of its pages.
    pub(super) fn len_bytes(&self) -> u64 {
        self.pages.len() as u64 * u64::from(self.page_size.as_u32())
    }
}

impl View<'_> {
    /// The transaction that brings the log to this state; `None` if it is there already.
    pub(super) fn plan(&self) -> Result<Option<Plan>, Error> {
        let page_size = self.files.page_size;
        let same_size = self.logged.page_size.is_none_or(|logged| logged == page_size);
        let full = self.dirty.whole || self.logged.count.is_zero() || !same_size;
        let (pages, post) = if full { self.all_pages()? } else { self.changed_pages()? };

        let unchanged = same_size && self.commit == self.logged.count;
        if unchanged && (pages.is_empty() || full && post == Pos::checksum(self.logged.pos)) {
            return Ok(None);
        }
        let txid = Txid::after(self.logged.pos.map(|p| p.txid))
            .ok_or_else(|| Error::TxidsExhausted { db: self.db.clone() })?;
        let pre = self.logged.pos;
        Ok(Some(Plan { txid, pre, post, page_size, commit: self.commit, pages, wal: None }))
    }

    /// The checksum of all pages.
    pub(super) fn checksum(&self) -> Result<Checksum, Error> {
        let mut buf = self.files.buffer();
        let mut sum = Checksum::EMPTY;
        for pgno in Pgno::all(self.commit, self.files.page_size) {
            sum = sum.toggle(self.sum_now(pgno, &mut buf)?);
        }
        Ok(sum)
    }

    fn all_pages(&self) -> Result<(Vec<(Pgno, Source)>, Checksum), Error> {
        let pages =
            Pgno::all(self.commit, self.files.page_size).map(|p| (p, self.source(p))).collect();
        Ok((pages, self.checksum()?))
    }

    fn changed_pages(&self) -> Result<(Vec<(Pgno, Source)>, Checksum), Error> {
        let mut buf = self.files.buffer();
        let mut sum = Pos::checksum(self.logged.pos);
        let mut pages = Vec::new();
        for pgno in self.candidates() {
            let old = self.logged_sum(pgno, &mut buf)?;
            let new = self.sum_now(pgno, &mut buf)?;
            if old != Some(new) {
                sum = sum.with_page(old, Some(new));
                pages.push((pgno, self.source(pgno)));
            }
        }
        for pgno in pages_between(self.commit, self.logged.count) {
            if pgno != self.files.page_size.lock_page() {
                sum = sum.with_page(self.logged_sum(pgno, &mut buf)?, None);
            }
        }
        Ok((pages, sum))
    }

    /// Pages that may differ from the log, ascending: written ones, and all that the database grew by.
    fn candidates(&self) -> impl Iterator<Item = Pgno> {
        let grown = pages_between(self.logged.count, self.commit);
        let written = merge(self.tx.keys().copied(), self.dirty.pages.keys().copied());
        let lock_page = self.files.page_size.lock_page();
        merge(written, grown).filter(move |p| self.commit.contains(*p) && *p != lock_page)
    }

    fn source(&self, pgno: Pgno) -> Source {
        match self.tx.get(&pgno).or_else(|| self.wal.get(&pgno)) {
            Some(page) => Source::Wal(page.frame),
            None => Source::Database,
        }
    }

    /// The page's checksum as it is now.
    pub(super) fn sum_now(&self, pgno: Pgno, buf: &mut [u8]) -> Result<Checksum, Error> {
        match self.tx.get(&pgno).or_else(|| self.wal.get(&pgno)) {
            Some(page) => Ok(page.sum),
            None => self.files.sum(pgno, Source::Database, buf).at("read", self.db.as_str()),
        }
    }

    /// The page's checksum by the log. Where nothing recorded it, the database file still has it.
    fn logged_sum(&self, pgno: Pgno, buf: &mut [u8]) -> Result<Option<Checksum>, Error> {
        if !self.logged.count.contains(pgno) {
            return Ok(None);
        }
        if let Some(sum) = self.dirty.pages.get(&pgno) {
            return Ok(*sum);
        }
        match self.wal.get(&pgno) {
            Some(page) => Ok(Some(page.sum)),
            None => {
                self.files.sum(pgno, Source::Database, buf).map(Some).at("read", self.db.as_str())
            }
        }
    }
}

/// Pages `low + 1 ..= high`.
fn pages_between(low: PageCount, high: PageCount) -> impl Iterator<Item = Pgno> {
    (low.as_u32()..high.as_u32()).filter_map(|p| Pgno::new(p + 1))
}

/// Merges two ascending sequences without repeats.
fn merge<T: Ord>(
    a: impl Iterator<Item = T>,
    b: impl Iterator<Item = T>,
) -> impl Iterator<Item = T> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some(x), Some(y)) => match x.cmp(y) {
            std::cmp::Ordering::Less => a.next(),
            std::cmp::Ordering::Greater => b.next(),
            std::cmp::Ordering::Equal => {
                b.next();
                a.next()
            }
        },
        (Some(_), None) => a.next(),
        (None, _) => b.next(),
    })
}
