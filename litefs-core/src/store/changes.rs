//! News of a store: which databases have new transactions, and what the node has become.
//!
//! ```text
//! commit ───► Database::publish ─┬─► Event::Tx ────────────► each Events (bounded; one too slow is cut off)
//! log has it ► Database::encode ─┴─► name into dirty set ──► each Subscription (bounded by the number of databases)
//! role ─────► Store::become_… ─────► Event::PrimaryChange, and wakes each Subscription
//! ```
//!
//! A [`Subscription`] says *that* a database can be read on from the log, never what was written: a
//! subscriber that is slow finds one entry, however much happened. It is waited for by a thread; [`Events`] are
//! for async code.
//!
//! Invariant: a commit costs one load of an atomic while nobody listens.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::types::{DbName, PageCount, PageSize, Pos};

/// What has happened in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A database has a new position.
    Tx {
        /// The database.
        db: DbName,
        /// Its position.
        pos: Pos,
        /// Its page size; `None` if it was dropped.
        page_size: Option<PageSize>,
        /// Its pages; 0 if it was dropped.
        commit: PageCount,
        /// When that was.
        timestamp: SystemTime,
    },
    /// The node has become the primary, ceased to be it, or follows another one.
    PrimaryChange {
        /// Whether it is the primary now.
        is_primary: bool,
        /// The primary it follows, if there is one.
        hostname: Option<String>,
    },
}

/// Waits for news of a store. Made by [`crate::store::Store::subscribe`].
#[derive(Debug)]
pub struct Subscription {
    inbox: Arc<Inbox>,
    changes: Arc<Changes>,
}

/// Ends the waiting of a [`Subscription`] from elsewhere, at the latest when it is dropped.
#[derive(Debug)]
pub struct Closer(Arc<Inbox>);

/// What has changed since a subscription was last asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Databases whose logs have new transactions.
    pub databases: BTreeSet<DbName>,
    /// The node's role is, or was, another one.
    pub role: bool,
    /// There is something for this replica that isn't a transaction.
    pub nudged: bool,
    /// Nothing comes any more.
    pub closed: bool,
}

/// Receives events from when it was made on. Made by [`crate::store::Store::events`].
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
    changes: Arc<Changes>,
}

/// The receiver was too slow: events are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow;

/// The hub.
pub(crate) struct Changes {
    inboxes: Mutex<Vec<Arc<Inbox>>>,
    /// How many inboxes there are; read at each commit.
    subscribed: AtomicUsize,
    events: broadcast::Sender<Event>,
    /// How many receivers of events there are; read at each commit.
    listening: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inbox {
    changed: Mutex<Changed>,
    arrived: Condvar,
}

impl Subscription {
    /// Waits until something changes, at most until `deadline`. If it returns early, something has.
    pub fn wait(&self, deadline: Instant) -> Changed {
        let mut changed = self.inbox.changed.lock();
        while *changed == Changed::default() {
            if self.inbox.arrived.wait_until(&mut changed, deadline).timed_out() {
                break;
            }
        }
        let closed = changed.closed;
        std::mem::replace(&mut changed, Changed { closed, ..Changed::default() })
    }

    /// Lets somebody else end the waiting.
    pub fn closer(&self) -> Closer {
        Closer(Arc::clone(&self.inbox))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inboxes = self.changes.inboxes.lock();
        inboxes.retain(|inbox| !Arc::ptr_eq(inbox, &self.inbox));
        self.changes.subscribed.store(inboxes.len(), Ordering::Release);
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.put(|changed| changed.closed = true);
    }
}

impl Events {
    /// The next event. Cancel-safe.
    ///
    /// # Errors
    /// If events were lost.
    pub async fn next(&mut self) -> Result<Event, Overflow> {
        // The hub lives as long as this receiver: it is never closed.
        self.receiver.recv().await.map_err(|_: RecvError| Overflow)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.changes.listening.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Changes {
    pub(crate) fn new() -> Arc<Changes> {
        Arc::new(Changes {
            inboxes: Mutex::default(),
            subscribed: AtomicUsize::new(0),
            events: broadcast::Sender::new(MAX_EVENTS),
            listening: AtomicUsize::new(0),
        })
    }

    pub(super) fn subscribe(self: &Arc<Self>) -> Subscription {
        let inbox = Arc::<Inbox>::default();
        let mut inboxes = self.inboxes.lock();
        inboxes.push(Arc::clone(&inbox));
        self.subscribed.store(inboxes.len(), Ordering::Release);
        Subscription { inbox, changes: Arc::clone(self) }
    }

    pub(super) fn events(self: &Arc<Self>) -> Events {
        let receiver = self.events.subscribe();
        self.listening.fetch_add(1, Ordering::AcqRel);
        Events { receiver, changes: Arc::clone(self) }
    }

    /// How many subscriptions there are.
    pub(super) fn subscribers(&self) -> usize {
        self.subscribed.load(Ordering::Acquire)
    }

    /// The log of a database has a new committed transaction.
    pub(crate) fn logged(&self, db: &DbName) {
        if self.subscribers() == 0 {
            return;
        }
        self.each_inbox(|changed| {
            if !changed.databases.contains(db) {
                changed.databases.insert(db.clone());
            }
        });
    }

    /// A transaction was committed.
    pub(crate) fn emit(&self, event: impl FnOnce() -> Event) {
        if self.listening.load(Ordering::Acquire) > 0 {
            // An error means that the last receiver has just gone.
            let _ = self.events.send(event());
        }
    }

    /// Wakes each subscription, for what it finds elsewhere.
    pub(super) fn nudge(&self) {
        self.each_inbox(|changed| changed.nudged = true);
    }

    /// The node's role changed.
    pub(super) fn role_changed(&self, is_primary: bool, hostname: Option<String>) {
        self.emit(|| Event::PrimaryChange { is_primary, hostname });
        self.each_inbox(|changed| changed.role = true);
    }

    fn each_inbox(&self, put: impl Fn(&mut Changed)) {
        self.inboxes.lock().iter().for_each(|inbox| inbox.put(&put));
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("subscribed", &self.subscribed).finish_non_exhaustive()
    }
}

impl Inbox {
    fn put(&self, put: impl FnOnce(&mut Changed)) {
        put(&mut self.changed.lock());
        self.arrived.notify_one();
    }
}

/// What a receiver of events may have waiting.
const MAX_EVENTS: usize = 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn name(text: &str) -> DbName {
        DbName::new(text).unwrap()
    }

    fn now(subscription: &Subscription) -> Changed {
        subscription.wait(Instant::now())
    }

    #[test]
    fn a_slow_subscriber_finds_one_entry_per_database() {
        let changes = Changes::new();
        changes.logged(&name("before"));
        let subscription = changes.subscribe();
        assert_eq!(now(&subscription), Changed::default());
        for _ in 0..1000 {
            changes.logged(&name("a"));
            changes.logged(&name("b"));
        }
        assert_eq!(now(&subscription).databases, BTreeSet::from([name("a"), name("b")]));
        assert_eq!(now(&subscription), Changed::default());
        drop(subscription);
        assert_eq!(changes.subscribers(), 0);
    }

    #[test]
    fn waiting_ends_by_a_change_a_role_and_a_closer() {
        let changes = Changes::new();
        let subscription = changes.subscribe();
        let closer = subscription.closer();
        let far = || Instant::now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            scope.spawn(|| changes.logged(&name("a")));
            assert!(subscription.wait(far()).databases.contains(&name("a")));
            scope.spawn(|| changes.role_changed(false, None));
            assert!(subscription.wait(far()).role);
            scope.spawn(|| drop(closer));
            assert!(subscription.wait(far()).closed);
        });
        assert!(subscription.wait(far()).closed, "for good");
    }

    #[tokio::test]
    async fn a_receiver_that_is_too_slow_is_told() {
        let changes = Changes::new();
        changes.emit(|| unreachable!("nobody listens"));
        let mut events = changes.events();
        changes.role_changed(true, None);
        let first = Event::PrimaryChange { is_primary: true, hostname: None };
        assert_eq!(events.next().await, Ok(first));
        for _ in 0..=MAX_EVENTS {
            changes.role_changed(false, None);
        }
        assert_eq!(events.next().await, Err(Overflow));
    }
}
