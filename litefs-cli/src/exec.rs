//! Runs applications under a guardian, and learns how they end.
//!
//! The other half, and the picture, is in [`crate::guardian`]. What is run and when is decided in
//! `cmd::mount`. Environment, stdout and stderr of an application are the daemon's, its stdin is
//! `/dev/null`.
//!
//! Invariants: the guardian leads its process group and is reaped last, so the group's number can't
//! be given to others while it may still be signalled. A [`Running`] that is dropped leaves nobody
//! of the group behind.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use thiserror::Error;

use crate::guardian::{self, GRACE, Report, pid_of};
use crate::ostext::os_text;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// Whether it ended with code 0.
    pub fn success(self) -> bool {
        self == Exit::Code(0)
    }
}

/// As Go says it: `exit status 3` or `signal: killed`.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Exit::Code(code) => write!(f, "exit status {code}"),
            Exit::Signal(signal) => {
                let known = SIGNAL_NAMES.iter().find(|(number, _)| *number as i32 == signal);
                match known {
                    Some((_, name)) => write!(f, "signal: {name}"),
                    None => write!(f, "signal: signal {signal}"),
                }
            }
        }
    }
}

/// Starts applications.
#[derive(Debug, Clone)]
pub struct Launcher {
    litefs: PathBuf,
    env: Vec<(String, String)>,
}

impl Launcher {
    /// `litefs` is the program that becomes the guardian.
    pub fn new(litefs: impl Into<PathBuf>) -> Launcher {
        Launcher { litefs: litefs.into(), env: Vec::new() }
    }

    /// Adds a variable to the environment of applications.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Launcher {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Starts `words` and returns once it runs. `on_exit` is called once, on another thread, when it
    /// ends; others of its group may then still run, until the [`Running`] is dropped.
    ///
    /// # Errors
    /// If the guardian or the application can't be started.
    pub fn spawn(
        &self,
        words: &[String],
        on_exit: impl FnOnce(Exit) + Send + 'static,
    ) -> Result<Running, SpawnError> {
        let (link, theirs) = UnixStream::pair().map_err(SpawnError::Guardian)?;
        let mut reports = BufReader::new(link.try_clone().map_err(SpawnError::Guardian)?);
        // A statement of its own: the command holds the guardian's end until it is dropped.
        let mut guardian = Command::new(&self.litefs)
            .arg0("litefs")
            .arg(guardian::SUBCOMMAND)
            .arg("--")
            .args(words)
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(OwnedFd::from(theirs))
            .process_group(0)
            .spawn()
            .map_err(SpawnError::Guardian)?;

        let failed = match next_report(&mut reports) {
            Some(Report::Started) => {
                return Ok(Running::watch(guardian, link, reports, on_exit));
            }
            Some(Report::Failed(errno)) => SpawnError::Program {
                program: words.first().cloned().unwrap_or_default(),
                source: io::Error::from_raw_os_error(errno),
            },
            _ => SpawnError::Guardian(io::ErrorKind::UnexpectedEof.into()),
        };
        end_group(&mut guardian);
        Err(failed)
    }
}

/// An application that was started, with its process group. Dropping it ends them: SIGTERM, a grace
/// of five seconds, SIGKILL.
#[derive(Debug)]
pub struct Running {
    guardian: Child,
    link: UnixStream,
    /// Disconnected when the guardian is gone.
    gone: Receiver<()>,
    watcher: Option<JoinHandle<()>>,
}

impl Running {
    /// Sends `signal` to the application, but not to its children. Nothing happens if it has ended.
    pub fn signal(&self, signal: Signal) {
        // A guardian that is gone has nobody left to signal.
        let _ = (&self.link).write_all(&[signal as u8]);
    }

    /// Ends the whole group by SIGKILL.
    pub fn kill(&self) {
        let _ = killpg(pid_of(&self.guardian), Signal::SIGKILL);
    }

    /// The process number of the group's leader.
    pub fn group(&self) -> i32 {
        pid_of(&self.guardian).as_raw()
    }

    /// Ends what is left of the group, and returns when nobody is.
    pub fn finish(self) {}

    fn watch(
        guardian: Child,
        link: UnixStream,
        mut reports: BufReader<UnixStream>,
        on_exit: impl FnOnce(Exit) + Send + 'static,
    ) -> Running {
        let (alive, gone) = mpsc::channel();
        let group = pid_of(&guardian);
        let watcher = thread::spawn(move || {
            let exit = match next_report(&mut reports) {
                Some(Report::Ended(exit)) => exit,
                _ => {
                    // The guardian was killed. It isn't reaped before this thread ends, so the number
                    // is still the group's.
                    let _ = killpg(group, Signal::SIGKILL);
                    Exit::Signal(Signal::SIGKILL as i32)
                }
            };
            on_exit(exit);
            while next_report(&mut reports).is_some() {}
            drop(alive);
        });
        Running { guardian, link, gone, watcher: Some(watcher) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.link.shutdown(Shutdown::Write);
        // The guardian needs at most the grace; one that was stopped is not waited for.
        let _ = self.gone.recv_timeout(GRACE + Duration::from_secs(2));
        end_group(&mut self.guardian);
        if let Some(watcher) = self.watcher.take() {
            // It only fails if `on_exit` panicked, which the panic hook has told.
            let _ = watcher.join();
        }
    }
}

/// An application that couldn't be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// Its program can't be run.
    #[error("exec: {program:?}: {}", program_text(program, source))]
    Program {
        /// The program as the command line names it.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The process that was to guard it can't be run.
    #[error("guardian process: {}", os_text(.0))]
    Guardian(#[source] io::Error),
}

fn program_text(program: &str, err: &io::Error) -> String {
    if err.kind() == io::ErrorKind::NotFound && !program.contains('/') {
        "executable file not found in $PATH".into()
    } else {
        os_text(err)
    }
}

fn next_report(reports: &mut BufReader<UnixStream>) -> Option<Report> {
    let mut line = String::new();
    let len = reports.read_line(&mut line).ok()?;
    if len == 0 { None } else { Report::decode(&line) }
}

/// Kills whoever is left and only then gives the group's number back.
fn end_group(guardian: &mut Child) {
    let _ = killpg(pid_of(guardian), Signal::SIGKILL);
    let _ = guardian.wait();
}

const SIGNAL_NAMES: [(Signal, &str); 10] = [
    (Signal::SIGHUP, "hangup"),
    (Signal::SIGINT, "interrupt"),
    (Signal::SIGQUIT, "quit"),
    (Signal::SIGILL, "illegal instruction"),
    (Signal::SIGABRT, "aborted"),
    (Signal::SIGBUS, "bus error"),
    (Signal::SIGFPE, "floating point exception"),
    (Signal::SIGKILL, "killed"),
    (Signal::SIGSEGV, "segmentation fault"),
    (Signal::SIGTERM, "terminated"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_as_go_does() {
        for (exit, want) in [
            (Exit::Code(3), "exit status 3"),
            (Exit::Signal(9), "signal: killed"),
            (Exit::Signal(15), "signal: terminated"),
            (Exit::Signal(34), "signal: signal 34"),
        ] {
            assert_eq!(exit.to_string(), want);
        }
    }
}
