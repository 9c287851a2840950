//! What a node is, and what that allows: the role, the right to write, and how far the node has come.
//!
//! The store is told; who decides is the role loop (see [`crate::cluster`]).
//!
//! ```text
//!              lead_from (files at the log's end)          stop_writes
//!   Replica ──────────────────────────────────► Primary ───────────────► Primary without the right: streams go on
//!      ▲                                           │                        │             │
//!      └───────────────── become_replica ──────────┴────────────────────────┘             └─ lead again: become_primary_until
//! ```
//!
//! Invariant: once [`Store::stop_writes`] or [`Store::become_replica`] has returned, no commit is acknowledged any more, and
//! all that was acknowledged before is in the logs, unless one can't be written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use litefs_lease::{PrimaryInfo, Progress};

use super::{Followers, Store, facts};
use crate::db::Database;
use crate::error::{Error, chain};
use crate::ltx::Timestamp;
use crate::types::Txid;

/// What the node is in the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Role {
    /// It may write.
    Primary,
    /// It may not; whom it follows, if it has found one.
    Replica {
        /// The primary.
        primary: Option<PrimaryInfo>,
    },
    /// Nothing was decided yet.
    #[default]
    Undecided,
}

/// How far a node's data may lie behind the primary's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    /// It is the primary.
    Primary,
    /// It has not heard from a primary yet.
    Unknown,
    /// At least the time since it last heard from the primary.
    Behind(Duration),
}

impl Store {
    /// The node may write from now on, without end.
    pub fn become_primary(&self) {
        self.become_primary_until(None);
    }

    /// The node may write, until `deadline` if there is one; also how a primary's deadline is moved on.
    pub fn become_primary_until(&self, deadline: Option<Instant>) {
        let before = std::mem::replace(&mut *self.role.write(), Role::Primary);
        match deadline {
            Some(deadline) => self.authority.grant_until(deadline),
            None => self.authority.grant(),
        }
        if before != Role::Primary {
            self.primary_clock.store(NEVER, Ordering::Release);
            self.options.changes.role_changed(true, None);
        }
    }

    /// The primary may not write any more, but goes on being the primary for those who follow it: they get all that was
    /// committed.
    ///
    /// # Errors
    /// If a log lacks something of that, which nobody gets then.
    pub fn stop_writes(&self) -> Result<(), Error> {
        self.authority.revoke();
        self.await_commits()
    }

    /// Commits that were under way when the right was taken away come to their end, in all databases; the first error.
    fn await_commits(&self) -> Result<(), Error> {
        let mut all = Ok(());
        for db in self.databases() {
            if let Err(err) = db.await_commits() {
                tracing::error!(db = %db.name(), err = chain(&err), "a transaction isn't in the log");
                all = all.and(Err(err));
            }
        }
        all
    }

    /// The node may not write from now on.
    pub fn become_replica(&self, primary: Option<PrimaryInfo>) {
        self.authority.revoke();
        // Before commits are waited for: one that is being forwarded would wait for a primary that is gone.
        self.withdraw_all();
        // An error was reported; the role goes in any case.
        let _ = self.await_commits();
        let hostname = primary.as_ref().map(|p| p.hostname.clone());
        let now = Role::Replica { primary };
        let mut role = self.role.write();
        let before = std::mem::replace(&mut *role, now.clone());
        drop(role);
        if before != now {
            self.withdraw_all();
            self.databases().iter().for_each(|db| db.role_changed());
            self.options.changes.role_changed(false, hostname);
        }
    }

    /// What a primary has lent this node is gone with it.
    fn withdraw_all(&self) {
        for db in self.databases() {
            db.withdraw("the primary is another one, or was lost");
        }
    }

    /// The primary was heard from; `timestamp` is by its clock.
    pub fn heard_from_primary(&self, timestamp: Timestamp) {
        self.primary_clock.store(timestamp.as_millis(), Ordering::Release);
    }

    /// How far this node has come: what it has received, or as the primary has committed. A record that is logged ahead of its
    /// journal's end isn't committed yet, and may never be.
    pub fn progress(&self) -> Progress {
        let leads = self.is_primary();
        let txid = |db: &Arc<Database>| {
            let logged = db.received_pos().map(|pos| pos.txid);
            let counts = if leads { logged.min(db.pos().map(|pos| pos.txid)) } else { logged };
            counts.map_or(0, Txid::as_u64)
        };
        let transactions = self.databases().iter().map(txid).fold(0, u64::saturating_add);
        Progress { reign: self.reign(), transactions }
    }

    /// The reign in which the node last had all that the primary had; 0 if that isn't known.
    pub(crate) fn reign(&self) -> u64 {
        self.reign.load(Ordering::Acquire)
    }

    /// The node has all that the primary of this reign had, or is that primary itself.
    ///
    /// # Errors
    /// I/O errors.
    pub fn enter_reign(&self, reign: u64) -> Result<(), Error> {
        if self.reign() != reign {
            facts::write_reign(self.env.as_ref(), &self.paths, reign)?;
            self.reign.store(reign, Ordering::Release);
        }
        Ok(())
    }

    /// The replicas that follow this node.
    pub(crate) fn followers(&self) -> &Arc<Followers> {
        &self.followers
    }

    /// What the node is.
    pub fn role(&self) -> Role {
        self.role.read().clone()
    }

    /// Whether it is the primary.
    pub fn is_primary(&self) -> bool {
        *self.role.read() == Role::Primary
    }

    /// Whether it may write at this moment.
    pub fn may_write(&self) -> bool {
        self.authority.check().is_some()
    }

    /// The host name of the primary that this node follows.
    pub fn primary_hostname(&self) -> Option<String> {
        match &*self.role.read() {
            Role::Replica { primary } => primary.as_ref().map(|p| p.hostname.clone()),
            Role::Primary | Role::Undecided => None,
        }
    }

    /// How far the node lies behind.
    pub fn lag(&self) -> Lag {
        match self.primary_timestamp() {
            _ if self.is_primary() => Lag::Primary,
            None => Lag::Unknown,
            // A primary whose clock is ahead of ours is no reason for a negative lag.
            Some(heard) => Lag::Behind(self.env.now().duration_since(heard).unwrap_or_default()),
        }
    }

    /// When the primary was last heard from, by its clock; on the primary itself that is now.
    pub fn primary_timestamp(&self) -> Option<SystemTime> {
        if self.is_primary() {
            return Some(self.env.now());
        }
        match self.primary_clock.load(Ordering::Acquire) {
            NEVER => None,
            millis => Some(Timestamp::from_millis(millis).to_system_time()),
        }
    }
}

/// No time that a primary's clock can show.
pub(super) const NEVER: i64 = i64::MIN;
