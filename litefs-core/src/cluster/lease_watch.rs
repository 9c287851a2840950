//! Who holds the lease, watched all the time while this node doesn't.
//!
//! One task per watch, so that what a backend has seen isn't forgotten each time somebody stops listening: it may take
//! long until a lease counts as given up.

use std::sync::Arc;
use std::time::Duration;

use litefs_lease::{LeaseError, Leaser, PrimaryInfo};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What is known of the lease. Dropping it ends the task.
#[derive(Debug)]
pub(super) struct LeaseWatch {
    holder: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

/// `None`: nothing is known yet; `Some(None)`: nobody holds it.
pub(super) type Seen = Option<Option<PrimaryInfo>>;

impl LeaseWatch {
    /// Asks again after `pause` if the place can't be reached.
    pub(super) fn start(leaser: Arc<dyn Leaser>, pause: Duration) -> LeaseWatch {
        let (tell, holder) = watch::channel(Seen::None);
        let task = tokio::spawn(async move {
            loop {
                let seen = tell.borrow().clone();
                let now = match &seen {
                    None => match leaser.primary_info().await {
                        Ok(primary) => Ok(Some(primary)),
                        Err(LeaseError::NoPrimary) => Ok(None),
                        Err(err) => Err(err),
                    },
                    Some(known) => leaser.primary_changed(known.as_ref()).await,
                };
                match now {
                    Ok(now) => drop(tell.send_replace(Some(now))),
                    Err(err) => {
                        tracing::debug!("cannot watch the lease, trying again: {err}");
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        });
        LeaseWatch { holder, task }
    }

    /// What was last seen.
    pub(super) fn seen(&self) -> Seen {
        self.holder.borrow().clone()
    }

    /// Waits until something else than `known` is seen. Cancel-safe.
    pub(super) fn differs(&self, known: Seen) -> impl Future<Output = ()> + use<> {
        let mut holder = self.holder.clone();
        async move {
            let other = |seen: &Seen| seen.is_some() && *seen != known;
            if holder.wait_for(other).await.is_err() {
                // The task has panicked: nothing is seen any more.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for LeaseWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
