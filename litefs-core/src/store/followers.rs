//! The replicas that follow this node, as its streams know them.
//!
//! A stream enters its replica with [`Followers::enter`], tells how far it has come, and asks whether a lease is to be
//! handed over to it. The role loop chooses whom, and waits until it was sent. What isn't here: the streams
//! themselves (see `http`), and what becomes of the lease (see [`crate::cluster`]).

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::changes::Changes;

/// What a replica says of itself when it connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follower {
    /// Its node ID; 0 if it didn't say.
    pub node_id: u64,
    /// Where it connects from.
    pub addr: String,
    /// Whether it would lead.
    pub candidate: bool,
    /// The sum of the TXIDs that were sent to it, once it was sent everything.
    pub sent: Option<u64>,
}

/// All replicas that are connected.
#[derive(Debug)]
pub(crate) struct Followers {
    entries: Mutex<Vec<Arc<Entry>>>,
    changes: Arc<Changes>,
}

#[derive(Debug)]
struct Entry {
    follower: Mutex<Follower>,
    offer: Mutex<Option<Offer>>,
}

/// A lease on its way to a replica.
#[derive(Debug)]
struct Offer {
    lease: String,
    sent: oneshot::Sender<()>,
}

/// A stream's place among the followers, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    followers: Arc<Followers>,
    entry: Arc<Entry>,
}

impl Followers {
    pub(super) fn new(changes: Arc<Changes>) -> Arc<Followers> {
        Arc::new(Followers { entries: Mutex::default(), changes })
    }

    /// Those who are connected now.
    pub(crate) fn all(&self) -> Vec<Follower> {
        self.entries.lock().iter().map(|entry| entry.follower.lock().clone()).collect()
    }

    pub(crate) fn enter(self: &Arc<Self>, follower: Follower) -> Place {
        let entry = Arc::new(Entry { follower: Mutex::new(follower), offer: Mutex::default() });
        self.entries.lock().push(Arc::clone(&entry));
        Place { followers: Arc::clone(self), entry }
    }

    /// Has the lease sent to a replica, after all that was committed. The receiver gets a word when that is done, and an
    /// error if the stream ends before; `None` if the replica isn't connected.
    pub(crate) fn offer(&self, node_id: u64, lease: &str) -> Option<oneshot::Receiver<()>> {
        let entries = self.entries.lock();
        let entry = entries.iter().rev().find(|entry| entry.follower.lock().node_id == node_id)?;
        let (sent, told) = oneshot::channel();
        *entry.offer.lock() = Some(Offer { lease: lease.to_owned(), sent });
        drop(entries);
        self.changes.nudge();
        Some(told)
    }
}

impl Place {
    /// The lease to hand over, if there is one, and a word to say once it was sent.
    pub(crate) fn take_offer(&self) -> Option<(String, oneshot::Sender<()>)> {
        self.entry.offer.lock().take().map(|offer| (offer.lease, offer.sent))
    }

    /// All was sent up to here.
    pub(crate) fn sent(&self, transactions: u64) {
        self.entry.follower.lock().sent = Some(transactions);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.followers.entries.lock().retain(|entry| !Arc::ptr_eq(entry, &self.entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower(node_id: u64) -> Follower {
        Follower { node_id, addr: String::new(), candidate: true, sent: None }
    }

    #[test]
    fn a_lease_is_offered_to_the_replica_that_is_meant() {
        let followers = Followers::new(Changes::new());
        let (a, b) = (followers.enter(follower(1)), followers.enter(follower(2)));
        assert!(followers.offer(3, "x").is_none());
        let mut told = followers.offer(2, "x").unwrap();
        assert!(a.take_offer().is_none());
        let (lease, sent) = b.take_offer().unwrap();
        assert_eq!((lease.as_str(), b.take_offer().is_none()), ("x", true));
        sent.send(()).unwrap();
        assert_eq!(told.try_recv(), Ok(()));
        b.sent(7);
        drop(a);
        assert_eq!(followers.all(), [Follower { sent: Some(7), ..follower(2) }]);
    }

    #[test]
    fn a_stream_that_ends_before_the_offer_is_taken_is_noticed() {
        let followers = Followers::new(Changes::new());
        let place = followers.enter(follower(1));
        let mut told = followers.offer(1, "x").unwrap();
        drop(place);
        assert_eq!(told.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
