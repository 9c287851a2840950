//! Opening a log: which files there are, where the newest record ends, and cutting off what is behind it.
//!
//! ```text
//! newest segment   [record][record][record][ flaw … whatever … ]
//!                                          ▲
//!                                          └─ cut here, unless a header behind it says that these bytes were durable
//! ```
//!
//! Only the newest segment is read, and with a hint only its last record; of the others the name and the length are enough.
//! A segment without any whole record is removed: it was created for a record that never got there.
//! What makes the cut safe: see the crash argument in [`super`].

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use tracing::warn;

use super::extent::{Extent, Format, Segment, list, remove_if_exists};
use super::reader::{Cursor, Frame, Records, Window};
use super::segment::{Place, RecordHeader, RecordMeta, TailHint, parse_file_name};
use super::writer::{SNAPSHOT, SNAPSHOT_TMP, finish_replacement};
use super::{Index, LogError, LogOptions, OpenSegment, TxLog, legacy};
use crate::env::{Env, File};
use crate::types::Txid;

/// Where the records of a file end.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail {
    pub(super) last: Option<RecordMeta>,
    pub(super) last_offset: u64,
    pub(super) index: Index,
}

/// See [`TxLog::open`].
pub(super) fn open(
    env: Arc<dyn Env>,
    db_dir: &Path,
    options: LogOptions,
    hint: Option<TailHint>,
) -> Result<TxLog, LogError> {
    let log_dir = db_dir.join("log");
    let names = list(&*env, &log_dir)?;
    if names.iter().any(|name| name == SNAPSHOT) {
        finish_replacement(&*env, db_dir)?;
    }
    remove_if_exists(&*env, &log_dir.join(SNAPSHOT_TMP))?;

    let mut segments = find_segments(&*env, &log_dir)?;
    let (mut open, mut last, mut synced_tail) = (None, None, false);
    let (mut may_cut, mut cut) = (true, false);
    while let Some(newest) = segments.pop_back() {
        let hinted = hint.and_then(|hint| hinted(&*env, &newest, hint).transpose()).transpose()?;
        synced_tail = hinted.is_some();
        let (tail, len) = match hinted {
            Some(tail) => (tail, newest.len),
            None => recover_tail(&*env, &newest, may_cut)?,
        };
        cut |= len != newest.len || tail.last.is_none();
        if tail.last.is_none() {
            newest.remove(&*env)?;
            env.sync_dir(&log_dir).map_err(LogError::io("sync directory", &log_dir))?;
            // It was created after the one before it was synced.
            may_cut = false;
            continue;
        }
        last = tail.last.clone();
        open = Some(reopen(&*env, &Extent { len, ..newest }, tail)?);
        break;
    }

    let first = segments.front().map(|e| &e.segment).or(open.as_ref().map(|o| &o.segment));
    let legacy = legacy::find(&*env, &db_dir.join("ltx"), first.map(|s| s.first))?;
    let sealed: VecDeque<Extent> = legacy.chain.into_iter().chain(segments).collect();
    if open.is_none()
        && let Some(newest) = sealed.back()
    {
        last = tail(&*env, newest)?.last;
        synced_tail = true;
    }
    let last_txid = last.as_ref().map(|m: &RecordMeta| m.max_txid);
    let mut log = TxLog {
        strays: legacy.strays.into(),
        sealed,
        open,
        last,
        cut,
        synced: if synced_tail { last_txid } else { None },
        ..TxLog::empty(env, db_dir, options)
    };
    if !synced_tail && let Some(open) = &mut log.open {
        open.synced_len = 0;
        // What is sealed is durable. Of the tail we can't tell, nor of the names.
        if !log.sealed.is_empty() {
            log.synced = open.segment.first.prev();
        }
        log.unsynced_dirs = vec![log_dir, db_dir.to_path_buf()];
    }
    Ok(log)
}

/// See [`super::read`].
pub(super) fn read(env: Arc<dyn Env>, db_dir: &Path) -> Result<Records, LogError> {
    let segments = find_segments(&*env, &db_dir.join("log"))?;
    let first = segments.front().map(|e| e.segment.first);
    let legacy = legacy::find(&*env, &db_dir.join("ltx"), first)?;
    let extents = legacy.chain.into_iter().chain(segments).collect();
    Ok(Records::new(env, Txid::FIRST, extents, 0))
}

/// Goes on appending to a file whose records end at `extent.len`. Takes it to be durable up to there.
pub(super) fn reopen(env: &dyn Env, extent: &Extent, tail: Tail) -> Result<OpenSegment, LogError> {
    let segment = Arc::clone(&extent.segment);
    let file = segment.open(env)?;
    segment.pin(Arc::clone(&file));
    // The time of the last record rather than of the first; restarts are rare enough.
    let created = file.modified().map_err(LogError::io("stat", &segment.path))?;
    let (len, Tail { last_offset, index, .. }) = (extent.len, tail);
    Ok(OpenSegment { segment, file, len, synced_len: len, last_offset, created, index })
}

/// Where the records of an undamaged file end. Blobs are not read.
pub(super) fn tail(env: &dyn Env, extent: &Extent) -> Result<Tail, LogError> {
    match scan(env, extent, false)? {
        Scan { flaw: Some(flaw), .. } => Err(flaw),
        Scan { tail, .. } => Ok(tail),
    }
}

/// What a later start should know of this segment; `None` if it can't be read.
pub(super) fn hint(open: &OpenSegment) -> Option<TailHint> {
    let (segment, len, last_offset) = (open.segment.first, open.len, open.last_offset);
    let last_crc = read_check(&*open.file, last_offset)?;
    Some(TailHint { segment, len, last_offset, last_crc })
}

/// The tail that the hint promises; `None` if it doesn't fit the segment.
fn hinted(env: &dyn Env, extent: &Extent, hint: TailHint) -> Result<Option<Tail>, LogError> {
    if (hint.segment, hint.len) != (extent.segment.first, extent.len) {
        return Ok(None);
    }
    let file = extent.segment.open(env)?;
    if read_check(&*file, hint.last_offset) != Some(hint.last_crc) {
        return Ok(None);
    }
    let mut cursor = Cursor::open(env, extent, hint.last_offset)?;
    match next_record(&mut cursor, None, false) {
        Ok(Some((frame, meta))) if frame.end == extent.len => {
            let mut index = Index::default();
            index.add(extent.segment.first, 0);
            index.add(meta.min_txid, frame.offset);
            Ok(Some(Tail { last: Some(meta), last_offset: frame.offset, index }))
        }
        Ok(_) | Err(LogError::Corrupt { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Finds the last whole record of the newest segment and cuts off what is behind it.
fn recover_tail(env: &dyn Env, extent: &Extent, may_cut: bool) -> Result<(Tail, u64), LogError> {
    let Scan { tail, len, flaw } = scan(env, extent, true)?;
    let Some(flaw) = flaw else { return Ok((tail, len)) };
    let file = extent.segment.open(env)?;
    let path = &extent.segment.path;
    let was_durable = proves_durable(&file, extent, len).map_err(LogError::io("read", path))?;
    if !may_cut || was_durable {
        return Err(flaw);
    }
    warn!(path = %path.display(), offset = len, bytes = extent.len - len, err = %flaw, "cutting a torn tail");
    file.set_len(len).map_err(LogError::io("truncate", path))?;
    file.sync().map_err(LogError::io("sync", path))?;
    Ok((tail, len))
}

struct Scan {
    tail: Tail,
    /// Where the last whole record ends.
    len: u64,
    flaw: Option<LogError>,
}

fn scan(env: &dyn Env, extent: &Extent, verify: bool) -> Result<Scan, LogError> {
    let mut cursor = Cursor::open(env, extent, 0)?;
    let (mut tail, mut len) = (Tail::default(), 0);
    loop {
        match next_record(&mut cursor, tail.last.as_ref(), verify) {
            Ok(Some((frame, meta))) => {
                len = frame.end;
                tail.last_offset = frame.offset;
                tail.index.add(meta.min_txid, frame.offset);
                tail.last = Some(meta);
            }
            Ok(None) => return Ok(Scan { tail, len, flaw: None }),
            Err(flaw @ LogError::Corrupt { .. }) => {
                return Ok(Scan { tail, len, flaw: Some(flaw) });
            }
            Err(e) => return Err(e),
        }
    }
}

/// The next record, if it is whole and follows `last`.
fn next_record(
    cursor: &mut Cursor,
    last: Option<&RecordMeta>,
    verify: bool,
) -> Result<Option<(Frame, RecordMeta)>, LogError> {
    let Some(frame) = cursor.next_frame()? else { return Ok(None) };
    if verify {
        cursor.verify(&frame)?;
    }
    let meta = cursor.meta(&frame)?;
    if last.is_some_and(|last| meta.pre() != Some(last.pos())) {
        return Err(cursor.corrupt(frame.offset, "record doesn't follow the one before it"));
    }
    Ok(Some((frame, meta)))
}

/// Whether some header behind `flaw` says that the byte at `flaw` was durable when it was written.
fn proves_durable(file: &Arc<dyn File>, extent: &Extent, flaw: u64) -> std::io::Result<bool> {
    const HEADER: u64 = RecordHeader::LEN as u64;
    let mut window = Window::new(Arc::clone(file), extent.len);
    let mut at = flaw + 1;
    while at + HEADER <= extent.len {
        let len = (extent.len - at).min(Window::LEN);
        let Some(bytes) = window.slice(at, len)? else { return Ok(false) };
        for (offset, header) in (at..).zip(bytes.windows(RecordHeader::LEN)) {
            let place = Place { segment: extent.segment.first, offset };
            let header = header
                .try_into()
                .ok()
                .filter(|b: &&[u8; RecordHeader::LEN]| b.starts_with(&RecordHeader::MAGIC));
            let header = header.and_then(|b| RecordHeader::decode(b, place));
            if header.is_some_and(|h| offset - u64::from(h.unsynced_len) > flaw) {
                return Ok(true);
            }
        }
        at += len - (HEADER - 1);
    }
    Ok(false)
}

fn find_segments(env: &dyn Env, log_dir: &Path) -> Result<VecDeque<Extent>, LogError> {
    let mut firsts: Vec<(Txid, String)> = list(env, log_dir)?
        .into_iter()
        .filter_map(|name| parse_file_name(&name).map(|first| (first, name)))
        .collect();
    firsts.sort();
    firsts
        .into_iter()
        .map(|(first, name)| {
            let path = log_dir.join(name);
            let len = env.metadata(&path).map_err(LogError::io("stat", &path))?.len;
            Ok(Extent { segment: Segment::new(path, first, Format::Records), len })
        })
        .collect()
}

/// The check of the header at `offset`.
fn read_check(file: &dyn File, offset: u64) -> Option<u32> {
    let mut check = [0; 4];
    file.read_exact_at(&mut check, offset.checked_add(RecordHeader::LEN as u64 - 4)?).ok()?;
    Some(u32::from_be_bytes(check))
}
