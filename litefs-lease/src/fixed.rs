//! The static lease: the configuration says who is the primary, for good.

use std::time::Instant;

use async_trait::async_trait;

use crate::{ClusterId, Lease, LeaseError, Leaser, PrimaryInfo, Progress};

/// Grants the lease to this node always, or never.
#[derive(Debug, Clone)]
pub struct StaticLeaser {
    primary: bool,
    info: PrimaryInfo,
}

impl StaticLeaser {
    /// `info` describes the primary, be it this node or another.
    pub fn new(primary: bool, info: PrimaryInfo) -> StaticLeaser {
        StaticLeaser { primary, info }
    }
}

#[async_trait]
impl Leaser for StaticLeaser {
    fn kind(&self) -> &'static str {
        "static"
    }

    fn own_info(&self) -> &PrimaryInfo {
        &self.info
    }

    async fn acquire(&self) -> Result<Box<dyn Lease>, LeaseError> {
        if self.primary { Ok(Box::new(StaticLease)) } else { Err(LeaseError::PrimaryExists) }
    }

    async fn primary_info(&self) -> Result<PrimaryInfo, LeaseError> {
        if self.primary { Err(LeaseError::NoPrimary) } else { Ok(self.info.clone()) }
    }

    async fn cluster_id(&self) -> Result<Option<ClusterId>, LeaseError> {
        Ok(None)
    }

    async fn set_cluster_id(&self, _: &ClusterId) -> Result<(), LeaseError> {
        Ok(())
    }
}

#[derive(Debug)]
struct StaticLease;

#[async_trait]
impl Lease for StaticLease {
    fn deadline(&self) -> Option<Instant> {
        None
    }

    async fn renew(&mut self, _: Progress) -> Result<(), LeaseError> {
        Ok(())
    }

    async fn release(self: Box<Self>) -> Result<(), LeaseError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// The static lease never waits for anything.
    fn now<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("a static lease never waits"),
        }
    }

    fn info() -> PrimaryInfo {
        PrimaryInfo { hostname: "a".into(), advertise_url: "http://a:20202".into() }
    }

    #[test]
    fn the_primary_holds_the_lease_without_end() {
        let leaser = StaticLeaser::new(true, info());
        let mut lease = now(leaser.acquire()).unwrap();
        assert_eq!((lease.deadline(), lease.id()), (None, None));
        assert_eq!(now(lease.renew(Progress::default())), Ok(()));
        assert_eq!(now(leaser.primary_info()), Err(LeaseError::NoPrimary));
        assert_eq!(now(lease.release()), Ok(()));
    }

    #[test]
    fn a_replica_is_told_who_the_primary_is() {
        let leaser = StaticLeaser::new(false, info());
        assert_eq!(now(leaser.acquire()).unwrap_err(), LeaseError::PrimaryExists);
        assert_eq!(now(leaser.primary_info()), Ok(info()));
    }

    #[test]
    fn it_is_never_handed_over() {
        let err = now(StaticLeaser::new(true, info()).acquire_existing("1")).unwrap_err();
        assert_eq!(err.to_string(), "static lease handoff not supported");
    }
}
