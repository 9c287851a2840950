//! Leases that change hands: asked for, at a stop, and when nobody takes them.

use super::place::Place;
use super::*;
use crate::http::rig::Rig;

/// A node that serves, and leads or follows.
struct Member {
    rig: Rig,
    control: Control,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Member {
    async fn start(place: &Arc<Place>) -> Member {
        Member::start_as(place, quick()).await
    }

    async fn start_as(place: &Arc<Place>, options: Options) -> Member {
        let rig = Rig::start().await;
        let role = RoleLoop::new(Arc::clone(&rig.store), Arc::new(place.leaser(&rig.url)), options);
        let (control, (stop, told)) = (role.control(), oneshot::channel::<()>());
        let task = tokio::spawn(role.run(async { drop(told.await) }));
        Member { rig, control, stop, task }
    }

    fn id(&self) -> u64 {
        self.rig.store.node_id()
    }

    async fn leads(&self) {
        until(|| self.rig.store.is_primary()).await;
    }

    /// Waits until it has what `primary` has and counts as connected there.
    async fn follows(&self, primary: &Member) {
        until(|| {
            let followers = primary.rig.store.followers().all();
            followers.iter().any(|f| f.node_id == self.id() && f.sent.is_some())
                && self.rig.store.progress() == primary.rig.store.progress()
        })
        .await;
    }

    async fn stop(self) -> Rig {
        drop(self.stop);
        limited(self.task).await.unwrap();
        self.rig
    }
}

async fn until(is_so: impl Fn() -> bool) {
    limited(async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

async fn pair(place: &Arc<Place>) -> (Member, Member) {
    let a = Member::start(place).await;
    a.leads().await;
    let b = Member::start(place).await;
    a.rig.commit("db", 3);
    b.follows(&a).await;
    (a, b)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_handed_over_with_all_that_was_committed() {
    let place = Place::new();
    let (a, b) = pair(&place).await;
    let last = (0..20).map(|_| a.rig.commit("db", 3)).next_back().unwrap();
    let reign = a.rig.store.progress().reign;
    a.control.hand_over(b.id()).await.unwrap();
    b.leads().await;
    assert_eq!(b.rig.database("db").pos(), Some(last), "before the first write");
    assert!(!a.rig.store.is_primary(), "never two");
    assert_eq!(b.rig.store.progress().reign, reign + 1);
    b.rig.commit("db", 4);
    a.follows(&b).await;
    // And back again.
    b.control.hand_over(a.id()).await.unwrap();
    a.leads().await;
    a.rig.commit("db", 5);
    b.follows(&a).await;
    drop((a.stop().await, b.stop().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stops_or_is_demoted_hands_over_to_a_candidate() {
    let place = Place::new();
    let (a, b) = pair(&place).await;
    a.control.demote().await.unwrap();
    b.leads().await;
    a.follows(&b).await;
    let last = b.rig.commit("db", 2);
    drop(b.stop().await);
    a.leads().await;
    assert_eq!(a.rig.database("db").pos(), Some(last));
    drop(a.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_goes_on_if_its_lease_is_not_taken_over() {
    let place = Place::new();
    let (a, b) = pair(&place).await;
    place.with(|state| state.refuses = true);
    a.control.hand_over(b.id()).await.unwrap();
    until(|| !a.rig.store.may_write()).await;
    assert!(a.rig.store.is_primary(), "those who follow stay");
    until(|| a.rig.store.may_write()).await;
    a.rig.commit("db", 4);
    b.follows(&a).await;
    assert!(!b.rig.store.is_primary());
    drop((a.stop().await, b.stop().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_leads_who_does_not_follow() {
    let place = Place::new();
    let (a, b) = pair(&place).await;
    assert_eq!(a.control.hand_over(12345).await, Err(ControlError::NotConnected));
    assert!(a.rig.store.is_primary());
    drop((a.stop().await, b.stop().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_lost_is_followed_by_the_next_reign() {
    let place = Place::new();
    let (a, b) = pair(&place).await;
    let before = a.rig.store.progress();
    place.expire();
    // Whoever is faster: both had all.
    until(|| {
        [&a, &b].iter().any(|m| m.rig.store.is_primary() && m.rig.store.reign() > before.reign)
    })
    .await;
    drop((a.stop().await, b.stop().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lacks_something_leaves_a_free_lease_alone() {
    let place = Place::new();
    let reached = Progress { reign: 4, transactions: 10 };
    place.with(|state| state.candidacy.reached = Some(reached));
    let empty = Member::start(&place).await;
    until(|| place.with(|state| state.stood) > 6).await;
    assert!(!empty.rig.store.is_primary());
    place.with(|state| state.candidacy.reached = Some(Progress::default()));
    empty.leads().await;
    drop(empty.stop().await);
}

#[tokio::test]
async fn a_place_that_is_away_isnt_asked_all_the_time() {
    let place = Place::new();
    let _held = place.leaser("http://127.0.0.1:9").acquire().await.unwrap();
    let member = Member::start(&place).await;
    // By now it watches the lease, and has seen who holds it.
    until(|| place.with(|state| state.asked) >= 3).await;
    place.with(|state| (state.is_away, state.asked) = (true, 0));
    tokio::time::sleep(quick().reconnect_delay * 10).await;
    let asked = place.with(|state| state.asked);
    assert!(asked <= 15, "asked {asked} times in 10 delays");
    drop(member.stop);
    limited(member.task).await.unwrap();
}
