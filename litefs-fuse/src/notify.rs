//! Telling the kernel that what it caches is no longer so.
//!
//! ```text
//!   FUSE handler ─┐
//!   engine ───────┴─▶ queue ─▶ thread "litefs-notify" ─▶ /dev/fuse
//! ```
//!
//! The kernel takes a directory's or an inode's lock for a notification, and may hold that very lock
//! for the request being answered. So nobody waits here: callers queue, one thread sends.
//!
//! Until a notification arrives the table of nodes already knows better: opening or asking about a
//! detached node answers `ESTALE`, which makes the kernel look the name up again.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;

use fuser::INodeNo;
use litefs_core::types::DbName;
use parking_lot::Mutex;

use crate::node::{Nodes, ROOT};

/// Companion files that go with their database. `-pos` and `-lock` outlive it.
const DROPPED_WITH_DATABASE: [&str; 3] = ["-journal", "-wal", "-shm"];

/// Tells the kernel what changed without it. Cheap to clone; never blocks. Drop it before the mount
/// ends: the last one keeps the FUSE device open.
#[derive(Debug, Clone)]
pub struct Notifier {
    nodes: Arc<Mutex<Nodes>>,
    queue: Sender<Notice>,
}

/// One thing for the kernel to forget.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    name: Box<str>,
    node: u64,
}

impl Notifier {
    pub(crate) fn new(nodes: Arc<Mutex<Nodes>>, queue: Sender<Notice>) -> Notifier {
        Notifier { nodes, queue }
    }

    /// The engine dropped a database: its name and those of its companions are gone.
    pub fn dropped(&self, db: &DbName) {
        self.removed(db.as_str());
        self.companions_dropped(db);
    }

    /// The names of a dropped database's companions are gone.
    pub(crate) fn companions_dropped(&self, db: &DbName) {
        for suffix in DROPPED_WITH_DATABASE {
            self.removed(&format!("{db}{suffix}"));
        }
    }

    fn removed(&self, name: &str) {
        if let Some(node) = self.nodes.lock().detach(name) {
            // Nobody receives once the mount is gone, and then nothing is cached.
            let _ = self.queue.send(Notice { name: name.into(), node: node.number });
        }
    }
}

/// Starts the thread that sends; it ends when the last [`Notifier`] is dropped.
pub(crate) fn spawn(kernel: fuser::Notifier, queue: Receiver<Notice>) -> io::Result<()> {
    let send = move || {
        for notice in queue {
            let (root, node) = (INodeNo(ROOT), INodeNo(notice.node));
            if let Err(err) = kernel.delete(root, node, notice.name.as_ref().as_ref()) {
                // Most often the mount is going away. Nothing is lost, see the head of this file.
                tracing::debug!(name = %notice.name, %err, "the kernel took no notice of a removal");
            }
        }
    };
    thread::Builder::new().name("litefs-notify".into()).spawn(send).map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::SystemTime;

    use litefs_core::db::MountName;

    use super::*;

    #[test]
    fn a_drop_is_told_for_known_names_only() {
        let nodes = Arc::new(Mutex::new(Nodes::new(SystemTime::now())));
        let known: Vec<_> = ["db", "db-wal", "db-pos", "other-wal"]
            .map(|n| nodes.lock().create(n, MountName::parse(n).unwrap()))
            .into();
        let (queue, received) = mpsc::channel();
        Notifier::new(nodes.clone(), queue).dropped(&DbName::new("db").unwrap());
        let told: Vec<_> = received.iter().map(|n| (n.name.into_string(), n.node)).collect();
        assert_eq!(told, [("db".into(), known[0].number), ("db-wal".into(), known[1].number)]);
        let current: Vec<_> = known.iter().map(|n| nodes.lock().is_current(n)).collect();
        assert_eq!(current, [false, false, true, true]);
    }
}
