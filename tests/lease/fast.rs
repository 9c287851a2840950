//! Fast failover: a primary that gives no sign of life is replaced long before its session ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use litefs_lease::consul::ConsulLeaser;
use litefs_lease::{LeaseError, Leaser};
use litefs_tests::consul::Consul;
use litefs_tests::proxy::Proxy;
use litefs_tests::random::Random;

use crate::rig::{
    FENCE, KEY, acquire, fast_node, fast_options, info, node, original, progress, within,
};
use litefs_tests::fake::{Asked, Fake, Reply};

/// How long a candidate watches a beat that stands still.
const STANDS: Duration = Duration::from_millis(1500);

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

#[tokio::test]
async fn a_beat_that_arrives_too_late_changes_nothing() {
    let consul = Consul::start();
    let proxy = Proxy::start();
    proxy.set_target(Some(consul.address()));
    let a = ConsulLeaser::new(fast_options(&proxy.url(), "a")).unwrap();
    let b = fast_node(&consul, "b");
    let mut lease = a.acquire().await.unwrap();
    lease.renew(progress(1, 1)).await.unwrap();
    proxy.stall(true);
    assert!(lease.renew(progress(1, 2)).await.is_err());
    assert_eq!(within(b.primary_changed(Some(&info("a")))).await, Ok(None));
    assert!(lease.deadline().unwrap() < Instant::now());
    let mut next = b.acquire().await.unwrap();
    let before = consul.get(KEY);
    proxy.stall(false);
    assert_eq!(lease.renew(progress(1, 3)).await, Err(LeaseError::Expired));
    assert_eq!(consul.get(KEY), before);
    next.renew(progress(2, 1)).await.unwrap();
    assert_eq!(lease.reclaim().await, Err(LeaseError::PrimaryExists));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_on_the_brink_has_lost_its_right_when_another_takes_it() {
    let consul = Arc::new(Consul::start());
    let mut random = Random::from_env();
    let lives: Vec<_> = (0..8)
        .map(|n| {
            let late: Vec<_> = (0..20).map(|_| Duration::from_millis(random.below(250))).collect();
            let consul = consul.clone();
            tokio::spawn(async move {
                let options = |name| {
                    let mut options = fast_options(&consul.url(), name);
                    options.key = format!("brink/{n}");
                    options
                };
                let a = ConsulLeaser::new(options("a")).unwrap();
                let candidate = |name| {
                    let leaser = ConsulLeaser::new(options(name)).unwrap();
                    tokio::spawn(async move {
                        assert_eq!(leaser.primary_changed(Some(&info("a"))).await, Ok(None));
                        Instant::now()
                    })
                };
                let mut lease = a.acquire().await.unwrap();
                let candidates = [candidate("b"), candidate("c")];
                // Beats come around the moment when it is too late.
                for late in late {
                    match lease.renew(progress(1, 1)).await {
                        Ok(()) => {}
                        Err(LeaseError::Expired) => break,
                        Err(err) => panic!("{err}"),
                    }
                    tokio::time::sleep(STANDS - Duration::from_millis(50) + late).await;
                }
                for candidate in candidates {
                    let removed = within(candidate).await.unwrap();
                    assert!(removed > lease.deadline().unwrap());
                }
            })
        })
        .collect();
    for life in lives {
        tokio::time::timeout(STANDS * 40, life).await.unwrap().unwrap();
    }
}

/// Node a has beaten once, and each query is answered late by so much after its wait.
fn standing(late: Duration, removals: &'static str) -> impl Fn(&Asked) -> Reply {
    move |asked| {
        if asked.line.starts_with("DELETE") {
            return Reply::new(200, removals);
        }
        let number = |name: &str| {
            let (_, text) = asked.line.split_once(&format!("{name}="))?;
            text.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
        };
        let wait = match number("index") {
            Some(5) => Duration::from_millis(number("wait").unwrap()),
            _ => Duration::ZERO,
        };
        // {"hostname":"a","advertise-url":"http://a:20202","beat":1,"fence-ms":1000}
        let value = "eyJob3N0bmFtZSI6ImEiLCJhZHZlcnRpc2UtdXJsIjoiaHR0cDovL2E6MjAyMDIiLCJiZWF0IjoxLCJmZW5jZS1tcyI6MTAwMH0=";
        let pair = format!(
            r#"[{{"Key":"{KEY}","Value":"{value}","Session":"1","LockIndex":1,"Flags":0,"CreateIndex":5,"ModifyIndex":5}}]"#
        );
        Reply::new(200, &pair).index(5).late(wait + late)
    }
}

#[tokio::test]
async fn a_candidate_removes_what_it_has_seen_and_nothing_else() {
    let fake = Fake::start(standing(Duration::ZERO, "true"));
    let b = ConsulLeaser::new(fast_options(&fake.url(), "b")).unwrap();
    let began = Instant::now();
    assert_eq!(within(b.primary_changed(Some(&info("a")))).await, Ok(None));
    assert!(began.elapsed() >= STANDS, "{:?}", began.elapsed());
    let script = fake.script();
    let removal = format!("DELETE /v1/kv/{KEY}?cas=5");
    assert_eq!(script.iter().filter(|line| **line == removal).count(), 1, "{script:?}");
    assert_eq!(script.last().unwrap(), "PUT /v1/session/destroy/1");
}

#[tokio::test]
async fn a_candidate_that_comes_second_goes_on_watching() {
    let removals = Arc::new(AtomicUsize::new(0));
    let count = removals.clone();
    let answer = standing(Duration::ZERO, "false");
    let fake = Fake::start(move |asked| {
        count.fetch_add(asked.line.starts_with("DELETE").into(), Ordering::Relaxed);
        answer(asked)
    });
    let b = ConsulLeaser::new(fast_options(&fake.url(), "b")).unwrap();
    let told = tokio::time::timeout(STANDS * 2, b.primary_changed(Some(&info("a")))).await;
    assert!(told.is_err(), "{told:?}");
    assert!(removals.load(Ordering::Relaxed) >= 1);
    assert!(!fake.script().iter().any(|line| line.contains("session")));
}

#[tokio::test]
async fn a_candidate_that_sees_late_removes_late() {
    let late = Duration::from_millis(600);
    let fake = Fake::start(standing(late, "true"));
    let b = ConsulLeaser::new(fast_options(&fake.url(), "b")).unwrap();
    let began = Instant::now();
    assert_eq!(within(b.primary_changed(Some(&info("a")))).await, Ok(None));
    // The first look, and two that don't count what they were late by.
    assert!(began.elapsed() >= STANDS + late * 3 - STANDS / 16, "{:?}", began.elapsed());
}
