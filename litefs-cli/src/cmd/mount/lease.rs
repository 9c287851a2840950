//! The place that grants the lease, as the configuration says.

use std::net::TcpListener;
use std::sync::Arc;

use litefs_lease::{Leaser, PrimaryInfo, StaticLeaser};

use super::start::StartError;
use crate::config::Config;

/// Never waits for other machines, but may ask the place whether it is there. `identity` tells this data directory from
/// others.
pub(super) fn leaser(
    config: &Config,
    listener: Option<&TcpListener>,
    identity: u64,
) -> Result<Arc<dyn Leaser>, StartError> {
    let _ = (listener, identity);
    match config.lease.r#type.as_str() {
        "consul" => Err(StartError::Consul),
        _ => Ok(Arc::new(static_leaser(config))),
    }
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
