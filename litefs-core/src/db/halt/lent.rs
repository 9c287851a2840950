//! The replica's right to write to one database, lent by the primary.
//!
//! Invariants: the right is there only while whoever asked for it keeps its [`Forward`]; it ends by the deadline, by
//! [`Database::withdraw`], or with that value, and never comes back by itself.

use std::fmt::Debug;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use thiserror::Error;

use crate::authority::Authority;
use crate::db::Database;
use crate::db::spool::Spool;
use crate::types::Pos;

/// The way to the primary that has lent the right. Dropping the last one gives the lock back.
pub(crate) trait Forward: Debug + Send + Sync {
    /// Sends a transaction and waits for the answer: once there is a good one, the primary has it. Returns until when
    /// the right is there.
    fn commit(&self, tx: Arc<Spool>) -> Result<Instant, ForwardError>;
    /// Nobody waits for an answer any more: a commit that is under way fails at once.
    fn abandon(&self);
}

/// Why it isn't known that the primary has a transaction.
#[derive(Debug, Error)]
pub(crate) enum ForwardError {
    /// It changed nothing, and the lock is still held.
    #[error("the primary can't take it now: {0}")]
    Refused(String),
    /// It may or may not have it, or the lock is gone.
    #[error("{0}")]
    Lost(String),
}

/// The right, if there is one.
#[derive(Debug, Default)]
pub(in crate::db) struct Lent {
    authority: Authority,
    forward: Mutex<Option<Weak<dyn Forward>>>,
}

impl Lent {
    /// The way to the primary, if the right is there.
    pub(in crate::db) fn forward(&self) -> Option<Arc<dyn Forward>> {
        let forward = self.forward.lock().as_ref().and_then(Weak::upgrade);
        forward.filter(|_| self.authority.check().is_some())
    }

    /// Moves the deadline of that right on, if it is still there.
    pub(in crate::db) fn extend(&self, forward: &Arc<dyn Forward>, until: Instant) {
        let held = self.forward.lock();
        if held.as_ref().is_some_and(|held| held.ptr_eq(&Arc::downgrade(forward))) {
            self.authority.grant_until(until);
        }
    }
}

impl Database {
    /// Takes the right if the database is at the position that the primary had when it gave the lock, in files and
    /// log; whether it is.
    pub(crate) fn lend(&self, at: Option<Pos>, forward: &Arc<dyn Forward>, until: Instant) -> bool {
        let capture = self.capture.lock();
        let there = capture.logged.pos == at && self.last_pos() == at && self.pos() == at;
        if there {
            let mut held = self.lent.forward.lock();
            *held = Some(Arc::downgrade(forward));
            self.lent.authority.grant_until(until);
        }
        there
    }

    /// Whether this node has the right, or had it a moment ago: what is written may wait for the primary's answer.
    pub fn is_lent(&self) -> bool {
        self.lent.forward.lock().as_ref().is_some_and(|forward| forward.strong_count() > 0)
    }

    /// The way to the primary, while this node may write to the database.
    pub(crate) fn lent(&self) -> Option<Arc<dyn Forward>> {
        self.lent.forward()
    }

    /// The right is gone.
    pub(crate) fn withdraw(&self, why: &str) {
        let held = {
            let mut held = self.lent.forward.lock();
            self.lent.authority.revoke();
            held.take()
        };
        if let Some(forward) = held.and_then(|held| held.upgrade()) {
            tracing::warn!(db = %self.name, why, "the halt lock is lost");
            forward.abandon();
        }
    }

    /// One asks for the right at a time: those who come later find what the first has got.
    pub(crate) fn halt_turn(&self) -> parking_lot::MutexGuard<'_, HaltTurn> {
        self.halt_turn.lock()
    }
}

/// Whose turn it is to ask.
#[derive(Debug, Default)]
pub(crate) struct HaltTurn;
