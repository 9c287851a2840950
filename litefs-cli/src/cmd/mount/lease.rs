//! The place that grants the lease, as the configuration says.

use std::net::TcpListener;
use std::sync::Arc;

use litefs_lease::consul::{ConsulLeaser, ConsulOptions, ConsulOptionsError, FastFailover};
use litefs_lease::{Leaser, PrimaryInfo, StaticLeaser};

use super::start::StartError;
use crate::cmd::config::without_password;
use crate::config::Config;

/// Never waits for other machines. `identity` tells this data directory from others.
pub(super) fn leaser(
    config: &Config,
    listener: Option<&TcpListener>,
    identity: u64,
) -> Result<Arc<dyn Leaser>, StartError> {
    match config.lease.r#type.as_str() {
        "consul" => Ok(Arc::new(consul_leaser(config, listener, identity)?)),
        _ => Ok(Arc::new(static_leaser(config))),
    }
}

fn consul_leaser(
    config: &Config,
    listener: Option<&TcpListener>,
    identity: u64,
) -> Result<ConsulLeaser, ConsulOptionsError> {
    let (lease, consul) = (&config.lease, &config.lease.consul);
    tracing::info!("Using Consul to determine primary");
    let or = |text: &str, default: &dyn Fn() -> String| match text {
        "" => default(),
        text => text.to_owned(),
    };
    let hostname = or(&lease.hostname, &|| {
        let name = nix::unistd::gethostname().unwrap_or_default();
        name.to_string_lossy().into_owned()
    });
    let advertise_url = or(&lease.advertise_url, &|| {
        let addr = listener.and_then(|listener| listener.local_addr().ok());
        addr.map_or_else(String::new, |addr| format!("http://{hostname}:{}", addr.port()))
    });
    tracing::info!(
        "initializing consul: key={} url={} hostname={hostname} advertise-url={advertise_url}",
        consul.key,
        without_password(&consul.url),
    );
    let own = PrimaryInfo { hostname, advertise_url };
    let mut options = ConsulOptions::new(&consul.url, &consul.key, own, identity);
    options.ttl = consul.ttl.positive().unwrap_or(options.ttl);
    options.lock_delay = consul.lock_delay.positive().unwrap_or(options.lock_delay);
    options.fast_failover = (consul.fast_failover && lease.candidate).then(FastFailover::default);
    ConsulLeaser::new(options)
}

fn static_leaser(config: &Config) -> StaticLeaser {
    let lease = &config.lease;
    let info = PrimaryInfo {
        hostname: lease.hostname.clone(),
        advertise_url: lease.advertise_url.clone(),
    };
    tracing::info!(
        "Using static primary: primary={} hostname={} advertise-url={}",
        lease.candidate,
        info.hostname,
        info.advertise_url
    );
    StaticLeaser::new(lease.candidate, info)
}
