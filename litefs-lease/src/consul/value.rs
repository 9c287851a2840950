//! What the keys hold: the lease's value, with what we add to it, and the record of progress.
//!
//! ```text
//! <key>                       {"hostname":"a","advertise-url":"http://a:20202","node-id":"00000000000000AB","beat":7,"fence-ms":2000}
//! <key>/clusterid             LFSC0123456789ABCDEF
//! <key>/progress              {"reign":3,"transactions":1000,"at":…}        the primary's last word
//! <key>/candidates/<node id>  the same, of who would take the free lease; the next primary removes them all
//! ```
//!
//! An original node writes only the first two members and reads no others. An empty value means that nobody is the
//! primary.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{PrimaryInfo, Progress};

/// The lease's value. The order of the members is that of the original.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Value {
    hostname: String,
    advertise_url: String,
    /// The holder's node ID, 16 hex digits. It tells a node its own earlier life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node_id: Option<String>,
    /// Rises with each renewal, if the holder's right ends [`Value::fence`] after each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    beat: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fence_ms: Option<u64>,
}

impl Value {
    /// A value without a beat.
    pub(super) fn new(own: &PrimaryInfo, node_id: u64) -> Value {
        Value {
            hostname: own.hostname.clone(),
            advertise_url: own.advertise_url.clone(),
            node_id: Some(format!("{node_id:016X}")),
            beat: None,
            fence_ms: None,
        }
    }

    /// The same with a beat.
    pub(super) fn with_beat(&self, beat: u64, fence: Duration) -> Value {
        let fence_ms = Some(fence.as_millis().try_into().unwrap_or(u64::MAX));
        Value { beat: Some(beat), fence_ms, ..self.clone() }
    }

    /// Whether both are of the same node, which reaches the same place under the same address.
    pub(super) fn is_of(&self, own: &Value) -> bool {
        self.node_id.is_some()
            && self.node_id == own.node_id
            && self.advertise_url == own.advertise_url
    }

    /// For how long a beat gives the right to be the primary; `None` if only the session says.
    pub(super) fn fence(&self) -> Option<Duration> {
        self.beat.and(self.fence_ms).map(Duration::from_millis)
    }

    /// 0 if it has none.
    pub(super) fn beat(&self) -> u64 {
        self.beat.unwrap_or(0)
    }

    pub(super) fn info(&self) -> PrimaryInfo {
        PrimaryInfo { hostname: self.hostname.clone(), advertise_url: self.advertise_url.clone() }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// A [`Progress`] as the place keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    reign: u64,
    transactions: u64,
    /// Consul takes no notice of a write that changes nothing, and this one is to count as news.
    at: u64,
}

impl Record {
    pub(super) fn new(progress: Progress) -> Record {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Record {
            reign: progress.reign,
            transactions: progress.transactions,
            at: at.as_nanos().try_into().unwrap_or(u64::MAX),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        Progress { reign: self.reign, transactions: self.transactions }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers only")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Value {
        let info = PrimaryInfo { hostname: "a".into(), advertise_url: "http://a:20202".into() };
        Value::new(&info, 0xab)
    }

    #[test]
    fn the_members_of_the_original_come_first() {
        let text = |value: &Value| String::from_utf8(value.to_json()).unwrap();
        assert_eq!(
            text(&own()),
            r#"{"hostname":"a","advertise-url":"http://a:20202","node-id":"00000000000000AB"}"#
        );
        assert!(
            text(&own().with_beat(7, Duration::from_secs(2)))
                .ends_with(r#""node-id":"00000000000000AB","beat":7,"fence-ms":2000}"#)
        );
    }

    #[test]
    fn a_value_of_the_original_is_nobodys_earlier_life_and_has_no_beat() {
        let json = br#"{"hostname":"a","advertise-url":"http://a:20202"}"#;
        let value: Value = serde_json::from_slice(json).unwrap();
        assert!(!value.is_of(&own()));
        assert!(!value.is_of(&value));
        assert_eq!(value.fence(), None);
        assert_eq!(value.info(), own().info());
    }

    #[test]
    fn an_earlier_life_has_the_same_node_id_and_address() {
        let moved = PrimaryInfo { advertise_url: "http://b:20202".into(), ..own().info() };
        assert!(own().with_beat(1, Duration::from_secs(2)).is_of(&own()));
        assert!(!Value::new(&moved, 0xab).is_of(&own()));
        assert!(!Value::new(&own().info(), 0xac).is_of(&own()));
    }
}
