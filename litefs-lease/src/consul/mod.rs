//! The lease in Consul: a key that a session holds. Nodes of LiteFS 0.5 take part in it.
//!
//! ```text
//!  ConsulLeaser ──► lease ──► place ──► api ──► http ──► Consul      lease: once it is held · place: whose it is
//!       └─────────► watch ──► standstill                             watch: waits for another primary
//! ```
//!
//! What isn't here: when to ask for the lease and what to do with it (the role loop of `litefs-core`).
//!
//! # Why two nodes are never the primary at once
//! A session lives for at least its TTL after Consul has seen the last renewal; the holder counts the same TTL from before
//! it has sent it. Its right ends first, if both clocks run at about the same rate: Consul waits for up to twice the TTL,
//! and then for the lock delay. Every renewal looks at the key, too: a session that lives doesn't help if an operator
//! has removed the key and somebody else has taken it. A holder that also watches the key hears of that before the lock
//! delay is over, which is what stands between it and the next one when a session is ended before its time.
//!
//! A Consul that has lost its data knows of no session: then [`Leaser::term`] keeps others away until the right has ended.
//!
//! When the key changes hands with a live session (handing over, taking back, giving back), each step is one transaction that
//! checks when the key was last written. Of two steps at the same moment one is first, and the other one fails.
//!
//! # Fast failover
//! With [`FastFailover`] the primary's right ends `fence` after its last *beat*: a transaction that rewrites the key with a
//! number that rises, provided the key is as this node has last written or seen it. Candidates with the same option watch
//! the key. One that has seen no beat for `fence` and half a second removes the key, *provided it is still as it was
//! seen*; then whoever is first takes it, without a lock delay. The session, renewed every half TTL, is what remains if
//! no candidate watches.
//!
//! * **A beat and the removal** are both conditional on the same index of the same key: Consul carries out one of them
//!   at most. If the beat is first, the removal fails, and the count begins anew. If the removal is first, this beat and
//!   all that come after it fail: the primary's right ends at the latest `fence` after the beat *before*, and that
//!   is the one which the candidate saw, at a time after it was sent. So when the key is free the right has ended.
//! * **A beat that was long on its way** counts from before it was sent, and after the removal has no effect.
//! * **A primary that is paused** finds its deadline passed when it wakes, since the clock went on, and may only write
//!   again once a beat has succeeded.
//! * **A candidate that is paused**, or whose queries are late, doesn't know whether there were beats meanwhile: it doesn't
//!   count the time by which they were, gives the primary a moment after the first of these, and counts anew if one
//!   fails. That isn't for safety, but lest a primary is replaced because of
//!   Consul.
//! * **A slow or absent Consul** takes the primary's right away after `fence`, and lets nobody else have it.
//! * **Clocks** needn't agree on the time. The half second allows their rates to differ by a fifth at the default of two
//!   seconds. A machine whose monotonic clock stands still while it is suspended is outside of this: so it is with the TTL.
//! * **A lease without a beat** is never touched: an original node's, or one without the option. An original node that
//!   takes part as a candidate ignores the beats and takes the key when it is free, as ever.

mod api;
mod http;
mod lease;
mod options;
mod place;
mod standstill;
mod tls;
mod value;
mod watch;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::{Candidacy, ClusterId, Lease, LeaseError, Leaser, PrimaryInfo, Progress};

use api::{Api, Read, Step};
use lease::{ATTEMPTS, ConsulLease, FIRST_BEAT, restless};
use options::{Target, clean};
use place::{Holder, Place, REQUEST_LIMIT};
use value::{Record, Value};

pub use options::{ConsulOptions, ConsulOptionsError, Environment, FastFailover};

/// Asks Consul for the lease.
#[derive(Debug)]
pub struct ConsulLeaser {
    place: Arc<Place>,
    own: PrimaryInfo,
}

impl ConsulLeaser {
    /// Checks the options. Consul is first asked when something is wanted of it.
    ///
    /// # Errors
    /// If something is missing or can't be used.
    pub fn new(options: ConsulOptions) -> Result<ConsulLeaser, ConsulOptionsError> {
        let ConsulOptions { url, key, own, node_id, ttl, lock_delay, fast_failover, environment } =
            options;
        let key = clean(&key);
        if key.is_empty() {
            return Err(ConsulOptionsError::NoKey);
        }
        if own.hostname.is_empty() {
            return Err(ConsulOptionsError::NoHostname);
        }
        if own.advertise_url.is_empty() {
            return Err(ConsulOptionsError::NoAdvertiseUrl);
        }
        let target = Target::new(&url, &environment)?;
        let (key, node) = match target.prefix.as_str() {
            "" => (key, None),
            prefix => (format!("{prefix}/{key}"), Some(format!("{prefix}/litefs"))),
        };
        if key.split('/').any(|part| part == "." || part == "..") {
            return Err(ConsulOptionsError::Key { key });
        }
        let place = Place {
            api: Api::new(&target)?,
            key,
            node,
            registered: AtomicBool::new(false),
            own: Value::new(&own, node_id),
            node_id,
            ttl,
            lock_delay,
            fast_failover,
        };
        Ok(ConsulLeaser { place: Arc::new(place), own })
    }

    fn lease(&self, session: String, session_asked: Instant, asked: Instant) -> Box<dyn Lease> {
        Box::new(ConsulLease::new(self.place.clone(), session, session_asked, asked))
    }

    /// Somebody holds the key, or nobody may yet.
    async fn not_acquired(&self) -> Result<Box<dyn Lease>, LeaseError> {
        let (session, modify_index) = match self.place.holder(REQUEST_LIMIT).await? {
            Holder::Own { session, modify_index, .. } => (session, modify_index),
            Holder::Other { .. } => return Err(LeaseError::PrimaryExists),
            Holder::Nobody => return Err(LeaseError::NotYet),
        };
        // This node's data directory is ours, so the one that took this is dead.
        let asked = Instant::now();
        if !self.place.api.renew_session(&session, REQUEST_LIMIT).await? {
            return Err(LeaseError::NotYet);
        }
        let key = &self.place.key;
        let value = self.place.value(FIRST_BEAT).to_json();
        let steps =
            [Step::Check { key, modify_index }, Step::Lock { key, value, session: &session }];
        match self.place.api.transaction(&steps, REQUEST_LIMIT).await? {
            Some(_) => Ok(self.lease(session, asked, asked)),
            None => Err(LeaseError::NotYet),
        }
    }
}

#[async_trait]
impl Leaser for ConsulLeaser {
    fn kind(&self) -> &'static str {
        "consul"
    }

    fn own_info(&self) -> &PrimaryInfo {
        &self.own
    }

    fn term(&self) -> Option<Duration> {
        Some(self.place.ttl)
    }

    async fn acquire(&self) -> Result<Box<dyn Lease>, LeaseError> {
        let session_asked = Instant::now();
        let session = self.place.create_session(REQUEST_LIMIT).await?;
        let asked = Instant::now();
        let value = self.place.value(FIRST_BEAT).to_json();
        let Place { api, key, .. } = &*self.place;
        match api.acquire(key, value, &session, REQUEST_LIMIT).await {
            Ok(true) => return Ok(self.lease(session, session_asked, asked)),
            Ok(false) => {}
            Err(err) if err.is_refusal() => {
                self.place.forget_session(&session, REQUEST_LIMIT).await;
                return Err(err.into());
            }
            Err(err) => return Err(err.into()),
        }
        self.place.forget_session(&session, REQUEST_LIMIT).await;
        self.not_acquired().await
    }

    async fn acquire_existing(&self, id: &str) -> Result<Box<dyn Lease>, LeaseError> {
        // It comes from another node, and becomes a part of a path.
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
            return Err(LeaseError::Expired);
        }
        let session_asked = Instant::now();
        let Place { api, key, .. } = &*self.place;
        if !api.renew_session(id, REQUEST_LIMIT).await? {
            return Err(LeaseError::Expired);
        }
        for _ in 0..ATTEMPTS {
            let modify_index = match self.place.holder(REQUEST_LIMIT).await? {
                Holder::Own { session, modify_index, .. }
                | Holder::Other { session, modify_index, .. }
                    if session == id =>
                {
                    modify_index
                }
                Holder::Own { .. } | Holder::Other { .. } => return Err(LeaseError::PrimaryExists),
                Holder::Nobody => return Err(LeaseError::Expired),
            };
            let asked = Instant::now();
            let value = self.place.value(FIRST_BEAT).to_json();
            let steps = [Step::Check { key, modify_index }, Step::Lock { key, value, session: id }];
            if api.transaction(&steps, REQUEST_LIMIT).await?.is_some() {
                return Ok(self.lease(id.to_owned(), session_asked, asked));
            }
        }
        Err(restless(key))
    }

    async fn primary_info(&self) -> Result<PrimaryInfo, LeaseError> {
        let Place { api, key, .. } = &*self.place;
        let (entry, _) = api.read(key, Read::Plain, REQUEST_LIMIT).await?;
        match entry.map_or(Ok(Holder::Nobody), |entry| self.place.holder_of(entry))? {
            Holder::Own { value, .. } | Holder::Other { value, .. } => Ok(value.info()),
            Holder::Nobody => Err(LeaseError::NoPrimary),
        }
    }

    async fn primary_changed(
        &self,
        known: Option<&PrimaryInfo>,
    ) -> Result<Option<PrimaryInfo>, LeaseError> {
        watch::primary_changed(&self.place, known).await
    }

    async fn stand(&self, own: Progress) -> Result<Candidacy, LeaseError> {
        let Place { api, key, .. } = &*self.place;
        let (candidate, progress) = (self.place.candidate_key(), self.place.progress_key());
        let steps = [
            Step::Set { key: &candidate, value: Record::new(own).to_json() },
            Step::List { prefix: &format!("{key}/") },
        ];
        let entries = api.transaction(&steps, REQUEST_LIMIT).await?;
        let entries = entries.ok_or_else(|| LeaseError::Unavailable {
            message: format!("consul: the key {candidate} can't be set"),
        })?;
        // What can't be read is as good as not there: nobody else writes these keys.
        let read = |value: &[u8]| Some(serde_json::from_slice::<Record>(value).ok()?.progress());
        let told = entries.iter().find(|entry| entry.key == progress);
        let told_at = told.map_or(0, |entry| entry.modify_index);
        let prefix = self.place.candidates_prefix();
        let rivals = entries.iter().filter(|entry| {
            entry.key.starts_with(&prefix) && entry.key != candidate && entry.modify_index > told_at
        });
        Ok(Candidacy {
            reached: told.and_then(|entry| read(&entry.value)),
            rival: rivals.filter_map(|entry| read(&entry.value)).max(),
        })
    }

    async fn cluster_id(&self) -> Result<Option<ClusterId>, LeaseError> {
        let key = self.place.cluster_id_key();
        let (entry, _) = self.place.api.read(&key, Read::Plain, REQUEST_LIMIT).await?;
        let Some(entry) = entry.filter(|entry| !entry.value.is_empty()) else { return Ok(None) };
        let text = String::from_utf8_lossy(&entry.value);
        let id = text.parse().map_err(|err| LeaseError::Unavailable {
            message: format!("consul: the key {key} holds no cluster ID: {err}"),
        })?;
        Ok(Some(id))
    }

    async fn set_cluster_id(&self, id: &ClusterId) -> Result<(), LeaseError> {
        let key = self.place.cluster_id_key();
        let value = id.to_string().into_bytes();
        match self.place.api.create(&key, value, REQUEST_LIMIT).await? {
            true => Ok(()),
            false => Err(LeaseError::HasClusterId),
        }
    }
}
