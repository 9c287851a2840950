//! A lease that goes from node to node without being free in between.

use super::{Abilities, DROPS, Place, acquire, acquire_at_last, at_once, drop_after};
use crate::{Lease, LeaseError, Progress};

fn id_of(lease: &dyn Lease) -> String {
    lease.id().expect("a lease that can be handed over has an ID").to_owned()
}

pub(super) async fn over(place: &impl Place) {
    let (a, b) = (place.leaser("a"), place.leaser("b"));
    let mut given = acquire(&*a).await;
    assert_eq!(given.renew(Progress::default()).await, Ok(()));
    let id = id_of(&*given);
    let mut taken = at_once(b.acquire_existing(&id)).await.expect("it was handed over");
    assert_eq!(a.primary_info().await.as_ref(), Ok(b.own_info()), "the target is the primary");
    assert_eq!(given.renew(Progress::default()).await, Err(LeaseError::Expired), "it is gone");
    assert_eq!(at_once(given.reclaim()).await, Err(LeaseError::PrimaryExists), "it is used");
    assert_eq!(taken.renew(Progress::default()).await, Ok(()), "the target holds it");
    assert_eq!(taken.release().await, Ok(()));
    assert_eq!(at_once(given.reclaim()).await, Err(LeaseError::Expired), "nobody has it");
    let late = at_once(a.acquire_existing(&id)).await;
    assert_eq!(late.err(), Some(LeaseError::Expired), "it is no more");
}

pub(super) async fn back(place: &impl Place) {
    let (a, b) = (place.leaser("a"), place.leaser("b"));
    let mut lease = acquire(&*a).await;
    let id = id_of(&*lease);
    assert_eq!(at_once(lease.reclaim()).await, Ok(()), "nobody has used it");
    assert_late(at_once(b.acquire_existing(&id)).await);
    assert_eq!(lease.renew(Progress::default()).await, Ok(()), "it is ours again");
    assert_eq!(b.primary_info().await.as_ref(), Ok(a.own_info()));
    // It can be handed over once more.
    let id = id_of(&*lease);
    assert!(at_once(b.acquire_existing(&id)).await.is_ok(), "it was handed over anew");
}

/// What a target is told that comes too late.
fn assert_late(taken: Result<Box<dyn Lease>, LeaseError>) {
    match taken {
        Err(LeaseError::Expired | LeaseError::PrimaryExists) => {}
        Err(err) => panic!("taking over too late: {err}"),
        Ok(_) => panic!("two nodes have a lease that was taken back"),
    }
}

pub(super) async fn race(place: &impl Place) {
    let (a, b) = (place.leaser("a"), place.leaser("b"));
    for round in 0..20 {
        let mut given = acquire(&*a).await;
        let id = id_of(&*given);
        let (back, taken) = tokio::join!(given.reclaim(), b.acquire_existing(&id));
        let winner = match (back, taken) {
            (Ok(()), taken) => {
                assert_late(taken);
                given
            }
            (Err(LeaseError::PrimaryExists), Ok(lease)) => lease,
            (back, taken) => panic!("round {round}: nobody has it: {back:?}, {taken:?}"),
        };
        assert_eq!(winner.release().await, Ok(()), "round {round}");
    }
}

pub(super) async fn dropped(place: &impl Place, can: &Abilities) {
    let (a, b) = (place.leaser("a"), place.leaser("b"));
    for polls in 0..DROPS {
        let mut given = acquire_at_last(&*a, can).await;
        let id = id_of(&*given);
        let done = drop_after(polls, b.acquire_existing(&id)).await.is_some();
        let winner = match given.reclaim().await {
            Ok(()) => given,
            Err(LeaseError::PrimaryExists) => acquire_at_last(&*b, can).await,
            Err(err) => panic!("after taking over was dropped at {polls}: {err}"),
        };
        assert_eq!(winner.release().await, Ok(()));
        if done {
            break;
        }
    }
    for polls in 0..DROPS {
        let mut given = acquire_at_last(&*a, can).await;
        let done = drop_after(polls, given.reclaim()).await.is_some();
        assert_eq!(given.reclaim().await, Ok(()), "after taking back was dropped at {polls}");
        assert_eq!(given.renew(Progress::default()).await, Ok(()));
        assert_eq!(given.release().await, Ok(()));
        if done {
            break;
        }
    }
}

pub(super) async fn never(place: &impl Place) {
    let (a, b) = (place.leaser("a"), place.leaser("b"));
    let mut lease = acquire(&*a).await;
    assert_eq!(lease.id(), None, "an ID is for a lease that can be handed over");
    let taken = at_once(b.acquire_existing("1")).await;
    assert_eq!(taken.err(), Some(LeaseError::NoHandoff { kind: b.kind() }));
    assert_eq!(at_once(lease.reclaim()).await, Err(LeaseError::PrimaryExists));
}
