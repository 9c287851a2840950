//! Fast failover: a primary that gives no sign of life is replaced long before its session ends.

use std::time::{Duration, Instant};

use litefs_lease::{LeaseError, Leaser};
use litefs_tests::consul::Consul;

use crate::rig::{KEY, acquire, fast_node, info, node, original, progress, within};

const FENCE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_silent_primary_is_replaced_after_its_right_has_ended() {
    let consul = Consul::start();
    let (a, b) = (fast_node(&consul, "a"), fast_node(&consul, "b"));
    let mut lease = a.acquire().await.unwrap();
    lease.renew(progress(1, 1)).await.unwrap();
    let silent = Instant::now();
    assert_eq!(within(b.primary_changed(Some(&info("a")))).await, Ok(None));
    assert!(lease.deadline().unwrap() < Instant::now());
    let next = b.acquire().await.unwrap();
    assert!(silent.elapsed() < Duration::from_secs(5), "{:?}", silent.elapsed());
    assert_eq!(lease.renew(progress(1, 2)).await, Err(LeaseError::Expired));
    assert!(next.deadline().unwrap() > Instant::now());
    assert_eq!(a.primary_info().await, Ok(info("b")));
}

#[tokio::test]
async fn a_primary_that_beats_stays() {
    let consul = Consul::start();
    let (a, b) = (fast_node(&consul, "a"), fast_node(&consul, "b"));
    let mut lease = a.acquire().await.unwrap();
    let known = info("a");
    let mut watch = std::pin::pin!(b.primary_changed(Some(&known)));
    let end = Instant::now() + FENCE * 4;
    while Instant::now() < end {
        let before = Instant::now();
        lease.renew(progress(1, 1)).await.unwrap();
        assert!(lease.deadline().unwrap() >= before + FENCE);
        assert!(lease.deadline().unwrap() <= Instant::now() + FENCE);
        let pause = tokio::time::timeout(FENCE / 2, &mut watch).await;
        assert!(pause.is_err(), "{pause:?}");
    }
    let value = consul.get(KEY).unwrap().value;
    assert!(value.starts_with(&original("a").replace('}', ",")), "{value}");
    assert!(value.contains(r#""fence-ms":1000"#), "{value}");
}

#[tokio::test]
async fn a_lease_without_a_beat_is_left_alone() {
    let consul = Consul::start();
    let (a, b) = (node(&consul, "a"), fast_node(&consul, "b"));
    let mut lease = a.acquire().await.unwrap();
    lease.renew(progress(1, 1)).await.unwrap();
    let known = info("a");
    let watch = tokio::time::timeout(Duration::from_secs(1), b.primary_changed(Some(&known)));
    assert!(watch.await.is_err());
    lease.release().await.unwrap();
    let session = consul.create_session(Duration::from_secs(10));
    assert!(consul.acquire(KEY, &session, &original("o")));
    let known = info("o");
    let watch = tokio::time::timeout(FENCE * 3, b.primary_changed(Some(&known)));
    assert!(watch.await.is_err());
    assert!(consul.has_session(&session));
}

#[tokio::test]
async fn a_consul_that_was_away_is_no_reason_to_replace_the_primary() {
    let consul = Consul::start();
    let (a, b) = (fast_node(&consul, "a"), fast_node(&consul, "b"));
    let mut lease = acquire(&a).await;
    lease.renew(progress(1, 1)).await.unwrap();
    let known = info("a");
    let mut watch = std::pin::pin!(b.primary_changed(Some(&known)));
    assert!(tokio::time::timeout(FENCE, &mut watch).await.is_err());
    consul.pause();
    // Longer than the right holds, shorter than the candidate's query waits.
    assert!(tokio::time::timeout(FENCE * 2, &mut watch).await.is_err());
    consul.resume();
    assert!(lease.deadline().unwrap() < Instant::now());
    lease.renew(progress(1, 2)).await.unwrap();
    assert!(lease.deadline().unwrap() > Instant::now());
    assert!(tokio::time::timeout(FENCE / 2, &mut watch).await.is_err());
    lease.renew(progress(1, 3)).await.unwrap();
}
