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
    // Whoever has won gives the other one more of a start, so it stays a race on any machine.
    let mut lead = 0;
    for round in 0..ROUNDS {
        let mut given = a.acquire().await.unwrap();
        given.renew(progress(1, round)).await.unwrap();
        let id = given.id().unwrap().to_owned();
        let ahead = lead + random.below(1000) as i64 - 500;
        let after = |micros: i64| tokio::time::sleep(Duration::from_micros(micros.max(0) as u64));
        let (reclaimed, taken) = tokio::join!(
            async {
                after(ahead).await;
                given.reclaim().await
            },
            async {
                after(-ahead).await;
                b.acquire_existing(&id).await
            }
        );
        let (winner, name) = match (reclaimed, taken) {
            (Ok(()), Err(LeaseError::Expired | LeaseError::PrimaryExists)) => {
                back += 1;
                lead += STEP;
                (given, "a")
            }
            (Err(LeaseError::PrimaryExists), Ok(lease)) => {
                over += 1;
                lead -= STEP;
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
/// In microseconds.
const STEP: i64 = 500;
