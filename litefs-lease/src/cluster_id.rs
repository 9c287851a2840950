//! The ID of a cluster: it keeps nodes of different clusters from exchanging data by mistake.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// `LFSC` and 16 characters, made as upper-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterId(String);

/// Not a cluster ID.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid cluster id: {0:?}")]
pub struct ClusterIdError(String);

impl ClusterId {
    /// A new one.
    pub fn from_random(random: u64) -> ClusterId {
        ClusterId(format!("{PREFIX}{random:016X}"))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClusterId {
    type Err = ClusterIdError;

    fn from_str(s: &str) -> Result<ClusterId, ClusterIdError> {
        if s.len() == 20 && s.starts_with(PREFIX) {
            Ok(ClusterId(s.into()))
        } else {
            Err(ClusterIdError(s.into()))
        }
    }
}

const PREFIX: &str = "LFSC";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_prefix_and_sixteen_characters() {
        let id = ClusterId::from_random(0xab);
        assert_eq!(id.to_string(), "LFSC00000000000000AB");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "LFSC", "LFSC00000000000000ABC", "XFSC00000000000000AB"] {
            assert!(bad.parse::<ClusterId>().is_err(), "{bad}");
        }
    }
}
