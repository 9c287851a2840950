//! A moment as calendar fields in UTC, for log lines and the names of rolled files.
//!
//! Source: the days-to-date arithmetic is the well-known one of the proleptic Gregorian calendar,
//! counted in eras of 400 years that begin on 1 March.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A calendar date and time of day in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Utc {
    pub(crate) year: u64,
    pub(crate) month: u64,
    pub(crate) day: u64,
    pub(crate) hour: u64,
    pub(crate) minute: u64,
    pub(crate) second: u64,
    pub(crate) nanos: u32,
}

impl Utc {
    /// The fields of `at`; a clock before 1970 counts as 1970.
    pub(crate) fn new(at: SystemTime) -> Utc {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (days, secs) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = date(days);
        Utc {
            year,
            month,
            day,
            hour: secs / 3600,
            minute: secs / 60 % 60,
            second: secs % 60,
            nanos: since.subsec_nanos(),
        }
    }

    /// `2026-11-24T15-04-05.000`, which no file system objects to.
    pub(crate) fn file_name(&self) -> String {
        let Utc { year, month, day, hour, minute, second, .. } = self;
        let millis = self.nanos / 1_000_000;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}.{millis:03}")
    }

    /// `2026/11/24 15:04:05.000000`, as the trace log has it.
    pub(crate) fn trace(&self) -> String {
        let Utc { year, month, day, hour, minute, second, .. } = self;
        let micros = self.nanos / 1000;
        format!("{year:04}/{month:02}/{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}")
    }
}

/// RFC 3339 with milliseconds: `2026-11-24T15:04:05.000Z`.
impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Utc { year, month, day, hour, minute, second, .. } = self;
        let millis = self.nanos / 1_000_000;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// Year, month and day of the day that lies `days` after 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // since 0000-03-01
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_calendar_fields() {
        for (secs, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_704_067_199, "2023-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Utc::new(UNIX_EPOCH + Duration::from_secs(secs)).to_string(), want);
        }
    }

    #[test]
    fn fractions_are_cut_not_rounded() {
        let utc = Utc::new(UNIX_EPOCH + Duration::from_nanos(999_999_999));
        assert_eq!(utc.to_string(), "1970-01-01T00:00:00.999Z");
        assert_eq!(utc.trace(), "1970/01/01 00:00:00.999999");
        assert_eq!(utc.file_name(), "1970-01-01T00-00-00.999");
    }
}
