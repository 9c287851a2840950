//! How long the beat of a lease has stood still, as far as this node can tell. No I/O and no clock.

use std::time::{Duration, Instant};

/// Counts from the last change that was seen, and anew whenever nothing could be seen.
#[derive(Debug, Default)]
pub(super) struct Standstill {
    counting: Option<Counting>,
}

#[derive(Debug)]
struct Counting {
    /// The key, as it was last written.
    modify_index: u64,
    since: Instant,
    /// The last look.
    looked: Instant,
    /// How long it may stand still.
    allowed: Duration,
}

impl Standstill {
    /// The key was seen at `now`, in answer to a query that was to take `wait` at most; its beat gives the right for
    /// `fence`, if it has one.
    pub(super) fn see(
        &mut self,
        now: Instant,
        wait: Duration,
        modify_index: u64,
        fence: Option<Duration>,
    ) {
        let Some(fence) = fence else {
            self.counting = None;
            return;
        };
        let allowed = fence + MARGIN;
        let longest = wait + wait / 16 + SLACK;
        let since = match &self.counting {
            // Consul was slow, or this process: the primary may have been unable to be seen.
            Some(c) if now.saturating_duration_since(c.looked) > longest => now,
            Some(c) if c.modify_index == modify_index => c.since,
            _ => now,
        };
        self.counting = Some(Counting { modify_index, since, looked: now, allowed });
    }

    /// How much longer it may stand still; `None` if it has no beat.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let counting = self.counting.as_ref()?;
        let stood = now.saturating_duration_since(counting.since);
        Some(counting.allowed.saturating_sub(stood))
    }

    /// The key's index, if it has stood still for too long at the last look.
    pub(super) fn overdue(&self) -> Option<u64> {
        let counting = self.counting.as_ref()?;
        let stood = counting.looked.saturating_duration_since(counting.since);
        (stood >= counting.allowed).then_some(counting.modify_index)
    }
}

/// What clocks may differ by within a fence.
const MARGIN: Duration = Duration::from_millis(500);
/// What a query may take beyond its wait, to which Consul adds a sixteenth.
pub(super) const SLACK: Duration = Duration::from_millis(400);

#[cfg(test)]
mod tests {
    use super::*;

    const FENCE: Option<Duration> = Some(Duration::from_secs(2));
    const STEP: Duration = Duration::from_millis(250);

    /// Looks every quarter of a second for the given time.
    fn look(still: &mut Standstill, from: Instant, length: Duration, index: u64) -> Instant {
        let mut now = from;
        while now < from + length {
            now += STEP;
            still.see(now, STEP, index, FENCE);
        }
        now
    }

    #[test]
    fn a_beat_that_stands_still_is_overdue_after_fence_and_margin() {
        let (mut still, start) = (Standstill::default(), Instant::now());
        still.see(start, STEP, 5, FENCE);
        let now = look(&mut still, start, Duration::from_millis(2250), 5);
        assert_eq!((still.overdue(), still.left(now)), (None, Some(STEP)));
        look(&mut still, now, STEP, 5);
        assert_eq!(still.overdue(), Some(5));
    }

    #[test]
    fn each_beat_begins_the_count_anew() {
        let (mut still, mut now) = (Standstill::default(), Instant::now());
        for beat in 0..10 {
            now = look(&mut still, now, Duration::from_secs(2), beat);
            assert_eq!(still.overdue(), None);
        }
    }

    #[test]
    fn what_wasnt_seen_doesnt_count() {
        let (mut still, start) = (Standstill::default(), Instant::now());
        still.see(start, STEP, 5, FENCE);
        let mut now = look(&mut still, start, Duration::from_secs(2), 5);
        // Consul was away for a second, or this process was paused.
        now += Duration::from_secs(1);
        still.see(now, STEP, 5, FENCE);
        assert_eq!(still.overdue(), None);
        assert_eq!(still.left(now), Some(Duration::from_millis(2500)));
    }

    #[test]
    fn a_lease_without_a_beat_is_never_overdue() {
        let (mut still, start) = (Standstill::default(), Instant::now());
        still.see(start, STEP, 5, FENCE);
        for second in 1..100 {
            still.see(start + Duration::from_secs(second), Duration::from_secs(1), 5, None);
            assert_eq!((still.overdue(), still.left(start)), (None, None));
        }
    }
}
