//! A Consul that is slow, gone, forgetful or says no.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use litefs_lease::consul::ConsulLeaser;
use litefs_lease::{LeaseError, Leaser};
use litefs_tests::consul::{Consul, ConsulOptions};
use litefs_tests::fake::{Fake, Reply};
use litefs_tests::node::LIMIT;
use litefs_tests::proxy::Proxy;

use crate::rig::{KEY, TTL, acquire, info, node, options, progress, within};

fn text(err: &LeaseError) -> &str {
    match err {
        LeaseError::Unavailable { message } => message,
        err => panic!("{err:?}"),
    }
}

#[tokio::test]
async fn a_lease_outlives_a_consul_that_restarts() {
    let mut consul = Consul::start();
    let a = node(&consul, "a");
    let mut lease = a.acquire().await.unwrap();
    lease.renew(progress(1, 1)).await.unwrap();
    let deadline = lease.deadline();
    consul.kill();
    let err = lease.renew(progress(1, 2)).await.unwrap_err();
    assert!(text(&err).contains("127.0.0.1"), "{err}");
    assert_eq!(lease.deadline(), deadline, "a failed renewal has moved the deadline");
    consul.up();
    // Sessions begin anew with a new leader, so it may still be there; if so, it is good again.
    lease.renew(progress(1, 3)).await.unwrap();
    assert!(lease.deadline() > deadline);
    assert_eq!(node(&consul, "b").acquire().await.unwrap_err(), LeaseError::PrimaryExists);
}

#[tokio::test]
async fn a_consul_that_has_lost_its_memory_ends_the_lease_and_grants_the_next() {
    let mut consul = Consul::start();
    let mut options = options(&format!("{}/pre", consul.url()), "a");
    options.key = "key".into();
    let a = ConsulLeaser::new(options).unwrap();
    let mut lease = a.acquire().await.unwrap();
    lease.renew(progress(1, 1)).await.unwrap();
    let known = info("a");
    let mut watch = std::pin::pin!(a.primary_changed(Some(&known)));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut watch).await.is_err());
    consul.wipe();
    consul.up();
    assert_eq!(lease.renew(progress(1, 2)).await, Err(LeaseError::Expired));
    match within(watch).await {
        Ok(None) => {}
        // The query broke with the connection; then the next one tells.
        Err(LeaseError::Unavailable { .. }) => {
            assert_eq!(within(a.primary_changed(Some(&known))).await, Ok(None));
        }
        told => panic!("{told:?}"),
    }
    // It registers its node once more.
    acquire(&a).await.renew(progress(2, 1)).await.unwrap();
}

#[tokio::test]
async fn no_call_takes_longer_than_the_right_still_holds() {
    let consul = Consul::start();
    let proxy = Proxy::start();
    proxy.set_target(Some(consul.address()));
    let a = ConsulLeaser::new(options(&proxy.url(), "a")).unwrap();
    let mut lease = a.acquire().await.unwrap();
    let deadline = lease.deadline().unwrap();
    proxy.stall(true);
    let err = lease.renew(progress(1, 1)).await.unwrap_err();
    assert!(text(&err).contains("no answer"), "{err}");
    assert!(Instant::now() < deadline + Duration::from_millis(500));
    assert_eq!(lease.deadline(), Some(deadline));
    let asked = Instant::now();
    assert!(a.acquire().await.is_err());
    assert!(asked.elapsed() < Duration::from_secs(5));
    // The session may be there still, and then the right comes back.
    proxy.stall(false);
    match lease.renew(progress(1, 2)).await {
        Ok(()) => assert!(lease.deadline().unwrap() > Instant::now()),
        Err(err) => assert_eq!(err, LeaseError::Expired),
    }
}

#[tokio::test]
async fn a_late_answer_gives_no_longer_right() {
    let consul = Consul::start();
    let proxy = Proxy::start();
    proxy.set_target(Some(consul.address()));
    let a = ConsulLeaser::new(options(&proxy.url(), "a")).unwrap();
    let mut lease = a.acquire().await.unwrap();
    proxy.delay(TTL / 8);
    let asked = Instant::now();
    lease.renew(progress(1, 1)).await.unwrap();
    assert!(asked.elapsed() >= TTL / 4, "two requests at least");
    assert!(lease.deadline().unwrap() < asked + TTL + TTL / 16);
}

#[tokio::test]
async fn an_error_says_what_to_do_and_never_the_token() {
    for (status, body, want) in [
        (500, "Invalid Session TTL '1000000000', must be between [10s=24h0m0s]", "10s or more"),
        (403, "Permission denied", "key_prefix"),
        (403, "ACL not found", "doesn't know this token"),
        (400, "Client sent an HTTP request to an HTTPS server.", "https://"),
        (500, "No cluster leader", "No cluster leader"),
        (200, "<html>", "is this Consul?"),
    ] {
        let fake = Fake::start(move |_| Reply::new(status, body));
        let url = format!("http://u:s3cret@{}", fake.address());
        let leaser = ConsulLeaser::new(options(&url, "a")).unwrap();
        let err = leaser.acquire().await.unwrap_err();
        assert!(text(&err).contains(want), "{err}");
        assert!(text(&err).contains(&fake.address().to_string()), "{err}");
        for shown in [format!("{err} {err:?}"), format!("{leaser:?} {:?}", options(&url, "a"))] {
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }
}

#[tokio::test]
async fn consul_itself_says_no_in_the_words_we_know() {
    let consul = Consul::start_with(ConsulOptions {
        master_token: Some("m4ster".into()),
        ..ConsulOptions::default()
    });
    let err = |url: String| async move {
        let leaser = ConsulLeaser::new(options(&url, "a")).unwrap();
        leaser.acquire().await.unwrap_err()
    };
    let address = consul.address();
    let began = Instant::now();
    // It makes the tokens a moment after its start, also the one of those who have none, and doesn't know them before.
    let of_known = |url: String| async move {
        loop {
            let err = err(url.clone()).await;
            if !text(&err).contains("doesn't know this token") || began.elapsed() > LIMIT {
                break err;
            }
        }
    };
    let short = of_known(format!("http://:m4ster@{address}")).await;
    assert!(text(&short).contains("10s or more"), "{short}");
    let nobody = of_known(consul.url()).await;
    assert!(text(&nobody).contains("key_prefix"), "{nobody}");
    let unknown = err(format!("http://:wr0ng@{address}")).await;
    assert!(text(&unknown).contains("doesn't know this token"), "{unknown}");
    let tls = err(format!("https://{address}")).await;
    assert!(text(&tls).contains("http:// in lease.consul.url"), "{tls}");
    let mut options = options(&format!("http://:m4ster@{address}"), "a");
    options.ttl = Duration::from_secs(10);
    ConsulLeaser::new(options).unwrap().acquire().await.unwrap();
}

#[tokio::test]
async fn a_watch_is_never_hot() {
    // A Consul that answers at once, whatever is asked, with an index that goes up and down.
    let count = Arc::new(AtomicU64::new(0));
    let counter = count.clone();
    let fake = Fake::start(move |_| {
        let n = counter.fetch_add(1, Ordering::Relaxed);
        Reply::new(404, "").index(match n % 3 {
            0 => 2,
            _ => n,
        })
    });
    let leaser = ConsulLeaser::new(options(&fake.url(), "a")).unwrap();
    let watch = tokio::time::timeout(Duration::from_secs(1), leaser.primary_changed(None));
    assert!(watch.await.is_err());
    let count = count.load(Ordering::Relaxed);
    assert!((2..=11).contains(&count), "{count} queries in a second");
    let asked = fake.asked();
    assert_eq!(asked[0].line, format!("GET /v1/kv/{KEY}?index=0&wait=30000ms"));
    assert!(asked[1].line.contains("index=2&"), "{:?}", asked[1]);
}

#[tokio::test]
async fn a_key_that_holds_no_lease_is_an_error() {
    let consul = Consul::start();
    let session = consul.create_session(Duration::from_secs(10));
    assert!(consul.acquire(KEY, &session, "something else"));
    let err = node(&consul, "a").primary_info().await.unwrap_err();
    assert!(text(&err).contains(KEY), "{err}");
    // What no session holds is nobody's.
    consul.destroy_session(&session);
    consul.put(KEY, "something else");
    assert_eq!(node(&consul, "a").primary_info().await, Err(LeaseError::NoPrimary));
}
