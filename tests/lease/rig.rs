//! Nodes that want the lease of one Consul.

use std::time::Duration;

use litefs_lease::consul::{ConsulLeaser, ConsulOptions, Environment, FastFailover};
use litefs_lease::{Lease, LeaseError, Leaser, PrimaryInfo, Progress};
use litefs_tests::consul::Consul;

/// The lease's key.
pub(crate) const KEY: &str = "litefs/primary";
/// Within this, what is to happen has happened.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// A session's, in most tests; Consul lets it live for up to twice as long.
pub(crate) const TTL: Duration = Duration::from_secs(2);

/// How long a beat gives the right.
pub(crate) const FENCE: Duration = Duration::from_secs(1);

/// What a node says of itself.
pub(crate) fn info(name: &str) -> PrimaryInfo {
    PrimaryInfo { hostname: name.into(), advertise_url: format!("http://{name}:20202") }
}

/// The value that an original node would write.
pub(crate) fn original(name: &str) -> String {
    format!(r#"{{"hostname":"{name}","advertise-url":"http://{name}:20202"}}"#)
}

pub(crate) fn options(url: &str, name: &str) -> ConsulOptions {
    let node_id = name.bytes().fold(0, |id, byte| id << 8 | u64::from(byte));
    let mut options = ConsulOptions::new(url, KEY, info(name), node_id);
    options.ttl = TTL;
    options.environment = Environment::default();
    options
}

pub(crate) fn node(consul: &Consul, name: &str) -> ConsulLeaser {
    ConsulLeaser::new(options(&consul.url(), name)).unwrap()
}

/// One that gives up its right, and takes others', fast.
pub(crate) fn fast_node(consul: &Consul, name: &str) -> ConsulLeaser {
    ConsulLeaser::new(fast_options(&consul.url(), name)).unwrap()
}

pub(crate) fn fast_options(url: &str, name: &str) -> ConsulOptions {
    let mut options = options(url, name);
    options.ttl = Duration::from_secs(10);
    options.fast_failover = Some(FastFailover::fence(FENCE));
    options
}

/// Takes the lease as soon as it can be had.
pub(crate) async fn acquire(leaser: &dyn Leaser) -> Box<dyn Lease> {
    within(async {
        loop {
            match leaser.acquire().await {
                Ok(lease) => return lease,
                Err(LeaseError::NotYet | LeaseError::PrimaryExists) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(err) => panic!("acquire: {err}"),
            }
        }
    })
    .await
}

/// What must come to an end.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("this takes too long")
}

pub(crate) fn progress(reign: u64, transactions: u64) -> Progress {
    Progress { reign, transactions }
}
