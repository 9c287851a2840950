//! What the place tells and remembers, beside the lease.

use std::pin::pin;
use std::time::Duration;

use super::{Abilities, Place, acquire, at_once};
use crate::{Candidacy, ClusterId, LeaseError, Progress};

pub(super) async fn cluster_id(place: &impl Place) {
    let (a, b) = (place.leaser("a"), place.leaser("b"));
    assert_eq!(at_once(a.cluster_id()).await, Ok(None), "the place isn't fresh");
    let ids = [1, 2].map(ClusterId::from_random);
    let set = tokio::join!(a.set_cluster_id(&ids[0]), b.set_cluster_id(&ids[1]));
    let id = match set {
        (Ok(()), Err(LeaseError::HasClusterId)) => &ids[0],
        (Err(LeaseError::HasClusterId), Ok(())) => &ids[1],
        set => panic!("one of the two sets the ID: {set:?}"),
    };
    for leaser in [&a, &b] {
        assert_eq!(at_once(leaser.cluster_id()).await.as_ref(), Ok(&Some(id.clone())));
        assert_eq!(leaser.set_cluster_id(id).await, Err(LeaseError::HasClusterId));
    }
}

pub(super) async fn watch(place: &impl Place, can: &Abilities) {
    let (a, b) = (place.leaser("a"), place.leaser("b"));
    let told = at_once(b.primary_changed(Some(a.own_info()))).await;
    assert_eq!(told, Ok(None), "it is so already");
    drop(tokio::time::timeout(QUIET, b.primary_changed(None)).await);

    let mut found = pin!(b.primary_changed(None));
    quiet(&mut found).await;
    let mut lease = acquire(&*a).await;
    let told = within(can, &mut found).await;
    assert_eq!(told.as_ref(), Ok(&Some(a.own_info().clone())), "somebody has become the primary");

    let mut gone = pin!(b.primary_changed(Some(a.own_info())));
    quiet(&mut gone).await;
    assert_eq!(lease.renew(Progress { reign: 1, transactions: 1 }).await, Ok(()));
    quiet(&mut gone).await;
    assert_eq!(lease.release().await, Ok(()));
    assert_eq!(within(can, &mut gone).await, Ok(None), "nobody is the primary any more");
}

/// Nothing has changed, so nothing is told.
async fn quiet<T: std::fmt::Debug>(told: impl Future<Output = T>) {
    let told = tokio::time::timeout(QUIET, told).await;
    assert!(told.is_err(), "nothing has changed: {told:?}");
}

async fn within<T>(can: &Abilities, told: impl Future<Output = T>) -> T {
    let told = tokio::time::timeout(can.patience, told).await;
    told.unwrap_or_else(|_| panic!("a change isn't told"))
}

pub(super) async fn progress(place: &impl Place) {
    let (a, b) = (place.leaser("a"), place.leaser("b"));
    let at = |transactions| Progress { reign: 1, transactions };
    let first = at_once(b.stand(at(5))).await;
    assert_eq!(first, Ok(Candidacy::default()), "the place isn't fresh");
    let mut lease = acquire(&*a).await;
    for transactions in [7, 9, 8] {
        assert_eq!(lease.renew(at(transactions)).await, Ok(()));
        let seen = at_once(b.stand(at(5))).await;
        assert_eq!(seen, Ok(Candidacy { reached: Some(at(transactions)), rival: None }));
    }
    let seen = at_once(a.stand(at(6))).await;
    let want = Candidacy { reached: Some(at(8)), rival: Some(at(5)) };
    assert_eq!(seen, Ok(want), "who has stood since the last renewal counts");
    assert_eq!(lease.renew(at(10)).await, Ok(()));
    let seen = at_once(b.stand(at(5))).await;
    let want = Candidacy { reached: Some(at(10)), rival: None };
    assert_eq!(seen, Ok(want), "who has stood before the last renewal doesn't");
}

pub(super) async fn nothing(place: &impl Place) {
    let b = place.leaser("b");
    assert_eq!(at_once(b.stand(Progress::default())).await, Ok(Candidacy::default()));
}

const QUIET: Duration = Duration::from_millis(300);
