//! Who holds the lease, and for how long.

use std::time::Instant;

use super::{
    Abilities, DROPS, Place, SHORTLY, acquire, acquire_at_last, at_once, drop_after, is_for_now,
};
use crate::{LeaseError, Leaser, Progress};

pub(super) async fn exclusion(place: &impl Place, can: &Abilities) {
    let (a, b) = (place.leaser("a"), place.leaser("b"));
    let lease = acquire(&*a).await;
    match (can.term, lease.deadline()) {
        (None, None) => {}
        (Some(_), Some(deadline)) => assert!(deadline > Instant::now(), "it is over at once"),
        (term, deadline) => panic!("granted for {term:?}, but the deadline is {deadline:?}"),
    }
    assert_eq!(refusal(&*b).await, LeaseError::PrimaryExists, "the lease is held");
    let told = at_once(b.primary_info()).await;
    assert_eq!(told.as_ref(), Ok(a.own_info()), "the other node knows who is the primary");
    if can.moves {
        assert_ne!(a.own_info(), b.own_info(), "the place gives both nodes the same address");
    }
}

async fn refusal(leaser: &dyn Leaser) -> LeaseError {
    match at_once(leaser.acquire()).await {
        Ok(lease) => panic!("two nodes have the lease: {lease:?}"),
        Err(err) => err,
    }
}

pub(super) async fn renewal(place: &impl Place, can: &Abilities) {
    let (a, b) = (place.leaser("a"), place.leaser("b"));
    let mut lease = acquire(&*a).await;
    let term = can.term.unwrap_or(SHORTLY);
    let end = Instant::now() + term * 3;
    let mut transactions = 0;
    while Instant::now() < end {
        tokio::time::sleep(term / 4).await;
        let (before, old) = (Instant::now(), lease.deadline());
        transactions += 1;
        let renewed = lease.renew(Progress { reign: 1, transactions }).await;
        assert_eq!(renewed, Ok(()), "a lease that is held can be renewed");
        assert!(lease.deadline() >= old, "a renewal has shortened the lease");
        if let (Some(term), Some(deadline)) = (can.term, lease.deadline()) {
            assert!(deadline >= before + term, "it isn't renewed for the whole term");
            assert!(deadline <= Instant::now() + term, "it is renewed for more than the term");
        }
        assert_eq!(refusal(&*b).await, LeaseError::PrimaryExists, "the lease is held");
    }
}

pub(super) async fn own_again(place: &impl Place, can: &Abilities) {
    let b = place.leaser("b");
    let a = place.leaser("a");
    drop(acquire(&*a).await);
    drop(a);
    let a = place.leaser("a");
    let mut lease = acquire(&*a).await;
    assert_eq!(lease.renew(Progress::default()).await, Ok(()), "it is its own");
    assert_eq!(refusal(&*b).await, LeaseError::PrimaryExists, "the lease is held");
    // A leaser that is still there has it, too.
    drop(lease);
    let lease = acquire(&*a).await;
    assert_eq!(lease.deadline().is_some(), can.term.is_some());
}

pub(super) async fn late_answers(place: &impl Place, can: &Abilities) {
    let Some(term) = can.term else { return };
    let delay = term / 8;
    let Some(a) = place.slow_leaser("a", delay) else { return };
    let before = Instant::now();
    let mut lease = acquire(&*a).await;
    assert!(before.elapsed() >= delay, "the place isn't slow");
    let latest = |before: Instant| Some(before + term + delay / 2);
    assert!(lease.deadline() <= latest(before), "the deadline is counted from the answer");
    let before = Instant::now();
    assert_eq!(lease.renew(Progress::default()).await, Ok(()));
    assert!(before.elapsed() >= delay, "the place isn't slow");
    // The request that counts may be the last of some.
    let latest = Some(Instant::now() - delay / 2 + term);
    assert!(lease.deadline() <= latest, "the new deadline is counted from the answer");
}

pub(super) async fn release(place: &impl Place, can: &Abilities) {
    let (a, b) = (place.leaser("a"), place.leaser("b"));
    for _ in 0..3 {
        for (one, other) in [(&a, &b), (&b, &a)] {
            let mut lease = acquire(&**one).await;
            assert_eq!(lease.renew(Progress::default()).await, Ok(()));
            assert_eq!(lease.release().await, Ok(()));
            let told = at_once(other.primary_info()).await;
            assert_eq!(told, Err(LeaseError::NoPrimary), "the lease was released");
        }
    }
    drop(acquire_at_last(&*b, can).await);
}

pub(super) async fn death(place: &impl Place, can: &Abilities) {
    let (a, b) = (place.leaser("a"), place.leaser("b"));
    let mut lease = acquire(&*a).await;
    assert_eq!(lease.renew(Progress::default()).await, Ok(()));
    let Some(deadline) = lease.deadline() else {
        drop(lease);
        drop(a);
        acquire_at_last(&*b, can).await;
        return;
    };
    // With a deadline, it needn't die: it is enough that it doesn't renew.
    let next = acquire_at_last(&*b, can).await;
    assert!(Instant::now() > deadline, "another node has it before the holder's right ends");
    assert!(next.deadline() > Some(Instant::now()), "the next lease is over at once");
    let renewed = lease.renew(Progress::default()).await;
    assert_eq!(renewed, Err(LeaseError::Expired), "somebody else has it");
    assert_eq!(lease.deadline(), Some(deadline), "a failed renewal has moved the deadline");
    assert_eq!(refusal(&*a).await, LeaseError::PrimaryExists, "the lease is held");
    assert_eq!(at_once(a.primary_info()).await.as_ref(), Ok(b.own_info()));
}

pub(super) async fn rivals(place: &impl Place, can: &Abilities) {
    let (a, b) = (place.leaser("a"), place.leaser("b"));
    for round in 0..20 {
        let (one, other) = tokio::join!(a.acquire(), b.acquire());
        let lease = match (one, other) {
            (Ok(_), Ok(_)) => panic!("round {round}: both have the lease"),
            (Ok(lease), Err(err)) | (Err(err), Ok(lease)) => {
                assert!(is_for_now(&err), "round {round}: {err}");
                lease
            }
            (Err(one), Err(other)) => {
                assert!(is_for_now(&one) && is_for_now(&other), "round {round}: {one}, {other}");
                acquire_at_last(&*a, can).await
            }
        };
        assert_eq!(lease.release().await, Ok(()), "round {round}");
    }
}

pub(super) async fn dropped(place: &impl Place, can: &Abilities) {
    let (a, b) = (place.leaser("a"), place.leaser("b"));
    for polls in 0..DROPS {
        let done = drop_after(polls, a.acquire()).await;
        // It is taken or not; if it is, it is this node's own.
        let lease = acquire_at_last(&*a, can).await;
        assert_eq!(lease.release().await, Ok(()), "after acquire was dropped at {polls}");
        if done.is_some() {
            break;
        }
    }
    let mut lease = acquire_at_last(&*a, can).await;
    for polls in 0..DROPS {
        let progress = Progress { reign: 1, transactions: polls as u64 };
        let done = drop_after(polls, lease.renew(progress)).await;
        assert_eq!(lease.renew(progress).await, Ok(()), "after renew was dropped at {polls}");
        if done.is_some() {
            break;
        }
    }
    // Then it ends by itself, if need be.
    drop_after(2, lease.release()).await;
    drop(a);
    acquire_at_last(&*b, can).await;
}
