//! `litefs export` and `litefs import`: a whole database from and to a running node.
//!
//! ```text
//! export: node ─► PATH.tmp ─► fsync ─► PATH, and its journal, WAL and shared memory are gone
//! ```
//!
//! Differs from LiteFS: what is at PATH stays until the download is whole; a file whose WAL or journal holds more
//! than the file itself isn't imported.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use litefs_core::http::client::{ClientError, NodeUrl};
use litefs_core::http::transfer::{Download, upload};
use thiserror::Error;
use tokio::sync::mpsc;

use super::{Failure, Usage, say};
use crate::args::{ArgError, Flag};
use crate::goduration::GoDuration;
use crate::ostext::os_text;

/// Why a database wasn't transferred.
#[derive(Debug, Error)]
pub(crate) enum TransferError {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("database not found")]
    NotFound,
    #[error("{op} {}: {}", path.display(), os_text(source))]
    File { op: &'static str, path: PathBuf, source: io::Error },
    #[error("{} holds changes that aren't in the database file yet", .0.display())]
    Unfinished(PathBuf),
    #[error("cannot start: {}", os_text(.0))]
    Runtime(#[source] io::Error),
}

impl TransferError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            TransferError::Client(ClientError::Refused { text, .. }) if !text.is_empty() => {
                Some(text.clone())
            }
            TransferError::Unfinished(_) => {
                Some("close all connections to it, or make a copy of it with VACUUM INTO".into())
            }
            _ => None,
        }
    }
}

/// Downloads a database.
pub(super) fn export(args: &[OsString]) -> Result<ExitCode, Failure> {
    run(&EXPORT, "Export", args, |url, name, path| Box::pin(download(url, name, path)))
}

/// Uploads a database.
pub(super) fn import(args: &[OsString]) -> Result<ExitCode, Failure> {
    run(&IMPORT, "Import", args, |url, name, path| Box::pin(send(url, name, path)))
}

type Transfer<'a> = std::pin::Pin<Box<dyn Future<Output = Result<(), TransferError>> + 'a>>;

fn run(
    usage: &Usage,
    what: &str,
    args: &[OsString],
    transfer: impl for<'a> Fn(&'a NodeUrl, &'a str, &'a Path) -> Transfer<'a>,
) -> Result<ExitCode, Failure> {
    let parsed = usage.parse(args)?;
    let path = match &parsed.positional[..] {
        [] => {
            usage.show();
            return Err(Failure::HelpShown);
        }
        [path] if parsed.command.is_empty() => Path::new(path),
        _ => return Err(usage.refuse(ArgError::TooMany)),
    };
    let text =
        |flag, default| parsed.value(flag).map_or(default, OsStr::to_string_lossy).into_owned();
    let (url, name) = (text("url", DEFAULT_URL.into()), text("name", "".into()));
    let url = NodeUrl::parse(&url).map_err(TransferError::Client)?;
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(TransferError::Runtime)?.block_on(transfer(&url, &name, path))?;
    let elapsed = GoDuration::from(started.elapsed());
    say(format_args!("{what} of database \"{name}\" in {elapsed}"));
    Ok(ExitCode::SUCCESS)
}

async fn download(url: &NodeUrl, name: &str, path: &Path) -> Result<(), TransferError> {
    let mut database = Download::open(url, name).await.map_err(|err| match err {
        ClientError::Refused { code: 404, .. } => TransferError::NotFound,
        err => err.into(),
    })?;
    let bar = progress(database.remaining());
    let mut target = Target::create(path)?;
    while let Some(bytes) = database.next().await? {
        target.write(&bytes)?;
        bar.inc(bytes.len() as u64);
    }
    target.finish()
}

/// The file beside PATH, which goes unless it is finished.
struct Target<'a> {
    path: &'a Path,
    tmp: PathBuf,
    file: File,
}

impl Target<'_> {
    fn create(path: &Path) -> Result<Target<'_>, TransferError> {
        let tmp = with_suffix(path, ".tmp");
        let file = File::create(&tmp).map_err(failed("create", &tmp))?;
        Ok(Target { path, tmp, file })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        self.file.write_all(bytes).map_err(failed("write", &self.tmp))
    }

    fn finish(self) -> Result<(), TransferError> {
        self.file.sync_all().map_err(failed("sync", &self.tmp))?;
        // First, as SQLite would take them for parts of the new database.
        for suffix in ["-journal", "-wal", "-shm"] {
            let old = with_suffix(self.path, suffix);
            match fs::remove_file(&old) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &old)(e));
                }
                _ => {}
            }
        }
        fs::rename(&self.tmp, self.path).map_err(failed("rename", &self.tmp))?;
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        // Not there any more if all went well.
        let _ = fs::remove_file(&self.tmp);
    }
}

async fn send(url: &NodeUrl, name: &str, path: &Path) -> Result<(), TransferError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let len = file.metadata().map_err(failed("stat", path))?.len();
    for suffix in ["-wal", "-journal"] {
        let beside = with_suffix(path, suffix);
        if fs::metadata(&beside).is_ok_and(|there| there.len() > 0) {
            return Err(TransferError::Unfinished(beside));
        }
    }
    let bar = progress(Some(len));
    let (to, blocks) = mpsc::channel(2);
    let reading = tokio::task::spawn_blocking(move || read(file, &to, &bar));
    let sent = upload(url, name, len, blocks).await;
    drop(reading.await);
    Ok(sent?)
}

/// Hands the file over until nobody wants more of it.
fn read(mut file: File, to: &mpsc::Sender<io::Result<Bytes>>, bar: &ProgressBar) {
    let mut buf = vec![0; BLOCK_LEN];
    loop {
        let block = match file.read(&mut buf) {
            Ok(0) => return,
            Ok(n) => Ok(Bytes::copy_from_slice(&buf[..n])),
            Err(e) => Err(e),
        };
        let n = block.as_ref().map_or(0, Bytes::len);
        if to.blocking_send(block).is_err() || n == 0 {
            return;
        }
        bar.inc(n as u64);
    }
}

fn progress(len: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = len.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn failed(op: &'static str, path: &Path) -> impl Fn(io::Error) -> TransferError {
    move |source| TransferError::File { op, path: path.into(), source }
}

const DEFAULT_URL: &str = "http://localhost:20202";
const BAR: &str = "{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";
const BLOCK_LEN: usize = 64 << 10;
const FLAGS: &[Flag] = &[
    Flag { name: "url", value: "URL", help: "the node's HTTP address (http://localhost:20202)" },
    Flag { name: "name", value: "NAME", help: "the database's name in the mount" },
];

const EXPORT: Usage = Usage {
    text: "\
Downloads a database from a running node, primary or replica, while it is in use.

Usage:

    litefs export [flags] PATH
",
    flags: FLAGS,
    bad_args: 1,
};

const IMPORT: Usage = Usage {
    text: "\
Uploads a database file to the primary. If the database exists, it is replaced by
one transaction.

Usage:

    litefs import [flags] PATH
",
    flags: FLAGS,
    bad_args: 1,
};
