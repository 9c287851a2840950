//! What others may ask of a running role loop.

use std::time::Duration;

use litefs_lease::LeaseError;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::http::calls;
use crate::http::client::{ClientError, NodeUrl};
use crate::store::{Role, Store};
use crate::types::DbName;

/// Reaches a running [`super::RoleLoop`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Control(mpsc::Sender<Request>);

/// What is asked of a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// To hand its lease to that replica.
    HandOver { to: u64 },
    /// To be a replica, whoever leads then.
    Demote,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) wish: Wish,
    pub(super) answer: oneshot::Sender<Result<(), ControlError>>,
}

/// Why a wish isn't granted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Only a primary has a lease.
    #[error("node is not currently primary")]
    NotPrimary,
    /// Its log can't be written at the moment: others would lack what was committed.
    #[error("not all that was committed to {0} is in its log")]
    NotLogged(DbName),
    /// It doesn't follow this node.
    #[error("target node is not currently connected")]
    NotConnected,
    /// The lease doesn't allow it, or is lost.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The loop is busy, or has ended.
    #[error("consul handoff timeout")]
    Timeout,
}

/// Why a node isn't made the primary.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PromoteError {
    /// There is nobody to ask.
    #[error("no primary is currently available for handoff, cannot promote")]
    NoPrimary,
    /// The primary doesn't hand over.
    #[error("handoff failed: {}", in_its_words(.0))]
    Handoff(#[from] ClientError),
}

/// Asks the primary that this node follows to hand over. If it agrees, the node becomes the primary a little later.
///
/// # Errors
/// If there is no primary, or it refuses.
pub async fn promote(store: &Store) -> Result<(), PromoteError> {
    let primary = match store.role() {
        Role::Primary => return Ok(()),
        Role::Replica { primary: Some(primary) } => primary,
        Role::Replica { primary: None } | Role::Undecided => return Err(PromoteError::NoPrimary),
    };
    let url = NodeUrl::parse(&primary.advertise_url)?;
    Ok(calls::hand_off(&url, store.node_id()).await?)
}

fn in_its_words(err: &ClientError) -> String {
    match err {
        ClientError::Refused { text, .. } if !text.is_empty() => text.clone(),
        err => err.to_string(),
    }
}

impl Control {
    pub(super) fn new() -> (Control, mpsc::Receiver<Request>) {
        let (sender, requests) = mpsc::channel(MAX_WAITING);
        (Control(sender), requests)
    }

    /// Has the primary hand its lease to the replica of that ID. Returns once that has begun.
    ///
    /// # Errors
    /// If it can't begin.
    pub async fn hand_over(&self, to: u64) -> Result<(), ControlError> {
        self.ask(Wish::HandOver { to }).await
    }

    /// Has the primary lay down its role: it hands its lease to a candidate that follows, or else gives it back and leaves
    /// it to others for a while. Returns once that has begun.
    ///
    /// # Errors
    /// If it can't begin.
    pub async fn demote(&self) -> Result<(), ControlError> {
        self.ask(Wish::Demote).await
    }

    async fn ask(&self, wish: Wish) -> Result<(), ControlError> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.0.send(Request { wish, answer }).await.ok()?;
            answered.await.ok()
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        answer.ok().flatten().ok_or(ControlError::Timeout)?
    }
}

const MAX_WAITING: usize = 16;
const PATIENCE: Duration = Duration::from_secs(5);
