//! Leading: from the lease acquired to the same lease left.
//!
//! ```text
//! begin: files at the log's end ─► cluster ID ─► reign noted ─► may write ─┬─ renew, half-way to the deadline
//!                                                                          ├─ at once, if somebody else seems to hold it
//!                                                                          ├─ hand over: on request, or at the stop
//!                                                                          └─ end: may not write ─► lease released or kept
//! ```
//!
//! # Handing over loses nothing
//! 1. SQLite's write locks are taken, so that writers wait as for any other writer, and none is in the middle.
//! 2. The right to write goes, and commits that were under way come to their end ([`Store::stop_writes`]). From here on
//!    nothing is acknowledged. If a log can't take what was, this node goes on: nobody else would have it.
//! 3. The stream sends all that is in the logs and the lease's ID *after* it, in order. So whoever takes the lease over
//!    has everything.
//! 4. This node keeps the lease alive and waits until it names the other one. If that doesn't happen it takes the lease back
//!    ([`Lease::reclaim`]), which makes the ID worthless: the other one can't come later. If it can't tell who has the
//!    lease, it is nobody.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litefs_lease::{ClusterId, Lease, LeaseError, Leaser, Progress};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::control::{ControlError, Request, Wish};
use super::lease_watch::LeaseWatch;
use super::{Stop, off_thread};
use crate::db::{Applied, Database, HeldWriters};
use crate::error::{Error, chain};
use crate::store::{Follower, Store};

/// A lease, and what it is held for.
pub(super) struct Reign<'a> {
    pub(super) store: &'a Arc<Store>,
    pub(super) leaser: &'a Arc<dyn Leaser>,
    pub(super) lease: Box<dyn Lease>,
    pub(super) requests: &'a mut mpsc::Receiver<Request>,
    pub(super) stop: &'a mut Stop,
}

/// How it came to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Another node has the lease.
    HandedOver,
    /// The lease is to be released.
    Stopped,
    /// Likewise, and others shall have it for a while.
    Demoted,
}

/// Why a lease is given up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum LeadError {
    #[error("set leaser cluster id: {0}")]
    LeaseId(#[source] LeaseError),
    #[error("set local cluster id: {}", chain(.0))]
    LocalId(#[source] Error),
    #[error("note the reign: {}", chain(.0))]
    Reign(#[source] Error),
    #[error(transparent)]
    Lost(#[from] LeaseError),
}

/// What became of a handover.
enum Handover {
    Done,
    /// This node goes on.
    Kept(&'static str),
    /// Nobody knows who has the lease, or nobody has it.
    Lost(LeaseError),
}

impl Reign<'_> {
    /// What must be before the first write; `reign` is the number of the last reign that anybody knows of.
    pub(super) async fn begin(&mut self, last_reign: u64) -> Result<(), LeadError> {
        let waiting = off_thread(self.store, take_over).await;
        if !waiting.is_empty() {
            let store = Arc::clone(self.store);
            // It ends with the role: then there is nothing to take over.
            tokio::task::spawn_blocking(move || take_over_rest(&store, waiting));
        }
        self.set_cluster_id().await?;
        if self.lease.deadline().is_some() {
            let reign = self.store.reign().max(last_reign) + 1;
            self.store.enter_reign(reign).map_err(LeadError::Reign)?;
            match self.lease.renew(self.store.progress()).await {
                Err(err @ LeaseError::Expired) => return Err(err.into()),
                Err(err) => {
                    tracing::warn!("{}: cannot tell how far this node is: {err}", self.id());
                }
                Ok(()) => {}
            }
        }
        self.grant();
        Ok(())
    }

    /// Renews the lease half-way to its deadline, until it is lost, handed over, or there is reason to stop; and at once if
    /// it seems to be another's: somebody may have ended it before its time.
    pub(super) async fn hold(&mut self) -> Result<Left, LeadError> {
        let watch = LeaseWatch::start(Arc::clone(self.leaser), RETRY);
        let (mut news, own) = (watch.news(), Some(Some(self.leaser.own_info().clone())));
        loop {
            tokio::select! {
                () = self.stop.told() => return self.pass_on(Left::Stopped).await,
                () = half_way(self.lease.deadline()) => self.renew().await?,
                () = news.differs(&own) => self.renew().await?,
                Some(request) = self.requests.recv() => {
                    if let Some(left) = self.grant_wish(request).await? {
                        return Ok(left);
                    }
                }
            }
        }
    }

    async fn renew(&mut self) -> Result<(), LeadError> {
        let progress = self.store.progress();
        loop {
            let Some(renewed) = self.stop.or(self.lease.renew(progress)).await else {
                return Ok(());
            };
            let left = self
                .lease
                .deadline()
                .map_or(RETRY, |deadline| deadline.saturating_duration_since(Instant::now()));
            match renewed {
                Ok(()) => {
                    self.grant();
                    return Ok(());
                }
                Err(err @ LeaseError::Expired) => return Err(err.into()),
                Err(_) if left.is_zero() => return Err(LeaseError::Expired.into()),
                Err(err) => {
                    tracing::warn!("{}: lease renewal error, retrying: {err}", self.id());
                    if self.stop.or(tokio::time::sleep(RETRY.min(left / 4))).await.is_none() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn grant(&self) {
        self.store.become_primary_until(self.lease.deadline());
    }

    /// What a request leads to; `None`: the reign goes on.
    async fn grant_wish(&mut self, request: Request) -> Result<Option<Left>, LeadError> {
        match request.wish {
            Wish::Demote => {
                let checked = self.check_logs();
                let refused = checked.is_err();
                let _ = request.answer.send(checked);
                if refused {
                    return Ok(None);
                }
                tracing::info!("{}: node manually demoted", self.id());
                self.pass_on(Left::Demoted).await.map(Some)
            }
            Wish::HandOver { to } => {
                let checked = self.check(to);
                let refused = checked.is_err();
                // Who asked may have given up.
                let _ = request.answer.send(checked);
                if refused {
                    return Ok(None);
                }
                match self.hand_over(to).await {
                    Handover::Done => Ok(Some(Left::HandedOver)),
                    Handover::Lost(err) => Err(err.into()),
                    Handover::Kept(why) => {
                        let id = self.id();
                        tracing::warn!("{id}: handoff unsuccessful, continuing as primary: {why}");
                        Ok(None)
                    }
                }
            }
        }
    }

    fn check(&self, to: u64) -> Result<(), ControlError> {
        if self.lease.id().is_none() {
            let kind = self.leaser.kind();
            return Err(LeaseError::NoHandoff { kind }.into());
        }
        let follows = self.store.followers().all().iter().any(|other| other.node_id == to);
        if follows { self.check_logs() } else { Err(ControlError::NotConnected) }
    }

    /// Whoever leads next would lack what a log can't take.
    fn check_logs(&self) -> Result<(), ControlError> {
        let blocked = self.store.databases().into_iter().find(|db| db.is_log_blocked());
        blocked.map_or(Ok(()), |db| Err(ControlError::NotLogged(db.name().clone())))
    }

    /// The end of a reign that nobody waits for: a candidate that follows gets the lease, if there is one.
    async fn pass_on(&mut self, otherwise: Left) -> Result<Left, LeadError> {
        let Some(heir) = self.heir().filter(|_| self.lease.id().is_some()) else {
            return Ok(otherwise);
        };
        match self.hand_over(heir.node_id).await {
            Handover::Done => Ok(Left::HandedOver),
            Handover::Lost(err) => Err(err.into()),
            Handover::Kept(why) => {
                tracing::warn!("{}: nobody has taken the lease over: {why}", self.id());
                Ok(otherwise)
            }
        }
    }

    /// The candidate that has come furthest.
    fn heir(&self) -> Option<Follower> {
        let followers = self.store.followers().all();
        followers.into_iter().filter(|f| f.candidate && f.sent.is_some()).max_by_key(|f| f.sent)
    }

    async fn hand_over(&mut self, to: u64) -> Handover {
        // It must not end on the way.
        match self.lease.renew(self.store.progress()).await {
            Ok(()) => self.grant(),
            Err(err @ LeaseError::Expired) => return Handover::Lost(err),
            Err(_) => return Handover::Kept("the lease can't be renewed"),
        }
        let held = off_thread(self.store, hold_writers).await;
        let outcome = match off_thread(self.store, Store::stop_writes).await {
            Ok(()) => self.send_lease(to).await,
            Err(_) => Handover::Kept("not all that was committed is in the logs"),
        };
        match &outcome {
            Handover::Kept(_) => self.grant(),
            // Before writers wake up, so that they don't begin what can't be committed.
            Handover::Done | Handover::Lost(_) => self.end().await,
        }
        off_thread(self.store, move |_| drop(held)).await;
        outcome
    }

    /// Nothing is written any more: sends the lease after all there is, and waits until it has a new holder.
    async fn send_lease(&mut self, to: u64) -> Handover {
        let Some(id) = self.lease.id().map(str::to_owned) else {
            return Handover::Kept("this kind of lease can't be handed over");
        };
        let Some(sent) = self.store.followers().offer(to, &id) else {
            return Handover::Kept("node is no longer connected");
        };
        let leaser = self.leaser;
        let taken = async {
            match timeout(SEND_PATIENCE, sent).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err("node is no longer connected"),
                Err(_) => return Err("handoff processing timeout"),
            }
            match timeout(TAKE_PATIENCE, leaser.primary_changed(Some(leaser.own_info()))).await {
                Ok(Ok(holder)) => Ok(holder),
                Ok(Err(_)) | Err(_) => Err("it didn't take the lease"),
            }
        };
        let taken = tokio::select! {
            taken = taken => taken,
            // That takes longer than a lease may last: nobody else shall think that its holder is dead.
            never = keep_alive(self.lease.as_mut(), self.store.progress()) => match never {},
        };
        let why = match taken {
            Ok(Some(_)) => return Handover::Done,
            Ok(None) => return Handover::Lost(LeaseError::Expired),
            Err(why) => why,
        };
        // Whoever got the ID, or gets it yet, can't use it after this.
        match self.lease.reclaim().await {
            Ok(()) => Handover::Kept(why),
            Err(LeaseError::PrimaryExists) => Handover::Done,
            Err(err) => Handover::Lost(err),
        }
    }

    /// The right to write ends, and with it the streams.
    pub(super) async fn end(&self) {
        off_thread(self.store, |store| store.become_replica(None)).await;
    }

    /// Sees to it that node and lease have the same cluster ID. It is stored last: once there, it is for good.
    async fn set_cluster_id(&self) -> Result<(), LeadError> {
        let local = self.store.cluster_id();
        let known = local.is_some();
        let leased = self.leaser.cluster_id().await.map_err(LeadError::LeaseId)?;
        let is_set = leased.is_some();
        let id = local.or(leased);
        let id = id.unwrap_or_else(|| ClusterId::from_random(self.store.random()));
        if !is_set {
            self.leaser.set_cluster_id(&id).await.map_err(LeadError::LeaseId)?;
            let kind = self.leaser.kind();
            tracing::info!("set cluster id on \"{kind}\" lease \"{id}\"");
        }
        if !known {
            self.store.adopt_cluster_id(&id).map_err(LeadError::LocalId)?;
        }
        Ok(())
    }

    fn id(&self) -> String {
        format!("{:016X}", self.store.node_id())
    }
}

/// Until the time is come to renew a lease.
async fn half_way(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => {
            tokio::time::sleep(deadline.saturating_duration_since(Instant::now()) / 2).await;
        }
        None => std::future::pending().await,
    }
}

/// Renews a lease in time, and grants nothing by it. Whether that fails shows later.
async fn keep_alive(lease: &mut dyn Lease, reached: Progress) -> Infallible {
    loop {
        half_way(lease.deadline()).await;
        if lease.renew(reached).await.is_err() {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Brings all databases to what was received; the result are those where somebody's locks are in the way, or that fail.
fn take_over(store: &Store) -> Vec<Arc<Database>> {
    store.databases().into_iter().filter(|db| !taken_over(db)).collect()
}

/// Goes on with it until all are done, or the role is another one.
fn take_over_rest(store: &Store, mut rest: Vec<Arc<Database>>) {
    while !rest.is_empty() {
        std::thread::sleep(RETRY);
        rest.retain(|db| !taken_over(db));
        if !store.is_primary() {
            return;
        }
    }
}

fn taken_over(db: &Arc<Database>) -> bool {
    match db.take_over() {
        Ok(applied) => applied == Applied::All,
        Err(err) => {
            let err = chain(&err);
            tracing::error!(db = %db.name(), err, "what was received isn't applied, no writes until it is");
            false
        }
    }
}

/// The write locks of all databases; without those that a transaction keeps for long.
fn hold_writers(store: &Store) -> Vec<HeldWriters> {
    let deadline = Instant::now() + WRITERS_PATIENCE;
    let held = store.databases().into_iter().map(|db| (db.hold_writers(deadline), db));
    held.filter_map(|(held, db)| match held {
        Ok(held) => held,
        Err(err) => {
            tracing::warn!(db = %db.name(), err = chain(&err), "cannot wait for writers");
            None
        }
    })
    .collect()
}

/// Between two attempts.
const RETRY: Duration = Duration::from_millis(500);
/// How long a transaction that is under way may take to end before a handover.
const WRITERS_PATIENCE: Duration = Duration::from_millis(500);
/// How long the stream may take to send all there is.
const SEND_PATIENCE: Duration = Duration::from_secs(5);
/// How long the other node may take to use the lease's ID.
const TAKE_PATIENCE: Duration = Duration::from_secs(5);
