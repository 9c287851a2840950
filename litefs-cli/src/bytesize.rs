//! Sizes in bytes: `512MiB`, `1GiB`, `10MB`, or a bare number of bytes. 0 means "no limit".

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// A number of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(u64);

impl ByteSize {
    /// `None` for 0: no limit.
    #[allow(dead_code, reason = "for the engine's options, which cmd::mount::node will build")]
    pub(crate) fn limit(self) -> Option<u64> {
        Some(self.0).filter(|n| *n > 0)
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<ByteSize, ByteSizeError> {
        let error = || ByteSizeError(text.into());
        let (digits, unit) =
            text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let unit = unit.trim_start();
        let scale = match unit {
            "" | "B" => 1,
            _ => UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?.1,
        };
        let count: u64 = digits.parse().map_err(|_| error())?;
        count.checked_mul(scale).map(ByteSize).ok_or_else(error)
    }
}

/// In the largest unit that leaves no remainder.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |scale: u64| self.0 > 0 && self.0.is_multiple_of(scale);
        match UNITS.iter().find(|(_, scale)| fits(*scale)) {
            Some((name, scale)) => write!(f, "{}{name}", self.0 / scale),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<ByteSize, D::Error> {
        d.deserialize_any(ByteSizeVisitor)
    }
}

/// Text that isn't a size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid size {0:?}, expected bytes or a number with KiB, MiB, GiB, TiB, KB, MB, GB or TB")]
pub(crate) struct ByteSizeError(String);

struct ByteSizeVisitor;

impl Visitor<'_> for ByteSizeVisitor {
    type Value = ByteSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as 512MiB")
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<ByteSize, E> {
        v.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<ByteSize, E> {
        Ok(ByteSize(v))
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<ByteSize, E> {
        u64::try_from(v).map(ByteSize).map_err(|_| E::custom(ByteSizeError(v.to_string())))
    }
}

/// Largest first; the binary ones before the decimal ones.
const UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_scale_and_print() {
        for (text, bytes, printed) in [
            ("0", 0, "0"),
            ("17", 17, "17"),
            ("17B", 17, "17"),
            ("512MiB", 512 << 20, "512MiB"),
            ("1024 MiB", 1 << 30, "1GiB"),
            ("10MB", 10_000_000, "10MB"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, printed), "{text}");
        }
        assert_eq!("0".parse::<ByteSize>().unwrap().limit(), None);
    }

    #[test]
    fn garbage_is_refused() {
        for text in ["", "-1", "1.5GiB", "GiB", "1 G", "1gib", "99999999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
