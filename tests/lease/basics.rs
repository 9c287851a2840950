//! The life of a lease with one Consul and two nodes.

use std::time::{Duration, Instant};

use litefs_lease::{ClusterId, LeaseError, Leaser};
use litefs_tests::consul::Consul;

use crate::rig::{KEY, TTL, acquire, info, node, original, progress, within};

#[tokio::test]
async fn one_node_holds_the_lease_and_the_others_know_who() {
    let consul = Consul::start();
    let (a, b) = (node(&consul, "a"), node(&consul, "b"));
    assert_eq!(a.primary_info().await, Err(LeaseError::NoPrimary));
    let before = Instant::now();
    let mut lease = a.acquire().await.unwrap();
    assert!(lease.deadline().unwrap() <= Instant::now() + TTL);
    assert!(lease.deadline().unwrap() >= before + TTL);
    assert_eq!(b.primary_info().await, Ok(info("a")));
    assert_eq!(b.acquire().await.unwrap_err(), LeaseError::PrimaryExists);
    let first = lease.deadline();
    lease.renew(progress(1, 5)).await.unwrap();
    assert!(lease.deadline() > first);
    lease.release().await.unwrap();
    assert_eq!(b.primary_info().await, Err(LeaseError::NoPrimary));
    assert_eq!(consul.get(KEY).unwrap().value, "");
    // It was released, not lost, so there is no lock delay.
    assert!(b.acquire().await.is_ok());
}

#[tokio::test]
async fn a_session_that_is_gone_ends_the_lease_and_delays_the_next() {
    let consul = Consul::start();
    let (a, b) = (node(&consul, "a"), node(&consul, "b"));
    let mut lease = a.acquire().await.unwrap();
    lease.renew(progress(1, 5)).await.unwrap();
    consul.destroy_session(lease.id().unwrap());
    assert_eq!(lease.renew(progress(1, 6)).await, Err(LeaseError::Expired));
    assert_eq!(b.acquire().await.unwrap_err(), LeaseError::NotYet);
    acquire(&b).await;
    assert_eq!(b.primary_info().await, Ok(info("b")));
}

#[tokio::test]
async fn a_key_that_was_removed_ends_the_lease_though_its_session_lives() {
    let consul = Consul::start();
    let (a, b) = (node(&consul, "a"), node(&consul, "b"));
    let mut lease = a.acquire().await.unwrap();
    lease.renew(progress(1, 5)).await.unwrap();
    consul.delete(KEY);
    let _other = acquire(&b).await;
    assert!(consul.has_session(lease.id().unwrap()));
    for reached in [progress(1, 5), progress(1, 6)] {
        assert_eq!(lease.renew(reached).await, Err(LeaseError::Expired));
    }
}

#[tokio::test]
async fn a_lease_that_nobody_renews_goes_to_another_node_after_its_deadline() {
    let consul = Consul::start();
    let (a, b) = (node(&consul, "a"), node(&consul, "b"));
    let lease = a.acquire().await.unwrap();
    let _next = acquire(&b).await;
    assert!(Instant::now() > lease.deadline().unwrap());
}

#[tokio::test]
async fn a_node_that_comes_back_has_its_own_lease_again() {
    let consul = Consul::start();
    let before = node(&consul, "a").acquire().await.unwrap();
    let mut after = node(&consul, "a").acquire().await.unwrap();
    assert_eq!(after.id(), before.id());
    after.renew(progress(1, 1)).await.unwrap();
    assert_eq!(node(&consul, "b").acquire().await.unwrap_err(), LeaseError::PrimaryExists);
}

#[tokio::test]
async fn a_lease_is_handed_over_by_its_id() {
    let consul = Consul::start();
    let (a, b) = (node(&consul, "a"), node(&consul, "b"));
    let mut given = a.acquire().await.unwrap();
    given.renew(progress(1, 5)).await.unwrap();
    let mut taken = b.acquire_existing(given.id().unwrap()).await.unwrap();
    assert_eq!(a.primary_info().await, Ok(info("b")));
    assert_eq!(given.renew(progress(1, 6)).await, Err(LeaseError::Expired));
    assert_eq!(given.reclaim().await, Err(LeaseError::PrimaryExists));
    // Not even by giving it back does the old primary take it from the target.
    let id = given.id().unwrap().to_owned();
    given.release().await.unwrap();
    assert_eq!(b.primary_info().await, Ok(info("b")));
    taken.renew(progress(2, 7)).await.unwrap();
    taken.release().await.unwrap();
    assert_eq!(b.primary_info().await, Err(LeaseError::NoPrimary));
    assert!(!consul.has_session(&id));
    let mut given = a.acquire().await.unwrap();
    consul.destroy_session(given.id().unwrap());
    assert_eq!(given.reclaim().await, Err(LeaseError::Expired));
    for id in ["", "../x", "00000000-0000-0000-0000-000000000000"] {
        assert_eq!(b.acquire_existing(id).await.unwrap_err(), LeaseError::Expired, "{id}");
    }
}

#[tokio::test]
async fn a_lease_that_was_taken_back_cant_be_taken_over() {
    let consul = Consul::start();
    let (a, b) = (node(&consul, "a"), node(&consul, "b"));
    let mut lease = a.acquire().await.unwrap();
    let id = lease.id().unwrap().to_owned();
    lease.reclaim().await.unwrap();
    assert_ne!(lease.id(), Some(&*id));
    let err = b.acquire_existing(&id).await.unwrap_err();
    assert!(matches!(err, LeaseError::Expired | LeaseError::PrimaryExists), "{err}");
    lease.renew(progress(1, 5)).await.unwrap();
    assert_eq!(b.primary_info().await, Ok(info("a")));
}

#[tokio::test]
async fn a_watch_tells_of_each_change_and_of_nothing_else() {
    let consul = Consul::start();
    let (a, b) = (node(&consul, "a"), node(&consul, "b"));
    assert_eq!(
        within(b.primary_changed(Some(&info("a")))).await,
        Ok(None),
        "what is known already isn't so"
    );
    let found = tokio::spawn(async move { (b.primary_changed(None).await, b) });
    let mut lease = a.acquire().await.unwrap();
    let (found, b) = within(found).await.unwrap();
    assert_eq!(found, Ok(Some(info("a"))));
    let known = info("a");
    let mut gone = std::pin::pin!(b.primary_changed(Some(&known)));
    for transactions in 0..5 {
        lease.renew(progress(1, transactions)).await.unwrap();
        let still = tokio::time::timeout(Duration::from_millis(100), &mut gone).await;
        assert!(still.is_err(), "{still:?}");
    }
    lease.release().await.unwrap();
    assert_eq!(within(gone).await, Ok(None));
}

#[tokio::test]
async fn a_cluster_id_is_set_once() {
    let consul = Consul::start();
    let (a, b) = (node(&consul, "a"), node(&consul, "b"));
    let id = ClusterId::from_random(7);
    assert_eq!(a.cluster_id().await, Ok(None));
    a.set_cluster_id(&id).await.unwrap();
    assert_eq!(b.set_cluster_id(&ClusterId::from_random(8)).await, Err(LeaseError::HasClusterId));
    assert_eq!(b.cluster_id().await, Ok(Some(id.clone())));
    assert_eq!(consul.get(&format!("{KEY}/clusterid")).unwrap().value, id.to_string());
}

#[tokio::test]
async fn candidates_know_how_far_the_primary_and_each_other_have_come() {
    let consul = Consul::start();
    let (a, b, c) = (node(&consul, "a"), node(&consul, "b"), node(&consul, "c"));
    let first = b.stand(progress(0, 9)).await.unwrap();
    assert_eq!((first.reached, first.rival), (None, None));
    let mut lease = a.acquire().await.unwrap();
    lease.renew(progress(1, 10)).await.unwrap();
    // What b has said before the primary's last word doesn't count.
    let seen = c.stand(progress(1, 8)).await.unwrap();
    assert_eq!((seen.reached, seen.rival), (Some(progress(1, 10)), None));
    let seen = b.stand(progress(1, 9)).await.unwrap();
    assert_eq!((seen.reached, seen.rival), (Some(progress(1, 10)), Some(progress(1, 8))));
    let seen = c.stand(progress(1, 8)).await.unwrap();
    assert_eq!(seen.rival, Some(progress(1, 9)));
}

#[tokio::test]
async fn an_original_node_and_ours_exclude_each_other() {
    let consul = Consul::start();
    let a = node(&consul, "a");
    let session = consul.create_session(Duration::from_secs(10));
    assert!(consul.acquire(KEY, &session, &original("o")));
    assert_eq!(a.primary_info().await, Ok(info("o")));
    assert_eq!(a.acquire().await.unwrap_err(), LeaseError::PrimaryExists);
    // It hands over to us, and we to it.
    let lease = a.acquire_existing(&session).await.unwrap();
    assert!(consul.get(KEY).unwrap().value.starts_with(r#"{"hostname":"a","advertise-url":"#));
    assert!(consul.acquire(KEY, lease.id().unwrap(), &original("o")));
    assert_eq!(a.primary_info().await, Ok(info("o")));
}
