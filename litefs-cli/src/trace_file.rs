//! The rolling file of the trace log.
//!
//! ```text
//! trace.log                              being written
//! trace-2026-11-24T15-04-05.000.log      full, not compressed yet
//! trace-2026-11-24T14-00-00.000.log.gz   full
//! trace-….log.gz.tmp                     being compressed; left by a crash, overwritten next time
//! ```
//!
//! A background thread compresses full files and deletes the oldest, so that no file operation waits
//! for it. Invariant: failures never reach the caller; the first one is told on stderr.
//!
//! Source: `spec/cli-config.md` §4 (`tracing.*`); names as those of the original's log roller.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::ostext::os_text;
use crate::utc::Utc;

/// When to begin a new file, and what to do with full ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// A file never grows beyond this, unless a single line does.
    pub(crate) max_len_bytes: u64,
    /// Full files to keep; 0 keeps all.
    pub(crate) max_count: usize,
    /// Compress full files with gzip.
    pub(crate) compress: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_len_bytes: 64 << 20, max_count: 8, compress: true }
    }
}

/// A file that begins anew when it is full.
#[derive(Debug)]
pub(crate) struct TraceFile {
    state: std::sync::Mutex<State>,
}

#[derive(Debug)]
struct State {
    path: PathBuf,
    limits: Limits,
    /// Opened by the first line.
    open: Option<(File, u64)>,
    /// Wakes the thread that cleans up, which is started by the first full file.
    tidier: Option<SyncSender<()>>,
    /// A failure was told.
    reported: bool,
}

impl TraceFile {
    /// Opens nothing yet.
    pub(crate) fn new(path: PathBuf, limits: Limits) -> TraceFile {
        let state = State { path, limits, open: None, tidier: None, reported: false };
        TraceFile { state: state.into() }
    }

    /// Appends a line, which ends in a newline.
    pub(crate) fn write(&self, line: &str) {
        // A poisoned lock only means that another line was lost.
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(err) = state.append(line.as_bytes())
            && !std::mem::replace(&mut state.reported, true)
        {
            let path = state.path.display();
            let _ = writeln!(
                io::stderr(),
                "level=WARN msg=\"cannot write trace log, lines are lost\" path={path} err={:?}",
                os_text(&err)
            );
        }
    }
}

impl State {
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let (mut file, mut len) = match self.open.take() {
            Some(open) => open,
            None => open(&self.path)?,
        };
        if len > 0 && len + line.len() as u64 > self.limits.max_len_bytes {
            drop(file);
            self.roll()?;
            (file, len) = open(&self.path)?;
        }
        // On failure the file is opened anew next time, so its length is known again.
        file.write_all(line)?;
        self.open = Some((file, len + line.len() as u64));
        Ok(())
    }

    /// Puts the full file aside.
    fn roll(&mut self) -> io::Result<()> {
        fs::rename(&self.path, full_name(&self.path, SystemTime::now()))?;
        let tidier = match &self.tidier {
            Some(tidier) => tidier,
            None => self.tidier.insert(spawn_tidier(self.path.clone(), self.limits)?),
        };
        // One request waiting is enough: it looks at all files.
        let _ = tidier.try_send(());
        Ok(())
    }
}

/// The file to append to, and its length.
fn open(path: &Path) -> io::Result<(File, u64)> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let len = file.metadata()?.len();
    Ok((file, len))
}

/// A name that isn't taken, for a file that is full at `at`.
fn full_name(path: &Path, mut at: SystemTime) -> PathBuf {
    loop {
        let (stem, extension) = name_parts(path);
        let full = path.with_file_name(format!("{stem}-{}{extension}", Utc::new(at).file_name()));
        let compressed = gz_name(&full);
        if !full.exists() && !compressed.exists() {
            return full;
        }
        at += Duration::from_millis(1);
    }
}

/// `trace` and `.log`.
fn name_parts(path: &Path) -> (String, String) {
    let text = |s: Option<&std::ffi::OsStr>| s.unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy()));
    (text(path.file_stem()), extension.unwrap_or_default())
}

fn gz_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

fn spawn_tidier(path: PathBuf, limits: Limits) -> io::Result<SyncSender<()>> {
    let (wake, woken) = mpsc::sync_channel(1);
    thread::Builder::new().name("trace-files".into()).spawn(move || {
        while woken.recv().is_ok() {
            if let Err(err) = tidy(&path, limits) {
                tracing::warn!(path = %path.display(), err = os_text(&err), "cannot clean up trace logs");
            }
        }
    })?;
    Ok(wake)
}

/// Deletes the oldest full files and compresses the others.
fn tidy(path: &Path, limits: Limits) -> io::Result<()> {
    let mut full = full_files(path)?;
    // Their names sort by time.
    full.sort();
    let surplus = match limits.max_count {
        0 => 0,
        count => full.len().saturating_sub(count),
    };
    for old in full.drain(..surplus) {
        fs::remove_file(old)?;
    }
    if limits.compress {
        full.retain(|path| path.extension().is_none_or(|e| e != "gz"));
        full.iter().try_for_each(|path| compress(path))?;
    }
    Ok(())
}

/// The full files that belong to `path`.
fn full_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (stem, extension) = name_parts(path);
    let prefix = format!("{stem}-");
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let rest = name.strip_suffix(".gz").unwrap_or(&name);
        let time = rest.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(&extension));
        if time.is_some_and(is_time) {
            found.push(dir.join(&*name));
        }
    }
    Ok(found)
}

/// Whether this is what [`Utc::file_name`] writes, so that no file of others is ever deleted.
fn is_time(text: &str) -> bool {
    text.len() == TIME_PATTERN.len()
        && text.bytes().zip(TIME_PATTERN.bytes()).all(|(c, pattern)| match pattern {
            b'0' => c.is_ascii_digit(),
            fixed => c == fixed,
        })
}

/// Replaces a file by its compressed form; a crash leaves at least one of the two.
fn compress(path: &Path) -> io::Result<()> {
    let done = gz_name(path);
    let mut tmp = done.clone().into_os_string();
    tmp.push(".tmp");
    let mut encoder = GzEncoder::new(File::create(&tmp)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::rename(&tmp, &done)?;
    fs::remove_file(path)
}

const TIME_PATTERN: &str = "0000-00-00T00-00-00.000";

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_full_file_is_put_aside_and_no_line_is_split_or_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/trace.log");
        // Tidying is left to the test below: no full file is touched here.
        let limits = Limits { max_len_bytes: 20, max_count: 0, compress: false };
        let file = TraceFile::new(path.clone(), limits);
        let lines: Vec<String> = (0..7).map(|n| format!("line {n}\n")).collect();
        lines.iter().for_each(|line| file.write(line));

        let dir = path.parent().unwrap();
        let all = names(dir);
        assert_eq!(all.len(), 4, "{all:?}");
        assert_eq!(all[3], "trace.log");
        let text: String =
            all.iter().map(|name| fs::read_to_string(dir.join(name)).unwrap()).collect();
        assert_eq!(text, lines.concat());
    }

    #[test]
    fn an_existing_file_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.log");
        fs::write(&path, "old\n").unwrap();
        TraceFile::new(path.clone(), Limits::default()).write("new\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old\nnew\n");
    }

    #[test]
    fn tidying_deletes_the_oldest_and_compresses_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.log");
        for name in [
            "trace-2026-01-01T00-00-00.000.log.gz",
            "trace-2026-01-02T00-00-00.000.log",
            "trace-2026-01-03T00-00-00.000.log",
            "trace-notes.log",
            "trace.log",
        ] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        tidy(&path, Limits { max_count: 2, ..Limits::default() }).unwrap();
        assert_eq!(
            names(dir.path()),
            [
                "trace-2026-01-02T00-00-00.000.log.gz",
                "trace-2026-01-03T00-00-00.000.log.gz",
                "trace-notes.log",
                "trace.log"
            ]
        );
        let gz = File::open(dir.path().join("trace-2026-01-03T00-00-00.000.log.gz")).unwrap();
        let mut text = String::new();
        GzDecoder::new(gz).read_to_string(&mut text).unwrap();
        assert_eq!(text, "trace-2026-01-03T00-00-00.000.log");
    }

    #[test]
    fn a_failure_is_told_once_and_writing_goes_on_when_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.log");
        fs::create_dir(&path).unwrap();
        let file = TraceFile::new(path.clone(), Limits::default());
        file.write("lost\n");
        file.write("lost\n");
        assert!(file.state.lock().unwrap().reported);
        fs::remove_dir(&path).unwrap();
        file.write("kept\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept\n");
    }
}
