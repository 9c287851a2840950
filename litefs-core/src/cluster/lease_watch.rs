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

    /// What will be seen from now on. A watch may lag behind what the place answers when it is asked, so what it has seen
    /// before says nothing about an answer.
    pub(super) fn news(&self) -> News {
        let mut holder = self.holder.clone();
        holder.mark_unchanged();
        News(holder)
    }
}

/// What a watch sees after a moment.
#[derive(Debug, Clone)]
pub(super) struct News(watch::Receiver<Seen>);

impl News {
    /// Waits until something else than `known` is seen. Cancel-safe.
    pub(super) async fn differs(&mut self, known: &Seen) {
        while self.0.changed().await.is_ok() {
            let seen = self.0.borrow_and_update();
            if seen.is_some() && *seen != *known {
                return;
            }
        }
        // The task has panicked: nothing is seen any more.
        std::future::pending::<()>().await;
    }
}

impl Drop for LeaseWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(name: &str) -> Seen {
        Some(Some(PrimaryInfo { hostname: name.into(), advertise_url: name.into() }))
    }

    async fn hears(news: &mut News, known: &Seen) -> bool {
        tokio::time::timeout(Duration::from_millis(20), news.differs(known)).await.is_ok()
    }

    #[tokio::test]
    async fn what_was_seen_before_an_answer_is_no_news() {
        let (tell, holder) = watch::channel(primary("old"));
        let watch = LeaseWatch { holder, task: tokio::spawn(std::future::pending()) };
        let mut news = watch.news();
        // The answer names another one, whom the watch sees only later.
        assert!(!hears(&mut news, &primary("new")).await);
        tell.send_replace(primary("new"));
        assert!(!hears(&mut news, &primary("new")).await);
        tell.send_replace(primary("old"));
        assert!(hears(&mut news, &primary("new")).await, "it leads again");
        assert!(!hears(&mut news, &primary("new")).await, "once");
    }
}
