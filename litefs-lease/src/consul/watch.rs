//! Waiting for another primary, with Consul's blocking queries; and putting an end to one whose beat stands still.

use std::time::{Duration, Instant};

use super::api::Read;
use super::place::{Holder, Place, REQUEST_LIMIT};
use super::standstill::{SLACK, Standstill};
use crate::{LeaseError, PrimaryInfo};

/// Waits until the primary is another than `known`.
pub(super) async fn primary_changed(
    place: &Place,
    known: Option<&PrimaryInfo>,
) -> Result<Option<PrimaryInfo>, LeaseError> {
    let mut index = 0;
    let mut still = Standstill::default();
    loop {
        let asked = Instant::now();
        let wait = still.left(asked).map_or(WAIT, |left| left.clamp(LEAST_WAIT, WAIT));
        let limit = wait + wait / 16 + REQUEST_LIMIT;
        let (entry, seen) = place.api.read(&place.key, Read::After { index, wait }, limit).await?;
        let now = Instant::now();
        let holder = entry.map_or(Ok(Holder::Nobody), |entry| place.holder_of(entry))?;
        let info = match &holder {
            Holder::Own { value, .. } | Holder::Other { value, .. } => Some(value.info()),
            Holder::Nobody => None,
        };
        if info.as_ref() != known {
            return Ok(info);
        }
        if let Holder::Other { session, modify_index, value } = &holder
            && place.fast_failover.is_some()
        {
            still.see(now, wait, *modify_index, value.fence());
            if let Some(modify_index) = still.overdue()
                && depose(place, session, modify_index).await?
            {
                return Ok(None);
            }
        }
        // An index that goes back is one of a Consul that has lost its memory.
        index = if seen < index { 0 } else { seen.max(1) };
        let pause = PACE.saturating_sub(asked.elapsed());
        tokio::time::sleep(pause).await;
    }
}

/// Removes the key of a primary whose right is over, unless it has given a sign of life since.
async fn depose(place: &Place, session: &str, modify_index: u64) -> Result<bool, LeaseError> {
    let removed = place.api.remove(&place.key, modify_index, REQUEST_LIMIT).await?;
    if removed {
        tracing::info!(lease_id = session, "the primary gives no sign of life: its lease is ended");
        place.forget_session(session, REQUEST_LIMIT).await;
    }
    Ok(removed)
}

/// How long Consul is to hold a query in which nothing happens.
const WAIT: Duration = Duration::from_secs(30);
/// Less would be a hot loop.
const LEAST_WAIT: Duration = Duration::from_millis(50);
/// At most one query in this time, however often the key changes. Less than a query may be late.
const PACE: Duration = Duration::from_millis(100);
const _: () = assert!(PACE.as_millis() < SLACK.as_millis());
