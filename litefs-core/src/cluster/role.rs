//! What a node may be, decided from what it knows; and how long it waits before it asks again.
//!
//! Pure: no clock, no network. What the decisions lead to is in [`super`].
//!
//! ```text
//! cluster ID of this node │ of the lease │ it may
//! ────────────────────────┼──────────────┼────────────────────────────────────────────
//! none                    │ none         │ lead or follow: the first primary sets the ID
//! one                     │ none         │ follow, and lead once nobody can hold a lease that was forgotten
//! the same                │ the same     │ lead or follow
//! none                    │ some         │ follow, and adopt the ID from the stream; lead if stale data is better than none
//! one                     │ another      │ neither
//! ```

use std::time::Duration;

use litefs_lease::ClusterId;

/// What the cluster IDs allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It may lead, if it is a candidate, and follow.
    Member,
    /// Likewise, but the place that grants the lease has lost its memory, or is a new one.
    Forgotten,
    /// It may follow.
    Guest,
    /// It has nothing to do with that cluster.
    Stranger,
}

/// Compares the cluster ID of this node with that of the lease.
pub(super) fn admit(local: Option<&ClusterId>, lease: Option<&ClusterId>) -> Admission {
    match (local, lease) {
        (None, None) => Admission::Member,
        (Some(_), None) => Admission::Forgotten,
        (None, Some(_)) => Admission::Guest,
        (Some(local), Some(lease)) if local == lease => Admission::Member,
        (Some(_), Some(_)) => Admission::Stranger,
    }
}

/// What a stream's cluster ID means for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StreamId {
    /// It is the node's own, or there is none on either side.
    Same,
    /// The node has none and takes this one for good.
    Adopt(ClusterId),
    /// Nothing may be taken from that stream.
    Different,
}

/// Compares the cluster ID of this node with what a primary says.
pub(super) fn check_stream(local: Option<&ClusterId>, remote: Option<&str>) -> StreamId {
    match (local, remote) {
        (None, None) => StreamId::Same,
        (None, Some(remote)) => remote.parse().map_or(StreamId::Different, StreamId::Adopt),
        (Some(local), Some(remote)) if local.to_string() == remote => StreamId::Same,
        (Some(_), _) => StreamId::Different,
    }
}

/// Waits that grow from an eighth of the longest to the longest, each shortened by chance so that many replicas of one
/// primary don't come back at the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(longest: Duration) -> Backoff {
        Backoff { longest, next: longest / 8 }
    }

    /// The last attempt succeeded.
    pub(super) fn reset(&mut self) {
        self.next = self.longest / 8;
    }

    /// How long to wait now: between half and all of what it is by count.
    pub(super) fn wait(&mut self, random: u64) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.longest);
        let part = (random % 1000) as u32;
        now / 2 + now / 2 * part / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ids_decide_who_may_do_what() {
        let (a, b) = (ClusterId::from_random(1), ClusterId::from_random(2));
        let cases = [
            (None, None, Admission::Member),
            (Some(&a), None, Admission::Forgotten),
            (Some(&a), Some(&a), Admission::Member),
            (None, Some(&a), Admission::Guest),
            (Some(&b), Some(&a), Admission::Stranger),
        ];
        for (local, lease, want) in cases {
            assert_eq!(admit(local, lease), want, "{local:?} {lease:?}");
        }
    }

    #[test]
    fn a_stream_of_another_cluster_is_refused() {
        let (a, b) = (ClusterId::from_random(1), ClusterId::from_random(2));
        let (a_text, b_text) = (a.to_string(), b.to_string());
        let cases = [
            (None, None, StreamId::Same),
            (None, Some(a_text.as_str()), StreamId::Adopt(a.clone())),
            (None, Some("nonsense"), StreamId::Different),
            (Some(&a), Some(a_text.as_str()), StreamId::Same),
            (Some(&a), Some(b_text.as_str()), StreamId::Different),
            (Some(&a), None, StreamId::Different),
        ];
        for (local, remote, want) in cases {
            assert_eq!(check_stream(local, remote), want, "{local:?} {remote:?}");
        }
    }

    #[test]
    fn waits_grow_to_the_longest_and_start_over() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second);
        for want in [125, 250, 500, 1000, 1000].map(Duration::from_millis) {
            let wait = backoff.wait(u64::MAX);
            assert!(wait >= want / 2 && wait <= want, "{wait:?} {want:?}");
        }
        backoff.reset();
        assert_eq!(backoff.wait(0), Duration::from_millis(125) / 2);
        assert_eq!(Backoff::new(Duration::ZERO).wait(7), Duration::ZERO);
    }
}
