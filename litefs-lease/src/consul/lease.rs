//! The lease once it is held: renewing, handing over, taking back, releasing.
//!
//! ```text
//!  session S1 ──holds──► key ──────────────► renew: the session lives on; the key is checked, and the progress set with it
//!                         │                        (with a beat: the key is rewritten)
//!                         ├─ S1 given away ► the other node writes the key with S1: it is the holder
//!                         └─ reclaim ──────► the key goes from S1 to a new S2, if nobody has written it since
//! ```
//!
//! Every write of the key after the first is a transaction that checks when the key was last written. So whatever is
//! still on its way to Consul when the key changes hands has no effect any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::api::Step;
use super::place::{Holder, Place, REQUEST_LIMIT};
use super::value::Record;
use crate::{Lease, LeaseError, Progress};

#[derive(Debug)]
pub(super) struct ConsulLease {
    place: Arc<Place>,
    session: String,
    /// Before the last request that made or renewed the session.
    session_asked: Instant,
    deadline: Instant,
    /// When the key was last written, if we know.
    modify_index: Option<u64>,
    beat: u64,
    /// What the place remembers from us.
    told: Option<Progress>,
}

impl ConsulLease {
    /// `asked` is before the request that took the key.
    pub(super) fn new(
        place: Arc<Place>,
        session: String,
        session_asked: Instant,
        asked: Instant,
    ) -> ConsulLease {
        let deadline = place.deadline(session_asked, asked);
        ConsulLease {
            place,
            session,
            session_asked,
            deadline,
            modify_index: None,
            beat: FIRST_BEAT,
            told: None,
        }
    }

    /// No request takes longer than the right still holds.
    fn limit(&self) -> Duration {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => REQUEST_LIMIT,
            left => left.clamp(LEAST_LIMIT, REQUEST_LIMIT),
        }
    }

    async fn renew_session(&mut self) -> Result<(), LeaseError> {
        let asked = Instant::now();
        if !self.place.api.renew_session(&self.session, self.limit()).await? {
            return Err(LeaseError::Expired);
        }
        self.session_asked = asked;
        Ok(())
    }

    /// With a beat, the session needs renewing more rarely than the right does.
    fn is_session_due(&self) -> bool {
        self.place.fast_failover.is_none() || self.session_asked.elapsed() >= self.place.ttl / 2
    }

    /// Makes sure that the key is ours, and tells how far we have come; `false` if the key was written since we
    /// looked.
    async fn hold(&mut self, reached: Progress) -> Result<bool, LeaseError> {
        let modify_index = match self.modify_index.take() {
            Some(index) => index,
            None => self.look().await?,
        };
        let (key, progress_key) = (&self.place.key, self.place.progress_key());
        let candidates = self.place.candidates_prefix();
        let mut steps = vec![Step::Check { key, modify_index }];
        if self.place.fast_failover.is_some() {
            self.beat += 1;
            let value = self.place.value(self.beat).to_json();
            steps.push(Step::Lock { key, value, session: &self.session });
        }
        if self.told.is_none() {
            // This reign's election is over.
            steps.push(Step::Clear { prefix: &candidates });
        }
        if self.told != Some(reached) {
            steps.push(Step::Set { key: &progress_key, value: Record::new(reached).to_json() });
        }
        let touched = self.place.api.transaction(&steps, self.limit()).await?;
        let Some(touched) = touched else { return Ok(false) };
        let written = touched.iter().rfind(|entry| entry.key == *key);
        self.modify_index = written.map(|entry| entry.modify_index);
        self.told = Some(reached);
        Ok(true)
    }

    /// When the key was last written, which is held by this node.
    async fn look(&mut self) -> Result<u64, LeaseError> {
        match self.place.holder(self.limit()).await? {
            Holder::Own { session, modify_index, value } => {
                if session != self.session {
                    // Taking it back has worked after all, and the answer was lost.
                    self.session = session;
                    self.renew_session().await?;
                }
                self.beat = self.beat.max(value.beat());
                Ok(modify_index)
            }
            Holder::Other { .. } | Holder::Nobody => Err(LeaseError::Expired),
        }
    }

    /// Empties the key, unless it has gone to another node by this same session.
    async fn let_go(&mut self) -> Result<(), LeaseError> {
        for _ in 0..ATTEMPTS {
            let modify_index = match self.modify_index.take() {
                Some(index) => index,
                None => self.look().await?,
            };
            let key = &self.place.key;
            let steps =
                [Step::Check { key, modify_index }, Step::Unlock { key, session: &self.session }];
            if self.place.api.transaction(&steps, self.limit()).await?.is_some() {
                return Ok(());
            }
        }
        Err(restless(&self.place.key))
    }

    /// Moves the key from this session to the new one; `false` if it was written meanwhile.
    async fn move_to(&mut self, session: &str, modify_index: u64) -> Result<bool, LeaseError> {
        let key = &self.place.key;
        let value = self.place.value(self.beat + 1).to_json();
        let steps = [
            Step::Check { key, modify_index },
            Step::Unlock { key, session: &self.session },
            Step::Lock { key, value, session },
        ];
        self.modify_index = None;
        Ok(self.place.api.transaction(&steps, REQUEST_LIMIT).await?.is_some())
    }
}

#[async_trait]
impl Lease for ConsulLease {
    fn id(&self) -> Option<&str> {
        Some(&self.session)
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.deadline)
    }

    async fn renew(&mut self, reached: Progress) -> Result<(), LeaseError> {
        for _ in 0..ATTEMPTS {
            if self.is_session_due() {
                self.renew_session().await?;
            }
            let asked = Instant::now();
            if self.hold(reached).await? {
                self.deadline = self.place.deadline(self.session_asked, asked);
                return Ok(());
            }
        }
        Err(restless(&self.place.key))
    }

    async fn release(mut self: Box<Self>) -> Result<(), LeaseError> {
        let (key, session) = (self.place.key.clone(), self.session.clone());
        let released = self.let_go().await;
        match &released {
            Ok(()) => {}
            Err(LeaseError::Expired) => tracing::warn!(key, session, "cannot release consul key"),
            Err(err) => tracing::warn!(key, session, %err, "consul key release error"),
        }
        match released {
            // A session that another node may hold the key with isn't ours to destroy; else it ends by itself.
            Err(LeaseError::Expired) => Ok(()),
            Err(err) => Err(err),
            Ok(()) => Ok(self.place.api.destroy_session(&self.session, REQUEST_LIMIT).await?),
        }
    }

    async fn reclaim(&mut self) -> Result<(), LeaseError> {
        for _ in 0..ATTEMPTS {
            let (held_by, modify_index) = match self.place.holder(REQUEST_LIMIT).await? {
                Holder::Own { session, modify_index, .. } => (session, modify_index),
                Holder::Other { .. } => return Err(LeaseError::PrimaryExists),
                Holder::Nobody => return Err(LeaseError::Expired),
            };
            if held_by != self.session {
                // An earlier attempt has worked, and its answer was lost.
                self.session = held_by;
                self.renew_session().await?;
                self.deadline = self.place.deadline(self.session_asked, self.session_asked);
                return Ok(());
            }
            let session_asked = Instant::now();
            let session = self.place.create_session(REQUEST_LIMIT).await?;
            let asked = Instant::now();
            if self.move_to(&session, modify_index).await? {
                let given_away = std::mem::replace(&mut self.session, session);
                self.session_asked = session_asked;
                self.deadline = self.place.deadline(session_asked, asked);
                self.place.forget_session(&given_away, REQUEST_LIMIT).await;
                return Ok(());
            }
            self.place.forget_session(&session, REQUEST_LIMIT).await;
        }
        Err(restless(&self.place.key))
    }
}

/// Somebody writes the key all the time, without taking it.
pub(super) fn restless(key: &str) -> LeaseError {
    LeaseError::Unavailable { message: format!("consul: the key {key} changes all the time") }
}

pub(super) const FIRST_BEAT: u64 = 1;
/// How often to look again when the key was written since.
pub(super) const ATTEMPTS: usize = 3;
/// Less isn't worth a request.
const LEAST_LIMIT: Duration = Duration::from_millis(100);
