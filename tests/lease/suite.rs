//! The suite that every backend must pass.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use litefs_lease::Leaser;
use litefs_lease::conformance::{Abilities, Place, check};
use litefs_lease::consul::ConsulLeaser;
use litefs_tests::consul::Consul;
use litefs_tests::proxy::Proxy;

use crate::rig::{TTL, options};

/// A key of its own in one Consul.
struct Key<'a> {
    consul: &'a Consul,
    key: String,
    proxies: Mutex<Vec<Proxy>>,
}

impl Key<'_> {
    fn at(&self, url: &str, node: &str) -> Box<dyn Leaser> {
        let mut options = options(url, node);
        options.key.clone_from(&self.key);
        Box::new(ConsulLeaser::new(options).unwrap())
    }
}

impl Place for Key<'_> {
    fn leaser(&self, node: &str) -> Box<dyn Leaser> {
        self.at(&self.consul.url(), node)
    }

    fn slow_leaser(&self, node: &str, delay: Duration) -> Option<Box<dyn Leaser>> {
        let proxy = Proxy::start();
        proxy.set_target(Some(self.consul.address()));
        proxy.delay(delay);
        let leaser = self.at(&proxy.url(), node);
        self.proxies.lock().unwrap().push(proxy);
        Some(leaser)
    }
}

#[tokio::test]
async fn consul_keeps_every_promise() {
    let consul = Consul::start();
    let can = Abilities {
        term: Some(TTL),
        moves: true,
        patience: Duration::from_secs(20),
        hands_over: true,
        watches: true,
        remembers: true,
    };
    let places = AtomicUsize::new(0);
    check(&can, || {
        let key = format!("litefs/{}", places.fetch_add(1, Ordering::Relaxed));
        Key { consul: &consul, key, proxies: Mutex::default() }
    })
    .await;
}
