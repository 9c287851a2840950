//! A place that grants leases in memory, with all that a lease can do.

use std::sync::Mutex;

use async_trait::async_trait;
use litefs_lease::{Candidacy, Progress};

use super::*;

/// What all nodes of a test see.
#[derive(Debug)]
pub(super) struct Place {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    holder: Option<Holder>,
    leases: u64,
    cluster_id: Option<ClusterId>,
    pub(super) candidacy: Candidacy,
    /// How often somebody has stood.
    pub(super) stood: u32,
    /// It can't be asked for the cluster ID.
    pub(super) is_away: bool,
    /// How often it was asked for the cluster ID.
    pub(super) asked: u32,
    /// Nobody takes a lease over that was handed to it.
    pub(super) refuses: bool,
}

#[derive(Debug, Clone)]
struct Holder {
    info: PrimaryInfo,
    lease: u64,
}

/// A node's way to the place.
#[derive(Debug)]
pub(super) struct MemoryLeaser {
    place: Arc<Place>,
    info: PrimaryInfo,
}

#[derive(Debug)]
struct MemoryLease {
    place: Arc<Place>,
    info: PrimaryInfo,
    lease: u64,
    id: String,
    deadline: Instant,
}

impl Place {
    pub(super) fn new() -> Arc<Place> {
        Arc::new(Place { state: Mutex::default(), changed: watch::Sender::new(()) })
    }

    pub(super) fn leaser(self: &Arc<Self>, url: &str) -> MemoryLeaser {
        let info = PrimaryInfo { hostname: url.into(), advertise_url: url.into() };
        MemoryLeaser { place: Arc::clone(self), info }
    }

    pub(super) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let done = f(&mut self.state.lock().unwrap());
        self.changed.send_replace(());
        done
    }

    /// The lease ends as if its holder had died.
    pub(super) fn expire(&self) {
        self.with(|state| state.holder = None);
    }

    fn grant(
        self: &Arc<Self>,
        state: &mut State,
        info: &PrimaryInfo,
        lease: u64,
    ) -> Box<dyn Lease> {
        let (deadline, info) = (Instant::now() + TERM, info.clone());
        state.holder = Some(Holder { info: info.clone(), lease });
        let (place, id) = (Arc::clone(self), lease.to_string());
        Box::new(MemoryLease { place, info, lease, id, deadline })
    }
}

#[async_trait]
impl Leaser for MemoryLeaser {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn own_info(&self) -> &PrimaryInfo {
        &self.info
    }

    async fn acquire(&self) -> Result<Box<dyn Lease>, LeaseError> {
        self.place.with(|state| match &state.holder {
            Some(_) => Err(LeaseError::PrimaryExists),
            None => {
                state.leases += 1;
                Ok(self.place.grant(state, &self.info, state.leases))
            }
        })
    }

    async fn acquire_existing(&self, id: &str) -> Result<Box<dyn Lease>, LeaseError> {
        self.place.with(|state| match &state.holder {
            _ if state.refuses => Err(LeaseError::Unavailable { message: "refused".into() }),
            Some(holder) if holder.lease.to_string() == id => {
                let lease = holder.lease;
                Ok(self.place.grant(state, &self.info, lease))
            }
            Some(_) => Err(LeaseError::PrimaryExists),
            None => Err(LeaseError::Expired),
        })
    }

    async fn primary_info(&self) -> Result<PrimaryInfo, LeaseError> {
        self.place.with(|state| {
            state.holder.as_ref().map(|holder| holder.info.clone()).ok_or(LeaseError::NoPrimary)
        })
    }

    async fn primary_changed(
        &self,
        known: Option<&PrimaryInfo>,
    ) -> Result<Option<PrimaryInfo>, LeaseError> {
        let mut changed = self.place.changed.subscribe();
        loop {
            let now = self.place.state.lock().unwrap().holder.as_ref().map(|h| h.info.clone());
            if now.as_ref() != known {
                return Ok(now);
            }
            changed.changed().await.unwrap();
        }
    }

    async fn stand(&self, _: Progress) -> Result<Candidacy, LeaseError> {
        Ok(self.place.with(|state| {
            state.stood += 1;
            state.candidacy
        }))
    }

    async fn cluster_id(&self) -> Result<Option<ClusterId>, LeaseError> {
        let mut state = self.place.state.lock().unwrap();
        state.asked += 1;
        match state.is_away {
            true => Err(LeaseError::Unavailable { message: "away".into() }),
            false => Ok(state.cluster_id.clone()),
        }
    }

    async fn set_cluster_id(&self, id: &ClusterId) -> Result<(), LeaseError> {
        self.place.with(|state| state.cluster_id = Some(id.clone()));
        Ok(())
    }
}

#[async_trait]
impl Lease for MemoryLease {
    fn id(&self) -> Option<&str> {
        Some(&self.id)
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.deadline)
    }

    async fn renew(&mut self, reached: Progress) -> Result<(), LeaseError> {
        let asked = Instant::now();
        self.place.with(|state| match &state.holder {
            Some(holder) if holder.lease == self.lease && holder.info == self.info => {
                self.deadline = asked + TERM;
                state.candidacy.reached = Some(reached);
                Ok(())
            }
            _ => Err(LeaseError::Expired),
        })
    }

    async fn release(self: Box<Self>) -> Result<(), LeaseError> {
        self.place.with(|state| {
            state.holder = state.holder.take().filter(|holder| holder.lease != self.lease);
        });
        Ok(())
    }

    async fn reclaim(&mut self) -> Result<(), LeaseError> {
        let (place, info) = (Arc::clone(&self.place), self.info.clone());
        place.with(|state| match &state.holder {
            Some(holder) if holder.lease == self.lease && holder.info == info => {
                state.leases += 1;
                (self.lease, self.id) = (state.leases, state.leases.to_string());
                state.holder = Some(Holder { info, lease: state.leases });
                self.deadline = Instant::now() + TERM;
                Ok(())
            }
            Some(_) => Err(LeaseError::PrimaryExists),
            None => Err(LeaseError::Expired),
        })
    }
}

const TERM: Duration = Duration::from_secs(2);
