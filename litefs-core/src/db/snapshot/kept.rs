//! Old pages that an open snapshot still needs: some in memory, the others in a file without a name.
//!
//! ```text
//!  page 1 … read │ read + 1 …                            commit
//!  ──────────────┼──────────────────────────────────────────────
//!   forgotten    │ memory:  page → bytes, at most 4 MiB
//!                │ spill:   page n where a database has page n; one bit per page says which are there
//! ```
//!
//! What isn't here: which pages must be kept, and when (see [`super::image`]).
//!
//! Invariants: a page is kept at most once, and never changes afterwards, so what was spilled can be read
//! without any lock. Memory doesn't grow with the database but for the bits: 32 KiB for each GiB in pages
//! of 4 KiB.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::env::{Env, File, OpenMode};
use crate::ltx::page_checksum;
use crate::types::{Checksum, PageCount, PageSize, Pgno};

/// The kept pages of one snapshot.
#[derive(Debug)]
pub(super) struct Kept {
    page_size: PageSize,
    commit: PageCount,
    /// So many pages have been read, from the first on.
    read: PageCount,
    memory: BTreeMap<Pgno, Box<[u8]>>,
    spill: Option<Spill>,
    place: SpillPlace,
    /// Pages that were written before the snapshot began, with the checksum of what they held. Their old
    /// content has to come from elsewhere: see [`super::originals`].
    missing: BTreeMap<Pgno, Checksum>,
    /// Why a page couldn't be kept.
    lost: Option<io::Error>,
}

/// Where a spill file is made. Its name goes at once: it vanishes with the process.
#[derive(Debug)]
pub(super) struct SpillPlace {
    pub(super) env: Arc<dyn Env>,
    pub(super) path: PathBuf,
}

#[derive(Debug)]
struct Spill {
    file: Arc<dyn File>,
    pages: Vec<u64>,
}

/// Pages of a batch that the spill file has.
#[derive(Debug)]
pub(super) struct Spilled {
    pub(super) file: Arc<dyn File>,
    pub(super) pages: Vec<Pgno>,
}

impl Kept {
    pub(super) fn new(
        page_size: PageSize,
        commit: PageCount,
        place: SpillPlace,
        missing: BTreeMap<Pgno, Checksum>,
    ) -> Kept {
        Kept {
            page_size,
            commit,
            read: PageCount::ZERO,
            memory: BTreeMap::new(),
            spill: None,
            place,
            missing,
            lost: None,
        }
    }

    /// How many pages have been read, from the first on.
    pub(super) fn read(&self) -> PageCount {
        self.read
    }

    /// Whether a page's place still holds what the snapshot needs of it.
    pub(super) fn needs(&self, pgno: Pgno) -> bool {
        self.lost.is_none()
            && self.commit.contains(pgno)
            && !self.read.contains(pgno)
            && !self.has(pgno)
            && !self.missing.contains_key(&pgno)
    }

    /// Whether a page is kept.
    pub(super) fn has(&self, pgno: Pgno) -> bool {
        self.memory.contains_key(&pgno) || self.spill.as_ref().is_some_and(|s| s.has(pgno))
    }

    /// Keeps a page.
    pub(super) fn put(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        if self.memory.len() < MAX_MEMORY / self.page_size.as_usize() {
            self.memory.insert(pgno, page.into());
            return Ok(());
        }
        let spill = match self.spill.take() {
            Some(spill) => spill,
            None => Spill::create(&self.place, self.commit)?,
        };
        self.spill.insert(spill).put(pgno, page, self.page_size)
    }

    /// A page couldn't be kept: the snapshot is of no use any more.
    pub(super) fn lose(&mut self, why: io::Error) {
        self.memory.clear();
        self.spill = None;
        self.missing.clear();
        self.lost = Some(why);
    }

    /// Why the snapshot is of no use any more, if so; told once.
    pub(super) fn take_lost(&mut self) -> Option<io::Error> {
        self.lost.take()
    }

    /// The pages whose old content isn't known yet.
    pub(super) fn missing(&self) -> Vec<Pgno> {
        self.missing.keys().copied().collect()
    }

    /// Keeps the page if it is a missing one and has the right content.
    pub(super) fn offer(&mut self, pgno: Pgno, page: &[u8]) {
        let Some(want) = self.missing.get(&pgno) else { return };
        if page.len() != self.page_size.as_usize() || page_checksum(pgno, page) != *want {
            return;
        }
        self.missing.remove(&pgno);
        if let Err(err) = self.put(pgno, page) {
            self.lose(err);
        }
    }

    /// Moves kept pages up to `last` into `buf`, which begins with page `first`, and counts all up to there
    /// as read. Spilled ones are left to the caller.
    pub(super) fn take(&mut self, first: Pgno, last: Pgno, buf: &mut [u8]) -> Option<Spilled> {
        while let Some(entry) = self.memory.first_entry().filter(|entry| *entry.key() <= last) {
            let (pgno, page) = entry.remove_entry();
            slot(buf, first, pgno, self.page_size).copy_from_slice(&page);
        }
        self.read = PageCount::new(last.as_u32());
        let spill = self.spill.as_ref()?;
        let pages: Vec<Pgno> = pages(first, last).filter(|pgno| spill.has(*pgno)).collect();
        (!pages.is_empty()).then(|| Spilled { file: Arc::clone(&spill.file), pages })
    }
}

impl Spill {
    fn create(place: &SpillPlace, commit: PageCount) -> io::Result<Spill> {
        let file = place.env.open(&place.path, OpenMode::Create)?;
        place.env.remove_file(&place.path)?;
        Ok(Spill { file, pages: vec![0; commit.as_u32() as usize / 64 + 1] })
    }

    fn has(&self, pgno: Pgno) -> bool {
        let (word, bit) = Spill::bit(pgno);
        self.pages.get(word).is_some_and(|w| w & bit != 0)
    }

    fn put(&mut self, pgno: Pgno, page: &[u8], page_size: PageSize) -> io::Result<()> {
        self.file.write_at(page, pgno.offset(page_size))?;
        let (word, bit) = Spill::bit(pgno);
        if let Some(w) = self.pages.get_mut(word) {
            *w |= bit;
        }
        Ok(())
    }

    fn bit(pgno: Pgno) -> (usize, u64) {
        (pgno.as_u32() as usize / 64, 1 << (pgno.as_u32() % 64))
    }
}

/// Pages `first ..= last`.
pub(super) fn pages(first: Pgno, last: Pgno) -> impl Iterator<Item = Pgno> {
    (first.as_u32()..=last.as_u32()).filter_map(Pgno::new)
}

/// Where a page lies in a buffer that begins with page `first`.
pub(super) fn slot(buf: &mut [u8], first: Pgno, pgno: Pgno, page_size: PageSize) -> &mut [u8] {
    let at = (pgno.as_u32() - first.as_u32()) as usize * page_size.as_usize();
    &mut buf[at..at + page_size.as_usize()]
}

/// What one snapshot keeps in memory at most.
const MAX_MEMORY: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemEnv;

    const SIZE: PageSize = match PageSize::new(4096) {
        Some(size) => size,
        None => PageSize::MAX,
    };

    fn content(pgno: Pgno) -> Vec<u8> {
        (0..4096).map(|i| (i as u32 ^ pgno.as_u32().wrapping_mul(2_654_435_761)) as u8).collect()
    }

    #[test]
    fn what_memory_cannot_hold_is_spilled_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spill");
        let place = SpillPlace { env: Arc::new(SystemEnv), path: path.clone() };
        let commit = PageCount::new(3 * (MAX_MEMORY / 4096) as u32);
        let mut kept = Kept::new(SIZE, commit, place, BTreeMap::new());
        let is_kept = |pgno: &Pgno| !pgno.as_u32().is_multiple_of(7);
        let all = || Pgno::all(commit, SIZE);
        // Scattered, as a writer does it.
        for pgno in
            all().filter(|p| p.as_u32() % 2 == 0).chain(all().filter(|p| p.as_u32() % 2 == 1))
        {
            assert!(kept.needs(pgno));
            if is_kept(&pgno) {
                kept.put(pgno, &content(pgno)).unwrap();
                assert!(!kept.needs(pgno));
            }
        }
        assert_eq!(kept.memory.len() * 4096, MAX_MEMORY);
        assert!(!path.exists(), "the file has no name");

        let batch = 64;
        let mut buf = vec![0; batch * 4096];
        for first in all().step_by(batch) {
            let last = Pgno::new((first.as_u32() + batch as u32 - 1).min(commit.as_u32())).unwrap();
            buf.fill(0);
            if let Some(spilled) = kept.take(first, last, &mut buf) {
                for pgno in spilled.pages {
                    let place = slot(&mut buf, first, pgno, SIZE);
                    spilled.file.read_exact_at(place, pgno.offset(SIZE)).unwrap();
                }
            }
            for pgno in pages(first, last) {
                let want = if is_kept(&pgno) { content(pgno) } else { vec![0; 4096] };
                assert!(slot(&mut buf, first, pgno, SIZE) == want, "page {pgno}");
                assert!(!kept.needs(pgno), "a page that was read");
            }
        }
        assert!(kept.memory.is_empty());
    }

    #[test]
    fn only_the_right_content_of_a_missing_page_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let place = SpillPlace { env: Arc::new(SystemEnv), path: dir.path().join("spill") };
        let page = Pgno::FIRST;
        let missing = BTreeMap::from([(page, page_checksum(page, &content(page)))]);
        let mut kept = Kept::new(SIZE, PageCount::new(1), place, missing);
        assert!(!kept.needs(page), "its place holds something else");
        kept.offer(page, &vec![0; 4096]);
        kept.offer(page, &content(page)[..512]);
        assert_eq!(kept.missing(), [page]);
        kept.offer(page, &content(page));
        assert!(kept.missing().is_empty() && kept.has(page));
    }
}
