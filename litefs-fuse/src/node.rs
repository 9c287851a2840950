//! Names and inode numbers: which number the kernel knows a file by, and which file that is now.
//!
//! ```text
//!   name ──by_name──▶ number ──slots──▶ Node { number, name, what }, lookups
//!                                        │
//!              current: by_name points back at it
//!              detached: it doesn't (unlinked, or replaced by a new file of the same name)
//! ```
//!
//! What isn't here: whether a file exists. That is asked of the engine each time; the table only
//! numbers what the kernel has seen.
//!
//! Invariants:
//! - A number stands for one file from its creation to its end and is never given out again, so cached
//!   pages and attributes can't pass from a file to its successor of the same name.
//! - Numbers don't repeat from one mount to the next either: a process may still hold files of a dead
//!   mount, and SQLite tells files apart by device and inode number.
//! - A slot lives as long as the kernel counts lookups on it (LOOKUP and CREATE add one, FORGET takes
//!   them away). So the table is as large as the kernel's own cache, no larger.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use litefs_core::db::MountName;

/// The number of the root directory, given by the FUSE protocol.
pub(crate) const ROOT: u64 = 1;

/// What `readdir` says of a file that the kernel hasn't looked up: any number but 0, which would hide it.
pub(crate) const UNKNOWN: u64 = u32::MAX as u64;

/// One file the kernel knows.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its inode number.
    pub(crate) number: u64,
    /// Its name in the mount when it was numbered.
    pub(crate) name: Box<str>,
    /// What the name stands for.
    pub(crate) what: MountName,
}

#[derive(Debug)]
struct Slot {
    node: Arc<Node>,
    lookups: u64,
}

/// All files the kernel knows.
#[derive(Debug)]
pub(crate) struct Nodes {
    next: u64,
    slots: HashMap<u64, Slot>,
    by_name: HashMap<Box<str>, u64>,
}

impl Nodes {
    /// An empty table whose numbers begin at the clock: 2^20 numbers for each second since 1970.
    pub(crate) fn new(now: SystemTime) -> Nodes {
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(1, |d| d.as_secs().max(1));
        Nodes { next: seconds << 20, slots: HashMap::new(), by_name: HashMap::new() }
    }

    /// The node of an existing file, numbered now if it wasn't; counts a lookup.
    pub(crate) fn look_up(&mut self, name: &str, what: MountName) -> Arc<Node> {
        let known = self.by_name.get(name).and_then(|number| self.slots.get_mut(number));
        match known {
            Some(slot) => {
                slot.lookups += 1;
                slot.node.clone()
            }
            None => self.create(name, what),
        }
    }

    /// The node of a file that was just created. An earlier file of that name is detached.
    pub(crate) fn create(&mut self, name: &str, what: MountName) -> Arc<Node> {
        let number = self.next;
        self.next += 1;
        let node = Arc::new(Node { number, name: name.into(), what });
        self.slots.insert(number, Slot { node: node.clone(), lookups: 1 });
        self.by_name.insert(name.into(), number);
        node
    }

    /// The file of that name is gone, though the kernel may still hold its number.
    pub(crate) fn detach(&mut self, name: &str) -> Option<Arc<Node>> {
        let number = self.by_name.remove(name)?;
        self.slots.get(&number).map(|slot| slot.node.clone())
    }

    /// The kernel dropped `count` lookups.
    pub(crate) fn forget(&mut self, number: u64, count: u64) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        slot.lookups = slot.lookups.saturating_sub(count);
        if slot.lookups > 0 {
            return;
        }
        if self.by_name.get(&slot.node.name) == Some(&number) {
            self.by_name.remove(&slot.node.name);
        }
        self.slots.remove(&number);
    }

    /// The node of a number the kernel uses.
    pub(crate) fn node(&self, number: u64) -> Option<Arc<Node>> {
        self.slots.get(&number).map(|slot| slot.node.clone())
    }

    /// Whether the node's name still stands for this file.
    pub(crate) fn is_current(&self, node: &Node) -> bool {
        self.by_name.get(&node.name) == Some(&node.number)
    }

    /// The number of a name, if the kernel knows it.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.by_name.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn nodes() -> Nodes {
        Nodes::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000))
    }

    fn what(name: &str) -> MountName {
        MountName::parse(name).unwrap()
    }

    #[test]
    fn lookups_of_a_name_share_a_number_until_it_is_forgotten() {
        let mut nodes = nodes();
        let first = nodes.look_up("db", what("db"));
        assert_eq!(nodes.look_up("db", what("db")).number, first.number);
        nodes.forget(first.number, 1);
        assert!(nodes.node(first.number).is_some());
        nodes.forget(first.number, 1);
        assert!(nodes.node(first.number).is_none());
        assert_eq!(nodes.number("db"), None);
    }

    #[test]
    fn a_new_file_never_gets_the_number_of_the_old_one() {
        let mut nodes = nodes();
        let old = nodes.create("db-wal", what("db-wal"));
        nodes.detach("db-wal").unwrap();
        let new = nodes.create("db-wal", what("db-wal"));
        assert_ne!(old.number, new.number);
        assert!(!nodes.is_current(&old));
        assert!(nodes.is_current(&new));
    }

    #[test]
    fn forgetting_the_old_file_leaves_the_new_one() {
        let mut nodes = nodes();
        let old = nodes.create("db", what("db"));
        let new = nodes.create("db", what("db"));
        nodes.forget(old.number, 1);
        assert_eq!(nodes.number("db"), Some(new.number));
    }

    #[test]
    fn forgetting_too_much_or_the_unknown_is_harmless() {
        let mut nodes = nodes();
        let node = nodes.create("db", what("db"));
        nodes.forget(node.number, u64::MAX);
        nodes.forget(node.number, 1);
        nodes.forget(ROOT, 1);
        assert!(nodes.node(node.number).is_none());
    }

    #[test]
    fn numbers_of_two_mounts_differ() {
        let mut first = nodes();
        let mut second = Nodes::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_001));
        let last_of_first =
            (0..1000).map(|i| first.create(&format!("d{i}"), MountName::Lag).number).max();
        assert!(last_of_first < Some(second.create("d", MountName::Lag).number));
    }
}
