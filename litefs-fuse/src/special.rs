//! Files that hold no data of SQLite: `.primary`, `.lag`, `<db>-pos` and `<db>-lock`.
//!
//! | file       | content                                 | changed                   |
//! |------------|-----------------------------------------|---------------------------|
//! | `.primary` | host name of the primary, line feed     | start of the process      |
//! | `.lag`     | sign, 9 digits, line feed: milliseconds | last news of the primary  |
//! | `-pos`     | `<txid>/<checksum>`, line feed          | last transaction          |
//! | `-lock`    | empty                                   | start of the process      |
//!
//! The text is made at each read and never cached by the kernel. Opening `-lock` for writing asks for the halt lock: see
//! [`crate::halt`].

use std::time::SystemTime;

use litefs_core::db::MountName;
use litefs_core::store::{Lag, Store};
use litefs_core::types::Pos;

/// What such a file says now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Special {
    /// Its bytes.
    pub(crate) text: String,
    /// When it last changed.
    pub(crate) modified: SystemTime,
    /// Its permission bits.
    pub(crate) mode: u16,
}

/// The special file of that name; `None` if it doesn't exist now, or is an ordinary file.
pub(crate) fn special(store: &Store, what: &MountName) -> Option<Special> {
    match what {
        MountName::Lag => {
            Some(Special { text: lag_text(store.lag()), modified: lag_time(store), mode: 0o444 })
        }
        MountName::Primary => store.primary_hostname().map(|host| Special {
            text: host + "\n",
            modified: store.started(),
            mode: 0o444,
        }),
        MountName::Pos(name) => store.database(name).map(|db| Special {
            text: Pos::text(db.pos()) + "\n",
            modified: db.last_commit_time().unwrap_or(SystemTime::UNIX_EPOCH),
            mode: 0o666,
        }),
        MountName::Lock(name) => store.database(name).map(|_| Special {
            text: String::new(),
            modified: store.started(),
            mode: 0o444,
        }),
        MountName::File(..) => None,
    }
}

fn lag_text(lag: Lag) -> String {
    let millis = match lag {
        Lag::Primary => 0,
        Lag::Unknown => i32::MAX,
        Lag::Behind(lag) => i32::try_from(lag.as_millis()).unwrap_or(i32::MAX),
    };
    format!("{millis:+010}\n")
}

fn lag_time(store: &Store) -> SystemTime {
    match store.lag() {
        Lag::Primary => SystemTime::now(),
        Lag::Unknown => SystemTime::UNIX_EPOCH,
        Lag::Behind(_) => store.primary_timestamp().unwrap_or(SystemTime::UNIX_EPOCH),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lag_is_a_sign_and_nine_digits() {
        for (lag, want) in [
            (Lag::Primary, "+000000000\n"),
            (Lag::Behind(Duration::from_millis(311)), "+000000311\n"),
            (Lag::Behind(Duration::from_millis(999_999_999)), "+999999999\n"),
            (Lag::Unknown, "+2147483647\n"),
            (Lag::Behind(Duration::MAX), "+2147483647\n"),
        ] {
            assert_eq!(lag_text(lag), want);
        }
    }
}
