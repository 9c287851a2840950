//! Who is the primary: the lease that a node holds, and the backends that grant it.
//!
//! A [`Leaser`] is asked for the [`Lease`]; whoever holds it is the primary and alone may write. What isn't
//! here: SQLite, files, the HTTP server. [`StaticLeaser`] decides by configuration: one node is the primary for good.
//! `consul` (feature `consul`) lets Consul decide.
//!
//! # Writing a backend
//! A backend needs a place that many nodes see and that changes one value atomically. It promises:
//!
//! 1. At most one lease has a [`Lease::deadline`] ahead. The deadline is by the monotonic clock and counted from
//!    *before* the request that won or renewed the lease was sent, so that the holder's right ends before the place
//!    gives it to somebody else, however long the answer took.
//! 2. [`Leaser::acquire`] never waits for the present holder.
//! 3. Every method may be dropped at any `.await`: the lease is then taken or not, and if taken ends by its deadline.
//! 4. Nothing retries within a call: the caller does, and knows how long.
//!
//! All else has a default: a place that can't hand over, watch, or remember a [`Progress`] leaves those methods out. The
//! suite in `conformance` (feature `conformance`) checks a backend.

#![forbid(unsafe_code)]

mod chain;
mod cluster_id;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "consul")]
pub mod consul;
mod fixed;
mod progress;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use thiserror::Error;

pub use chain::chain;
pub use cluster_id::{ClusterId, ClusterIdError};
pub use fixed::StaticLeaser;
pub use progress::{Candidacy, Progress};

/// What a primary tells the others about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryInfo {
    /// Its host name, as shown in `.primary`.
    pub hostname: String,
    /// Where replicas reach it.
    pub advertise_url: String,
}

/// A place that grants the lease.
#[async_trait]
pub trait Leaser: Debug + Send + Sync {
    /// What kind of place it is, for logs: `static`.
    fn kind(&self) -> &'static str;
    /// What this node would tell the others as the primary.
    fn own_info(&self) -> &PrimaryInfo;
    /// The longest that a holder may write without renewing: for so long nobody takes the lease if the place has lost its
    /// memory, and may have forgotten a holder. `None`: it never forgets one.
    fn term(&self) -> Option<Duration> {
        None
    }
    /// Tries to become the primary. A lease that this same node held in an earlier life, and that nobody has taken since,
    /// is its own again.
    ///
    /// # Errors
    /// [`LeaseError::PrimaryExists`] if another node holds the lease; [`LeaseError::NotYet`] if nobody does, and it can't
    /// be had for a moment.
    async fn acquire(&self) -> Result<Box<dyn Lease>, LeaseError>;
    /// Takes over the lease `id` that its holder hands to this node.
    ///
    /// # Errors
    /// [`LeaseError::Expired`] if it is no more, [`LeaseError::PrimaryExists`] if its holder has taken it back.
    async fn acquire_existing(&self, id: &str) -> Result<Box<dyn Lease>, LeaseError> {
        let _ = id;
        Err(LeaseError::NoHandoff { kind: self.kind() })
    }
    /// Who is the primary.
    ///
    /// # Errors
    /// [`LeaseError::NoPrimary`].
    async fn primary_info(&self) -> Result<PrimaryInfo, LeaseError>;
    /// Waits until the primary is another than `known`, where `None` is nobody; then says who. Without a way to watch it
    /// waits for ever.
    ///
    /// # Errors
    /// If the place can't be reached.
    async fn primary_changed(
        &self,
        known: Option<&PrimaryInfo>,
    ) -> Result<Option<PrimaryInfo>, LeaseError> {
        let _ = known;
        std::future::pending().await
    }
    /// Says that this node would take the free lease and how far it has come, and asks the same of the others.
    ///
    /// # Errors
    /// If the place can't be reached.
    async fn stand(&self, own: Progress) -> Result<Candidacy, LeaseError> {
        let _ = own;
        Ok(Candidacy::default())
    }
    /// The cluster's ID, if one was set.
    ///
    /// # Errors
    /// If the place can't be reached.
    async fn cluster_id(&self) -> Result<Option<ClusterId>, LeaseError>;
    /// Sets the cluster's ID.
    ///
    /// # Errors
    /// [`LeaseError::HasClusterId`], or if the place can't be reached.
    async fn set_cluster_id(&self, id: &ClusterId) -> Result<(), LeaseError>;
}

/// The right to be the primary. Dropping it doesn't release it: [`Lease::release`] does.
#[async_trait]
pub trait Lease: Debug + Send + Sync {
    /// What another node needs to take it over; `None` if that can't be.
    fn id(&self) -> Option<&str> {
        None
    }
    /// Until when the right holds, by this node's monotonic clock; `None`: without end.
    fn deadline(&self) -> Option<Instant>;
    /// Holds on to the right for another term, and has the place remember how far the primary has come.
    ///
    /// # Errors
    /// [`LeaseError::Expired`] if the lease is lost. After any other the old deadline stands.
    async fn renew(&mut self, reached: Progress) -> Result<(), LeaseError>;
    /// Gives the right back.
    ///
    /// # Errors
    /// If the place can't be reached; the lease then ends by itself.
    async fn release(self: Box<Self>) -> Result<(), LeaseError>;
    /// Takes the right back from a node that was given [`Lease::id`] and hasn't used it: afterwards it can't. Either it
    /// or this node has the lease, never both.
    ///
    /// # Errors
    /// [`LeaseError::PrimaryExists`] if the other node was faster, [`LeaseError::Expired`] if nobody has the lease.
    async fn reclaim(&mut self) -> Result<(), LeaseError> {
        Err(LeaseError::PrimaryExists)
    }
}

/// Why there is no lease.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// Nobody is the primary.
    #[error("no primary")]
    NoPrimary,
    /// Somebody else is.
    #[error("primary exists")]
    PrimaryExists,
    /// Nobody holds the lease, but it can't be had for a moment: its last holder may not have noticed yet.
    #[error("the lease can't be taken yet")]
    NotYet,
    /// This lease is over.
    #[error("lease expired")]
    Expired,
    /// This kind of lease can't be handed from node to node.
    #[error("{kind} lease handoff not supported")]
    NoHandoff {
        /// The kind.
        kind: &'static str,
    },
    /// The cluster has an ID already.
    #[error("cluster already initialized, cannot set cluster id")]
    HasClusterId,
    /// The place can't be reached, or answers with an error.
    #[error("{message}")]
    Unavailable {
        /// What it says.
        message: String,
    },
}
