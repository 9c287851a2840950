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
mod control;
mod election;
mod forward;
mod lead;
mod lease_watch;
mod queue;
mod replica;
mod role;

use std::sync::Arc;
use std::time::{Duration, Instant};

use litefs_lease::{ClusterId, Lease, LeaseError, Leaser, PrimaryInfo};
use tokio::sync::{mpsc, watch};

use crate::http::client::Timeouts;
use crate::store::Store;
use crate::types::DbName;

use control::Request;
use election::{Candidate, Verdict, judge};
pub use forward::{HaltError, Halted, halt};
use lead::{Left, Reign};
use lease_watch::{LeaseWatch, News, Seen};
use replica::{FollowError, Following};
use role::{Admission, Backoff, admit};

pub use control::{Control, ControlError, PromoteError, promote};

/// How a node takes part.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether it may lead.
    pub candidate: bool,
    /// The databases that it wants as a replica; all, if empty.
    pub databases: Vec<DbName>,
    /// The longest wait between two attempts; the first is an eighth of it.
    pub reconnect_delay: Duration,
    /// How long a primary that was demoted leaves the lease to others.
    pub demote_delay: Duration,
    /// Whether a node that lacks transactions which the cluster had may lead nevertheless, after a while.
    pub allow_stale_promotion: bool,
    /// When to give up waiting for a primary.
    pub timeouts: Timeouts,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            candidate: true,
            databases: Vec::new(),
            reconnect_delay: Duration::from_secs(1),
            demote_delay: Duration::from_secs(10),
            allow_stale_promotion: false,
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
    control: Control,
    requests: mpsc::Receiver<Request>,
    backoff: Backoff,
    /// The ID of a lease that this node is to take over.
    offered: Option<String>,
    /// While it doesn't hold the lease itself.
    watch: Option<LeaseWatch>,
    /// Since when nobody has held the lease, as far as this node has seen.
    free_since: Option<Instant>,
    /// Since when the place that grants the lease doesn't know the cluster any more.
    forgotten_since: Option<Instant>,
    /// Until when this node's own lease, which is over, would have given it the right to write.
    held_until: Option<Instant>,
    /// When it last had all that a primary had.
    live_until: Option<Instant>,
    /// What was last logged, which needn't be repeated each second.
    told: String,
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
        let (control, requests) = Control::new();
        RoleLoop {
            store,
            leaser,
            options,
            ready: watch::Sender::new(false),
            control,
            requests,
            backoff,
            offered: None,
            watch: None,
            free_since: None,
            forgotten_since: None,
            held_until: None,
            live_until: None,
            told: String::new(),
        }
    }

    /// Asks the loop for things while it runs.
    pub fn control(&self) -> Control {
        self.control.clone()
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
            let (seen, mut news) = (self.watch().seen(), self.watch().news());
            // A lease that comes in the moment of the stop ends by itself.
            let Some(role) = stop.or(self.ask()).await else { break };
            let mut known = Some(None);
            match role {
                Ok(Role::Leads { lease, last_reign }) => {
                    self.lead(lease, last_reign, &mut stop).await;
                    news = self.watch().news();
                }
                Ok(Role::Follows(primary)) => {
                    self.follow(&primary, news.clone(), &mut stop).await;
                    known = Some(Some(primary));
                }
                Err(Nothing { why, wait }) => {
                    self.tell(why);
                    // What was seen before is what the answer came from, and no reason to ask again.
                    stop.or(pause(wait, news, seen)).await;
                    continue;
                }
            }
            if self.offered.is_none() {
                let wait = self.backoff.wait(self.store.random());
                stop.or(pause(wait, news, known)).await;
            }
        }
    }

    /// Watches the lease from now on.
    fn watch(&mut self) -> &mut LeaseWatch {
        let (leaser, pause) = (&self.leaser, self.options.reconnect_delay);
        self.watch.get_or_insert_with(|| LeaseWatch::start(Arc::clone(leaser), pause))
    }

    /// What the node is to be now; else why it is nothing.
    async fn ask(&mut self) -> Result<Role, Nothing> {
        let (id, kind) = (self.id(), self.leaser.kind());
        if let Some(lease_id) = self.offered.take() {
            tracing::info!("{id}: acquiring existing lease from handoff");
            return match self.leaser.acquire_existing(&lease_id).await {
                Ok(lease) => Ok(Role::Leads { lease, last_reign: 0 }),
                Err(err) => Err(self.later(format!(
                    "{id}: cannot acquire existing lease from handoff, retrying: {err}"
                ))),
            };
        }
        let cluster = self.leaser.cluster_id().await.map_err(|err| {
            self.later(format!("cannot fetch cluster ID from \"{kind}\" lease, retrying: {err}"))
        })?;
        let shown = cluster.as_ref().map(ClusterId::to_string).unwrap_or_default();
        let admission = admit(self.store.cluster_id().as_ref(), cluster.as_ref());
        if admission != Admission::Forgotten {
            self.forgotten_since = None;
        }
        match admission {
            Admission::Member => {}
            Admission::Forgotten => drop(self.forgotten_since.get_or_insert_with(Instant::now)),
            Admission::Guest => self.tell(format!(
                "cannot become primary, local node has no cluster ID and \"{kind}\" lease already initialized with cluster ID {shown}"
            )),
            Admission::Stranger => {
                return Err(self.later(format!(
                    "cannot connect, \"{kind}\" lease already initialized with different ID: {shown}"
                )));
            }
        }
        match (self.leaser.primary_info().await, admission) {
            // Held in an earlier life, or until this node couldn't renew it.
            (Ok(primary), Admission::Member | Admission::Forgotten)
                if self.options.candidate && primary == *self.leaser.own_info() =>
            {
                self.acquire(0).await
            }
            (Ok(primary), _) => Ok(Role::Follows(primary)),
            (Err(err), Admission::Guest) if !self.options.allow_stale_promotion => {
                Err(self.later(format!("cannot find primary, retrying: {err}")))
            }
            (Err(err @ LeaseError::NoPrimary), _) if !self.options.candidate => {
                Err(self.later(format!(
                    "{id}: cannot find primary & ineligible to become primary, retrying: {err}"
                )))
            }
            (Err(LeaseError::NoPrimary), _) if self.may_be_held() => Err(self.later(format!(
                "{id}: the \"{kind}\" lease knows nothing of this cluster, waiting until nobody can hold an earlier one"
            ))),
            (Err(LeaseError::NoPrimary), _) => self.stand().await,
            (Err(err), _) => {
                Err(self
                    .later(format!("{id}: cannot acquire lease or find primary, retrying: {err}")))
            }
        }
    }

    /// Whether another node may write with a lease that the place has forgotten.
    fn may_be_held(&self) -> bool {
        // While this node's own right lasted, nobody else had one.
        let was_ours = self.held_until.is_some_and(|until| Instant::now() < until);
        let term = self.leaser.term().filter(|_| !was_ours).unwrap_or_default();
        self.forgotten_since.is_some_and(|since| since.elapsed() < term)
    }

    /// Nobody holds the lease: takes it, unless another candidate should.
    async fn stand(&mut self) -> Result<Role, Nothing> {
        let id = self.id();
        let free_since = *self.free_since.get_or_insert_with(Instant::now);
        let own = Candidate {
            progress: self.store.progress(),
            was_live: self.live_until.is_some_and(|until| until.elapsed() < LIVE_FOR),
            allow_stale: self.options.allow_stale_promotion,
        };
        let failed = |err| format!("{id}: cannot acquire lease or find primary, retrying: {err}");
        let stand = || self.leaser.stand(own.progress);
        let mut known = stand().await.map_err(|err| self.later(failed(err)))?;
        if known.reached.is_some() || self.leaser.term().is_some() {
            // Others hear of the free lease in the same moment.
            tokio::time::sleep(SETTLE).await;
            known = stand().await.map_err(|err| self.later(failed(err)))?;
        }
        match judge(own, known, free_since.elapsed()) {
            Verdict::Take => self.acquire(known.reached.map_or(0, |reached| reached.reign)).await,
            Verdict::Yield => Err(Nothing {
                why: format!("{id}: another candidate may have more than this node, waiting for it"),
                wait: SETTLE,
            }),
            Verdict::Stale => Err(self.later(format!(
                "{id}: not taking the free lease: this node has {} transactions as of reign {}, but the cluster had reached {} in reign {}; \
                 start a node that has them, or set lease.allow-stale-promotion to go on without them",
                own.progress.transactions,
                own.progress.reign,
                known.reached.unwrap_or_default().transactions,
                known.reached.unwrap_or_default().reign,
            ))),
        }
    }

    async fn acquire(&mut self, last_reign: u64) -> Result<Role, Nothing> {
        let taken = match self.leaser.acquire().await {
            Ok(lease) => return Ok(Role::Leads { lease, last_reign }),
            // Somebody was faster.
            Err(LeaseError::PrimaryExists) => self.leaser.primary_info().await.map(Role::Follows),
            Err(err) => Err(err),
        };
        let why = |err: &LeaseError| {
            format!("{}: cannot acquire lease or find primary, retrying: {err}", self.id())
        };
        match taken {
            Ok(role) => Ok(role),
            Err(err @ (LeaseError::NotYet | LeaseError::NoPrimary)) => {
                Err(Nothing { why: why(&err), wait: NOT_YET_PAUSE })
            }
            Err(err) => {
                let why = why(&err);
                Err(self.later(why))
            }
        }
    }

    async fn lead(&mut self, lease: Box<dyn Lease>, last_reign: u64, stop: &mut Stop) {
        let id = self.id();
        let url = &self.leaser.own_info().advertise_url;
        tracing::info!("{id}: primary lease acquired, advertising as {url}");
        self.free_since = None;
        self.told.clear();
        self.watch = None;
        let (store, leaser, requests) = (&self.store, &self.leaser, &mut self.requests);
        refuse_all(requests);
        let mut reign = Reign { store, leaser, lease, requests, stop };
        let left = match reign.begin(last_reign).await {
            Ok(()) => {
                self.ready.send_replace(true);
                reign.hold().await
            }
            Err(err) => Err(err),
        };
        reign.end().await;
        let lease = reign.lease;
        self.held_until = lease.deadline();
        refuse_all(&mut self.requests);
        self.backoff.reset();
        if let Ok(Left::HandedOver) = left {
            tracing::info!("{id}: exiting primary, preserving lease for handoff");
            return;
        }
        tracing::info!("{id}: exiting primary, destroying lease");
        if let Err(err) = lease.release().await {
            tracing::warn!("{id}: cannot remove lease: {err}");
        }
        match left {
            Ok(Left::Demoted) => {
                let delay = self.options.demote_delay;
                tracing::info!("{id}: waiting for {delay:?} after demotion");
                let news = self.watch().news();
                stop.or(pause(delay, news, Some(None))).await;
            }
            Ok(_) => {}
            Err(err) => tracing::warn!("{id}: primary lease lost, retrying: {err}"),
        }
    }

    /// `news` are those since before the primary was asked for.
    async fn follow(&mut self, primary: &PrimaryInfo, news: News, stop: &mut Stop) {
        let id = self.id();
        let PrimaryInfo { hostname, advertise_url } = primary;
        self.tell(format!(
            "{id}: existing primary found ({hostname}), connecting as replica to \"{advertise_url}\""
        ));
        self.free_since = None;
        refuse_all(&mut self.requests);
        self.store.become_replica(Some(primary.clone()));
        let ended = self.stream(primary, news, stop).await;
        self.store.become_replica(None);
        match ended {
            Ok(Some(lease_id)) => self.offered = Some(lease_id),
            _ if stop.is_told() => {}
            Ok(None) => tracing::info!("{id}: disconnected from primary, retrying"),
            Err(err) => {
                self.tell(format!("{id}: disconnected from primary with error, retrying: {err}"));
            }
        }
    }

    /// Follows until the stream ends, or the lease names another; the result is a lease that was handed over.
    async fn stream(
        &mut self,
        primary: &PrimaryInfo,
        mut news: News,
        stop: &mut Stop,
    ) -> Result<Option<String>, FollowError> {
        let (caught_up, has_caught_up) = watch::channel(false);
        let (store, ready, options) =
            (Arc::clone(&self.store), self.ready.clone(), self.options.clone());
        let known = Some(Some(primary.clone()));
        let mut leave = std::pin::pin!(async {
            tokio::select! {
                () = stop.told() => {}
                () = news.differs(&known) => {}
            }
        });
        let following = tokio::select! {
            connected = Following::connect(&store, primary, &options) => connected?,
            () = &mut leave => return Ok(None),
        };
        let since = Instant::now();
        let ended = following.run(ready, caught_up, leave).await;
        self.told.clear();
        // A stream that breaks at once, again and again, is no success.
        if since.elapsed() > self.options.reconnect_delay {
            self.backoff.reset();
        }
        if *has_caught_up.borrow() {
            self.live_until = Some(Instant::now());
        }
        ended
    }

    /// Says it, unless it was the last thing that was said.
    fn tell(&mut self, what: String) {
        if self.told != what {
            tracing::info!("{what}");
            self.told = what;
        }
    }

    fn later(&self, why: String) -> Nothing {
        Nothing { why, wait: self.options.reconnect_delay }
    }

    fn id(&self) -> String {
        format!("{:016X}", self.store.node_id())
    }
}

/// Waits, but not longer than what is heard of the lease is `known`.
async fn pause(wait: Duration, mut news: News, known: Seen) {
    let least = wait.min(SHORTEST_PAUSE);
    tokio::time::sleep(least).await;
    tokio::select! {
        () = tokio::time::sleep(wait - least) => {}
        () = news.differs(&known) => {}
    }
}

enum Role {
    /// `last_reign` is the number of the last reign that the lease knows of.
    Leads {
        lease: Box<dyn Lease>,
        last_reign: u64,
    },
    Follows(PrimaryInfo),
}

/// No role, and when to ask again.
struct Nothing {
    why: String,
    wait: Duration,
}

/// Only a primary grants wishes.
fn refuse_all(requests: &mut mpsc::Receiver<Request>) {
    while let Ok(request) = requests.try_recv() {
        // Who asked may have given up.
        let _ = request.answer.send(Err(ControlError::NotPrimary));
    }
}

/// Work that may wait for the disk, or for SQLite's locks.
async fn off_thread<T: Send + 'static>(
    store: &Arc<Store>,
    work: impl FnOnce(&Store) -> T + Send + 'static,
) -> T {
    let store = Arc::clone(store);
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(done) => done,
        // A task of this kind isn't cancelled; it ends early by a panic only.
        Err(err) => std::panic::resume_unwind(err.into_panic()),
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

/// How long candidates that hear of a free lease give each other to say so.
const SETTLE: Duration = Duration::from_millis(100);
/// What is known of the lease may be older than what the node has just heard otherwise.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// Between two attempts to get a lease that is about to be had.
const NOT_YET_PAUSE: Duration = Duration::from_millis(50);
/// How long after the end of its stream a replica counts as one that followed to the end: a lease that isn't renewed
/// takes its time to run out.
const LIVE_FOR: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
