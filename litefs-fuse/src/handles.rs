//! Open files: the numbers the kernel holds them by, and the backing files it was given.
//!
//! Invariants:
//! - A handle's number is never used twice, so a late request can't reach another file.
//! - Of one inode, either every open handle is in passthrough, through one backing ID, or none is:
//!   the kernel refuses a mixture with `EIO`. The ID lives until the last of them is released.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::Arc;

use litefs_core::cluster::Halted;
use litefs_core::db::OpenFile;
use parking_lot::{Mutex, RwLock};

use crate::node::Node;

/// What a handle is open on.
#[derive(Debug, Clone)]
pub(crate) enum Handle {
    /// A file of a database.
    File(Arc<OpenNode>),
    /// `.lag`, `.primary`, `-pos` or `-lock`.
    Special(Arc<Node>),
    /// `-lock`, opened for writing on a replica: the halt lock is held as long as it is open.
    Halted(Arc<Node>, Arc<Halted>),
    /// The root directory, with its names as of the last read from the beginning.
    Directory(Arc<Mutex<Vec<String>>>),
}

/// An open file of a database.
#[derive(Debug)]
pub(crate) struct OpenNode {
    /// The node it was opened by.
    pub(crate) node: Arc<Node>,
    /// The engine's side.
    pub(crate) file: OpenFile,
}

/// All open handles.
#[derive(Debug, Default)]
pub(crate) struct Handles(RwLock<Table>);

#[derive(Debug, Default)]
struct Table {
    last: u64,
    open: HashMap<u64, Handle>,
}

impl Handles {
    /// Adds a handle and numbers it.
    pub(crate) fn insert(&self, handle: Handle) -> u64 {
        let mut table = self.0.write();
        table.last += 1;
        let number = table.last;
        table.open.insert(number, handle);
        number
    }

    /// The handle of that number.
    pub(crate) fn get(&self, number: u64) -> Option<Handle> {
        self.0.read().open.get(&number).cloned()
    }

    /// Takes a handle out. It closes when the last operation on it has ended.
    pub(crate) fn remove(&self, number: u64) -> Option<Handle> {
        self.0.write().open.remove(&number)
    }

    /// Some open handle of a file that may have lost its name.
    pub(crate) fn of_node(&self, number: u64) -> Option<Arc<OpenNode>> {
        self.0.read().open.values().find_map(|handle| match handle {
            Handle::File(open) if open.node.number == number => Some(open.clone()),
            _ => None,
        })
    }
}

/// The backing IDs of inodes in passthrough. `B` is `fuser::BackingId` but in tests.
#[derive(Debug)]
pub(crate) struct Backings<B>(Mutex<BackingTable<B>>);

#[derive(Debug)]
struct BackingTable<B> {
    /// Once an inode had to do without, all later ones do: whether an inode is in passthrough must not change
    /// while it is open, and the reasons (rights, kernel, file system) don't go away.
    off: bool,
    by_node: HashMap<u64, (Arc<B>, usize)>,
}

impl<B> Backings<B> {
    /// No backing files yet, or never any.
    pub(crate) fn new(enabled: bool) -> Backings<B> {
        Backings(Mutex::new(BackingTable { off: !enabled, by_node: HashMap::new() }))
    }

    /// The backing ID for one more handle of an inode; `open` makes it for the first. `None`: page cache.
    pub(crate) fn acquire(
        &self,
        node: u64,
        open: impl FnOnce() -> io::Result<B>,
    ) -> Option<Arc<B>> {
        let mut table = self.0.lock();
        let off = table.off;
        match table.by_node.entry(node) {
            Entry::Occupied(mut entry) => {
                entry.get_mut().1 += 1;
                Some(entry.get().0.clone())
            }
            Entry::Vacant(_) if off => None,
            Entry::Vacant(entry) => match open() {
                Ok(id) => {
                    let id = Arc::new(id);
                    entry.insert((id.clone(), 1));
                    Some(id)
                }
                Err(err) => {
                    table.off = true;
                    tracing::info!(%err, "no passthrough for -shm files, the page cache serves them");
                    None
                }
            },
        }
    }

    /// A handle of the inode was released.
    pub(crate) fn release(&self, node: u64) {
        let mut table = self.0.lock();
        if let Entry::Occupied(mut entry) = table.by_node.entry(node) {
            entry.get_mut().1 -= 1;
            if entry.get().1 == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handle_numbers_are_not_used_twice() {
        let handles = Handles::default();
        let first = handles.insert(Handle::Directory(Arc::default()));
        assert!(handles.remove(first).is_some());
        assert!(handles.remove(first).is_none());
        assert_ne!(handles.insert(Handle::Directory(Arc::default())), first);
        assert!(handles.get(first).is_none());
    }

    #[test]
    fn handles_of_an_inode_share_one_backing_until_the_last() {
        let backings = Backings::new(true);
        let first = backings.acquire(7, || Ok("a")).unwrap();
        let second = backings.acquire(7, || panic!("opened twice")).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        backings.release(7);
        assert!(Arc::ptr_eq(&first, &backings.acquire(7, || panic!("closed early")).unwrap()));
        backings.release(7);
        backings.release(7);
        assert_eq!(*backings.acquire(7, || Ok("b")).unwrap(), "b");
    }

    #[test]
    fn an_inode_in_the_page_cache_stays_there() {
        let backings = Backings::new(true);
        let other = backings.acquire(1, || Ok("a"));
        assert_eq!(backings.acquire(2, || Err(io::ErrorKind::PermissionDenied.into())), None);
        assert_eq!(backings.acquire(2, || Ok("late")), None);
        // Those in passthrough stay so, too.
        assert_eq!(backings.acquire(1, || Ok("another")), other);
    }

    #[test]
    fn disabled_means_never() {
        let backings = Backings::new(false);
        assert_eq!(backings.acquire(1, || Ok("a")), None);
        backings.release(1);
    }
}
