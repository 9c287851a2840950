use super::*;
use crate::ltx::Timestamp;

/// The primary's clock counts, so the nodes' clocks may differ.
#[test]
fn the_lag_is_told_by_the_primarys_clock() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreOptions::new(dir.path()).open().unwrap();
    assert_eq!(store.lag(), Lag::Unknown);
    let hour = Duration::from_secs(3600);
    let (now, minute) = (SystemTime::now(), Duration::from_secs(60));

    store.heard_from_primary(Timestamp::from_system_time(now - hour));
    let Lag::Behind(lag) = store.lag() else { panic!("{:?}", store.lag()) };
    assert!(lag >= hour && lag < hour + minute, "{lag:?}");

    store.heard_from_primary(Timestamp::from_system_time(now + hour));
    assert_eq!(store.lag(), Lag::Behind(Duration::ZERO), "its clock is ahead of ours");

    store.become_primary();
    assert_eq!(store.lag(), Lag::Primary);
}

#[test]
fn a_nonsensical_time_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreOptions::new(dir.path()).open().unwrap();
    for millis in [i64::MAX, i64::MAX - 1, i64::MIN + 1, i64::MIN, -1, 0] {
        store.heard_from_primary(Timestamp::from_millis(millis));
        store.lag();
        store.primary_timestamp();
    }
}
