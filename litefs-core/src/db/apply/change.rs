//! Several logged transactions as one change: the newest version of each page.
//!
//! Holds no pages, only which record has the newest version of each, and its checksum: the log is read twice,
//! once to know and check, once to write. So memory doesn't grow with the size of the pages.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::log::{BlobReader, RecordMeta};
use crate::ltx::{Header, page_checksum};
use crate::types::{Checksum, PageCount, PageSize, Pgno, Pos, Txid};

use crate::db::Database;
use crate::db::plan::Logged;
use crate::db::recover::decoder;

/// Where a change leads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) pos: Pos,
    pub(super) count: PageCount,
    page_size: PageSize,
}

/// Takes pages, one after the other.
pub(super) type PageSink<'a> = dyn FnMut(Pgno, &[u8]) -> Result<(), Error> + 'a;

/// Pages to write, wherever they come from.
pub(super) trait Pages {
    /// Where they lead.
    fn to(&self) -> &Target;
    /// How many there are.
    fn len(&self) -> usize;
    /// Hands out each page once, in no order.
    fn each(&self, db: &Database, page: &mut PageSink<'_>) -> Result<(), Error>;
}

/// Several transactions of the log, and where they lead.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) to: Target,
    /// The newest of its records.
    pub(super) last: RecordMeta,
    first: Txid,
    /// Which record has the newest version of each page.
    pages: BTreeMap<Pgno, (Txid, Checksum)>,
}

impl Target {
    pub(super) fn of(meta: &RecordMeta) -> Target {
        Target { pos: meta.pos(), count: meta.commit, page_size: meta.page_size }
    }

    /// Where a transaction leads that isn't in the log.
    pub(super) fn by(header: &Header, post_apply: Checksum) -> Target {
        let pos = Pos { txid: header.max_txid, post_apply };
        Target { pos, count: header.commit, page_size: header.page_size }
    }

    pub(super) fn page_size(&self) -> PageSize {
        self.page_size
    }

    pub(super) fn logged(&self) -> Logged {
        Logged { pos: Some(self.pos), page_size: Some(self.page_size), count: self.count }
    }
}

impl Change {
    pub(super) fn begin(
        db: &Database,
        meta: RecordMeta,
        blob: BlobReader,
    ) -> Result<Change, Error> {
        let mut change = Change {
            to: Target::of(&meta),
            first: meta.min_txid,
            last: meta.clone(),
            pages: BTreeMap::new(),
        };
        change.add(db, meta, blob)?;
        Ok(change)
    }

    /// Whether a record can be part of the same change.
    pub(super) fn takes(&self, meta: &RecordMeta) -> bool {
        let bytes = self.pages.len() * self.to.page_size.as_usize();
        meta.page_size == self.to.page_size && !meta.is_snapshot() && bytes < MAX_BYTES
    }

    /// Adds the next record.
    pub(super) fn add(
        &mut self,
        db: &Database,
        meta: RecordMeta,
        blob: BlobReader,
    ) -> Result<(), Error> {
        let txid = meta.max_txid;
        let failed = |source| Error::Decode { db: db.name.clone(), txid, source };
        let mut decoder = decoder(blob).map_err(failed)?;
        let mut buf = vec![0; meta.page_size.as_usize()];
        while let Some(pgno) = decoder.next_page(&mut buf).map_err(failed)? {
            if pgno != meta.page_size.lock_page() {
                self.pages.insert(pgno, (txid, page_checksum(pgno, &buf)));
            }
        }
        decoder.finish().map_err(failed)?;
        self.to = Target::of(&meta);
        self.last = meta;
        // What was cut off and isn't there again was never there.
        let count = self.to.count;
        self.pages.retain(|pgno, _| count.contains(*pgno));
        Ok(())
    }

    /// The rolling checksum after the change to a database of `old_count` pages of the same size, whose
    /// pages' checksums `old` tells.
    pub(super) fn checksum(
        &self,
        from: &Logged,
        old_count: PageCount,
        old: impl FnMut(Pgno, &mut [u8]) -> Result<Checksum, Error>,
    ) -> Result<Checksum, Error> {
        let pages = self.pages.iter().map(|(pgno, (_, sum))| (*pgno, *sum));
        checksum_after(&self.to, pages, from, old_count, old)
    }
}

/// See [`Change::checksum`]; `pages` are the new ones.
pub(super) fn checksum_after(
    to: &Target,
    pages: impl Iterator<Item = (Pgno, Checksum)>,
    from: &Logged,
    old_count: PageCount,
    mut old: impl FnMut(Pgno, &mut [u8]) -> Result<Checksum, Error>,
) -> Result<Checksum, Error> {
    let mut buf = vec![0; to.page_size.as_usize()];
    let mut sum = if old_count.is_zero() { Checksum::EMPTY } else { Pos::checksum(from.pos) };
    for (pgno, new) in pages {
        let old = if old_count.contains(pgno) { Some(old(pgno, &mut buf)?) } else { None };
        sum = sum.with_page(old, Some(new));
    }
    let cut = (to.count.as_u32()..old_count.as_u32()).filter_map(|p| Pgno::new(p + 1));
    for pgno in cut.filter(|pgno| *pgno != to.page_size.lock_page()) {
        sum = sum.with_page(Some(old(pgno, &mut buf)?), None);
    }
    Ok(sum)
}

impl Pages for Change {
    fn to(&self) -> &Target {
        &self.to
    }

    fn len(&self) -> usize {
        self.pages.len()
    }

    fn each(&self, db: &Database, page: &mut PageSink<'_>) -> Result<(), Error> {
        db.each_logged_page(self.first..=self.last.max_txid, |txid, pgno, content| {
            match self.pages.get(&pgno) {
                Some((newest, _)) if *newest == txid => page(pgno, content),
                _ => Ok(()),
            }
        })
    }
}

/// A change of so many bytes takes no further transaction.
const MAX_BYTES: usize = 16 << 20;
