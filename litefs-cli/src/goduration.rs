//! Durations as Go writes them: `1h30m`, `1.5s`, `-250ms`. Parsing and printing agree with Go's
//! `time.ParseDuration` and `Duration.String`.
//!
//! In YAML only text is a duration: a bare number, `0` too, is an error.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// A signed duration in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GoDuration(i64);

impl GoDuration {
    pub(crate) const fn from_nanos(nanos: i64) -> GoDuration {
        GoDuration(nanos)
    }

    pub(crate) const fn from_secs(secs: u32) -> GoDuration {
        GoDuration(secs as i64 * SECOND)
    }

    /// `None` if zero or negative, which all our settings read as "none" or "the default".
    #[allow(dead_code, reason = "for the engine's options, which cmd::mount::node will build")]
    pub(crate) fn positive(self) -> Option<Duration> {
        u64::try_from(self.0).ok().filter(|n| *n > 0).map(Duration::from_nanos)
    }
}

impl From<Duration> for GoDuration {
    /// Saturates at 292 years.
    fn from(d: Duration) -> GoDuration {
        GoDuration(i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<GoDuration, DurationError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if unsigned == "0" {
            return Ok(GoDuration(0));
        }
        let nanos = parse_unsigned(unsigned, text)?;
        let signed = if negative { -nanos } else { nanos };
        i64::try_from(signed).map(GoDuration).map_err(|_| DurationError::Invalid(text.into()))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => write!(f, "{}µs", Decimal(nanos, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{}ms", Decimal(nanos, 1_000_000)),
            _ => {
                let minutes = nanos / MINUTE as u64;
                match (minutes / 60, minutes % 60) {
                    (0, 0) => {}
                    (0, m) => write!(f, "{m}m")?,
                    (h, m) => write!(f, "{h}h{m}m")?,
                }
                write!(f, "{}s", Decimal(nanos % MINUTE as u64, SECOND as u64))
            }
        }
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<GoDuration, D::Error> {
        d.deserialize_any(DurationVisitor)
    }
}

/// Text that isn't a duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum DurationError {
    /// No number, or too large.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number alone.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// Such as `d`, which Go doesn't have either.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit {
        /// What stands for the unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// A count of `unit`s with as many decimals as needed.
struct Decimal(u64, u64);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decimal(n, unit) = *self;
        let width = unit.ilog10() as usize;
        match n % unit {
            0 => write!(f, "{}", n / unit),
            rest => {
                let digits = format!("{rest:0width$}");
                write!(f, "{}.{}", n / unit, digits.trim_end_matches('0'))
            }
        }
    }
}

struct DurationVisitor;

impl DurationVisitor {
    fn refuse<E: de::Error>(tag: &str, value: impl fmt::Display) -> E {
        E::custom(format_args!("cannot unmarshal !!{tag} `{value}` into time.Duration"))
    }
}

impl Visitor<'_> for DurationVisitor {
    type Value = GoDuration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as 5s or 1m30s")
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<GoDuration, E> {
        v.parse().map_err(|_| DurationVisitor::refuse("str", v))
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<GoDuration, E> {
        Err(DurationVisitor::refuse("int", v))
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<GoDuration, E> {
        Err(DurationVisitor::refuse("int", v))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<GoDuration, E> {
        Err(DurationVisitor::refuse("float", v))
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<GoDuration, E> {
        Err(DurationVisitor::refuse("bool", v))
    }

    fn visit_unit<E: de::Error>(self) -> Result<GoDuration, E> {
        Err(E::invalid_type(Unexpected::Unit, &self))
    }
}

/// The sum of the number-and-unit pairs of `rest`, which is `text` without its sign.
fn parse_unsigned(mut rest: &str, text: &str) -> Result<i128, DurationError> {
    let invalid = || DurationError::Invalid(text.into());
    let mut total: i128 = 0;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let (whole, after) = split_while(rest, |c| c.is_ascii_digit());
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_while(after, |c| c.is_ascii_digit()),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let (unit, after) = split_while(after, |c| c != '.' && !c.is_ascii_digit());
        let scale = match unit {
            "" => return Err(DurationError::MissingUnit(text.into())),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => MINUTE,
            "h" => 60 * MINUTE,
            _ => return Err(DurationError::UnknownUnit { unit: unit.into(), text: text.into() }),
        };
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total += i128::from(whole) * i128::from(scale) + fraction_of(fraction, scale);
        if total > i128::from(i64::MAX) + 1 {
            return Err(invalid());
        }
        rest = after;
    }
    Ok(total)
}

/// `0.<digits>` of a unit, in nanoseconds, in floating point as Go does it: `0.333…h` is 20 minutes.
fn fraction_of(digits: &str, scale: i64) -> i128 {
    let digits = &digits[..digits.len().min(19)];
    let value = digits.bytes().fold(0u64, |n, d| n * 10 + u64::from(d - b'0'));
    (value as f64 * (scale as f64 / 10f64.powi(digits.len() as i32))) as i128
}

fn split_while(s: &str, keep: impl Fn(char) -> bool) -> (&str, &str) {
    s.split_at(s.find(|c| !keep(c)).unwrap_or(s.len()))
}

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses_and_prints_as_go_does() {
        for (text, nanos, printed) in [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("5s", 5_000_000_000, "5s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("10m", 600_000_000_000, "10m0s"),
            ("-1s", -1_000_000_000, "-1s"),
            ("+5s", 5_000_000_000, "5s"),
            (".5s", 500_000_000, "500ms"),
            ("5.s", 5_000_000_000, "5s"),
            ("1.25µs", 1_250, "1.25µs"),
            ("1.004us", 1_004, "1.004µs"),
            ("12ns", 12, "12ns"),
            ("0.3333333333333333333h", 1_200_000_000_000, "20m0s"),
            ("2562047h47m16.854775807s", i64::MAX, "2562047h47m16.854775807s"),
            ("-2562047h47m16.854775808s", i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            let parsed: GoDuration = text.parse().unwrap();
            assert_eq!((parsed.0, parsed.to_string().as_str()), (nanos, printed), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for (text, want) in [
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            (".s", "time: invalid duration \".s\""),
            ("s", "time: invalid duration \"s\""),
            ("3", "time: missing unit in duration \"3\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("1h 2m", "time: unknown unit \"h \" in duration \"1h 2m\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
            ("3000000h", "time: invalid duration \"3000000h\""),
        ] {
            assert_eq!(text.parse::<GoDuration>().unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn only_a_positive_duration_counts() {
        assert_eq!(GoDuration::from_secs(1).positive(), Some(Duration::from_secs(1)));
        assert_eq!(GoDuration::from_nanos(0).positive(), None);
        assert_eq!(GoDuration::from_nanos(-1).positive(), None);
    }

    proptest! {
        #[test]
        fn printing_then_parsing_is_identity(nanos: i64) {
            let d = GoDuration::from_nanos(nanos);
            prop_assert_eq!(d.to_string().parse::<GoDuration>().unwrap(), d);
        }

        #[test]
        fn no_text_panics(text in "[-+.0-9a-zµ ]{0,40}") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
