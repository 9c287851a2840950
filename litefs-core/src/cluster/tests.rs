use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use litefs_lease::{Progress, StaticLeaser};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::http::rig::Rig;
use crate::store::{Event, Lag, Role as StoreRole, StoreOptions};

mod handover;
mod place;

struct Node {
    store: Arc<Store>,
    ready: Ready,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    _dir: TempDir,
}

impl Node {
    fn start(leaser: impl Leaser + 'static, options: Options) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let store = StoreOptions::new(dir.path()).open().unwrap();
        Node::start_on(store, dir, leaser, options)
    }

    fn start_on(
        store: Arc<Store>,
        dir: TempDir,
        leaser: impl Leaser + 'static,
        options: Options,
    ) -> Node {
        let role = RoleLoop::new(Arc::clone(&store), Arc::new(leaser), options);
        let ready = role.ready();
        let (stop, told) = oneshot::channel::<()>();
        let task = tokio::spawn(role.run(async { drop(told.await) }));
        Node { store, ready, stop, task, _dir: dir }
    }

    fn follow(url: &str) -> Node {
        Node::start(replica_of(url), quick())
    }

    async fn stop(self) -> Arc<Store> {
        drop(self.stop);
        limited(self.task).await.unwrap();
        self.store
    }
}

fn replica_of(url: &str) -> StaticLeaser {
    StaticLeaser::new(false, PrimaryInfo { hostname: "primary".into(), advertise_url: url.into() })
}

fn quick() -> Options {
    Options { reconnect_delay: Duration::from_millis(40), ..Options::default() }
}

async fn limited<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), work).await.expect("in time")
}

/// Waits for a change of the role that fits.
async fn role(events: &mut crate::store::Events, fits: impl Fn(bool, Option<&str>) -> bool) {
    limited(async {
        loop {
            if let Event::PrimaryChange { is_primary, hostname } = events.next().await.unwrap()
                && fits(is_primary, hostname.as_deref())
            {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_candidate_leads_until_it_is_stopped() {
    let info = PrimaryInfo { hostname: "a".into(), advertise_url: "http://a".into() };
    let mut node = Node::start(StaticLeaser::new(true, info), quick());
    limited(node.ready.wait()).await.unwrap();
    assert_eq!(node.store.role(), StoreRole::Primary);
    assert!(node.store.cluster_id().is_some());
    let store = node.stop().await;
    assert_eq!(store.role(), StoreRole::Replica { primary: None });
}

#[tokio::test]
async fn a_replica_is_ready_when_it_has_what_the_primary_had() {
    let primary = Rig::primary().await;
    let id = primary.store.ensure_cluster_id().unwrap();
    let mut node = Node::follow(&primary.url);
    limited(node.ready.wait()).await.unwrap();
    assert_eq!(node.store.cluster_id(), Some(id), "adopted");
    assert_eq!(node.store.primary_hostname().as_deref(), Some("primary"));
    limited(async {
        while node.store.lag() == Lag::Unknown {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let store = node.stop().await;
    assert_eq!(store.role(), StoreRole::Replica { primary: None });
}

#[tokio::test]
async fn a_replica_comes_back_when_the_primary_does() {
    let primary = Rig::primary().await;
    let mut node = Node::follow(&primary.url);
    let mut events = node.store.events();
    limited(node.ready.wait()).await.unwrap();
    primary.store.become_replica(None);
    role(&mut events, |_, hostname| hostname.is_none()).await;
    primary.store.become_primary();
    limited(async {
        while primary.store.subscribers() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    node.stop().await;
}

#[tokio::test]
async fn a_replica_takes_nothing_from_another_cluster() {
    let primary = Rig::primary().await;
    primary.store.ensure_cluster_id().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = StoreOptions::new(dir.path()).open().unwrap();
    let own = store.ensure_cluster_id().unwrap();
    let mut events = store.events();
    let node = Node::start_on(store, dir, replica_of(&primary.url), quick());
    for _ in 0..2 {
        role(&mut events, |_, hostname| hostname.is_some()).await;
        role(&mut events, |_, hostname| hostname.is_none()).await;
    }
    assert!(!node.ready.is_ready());
    assert_eq!(node.stop().await.cluster_id(), Some(own));
}

#[tokio::test]
async fn a_stop_interrupts_every_wait() {
    // Accepts, and never answers.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", mute.local_addr().unwrap());
    let forever = Duration::from_secs(3600);
    let timeouts = Timeouts { connect: forever, silence: forever };
    let options = Options { reconnect_delay: forever, timeouts, ..Options::default() };
    for url in [url.as_str(), "http://127.0.0.1:1"] {
        let node = Node::start(replica_of(url), options.clone());
        let mut ready = node.ready.clone();
        node.stop().await;
        assert_eq!(ready.wait().await, Err(NeverReady));
    }
}

/// Grants a lease for a moment and renews it a number of times.
#[derive(Debug)]
struct Moody {
    info: PrimaryInfo,
    renewals: u32,
    held: AtomicBool,
    released: Arc<AtomicU32>,
}

#[derive(Debug)]
struct MoodyLease {
    deadline: Instant,
    renewals: u32,
    released: Arc<AtomicU32>,
}

#[async_trait]
impl Leaser for Moody {
    fn kind(&self) -> &'static str {
        "moody"
    }

    fn own_info(&self) -> &PrimaryInfo {
        &self.info
    }

    async fn acquire(&self) -> Result<Box<dyn Lease>, LeaseError> {
        if self.released.load(Ordering::Acquire) > 0 {
            return Err(LeaseError::PrimaryExists);
        }
        self.held.store(true, Ordering::Release);
        let (renewals, released) = (self.renewals, Arc::clone(&self.released));
        Ok(Box::new(MoodyLease { deadline: Instant::now() + TERM, renewals, released }))
    }

    async fn primary_info(&self) -> Result<PrimaryInfo, LeaseError> {
        let is_held = self.held.load(Ordering::Acquire);
        if is_held { Ok(self.info.clone()) } else { Err(LeaseError::NoPrimary) }
    }

    async fn cluster_id(&self) -> Result<Option<ClusterId>, LeaseError> {
        Ok(None)
    }

    async fn set_cluster_id(&self, _: &ClusterId) -> Result<(), LeaseError> {
        Ok(())
    }
}

#[async_trait]
impl Lease for MoodyLease {
    fn deadline(&self) -> Option<Instant> {
        Some(self.deadline)
    }

    async fn renew(&mut self, _: Progress) -> Result<(), LeaseError> {
        self.renewals = self.renewals.checked_sub(1).ok_or(LeaseError::Expired)?;
        self.deadline = Instant::now() + TERM;
        Ok(())
    }

    async fn release(self: Box<Self>) -> Result<(), LeaseError> {
        self.released.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

const TERM: Duration = Duration::from_millis(40);

#[tokio::test]
async fn a_lease_is_renewed_and_its_loss_ends_the_role() {
    let released = Arc::<AtomicU32>::default();
    let info = PrimaryInfo { hostname: "a".into(), advertise_url: "http://a".into() };
    let (held, released_too) = (AtomicBool::new(false), Arc::clone(&released));
    let leaser = Moody { info, renewals: 4, held, released: released_too };
    let dir = tempfile::tempdir().unwrap();
    let store = StoreOptions::new(dir.path()).open().unwrap();
    let mut events = store.events();
    let began = Instant::now();
    let node = Node::start_on(store, dir, leaser, quick());
    role(&mut events, |is_primary, _| is_primary).await;
    role(&mut events, |is_primary, _| !is_primary).await;
    assert!(
        began.elapsed() >= TERM / 2 * 4,
        "one at the beginning, three more, and the failed one"
    );
    limited(async {
        while released.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    node.stop().await;
}
