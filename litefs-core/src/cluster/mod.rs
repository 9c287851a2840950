//! The role of a node: leads while it holds the lease, else follows the one who does.
//!
//! ```text
//!            lease acquired            lease lost, stop
//!        ┌───────────────► LEADS ─────────────────────────┐
//!  ASKS ─┤                                                ├─► waits a little ─► ASKS
//!        └───────────────► FOLLOWS ───────────────────────┘
//!           primary found              stream ended, stop
//! ```
//!
//! [`RoleLoop::run`] is the loop; decisions are in `role`, a stream's life is in `replica`, and what its
//! transactions do in `apply`. What isn't here: who grants the lease (`litefs-lease`), the server side of streams
//! ([`crate::http`]), and files ([`crate::db`]).
//!
//! Invariants: the node may write only between a lease acquired and the same lease left; when the loop returns, it
//! is a replica without a primary, the lease is released, and no thread of the loop runs any more.
//!
//! Differs from LiteFS: waits grow and vary instead of being one second; a silent primary is left.

mod apply;
mod forward;
mod queue;
mod replica;
mod role;

use std::sync::Arc;
use std::time::{Duration, Instant};

use litefs_lease::{ClusterId, Lease, LeaseError, Leaser, PrimaryInfo, Progress};
use tokio::sync::watch;

use crate::error::{Error, chain};
use crate::http::client::Timeouts;
use crate::store::Store;
use crate::types::DbName;

pub use forward::{HaltError, Halted, halt};
use replica::{FollowError, Following};
use role::{Admission, Backoff, admit};

/// How a node takes part.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether it may lead.
    pub candidate: bool,
    /// The databases that it wants as a replica; all, if empty.
    pub databases: Vec<DbName>,
    /// The longest wait between two attempts; the first is an eighth of it.
    pub reconnect_delay: Duration,
    /// When to give up waiting for a primary.
    pub timeouts: Timeouts,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            candidate: true,
            databases: Vec::new(),
            reconnect_delay: Duration::from_secs(1),
            timeouts: Timeouts { connect: Duration::from_secs(5), silence: Duration::from_secs(3) },
        }
    }
}

/// Leads and follows.
#[derive(Debug)]
pub struct RoleLoop {
    store: Arc<Store>,
    leaser: Arc<dyn Leaser>,
    options: Options,
    ready: watch::Sender<bool>,
    backoff: Backoff,
}

/// Tells when a node has become the primary, or has got all that the primary had, for the first time.
#[derive(Debug, Clone)]
pub struct Ready(watch::Receiver<bool>);

impl Ready {
    /// Whether it is so.
    pub fn is_ready(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is so. Cancel-safe.
    ///
    /// # Errors
    /// If the loop ended before.
    pub async fn wait(&mut self) -> Result<(), NeverReady> {
        self.0.wait_for(|ready| *ready).await.map(drop).map_err(|_| NeverReady)
    }
}

/// The node was stopped before it was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped before the node was ready")]
pub struct NeverReady;

impl RoleLoop {
    /// A loop that is still to be run.
    pub fn new(store: Arc<Store>, leaser: Arc<dyn Leaser>, options: Options) -> RoleLoop {
        let backoff = Backoff::new(options.reconnect_delay);
        RoleLoop { store, leaser, options, ready: watch::Sender::new(false), backoff }
    }

    /// Tells when the node is ready.
    pub fn ready(&self) -> Ready {
        Ready(self.ready.subscribe())
    }

    /// Runs until `stop` is done, and then until the role is laid down in good order.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let (tell, told) = watch::channel(());
        let work = self.work(Stop(told));
        tokio::pin!(work);
        tokio::select! {
            () = &mut work => return,
            () = stop => drop(tell),
        }
        work.await;
    }

    async fn work(mut self, mut stop: Stop) {
        self.store.become_replica(None);
        while !stop.is_told() {
            // A lease that comes in the moment of the stop ends by itself.
            match stop.or(self.ask()).await {
                None => break,
                Some(Ok(Role::Leads(lease))) => self.lead(lease, &mut stop).await,
                Some(Ok(Role::Follows(primary))) => self.follow(&primary, &mut stop).await,
                Some(Err(why)) => tracing::info!("{why}"),
            }
            let wait = self.backoff.wait(self.store.random());
            stop.or(tokio::time::sleep(wait)).await;
        }
    }

    /// What the node is to be now; else why it is nothing.
    async fn ask(&self) -> Result<Role, String> {
        let (id, kind) = (self.id(), self.leaser.kind());
        let cluster = self.leaser.cluster_id().await.map_err(|err| {
            format!("cannot fetch cluster ID from \"{kind}\" lease, retrying: {err}")
        })?;
        let shown = cluster.as_ref().map(ClusterId::to_string).unwrap_or_default();
        let admission = admit(self.store.cluster_id().as_ref(), cluster.as_ref());
        match admission {
            Admission::Member => {}
            Admission::Guest => tracing::info!(
                "cannot become primary, local node has no cluster ID and \"{kind}\" lease already initialized with cluster ID {shown}"
            ),
            Admission::Stranger => {
                return Err(format!(
                    "cannot connect, \"{kind}\" lease already initialized with different ID: {shown}"
                ));
            }
        }
        match (self.leaser.primary_info().await, admission) {
            (Ok(primary), _) => Ok(Role::Follows(primary)),
            (Err(err), Admission::Guest) => Err(format!("cannot find primary, retrying: {err}")),
            (Err(err @ LeaseError::NoPrimary), _) if !self.options.candidate => Err(format!(
                "{id}: cannot find primary & ineligible to become primary, retrying: {err}"
            )),
            (Err(LeaseError::NoPrimary), _) => self.acquire().await,
            (Err(err), _) => {
                Err(format!("{id}: cannot acquire lease or find primary, retrying: {err}"))
            }
        }
    }

    async fn acquire(&self) -> Result<Role, String> {
        let taken = match self.leaser.acquire().await {
            Ok(lease) => return Ok(Role::Leads(lease)),
            // Somebody was faster.
            Err(LeaseError::PrimaryExists) => self.leaser.primary_info().await.map(Role::Follows),
            Err(err) => Err(err),
        };
        taken.map_err(|err| {
            format!("{}: cannot acquire lease or find primary, retrying: {err}", self.id())
        })
    }

    async fn lead(&mut self, mut lease: Box<dyn Lease>, stop: &mut Stop) {
        let id = self.id();
        let url = &self.leaser.own_info().advertise_url;
        tracing::info!("{id}: primary lease acquired, advertising as {url}");
        let lost = match self.set_cluster_id().await {
            Ok(()) => {
                self.store.become_primary_until(lease.deadline());
                self.ready.send_replace(true);
                let lost = hold(&self.store, lease.as_mut(), stop).await;
                self.store.become_replica(None);
                lost
            }
            Err(err) => Err(err),
        };
        tracing::info!("{id}: exiting primary, destroying lease");
        if let Err(err) = lease.release().await {
            tracing::warn!("{id}: cannot remove lease: {err}");
        }
        if let Err(err) = lost {
            tracing::warn!("{id}: primary lease lost, retrying: {err}");
        }
    }

    /// Sees to it that node and lease have the same cluster ID. It is stored last: once there, it is for good.
    async fn set_cluster_id(&self) -> Result<(), LeadError> {
        let local = self.store.cluster_id();
        let known = local.is_some();
        let id = local.unwrap_or_else(|| ClusterId::from_random(self.store.random()));
        if self.leaser.cluster_id().await.map_err(LeadError::LeaseId)?.is_none() {
            self.leaser.set_cluster_id(&id).await.map_err(LeadError::LeaseId)?;
            let kind = self.leaser.kind();
            tracing::info!("set cluster id on \"{kind}\" lease \"{id}\"");
        }
        if !known {
            self.store.adopt_cluster_id(&id).map_err(LeadError::LocalId)?;
        }
        Ok(())
    }

    async fn follow(&mut self, primary: &PrimaryInfo, stop: &mut Stop) {
        let id = self.id();
        let PrimaryInfo { hostname, advertise_url } = primary;
        tracing::info!(
            "{id}: existing primary found ({hostname}), connecting as replica to \"{advertise_url}\""
        );
        self.store.become_replica(Some(primary.clone()));
        let ended = self.stream(primary, stop).await;
        self.store.become_replica(None);
        match ended {
            _ if stop.is_told() => {}
            Ok(()) => tracing::info!("{id}: disconnected from primary, retrying"),
            Err(err) => {
                tracing::warn!("{id}: disconnected from primary with error, retrying: {err}");
            }
        }
    }

    async fn stream(&mut self, primary: &PrimaryInfo, stop: &mut Stop) -> Result<(), FollowError> {
        let connect = Following::connect(&self.store, primary, &self.options);
        let Some(following) = stop.or(connect).await else { return Ok(()) };
        let (following, since) = (following?, Instant::now());
        let ended = following.run(self.ready.clone(), stop.told()).await;
        // A stream that breaks at once, again and again, is no success.
        if since.elapsed() > self.options.reconnect_delay {
            self.backoff.reset();
        }
        ended
    }

    fn id(&self) -> String {
        format!("{:016X}", self.store.node_id())
    }
}

enum Role {
    Leads(Box<dyn Lease>),
    Follows(PrimaryInfo),
}

/// Why a lease is given up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum LeadError {
    #[error("set leaser cluster id: {0}")]
    LeaseId(#[source] LeaseError),
    #[error("set local cluster id: {}", chain(.0))]
    LocalId(#[source] Error),
    #[error(transparent)]
    Lost(#[from] LeaseError),
}

/// Renews the lease half-way to its deadline, until it is lost or there is reason to stop.
async fn hold(store: &Store, lease: &mut dyn Lease, stop: &mut Stop) -> Result<(), LeadError> {
    loop {
        let Some(deadline) = lease.deadline() else {
            stop.told().await;
            return Ok(());
        };
        let half = deadline.saturating_duration_since(Instant::now()) / 2;
        if stop.or(tokio::time::sleep(half)).await.is_none() {
            return Ok(());
        }
        match lease.renew(Progress::default()).await {
            Ok(()) => store.become_primary_until(lease.deadline()),
            Err(err @ LeaseError::Expired) => return Err(err.into()),
            Err(err) if Instant::now() + RENEW_DELAY < deadline => {
                tracing::warn!("{:016X}: lease renewal error, retrying: {err}", store.node_id());
                if stop.or(tokio::time::sleep(RENEW_DELAY)).await.is_none() {
                    return Ok(());
                }
            }
            Err(_) => return Err(LeaseError::Expired.into()),
        }
    }
}

/// Tells when to stop.
#[derive(Debug, Clone)]
struct Stop(watch::Receiver<()>);

impl Stop {
    fn is_told(&self) -> bool {
        self.0.has_changed().is_err()
    }

    /// Waits for it. Cancel-safe.
    async fn told(&self) {
        // Nothing is ever sent: it only ends when the sender is dropped.
        let mut told = self.0.clone();
        while told.changed().await.is_ok() {}
    }

    /// The result, unless it is time to stop: then what was under way is dropped.
    async fn or<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.told() => None,
        }
    }
}

const RENEW_DELAY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
