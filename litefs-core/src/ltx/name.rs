//! Names of LTX files: `<min TXID>-<max TXID>.ltx`, each 16 lower-case hex digits.
//!
//! Temporary files end in something else, so they aren't names of LTX files.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::types::Txid;

/// The name of a file that holds the transactions from `min` to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    /// The first transaction contained.
    pub min: Txid,
    /// The last transaction contained.
    pub max: Txid,
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.ltx", self.min, self.max)
    }
}

impl FromStr for FileName {
    type Err = FileNameError;

    fn from_str(s: &str) -> Result<FileName, FileNameError> {
        parse(s).ok_or_else(|| FileNameError(s.into()))
    }
}

/// A name that isn't one of an LTX file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid ltx filename: {0}")]
pub struct FileNameError(String);

/// Differs from LiteFS: it takes 0 and a minimum above the maximum, which no header may have.
fn parse(s: &str) -> Option<FileName> {
    if s.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    let (min, max) = s.strip_suffix(".ltx")?.split_once('-')?;
    let name = FileName { min: min.parse().ok()?, max: max.parse().ok()? };
    (name.min <= name.max).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for s in ["0000000000000001-0000000000000001.ltx", "000000000000000a-ffffffffffffffff.ltx"]
        {
            assert_eq!(s.parse::<FileName>().unwrap().to_string(), s);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for s in [
            "",
            ".ltx",
            "-.ltx",
            "0000000000000001.ltx",
            "0000000000000001-0000000000000001.ltx.tmp",
            "0000000000000001-0000000000000001.LTX",
            "000000000000000A-000000000000000B.ltx",
            "1-1.ltx",
            "0000000000000001-0000000000000001-0000000000000001.ltx",
            "+000000000000001-0000000000000001.ltx",
            "0000000000000000-0000000000000001.ltx",
            "0000000000000002-0000000000000001.ltx",
            " 0000000000000001-0000000000000001.ltx",
        ] {
            let err = s.parse::<FileName>().unwrap_err();
            assert_eq!(err.to_string(), format!("invalid ltx filename: {s}"));
        }
    }
}
