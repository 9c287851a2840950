//! Who is the primary: the lease that a node holds, and the backends that grant it.
//!
//! A [`Leaser`] is asked for the [`Lease`]; whoever holds it is the primary and alone may write. What isn't
//! here: SQLite, files, HTTP. [`StaticLeaser`] decides by configuration: one node is the primary for good.

#![forbid(unsafe_code)]

mod cluster_id;
mod fixed;

use std::fmt::Debug;
use std::time::Instant;

use async_trait::async_trait;
use thiserror::Error;

pub use cluster_id::{ClusterId, ClusterIdError};
pub use fixed::StaticLeaser;

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
    /// Tries to become the primary.
    ///
    /// # Errors
    /// [`LeaseError::PrimaryExists`] if another node holds the lease.
    async fn acquire(&self) -> Result<Box<dyn Lease>, LeaseError>;
    /// Who is the primary.
    ///
    /// # Errors
    /// [`LeaseError::NoPrimary`].
    async fn primary_info(&self) -> Result<PrimaryInfo, LeaseError>;
    /// The cluster's ID, if one was set.
    ///
    /// # Errors
    /// If the place can't be reached.
    async fn cluster_id(&self) -> Result<Option<ClusterId>, LeaseError>;
    /// Sets the cluster's ID.
    ///
    /// # Errors
    /// If the place can't be reached, or has one already.
    async fn set_cluster_id(&self, id: &ClusterId) -> Result<(), LeaseError>;
}

/// The right to be the primary. Dropping it doesn't release it: [`Lease::release`] does.
#[async_trait]
pub trait Lease: Debug + Send + Sync {
    /// Until when the right holds, by this node's monotonic clock; `None`: without end.
    fn deadline(&self) -> Option<Instant>;
    /// Holds on to the right for another term.
    ///
    /// # Errors
    /// [`LeaseError::Expired`] if it is lost.
    async fn renew(&mut self) -> Result<(), LeaseError>;
    /// Gives the right back.
    ///
    /// # Errors
    /// If the place can't be reached; the lease then ends by itself.
    async fn release(self: Box<Self>) -> Result<(), LeaseError>;
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
    /// This lease is over.
    #[error("lease expired")]
    Expired,
}
