//! Checks whether a backend keeps what [`Leaser`] and [`Lease`] promise: for those who write one (feature `conformance`).
//!
//! # Writing a backend
//! Begin with [`Leaser::acquire`], [`Leaser::primary_info`], [`Lease::deadline`], [`Lease::renew`] and [`Lease::release`],
//! in a place where one value changes atomically: a row, a key, a file. Leave out what the place can't do; the defaults say
//! so to the role loop. Then write one test:
//!
//! ```
//! use litefs_lease::conformance::{Abilities, Place, check};
//! use litefs_lease::{Leaser, PrimaryInfo, StaticLeaser};
//!
//! /// What the nodes share. Here that is nothing: node a is the primary for good.
//! struct Fixed;
//!
//! impl Place for Fixed {
//!     fn leaser(&self, node: &str) -> Box<dyn Leaser> {
//!         let info = PrimaryInfo { hostname: "a".into(), advertise_url: "http://a:20202".into() };
//!         Box::new(StaticLeaser::new(node == "a", info))
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! check(&Abilities::default(), || Fixed).await;
//! # });
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! and say in [`Abilities`] what the backend can. Each promise is checked in a fresh place. A broken one panics and says
//! which; the last line on standard output names the check. A backend that passes can still be wrong about its
//! place: that at most one node has the right at a time is an argument about clocks and atomicity, which belongs into
//! its docs. `examples/custom-lease` is a backend of a hundred lines that passes, `consul` one that can everything.
//!
//! A node's process is played by a leaser and its lease. Dropping both is its death.

mod handing;
mod holding;
mod telling;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use crate::{Lease, LeaseError, Leaser};

/// What the nodes of one cluster share.
pub trait Place {
    /// A leaser as the process of this node makes it when it starts. The nodes are `a` and `b`; each has a
    /// [`crate::PrimaryInfo`] of its own.
    fn leaser(&self, node: &str) -> Box<dyn Leaser>;
    /// The same, but each of its requests is answered late by this time, if the place can play that.
    fn slow_leaser(&self, node: &str, delay: Duration) -> Option<Box<dyn Leaser>> {
        let _ = (node, delay);
        None
    }
}

/// What a backend can. The default is the least: a lease that stays where it is.
#[derive(Debug, Clone)]
pub struct Abilities {
    /// For how long a lease is granted; `None` if it has no deadline. A second or two are good for a test.
    pub term: Option<Duration>,
    /// Whether another node can have the lease once it is released, or its holder dead.
    pub moves: bool,
    /// Within this the lease of a dead node can be had by another.
    pub patience: Duration,
    /// Whether [`Leaser::acquire_existing`] is there.
    pub hands_over: bool,
    /// Whether [`Leaser::primary_changed`] is there.
    pub watches: bool,
    /// Whether [`Leaser::stand`] is there.
    pub remembers: bool,
}

impl Default for Abilities {
    fn default() -> Abilities {
        Abilities {
            term: None,
            moves: false,
            patience: Duration::from_secs(20),
            hands_over: false,
            watches: false,
            remembers: false,
        }
    }
}

/// Checks every promise, each in a place of its own, which `fresh` makes.
///
/// # Panics
/// If one is broken.
pub async fn check<P: Place>(can: &Abilities, fresh: impl Fn() -> P) {
    let named = |name: &str| {
        println!("checking: {name}");
        fresh()
    };
    holding::exclusion(&named("one node holds the lease"), can).await;
    holding::renewal(&named("a lease that is renewed stays"), can).await;
    holding::own_again(&named("a node has the lease of its earlier life"), can).await;
    holding::late_answers(&named("deadlines are counted from before the request"), can).await;
    if can.moves {
        holding::release(&named("a released lease can be had at once"), can).await;
        holding::death(&named("a dead node's lease goes to another"), can).await;
        holding::rivals(&named("of two who ask, one gets it"), can).await;
        holding::dropped(&named("acquire, renew and release can be dropped"), can).await;
        telling::cluster_id(&named("a cluster has one ID")).await;
    }
    if can.hands_over {
        handing::over(&named("a lease is handed over")).await;
        handing::back(&named("a lease is taken back")).await;
        handing::race(&named("one of the two has a lease that is handed over")).await;
        handing::dropped(&named("taking over and taking back can be dropped"), can).await;
    } else {
        handing::never(&named("a lease isn't handed over")).await;
    }
    if can.watches {
        telling::watch(&named("a change of the primary is told"), can).await;
    }
    match can.remembers {
        true => telling::progress(&named("the progress is remembered")).await,
        false => telling::nothing(&named("nothing is made up")).await,
    }
}

/// What only says that one must wait.
fn is_for_now(err: &LeaseError) -> bool {
    matches!(err, LeaseError::NotYet | LeaseError::PrimaryExists)
}

/// Takes the lease within the time that a dead node's may take.
async fn acquire_at_last(leaser: &dyn Leaser, can: &Abilities) -> Box<dyn Lease> {
    let asking = async {
        loop {
            match leaser.acquire().await {
                Ok(lease) => return lease,
                Err(err) if is_for_now(&err) => tokio::time::sleep(SHORTLY).await,
                Err(err) => panic!("acquire: {err}"),
            }
        }
    };
    let asked = tokio::time::timeout(can.patience, asking).await;
    asked.unwrap_or_else(|_| panic!("nobody has the lease, and it can't be had"))
}

/// The lease, which is free.
async fn acquire(leaser: &dyn Leaser) -> Box<dyn Lease> {
    match at_once(leaser.acquire()).await {
        Ok(lease) => lease,
        Err(err) => panic!("a free lease can't be had: {err}"),
    }
}

/// What doesn't wait for anybody.
async fn at_once<T>(future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(10), future).await;
    done.unwrap_or_else(|_| panic!("a call waits for more than the place's answer"))
}

/// Polls the future so often, then drops it. `None` if it wasn't done.
async fn drop_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        Pin::as_mut(&mut future).poll(context).map(Some)
    })
    .await
}

const SHORTLY: Duration = Duration::from_millis(10);
/// At how many places a call is dropped, at most.
const DROPS: usize = 40;
