//! How long the beat of a lease has stood still, as far as this node can tell. No I/O and no clock.

use std::time::{Duration, Instant};

/// Counts from the last change that was seen, without the time in which nothing could be seen.
#[derive(Debug, Default)]
pub(super) struct Standstill {
    counting: Option<Counting>,
}

#[derive(Debug)]
struct Counting {
    /// The key, as it was last written.
    modify_index: u64,
    /// The last change, later by what couldn't be seen since.
    since: Instant,
    /// The last look.
    looked: Instant,
    /// It was late, by more than may be.
    late: bool,
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
        let longest = wait + wait / 16;
        let (since, late) = match &self.counting {
            Some(c) if c.modify_index == modify_index => {
                let late = now.saturating_duration_since(c.looked).saturating_sub(longest);
                match (late > SLACK, c.late) {
                    (false, _) => (c.since, false),
                    // Consul was slow, or this process: so the primary may have been unable to be seen.
                    (true, true) => (c.since + late, true),
                    // Or all of them have stood still, and it needs a moment.
                    (true, false) => {
                        let half = now.checked_sub(allowed / 2).unwrap_or(now);
                        ((c.since + late).max(half), true)
                    }
                }
            }
            _ => (now, false),
        };
        self.counting = Some(Counting { modify_index, since, looked: now, late, allowed });
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
        let now = look(&mut still, start, Duration::from_millis(500), 5);
        // Consul was slow.
        let late = now + STEP + Duration::from_secs(1);
        still.see(late, STEP, 5, FENCE);
        let left = still.left(late).unwrap();
        let seen = Duration::from_millis(500) + STEP + STEP / 16;
        assert_eq!(left, Duration::from_millis(2500) - seen);
    }

    #[test]
    fn after_a_pause_of_all_a_primary_has_time_for_a_beat() {
        let (mut still, start) = (Standstill::default(), Instant::now());
        still.see(start, STEP, 5, FENCE);
        let now = look(&mut still, start, Duration::from_secs(2), 5);
        let awake = now + Duration::from_secs(3600);
        still.see(awake, STEP, 5, FENCE);
        assert_eq!(still.left(awake), Some(Duration::from_millis(1250)));
        still.see(awake + Duration::from_millis(1250), STEP, 6, FENCE);
        assert_eq!(still.overdue(), None);
    }

    #[test]
    fn a_consul_that_is_always_late_saves_no_primary() {
        let (mut still, mut now) = (Standstill::default(), Instant::now());
        still.see(now, STEP, 5, FENCE);
        for _ in 0..9 {
            assert_eq!(still.overdue(), None);
            now += STEP + Duration::from_secs(1);
            still.see(now, STEP, 5, FENCE);
        }
        look(&mut still, now, STEP, 5);
        assert_eq!(still.overdue(), Some(5));
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
