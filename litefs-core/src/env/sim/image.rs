//! What a disk holds after a crash: recorded operations, replayed up to the crash.
//!
//! Pure. The model is a journaling file system such as ext4 with `data=ordered`, at its least friendly:
//!
//! | change | durable after | before that, a crash keeps |
//! |---|---|---|
//! | bytes written | fsync of the file | any subset of their 512-byte sectors |
//! | length set | fsync of the file | the first so many, in order; bytes written after a lost one are lost, too |
//! | name created, removed, renamed | fsync of the directory; a name also by fsync of its file | the first so many of that directory, in order |
//! | directory created | fsync of it or of anything inside | as for other names |
//!
//! So names of one directory change in the order of the calls, but names of two directories, and names and
//! contents, have no order at all. A gap before a sector that landed reads as zeros. A file whose name
//! was removed, but not durably, comes back with its content.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Landed;

/// Names a file for good, whatever its path.
pub(super) type Ino = u64;

/// A recorded change or sync.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Create { path: PathBuf, ino: Ino },
    MakeDir { path: PathBuf },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Write { ino: Ino, offset: usize, data: Arc<[u8]> },
    SetLen { ino: Ino, len: usize },
    Sync { ino: Ino },
    SyncDir { path: PathBuf },
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Create { path, ino } => write!(f, "create {} as #{ino}", path.display()),
            Op::MakeDir { path } => write!(f, "mkdir {}", path.display()),
            Op::Unlink { path } => write!(f, "unlink {}", path.display()),
            Op::Rename { from, to } => write!(f, "rename {} {}", from.display(), to.display()),
            Op::Write { ino, offset, data } => write!(f, "write #{ino} {}@{offset}", data.len()),
            Op::SetLen { ino, len } => write!(f, "set len of #{ino} to {len}"),
            Op::Sync { ino } => write!(f, "sync #{ino}"),
            Op::SyncDir { path } => write!(f, "sync dir {}", path.display()),
        }
    }
}

/// The durable state, and what waits to become so.
#[derive(Debug, Default)]
pub(super) struct Replay {
    names: BTreeMap<PathBuf, Ino>,
    dirs: BTreeSet<PathBuf>,
    /// By directory.
    pending_names: BTreeMap<PathBuf, Vec<Op>>,
    contents: BTreeMap<Ino, Vec<u8>>,
    pending_data: BTreeMap<Ino, Vec<Op>>,
}

/// Names, directories and contents.
type Found = (BTreeMap<PathBuf, Ino>, BTreeSet<PathBuf>, BTreeMap<Ino, Vec<u8>>);

impl Replay {
    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Create { path, .. } | Op::MakeDir { path } | Op::Unlink { path } => {
                self.pending_names.entry(parent(path)).or_default().push(op.clone());
            }
            Op::Rename { to, .. } => {
                self.pending_names.entry(parent(to)).or_default().push(op.clone());
            }
            Op::Write { ino, .. } | Op::SetLen { ino, .. } => {
                self.pending_data.entry(*ino).or_default().push(op.clone());
            }
            Op::Sync { ino } => {
                let content = self.contents.entry(*ino).or_default();
                for op in self.pending_data.remove(ino).unwrap_or_default() {
                    land(content, &op);
                }
                self.sync_name(*ino);
            }
            Op::SyncDir { path } => {
                let count = self.pending_names.get(path).map_or(0, Vec::len);
                self.settle_names(path, count);
                self.sync_dir_itself(path);
            }
        }
    }

    /// What is found if everything ends here.
    pub(super) fn crash(mut self, landed: Landed) -> Found {
        let mut seed = match landed {
            Landed::Some(seed) => seed,
            Landed::Nothing | Landed::Everything => 0,
        };
        let mut choose = |count: usize| match landed {
            Landed::Nothing => 0,
            Landed::Everything => count,
            Landed::Some(_) => (next_random(&mut seed) % (count as u64 + 1)) as usize,
        };
        for dir in self.pending_names.keys().cloned().collect::<Vec<_>>() {
            let count = self.pending_names.get(&dir).map_or(0, Vec::len);
            self.settle_names(&dir, choose(count));
        }
        for (ino, ops) in std::mem::take(&mut self.pending_data) {
            let content = self.contents.entry(ino).or_default();
            let mut lens = choose(ops.iter().filter(|op| matches!(op, Op::SetLen { .. })).count());
            for op in &ops {
                match op {
                    Op::SetLen { .. } if lens == 0 => break,
                    Op::SetLen { .. } => {
                        lens -= 1;
                        land(content, op);
                    }
                    Op::Write { offset, data, .. } => {
                        for (at, sector) in sectors(*offset, data) {
                            if choose(1) == 1 {
                                put(content, sector, at);
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        // What lies in a directory that was lost is lost.
        let dirs = std::mem::take(&mut self.dirs);
        let reachable = |path: &Path| path.ancestors().skip(1).all(|dir| dirs.contains(dir));
        self.names.retain(|path, _| reachable(path));
        let dirs = dirs.iter().filter(|dir| reachable(dir)).cloned().collect();
        (self.names, dirs, self.contents)
    }

    /// An fsync of a file makes its name durable, and all changes in the directory up to it.
    fn sync_name(&mut self, ino: Ino) {
        let gives_name = |op: &Op, names: &BTreeMap<PathBuf, Ino>| match op {
            Op::Create { ino: created, .. } => *created == ino,
            Op::Rename { from, .. } => names.get(from) == Some(&ino),
            _ => false,
        };
        let found = self.pending_names.iter().find_map(|(dir, ops)| {
            let last = ops.iter().rposition(|op| gives_name(op, &self.names))?;
            Some((dir.clone(), last + 1))
        });
        if let Some((dir, count)) = found {
            self.settle_names(&dir, count);
            self.sync_dir_itself(&dir);
        }
    }

    /// A durable thing inside makes a directory's own name durable.
    fn sync_dir_itself(&mut self, dir: &Path) {
        if self.dirs.contains(dir) {
            return;
        }
        let up = parent(dir);
        let made = |op: &Op| matches!(op, Op::MakeDir { path } if path == dir);
        if let Some(at) = self.pending_names.get(&up).and_then(|ops| ops.iter().position(made)) {
            self.settle_names(&up, at + 1);
        }
        if up != dir {
            self.sync_dir_itself(&up);
        }
    }

    /// The first `count` pending changes of a directory become durable.
    fn settle_names(&mut self, dir: &Path, count: usize) {
        let Some(pending) = self.pending_names.get_mut(dir) else { return };
        let rest = pending.split_off(count.min(pending.len()));
        for op in std::mem::replace(pending, rest) {
            match op {
                Op::Create { path, ino } => {
                    self.names.insert(path, ino);
                }
                Op::MakeDir { path } => {
                    self.dirs.insert(path);
                }
                Op::Unlink { path } => {
                    self.names.remove(&path);
                }
                Op::Rename { from, to } => {
                    if let Some(ino) = self.names.remove(&from) {
                        self.names.insert(to, ino);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Writes over and past the end; a gap becomes zeros.
pub(super) fn put(content: &mut Vec<u8>, data: &[u8], offset: usize) {
    let end = offset + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(data);
}

/// The next number of a sequence that a seed gives (splitmix64).
pub(super) fn next_random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn land(content: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write { offset, data, .. } => put(content, data, *offset),
        Op::SetLen { len, .. } => content.resize(*len, 0),
        _ => {}
    }
}

/// A write cut at the borders of sectors.
fn sectors(offset: usize, data: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done;
        let len = (SECTOR_LEN - at % SECTOR_LEN).min(data.len() - done);
        let sector = &data[done..done + len];
        done += len;
        (len > 0).then_some((at, sector))
    })
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).into()
}

const SECTOR_LEN: usize = 512;
