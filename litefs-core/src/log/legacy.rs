//! The original's transaction files, `ltx/<min>-<max>.ltx`: found here, read as segments of one record, never written.
//!
//! Only the files that form an unbroken chain up to the newest are history. Others (left behind when a snapshot
//! replaced them, say) are strays: nobody reads them, and retention removes them.
//!
//! Source: LTX format, "File name"; data directory of the original, "Retention".

use std::path::Path;

use tracing::warn;

use super::LogError;
use super::extent::{Extent, Format, Segment, list};
use super::segment::parse_ltx_name;
use crate::env::Env;
use crate::types::Txid;

/// The legacy files of a database.
#[derive(Debug, Default)]
pub(super) struct Legacy {
    /// History, oldest first.
    pub(super) chain: Vec<Extent>,
    /// Not history, oldest first.
    pub(super) strays: Vec<Extent>,
}

/// Finds the legacy files in `dir`, which end where `next`, the first of our own segments, begins.
pub(super) fn find(env: &dyn Env, dir: &Path, next: Option<Txid>) -> Result<Legacy, LogError> {
    let mut files: Vec<(Txid, Txid, String)> = list(env, dir)?
        .into_iter()
        .filter_map(|name| parse_ltx_name(&name).map(|(min, max)| (max, min, name)))
        .collect();
    files.sort();
    let mut legacy = Legacy::default();
    let mut want = next.map(Txid::prev);
    for (max, min, name) in files.into_iter().rev() {
        let path = dir.join(name);
        let len = env.metadata(&path).map_err(LogError::io("stat", &path))?.len;
        let extent = Extent { segment: Segment::new(path, min, Format::Legacy(max)), len };
        if min <= max && want.is_none_or(|want| want == Some(max)) {
            want = Some(min.prev());
            legacy.chain.push(extent);
        } else {
            legacy.strays.push(extent);
        }
    }
    if let Some(newest) = legacy.strays.first() {
        let (count, newest) = (legacy.strays.len(), newest.segment.path.display());
        warn!(%newest, count, "transaction files are not part of the history");
    }
    legacy.chain.reverse();
    legacy.strays.reverse();
    Ok(legacy)
}
