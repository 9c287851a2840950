//! Whether the suite finds a backend that breaks its promises: a lease in memory, with one flaw at a time.

// A failed expectation is what a test has to report.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use litefs_lease::conformance::{Abilities, Place, check};
use litefs_lease::{Candidacy, ClusterId, Lease, LeaseError, Leaser, PrimaryInfo, Progress};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    GrantsToAll,
    GrantsEarly,
    CountsFromTheAnswer,
    RenewsWhatIsLost,
    KeepsWhatIsReleased,
    ForgetsItsOwn,
    TargetIsNeverTooLate,
    TakesBackWhatIsUsed,
    IdCanChange,
    WatchIsRestless,
    WatchSleeps,
    OldCandidatesCount,
    MakesUpAPrimary,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Held>,
    next: u64,
    cluster_id: Option<ClusterId>,
    reached: Option<Progress>,
    /// Since the primary's last word.
    standing: BTreeMap<String, Progress>,
}

#[derive(Debug, Clone)]
struct Held {
    by: PrimaryInfo,
    id: String,
    until: Instant,
}

#[derive(Debug, Clone)]
struct Memory {
    state: Arc<Mutex<State>>,
    flaw: Flaw,
    own: PrimaryInfo,
    delay: Duration,
}

#[derive(Debug)]
struct MemoryLease {
    memory: Memory,
    id: String,
    deadline: Instant,
}

const TERM: Duration = Duration::from_secs(1);

impl Memory {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The place is as fast as that.
    async fn answer(&self) {
        tokio::time::sleep(self.delay).await;
    }

    fn held(&self, state: &State) -> Option<Held> {
        let spare = if self.flaw == Flaw::GrantsEarly { TERM / 2 } else { Duration::ZERO };
        state.held.clone().filter(|held| held.until > Instant::now() + spare)
    }

    /// Writes this node as the holder, asked at that time.
    async fn take(&self, id: Option<String>, asked: Instant) -> Box<dyn Lease> {
        let id = {
            let mut state = self.lock();
            state.next += 1;
            let id = id.unwrap_or(state.next.to_string());
            let until = Instant::now() + TERM;
            state.held = Some(Held { by: self.own.clone(), id: id.clone(), until });
            id
        };
        self.answer().await;
        let deadline = self.deadline(asked);
        Box::new(MemoryLease { memory: self.clone(), id, deadline })
    }

    fn deadline(&self, asked: Instant) -> Instant {
        match self.flaw {
            Flaw::CountsFromTheAnswer => Instant::now() + TERM,
            _ => asked + TERM,
        }
    }
}

#[async_trait]
impl Leaser for Memory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn own_info(&self) -> &PrimaryInfo {
        &self.own
    }

    async fn acquire(&self) -> Result<Box<dyn Lease>, LeaseError> {
        let asked = Instant::now();
        let held = self.held(&self.lock());
        match held {
            _ if self.flaw == Flaw::GrantsToAll => Ok(self.take(None, asked).await),
            Some(held) if held.by != self.own || self.flaw == Flaw::ForgetsItsOwn => {
                Err(LeaseError::PrimaryExists)
            }
            held => Ok(self.take(held.map(|held| held.id), asked).await),
        }
    }

    async fn acquire_existing(&self, id: &str) -> Result<Box<dyn Lease>, LeaseError> {
        let asked = Instant::now();
        let held = self.held(&self.lock());
        match held {
            _ if self.flaw == Flaw::TargetIsNeverTooLate => {}
            Some(held) if held.id == id => {}
            Some(_) => return Err(LeaseError::PrimaryExists),
            None => return Err(LeaseError::Expired),
        }
        Ok(self.take(Some(id.to_owned()), asked).await)
    }

    async fn primary_info(&self) -> Result<PrimaryInfo, LeaseError> {
        self.held(&self.lock()).map(|held| held.by).ok_or(LeaseError::NoPrimary)
    }

    async fn primary_changed(
        &self,
        known: Option<&PrimaryInfo>,
    ) -> Result<Option<PrimaryInfo>, LeaseError> {
        loop {
            let primary = self.held(&self.lock()).map(|held| held.by);
            if primary.as_ref() != known || self.flaw == Flaw::WatchIsRestless {
                return Ok(primary);
            }
            match self.flaw {
                Flaw::WatchSleeps => std::future::pending().await,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn stand(&self, own: Progress) -> Result<Candidacy, LeaseError> {
        let mut state = self.lock();
        let name = self.own.hostname.clone();
        let rival = state.standing.iter().filter(|(other, _)| **other != name);
        let rival = rival.map(|(_, progress)| *progress).max();
        state.standing.insert(name, own);
        let made_up = (self.flaw == Flaw::MakesUpAPrimary).then_some(own);
        Ok(Candidacy { reached: state.reached.or(made_up), rival })
    }

    async fn cluster_id(&self) -> Result<Option<ClusterId>, LeaseError> {
        Ok(self.lock().cluster_id.clone())
    }

    async fn set_cluster_id(&self, id: &ClusterId) -> Result<(), LeaseError> {
        let mut state = self.lock();
        if state.cluster_id.is_some() && self.flaw != Flaw::IdCanChange {
            return Err(LeaseError::HasClusterId);
        }
        state.cluster_id = Some(id.clone());
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
        let (asked, memory) = (Instant::now(), &self.memory);
        {
            let mut state = memory.lock();
            match &mut state.held {
                Some(held) if held.id == self.id && held.by == memory.own => {
                    held.until = Instant::now() + TERM;
                }
                _ if memory.flaw == Flaw::RenewsWhatIsLost => {}
                _ => return Err(LeaseError::Expired),
            }
            state.reached = Some(reached);
            if memory.flaw != Flaw::OldCandidatesCount {
                state.standing.clear();
            }
        }
        memory.answer().await;
        self.deadline = memory.deadline(asked);
        Ok(())
    }

    async fn release(self: Box<Self>) -> Result<(), LeaseError> {
        let mut state = self.memory.lock();
        let is_ours = state.held.as_ref().is_some_and(|held| held.id == self.id);
        if is_ours && self.memory.flaw != Flaw::KeepsWhatIsReleased {
            state.held = None;
        }
        Ok(())
    }

    async fn reclaim(&mut self) -> Result<(), LeaseError> {
        let held = self.memory.held(&self.memory.lock());
        match held {
            _ if self.memory.flaw == Flaw::TakesBackWhatIsUsed => {}
            Some(held) if held.by == self.memory.own => {}
            Some(_) => return Err(LeaseError::PrimaryExists),
            None => return Err(LeaseError::Expired),
        }
        let taken = self.memory.take(None, Instant::now()).await;
        self.deadline = taken.deadline().unwrap();
        taken.id().unwrap().clone_into(&mut self.id);
        Ok(())
    }
}

struct Flawed(Memory);

impl Place for Flawed {
    fn leaser(&self, node: &str) -> Box<dyn Leaser> {
        let own = PrimaryInfo { hostname: node.into(), advertise_url: format!("http://{node}") };
        Box::new(Memory { own, ..self.0.clone() })
    }

    fn slow_leaser(&self, node: &str, delay: Duration) -> Option<Box<dyn Leaser>> {
        let own = PrimaryInfo { hostname: node.into(), advertise_url: format!("http://{node}") };
        Some(Box::new(Memory { own, delay, ..self.0.clone() }))
    }
}

/// What the suite says; empty if nothing.
async fn complaint(flaw: Flaw) -> String {
    let can = Abilities {
        term: Some(TERM),
        moves: true,
        patience: TERM * 5,
        hands_over: true,
        watches: true,
        remembers: true,
    };
    let fresh = move || {
        let own = PrimaryInfo { hostname: String::new(), advertise_url: String::new() };
        Flawed(Memory { state: Arc::default(), flaw, own, delay: Duration::ZERO })
    };
    match tokio::spawn(async move { check(&can, fresh).await }).await {
        Ok(()) => String::new(),
        Err(err) => {
            let panic = err.into_panic();
            let text = panic.downcast_ref::<String>().cloned();
            text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap()
        }
    }
}

#[tokio::test]
async fn each_flaw_is_found_and_named() {
    let flaws = [
        (Flaw::GrantsToAll, "two nodes have the lease"),
        (Flaw::GrantsEarly, "before the holder's right ends"),
        (Flaw::CountsFromTheAnswer, "counted from the answer"),
        (Flaw::RenewsWhatIsLost, "somebody else has it"),
        (Flaw::KeepsWhatIsReleased, "the lease was released"),
        (Flaw::ForgetsItsOwn, "a free lease can't be had"),
        (Flaw::TargetIsNeverTooLate, "it is no more"),
        (Flaw::TakesBackWhatIsUsed, "it is used"),
        (Flaw::IdCanChange, "one of the two sets the ID"),
        (Flaw::WatchIsRestless, "nothing has changed"),
        (Flaw::WatchSleeps, "a change isn't told"),
        (Flaw::OldCandidatesCount, "who has stood"),
        (Flaw::MakesUpAPrimary, "the place isn't fresh"),
    ];
    let good = tokio::spawn(complaint(Flaw::None));
    let complaints = flaws.map(|(flaw, want)| (flaw, want, tokio::spawn(complaint(flaw))));
    for (flaw, want, said) in complaints {
        let said = said.await.unwrap();
        assert!(said.contains(want), "{flaw:?}: {said:?} instead of {want:?}");
    }
    assert_eq!(good.await.unwrap(), "");
}
