//! The keys of one cluster in Consul, and the steps that leases and leaser share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::api::{Api, ApiError, Entry, Read};
use super::options::FastFailover;
use super::value::Value;
use crate::LeaseError;

/// Where the lease is, and how this node takes it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) api: Api,
    /// The lease's key, with the prefix.
    pub(super) key: String,
    /// The node that sessions belong to, if not the agent's own.
    pub(super) node: Option<String>,
    /// Whether that node is in the catalog, as far as we know.
    pub(super) registered: AtomicBool,
    /// This node's value, without a beat.
    pub(super) own: Value,
    pub(super) node_id: u64,
    pub(super) ttl: Duration,
    pub(super) lock_delay: Duration,
    pub(super) fast_failover: Option<FastFailover>,
}

/// Who has the lease's key.
#[derive(Debug)]
pub(super) enum Holder {
    /// This node, in this life or an earlier one.
    Own {
        session: String,
        modify_index: u64,
        value: Value,
    },
    Other {
        session: String,
        modify_index: u64,
        value: Value,
    },
    Nobody,
}

impl Place {
    pub(super) fn cluster_id_key(&self) -> String {
        format!("{}/clusterid", self.key)
    }

    pub(super) fn progress_key(&self) -> String {
        format!("{}/progress", self.key)
    }

    /// Of all candidates.
    pub(super) fn candidates_prefix(&self) -> String {
        format!("{}/candidates/", self.key)
    }

    /// Of this candidate.
    pub(super) fn candidate_key(&self) -> String {
        format!("{}{:016X}", self.candidates_prefix(), self.node_id)
    }

    /// This node's value, at that beat if it has any.
    pub(super) fn value(&self, beat: u64) -> Value {
        match self.fast_failover {
            Some(FastFailover { fence }) => self.own.with_beat(beat, fence),
            None => self.own.clone(),
        }
    }

    /// Until when the right holds that was asked for then, with a session that was made or renewed at `session_asked`.
    pub(super) fn deadline(&self, session_asked: Instant, asked: Instant) -> Instant {
        let end = session_asked + self.ttl;
        match self.fast_failover {
            Some(FastFailover { fence }) => end.min(asked + fence),
            None => end,
        }
    }

    /// Makes a session of this node.
    pub(super) async fn create_session(&self, limit: Duration) -> Result<String, ApiError> {
        self.register(limit).await?;
        let created = self.try_create_session(limit).await;
        match created {
            // Consul has lost its memory.
            Err(err) if err.is_unknown_node() => {
                self.registered.store(false, Ordering::Relaxed);
                self.register(limit).await?;
                self.try_create_session(limit).await
            }
            created => created,
        }
    }

    async fn try_create_session(&self, limit: Duration) -> Result<String, ApiError> {
        self.api.create_session(self.node.as_deref(), self.ttl, self.lock_delay, limit).await
    }

    async fn register(&self, limit: Duration) -> Result<(), ApiError> {
        match &self.node {
            Some(node) if !self.registered.load(Ordering::Relaxed) => {
                self.api.register(node, limit).await?;
                self.registered.store(true, Ordering::Relaxed);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Ends a session that holds nothing any more. If that fails it ends by itself.
    pub(super) async fn forget_session(&self, session: &str, limit: Duration) {
        if let Err(err) = self.api.destroy_session(session, limit).await {
            tracing::debug!(%err, lease_id = session, "consul session not destroyed");
        }
    }

    /// Who holds the lease at this moment.
    pub(super) async fn holder(&self, limit: Duration) -> Result<Holder, LeaseError> {
        let (entry, _) = self.api.read(&self.key, Read::Consistent, limit).await?;
        entry.map_or(Ok(Holder::Nobody), |entry| self.holder_of(entry))
    }

    /// Who holds the lease by what its key says.
    pub(super) fn holder_of(&self, entry: Entry) -> Result<Holder, LeaseError> {
        let Entry { value, session, modify_index, .. } = entry;
        let Some(session) = session.filter(|_| !value.is_empty()) else {
            return Ok(Holder::Nobody);
        };
        let value: Value =
            serde_json::from_slice(&value).map_err(|err| LeaseError::Unavailable {
                message: format!("consul: the key {} holds no lease: {err}", self.key),
            })?;
        Ok(match value.is_of(&self.own) {
            true => Holder::Own { session, modify_index, value },
            false => Holder::Other { session, modify_index, value },
        })
    }
}

/// For a request that nothing else limits.
pub(super) const REQUEST_LIMIT: Duration = Duration::from_secs(3);
