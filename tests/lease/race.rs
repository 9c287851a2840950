//! Taking back against taking over: one of the two has the lease, whoever is faster.

use std::time::Duration;

use litefs_lease::{LeaseError, Leaser};
use litefs_tests::consul::Consul;
use litefs_tests::random::Random;

use crate::rig::{KEY, info, node, progress};

#[tokio::test(flavor = "multi_thread")]
async fn either_the_old_primary_or_the_target_has_the_lease() {
    let consul = Consul::start();
    let (a, b) = (node(&consul, "a"), node(&consul, "b"));
    let mut random = Random::from_env();
    let (mut back, mut over) = (0, 0);
    for round in 0..ROUNDS {
        let mut given = a.acquire().await.unwrap();
        given.renew(progress(1, round)).await.unwrap();
        let id = given.id().unwrap().to_owned();
        let head_start = Duration::from_micros(random.below(4000));
        let (reclaimed, taken) = tokio::join!(given.reclaim(), async {
            tokio::time::sleep(head_start).await;
            b.acquire_existing(&id).await
        });
        let (winner, name) = match (reclaimed, taken) {
            (Ok(()), Err(LeaseError::Expired | LeaseError::PrimaryExists)) => {
                back += 1;
                (given, "a")
            }
            (Err(LeaseError::PrimaryExists), Ok(lease)) => {
                over += 1;
                assert_eq!(given.renew(progress(1, round)).await, Err(LeaseError::Expired));
                (lease, "b")
            }
            (reclaimed, taken) => panic!("round {round}: {reclaimed:?} and {taken:?}"),
        };
        assert_eq!(a.primary_info().await, Ok(info(name)), "round {round}");
        let holder = consul.get(KEY).unwrap().session;
        assert_eq!(holder.as_deref(), winner.id(), "round {round}");
        winner.release().await.unwrap();
    }
    assert!(back > 0 && over > 0, "it was no race: {back} and {over}");
}

const ROUNDS: u64 = 200;
