//! `litefs run`: a command on a running node, once that node may write.
//!
//! ```text
//! candidate? ─► primary (-promote), or halt lock (-with-halt-lock-on) ─► the command ─► lock released
//! ```
//!
//! Differs from LiteFS: the command starts when the node *is* the primary, not when it has been asked to become it; its exit
//! code is passed on, and so are signals.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use litefs_core::http::calls;
use litefs_core::http::client::{ClientError, NodeUrl};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thiserror::Error;

use super::cluster::{self, CallError, DEFAULT_URL, block_on};
use super::{Failure, Usage, say_err};
use crate::args::{ArgError, Flag};
use crate::goduration::GoDuration;
use crate::ostext::os_text;
use crate::signals;

/// Why a command wasn't run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum RunError {
    #[error("cannot specify both -promote & -with-halt-lock-on")]
    Both,
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("database does not exist: {}", .0.display())]
    NoDatabase(PathBuf),
    #[error("lock file not available, are you sure {:?} is a LiteFS mount?", .0.display().to_string())]
    NoLockFile(PathBuf),
    #[error("cannot acquire the halt lock: {}", os_text(.0))]
    HaltLock(#[source] io::Error),
    #[error("cannot run command: {program}: {}", os_text(source))]
    Spawn { program: String, source: io::Error },
}

impl RunError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            RunError::Both => Some("a primary needs no halt lock".into()),
            RunError::Call(err) => err.hint(),
            RunError::HaltLock(_) => Some(
                "the log of `litefs mount` on this node says why; is the primary reachable?".into(),
            ),
            _ => None,
        }
    }
}

/// What happens while the command runs.
enum Event {
    Signal(Signal),
    Ended(io::Result<std::process::ExitStatus>),
}

pub(super) fn run(args: &[OsString]) -> Result<ExitCode, Failure> {
    let parsed = RUN.parse(args)?;
    if !parsed.positional.is_empty() {
        return Err(RUN.refuse(ArgError::NoDashes));
    }
    let Some((program, rest)) = parsed.command.split_first() else {
        RUN.show();
        return Err(Failure::HelpShown);
    };
    let promote = parsed.switch("promote");
    let database = parsed.value("with-halt-lock-on").map(Path::new);
    if promote && database.is_some() {
        return Err(RunError::Both.into());
    }
    let url = parsed.value("url").map_or(DEFAULT_URL.into(), OsStr::to_string_lossy);
    let url = NodeUrl::parse(&url).map_err(CallError::from).map_err(RunError::from)?;
    let verbose = parsed.switch("v");
    let tell = |line: &str| {
        if verbose {
            say_err(format_args!("{line}"));
        }
    };

    if promote || parsed.switch("if-candidate") {
        tell("fetching node metadata");
        let info = block_on(calls::info(&url)).map_err(RunError::from)?;
        if parsed.switch("if-candidate") && !info.candidate {
            say_err(format_args!("node is not a candidate, skipping execution"));
            return Ok(ExitCode::SUCCESS);
        }
        if promote && info.is_primary {
            tell("node is already primary, skipping promotion");
        } else if promote {
            tell("promoting node to primary");
            block_on(cluster::promoted(&url)).map_err(RunError::from)?;
            tell("promotion successful");
        }
    }
    let lock = match database {
        None => None,
        Some(database) => {
            tell("acquiring halt lock");
            let started = Instant::now();
            let lock = halt(database)?;
            tell(&format!("halt lock acquired in {}", GoDuration::from(started.elapsed())));
            Some(lock)
        }
    };
    let code = execute(program, rest);
    if let Some(lock) = lock {
        tell("releasing halt lock");
        let started = Instant::now();
        // The last close releases it.
        drop(lock);
        tell(&format!("halt lock released in {}", GoDuration::from(started.elapsed())));
    }
    Ok(ExitCode::from(code?))
}

/// Opens the lock file: that asks for the lock, and waits for it.
fn halt(database: &Path) -> Result<File, RunError> {
    if !database.exists() {
        return Err(RunError::NoDatabase(database.into()));
    }
    let mut path = database.as_os_str().to_owned();
    path.push("-lock");
    let dir = database.parent().unwrap_or(Path::new("."));
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let file = opened.map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => RunError::NoLockFile(dir.into()),
        _ => RunError::HaltLock(err),
    })?;
    // A mount of the original asks when this byte is locked.
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: HALT_BYTE,
        l_len: 1,
        l_pid: 0,
    };
    loop {
        match fcntl(&file, FcntlArg::F_OFD_SETLKW(&lock)) {
            Ok(_) => return Ok(file),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(RunError::HaltLock(errno.into())),
        }
    }
}

/// Runs the command with this process's input and output; passes signals on to it; the result is its exit code.
fn execute(program: &OsStr, args: &[OsString]) -> Result<u8, Failure> {
    let (sender, events) = mpsc::channel();
    signals::listen(sender.clone(), Event::Signal).map_err(Failure::Signals)?;
    let failed = |source| RunError::Spawn { program: program.to_string_lossy().into(), source };
    let mut child = Command::new(program).args(args).spawn().map_err(failed)?;
    let pid = Pid::from_raw(child.id().cast_signed());
    thread::spawn(move || {
        // The receiver is there until this comes.
        let _ = sender.send(Event::Ended(child.wait()));
    });
    loop {
        match events.recv() {
            // It may have ended in this moment; then its exit follows.
            Ok(Event::Signal(signal)) => drop(kill(pid, signal)),
            Ok(Event::Ended(status)) => {
                let status = status.map_err(failed)?;
                let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
                return Ok(u8::try_from(code).unwrap_or(u8::MAX));
            }
            Err(mpsc::RecvError) => return Err(failed(io::ErrorKind::Interrupted.into()).into()),
        }
    }
}

impl From<ClientError> for RunError {
    fn from(err: ClientError) -> RunError {
        RunError::Call(err.into())
    }
}

/// The byte of the lock file that stands for the halt lock.
const HALT_BYTE: libc::off_t = 72;

const RUN: Usage = Usage {
    text: "\
Runs a command on a running node, as soon as the node may write, and passes its
exit code on.

Usage:

    litefs run [flags] -- COMMAND [ARG…]

Examples:

    litefs run -promote -if-candidate -- ./migrate
    litefs run -with-halt-lock-on /litefs/app.db -- sqlite3 /litefs/app.db 'vacuum'
",
    flags: &[
        Flag {
            name: "url",
            value: "URL",
            help: "the node's HTTP address (http://localhost:20202)",
        },
        Flag { name: "promote", value: "", help: "make the node the primary first" },
        Flag {
            name: "if-candidate",
            value: "",
            help: "do nothing if the node may not become primary",
        },
        Flag {
            name: "with-halt-lock-on",
            value: "PATH",
            help: "write to this database of the mount from a replica, while others can't",
        },
        Flag { name: "v", value: "", help: "say what happens" },
    ],
    bad_args: 1,
};
