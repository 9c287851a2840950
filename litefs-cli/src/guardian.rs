//! The guardian: a small process between the daemon and an application, so that the application never
//! outlives the daemon, not even if the daemon is killed by `kill -9`.
//!
//! ```text
//! daemon ══ socket (guardian's stdin) ══ guardian ── application ── its children
//!                                        └──────── one process group ────────┘
//!
//! daemon → guardian   one byte: a signal number for the application
//!                     end of stream (the daemon closed it or is dead): end the group
//! guardian → daemon   lines: `started` or `failed ERRNO`, then `exited CODE` or `killed SIGNAL`
//! ```
//!
//! It ends when its group is empty. To end the group it sends SIGTERM, and after [`GRACE`] SIGKILL,
//! which ends itself too. Descendants whose parent dies become its children (subreaper), so
//! it sees the group empty without polling, and reaps them. One thread: a process is signalled only
//! between two looks at what has died, so a recycled number is never hit. An application that has
//! made a group of its own (`setsid`) is treated alike, with those it leaves there.
//!
//! Who guards the guardian: the daemon, which kills the group when the socket closes (see
//! [`crate::exec`]). If both die at once by SIGKILL, the application is on its own. A process
//! that leaves these groups on purpose is left alone.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpgid, getpgrp};
use signal_hook::consts;

use crate::exec::Exit;

/// The hidden subcommand that runs [`run`].
pub(crate) const SUBCOMMAND: &str = "__exec";

/// How long a process group may take to end after SIGTERM.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// What the guardian tells the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// The application runs.
    Started,
    /// It couldn't be started; the number is an `errno`.
    Failed(i32),
    /// It ended.
    Ended(Exit),
}

impl Report {
    pub(crate) fn encode(self) -> String {
        match self {
            Report::Started => "started\n".into(),
            Report::Failed(errno) => format!("failed {errno}\n"),
            Report::Ended(Exit::Code(code)) => format!("exited {code}\n"),
            Report::Ended(Exit::Signal(signal)) => format!("killed {signal}\n"),
        }
    }

    pub(crate) fn decode(line: &str) -> Option<Report> {
        let (word, number) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "0"));
        let number = number.parse().ok()?;
        match word {
            "started" => Some(Report::Started),
            "failed" => Some(Report::Failed(number)),
            "exited" => Some(Report::Ended(Exit::Code(number))),
            "killed" => Some(Report::Ended(Exit::Signal(number))),
            _ => None,
        }
    }
}

/// Runs `words` as the application; the socket to the daemon is stdin.
///
/// # Errors
/// If the process can't be set up as a guardian. That the application can't be started is told to the
/// daemon instead.
pub(crate) fn run(words: &[OsString]) -> io::Result<()> {
    let link = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    prctl::set_child_subreaper(true)?;
    let woken = on_child_signal()?;
    survive_signals()?;

    let [program, args @ ..] = words else {
        return report(&link, Report::Failed(Errno::ENOENT as i32));
    };
    let spawned = Command::new(program).args(args).stdin(Stdio::null()).spawn();
    match spawned {
        Ok(child) => {
            let app = Some(pid_of(&child));
            let mut guard = Guard { app, left: None, link, woken, deadline: None };
            // If the daemon is already dead, the end of the stream will say so; the application must
            // not be left for it.
            let _ = report(&guard.link, Report::Started);
            let watched = guard.watch();
            if watched.is_err() {
                guard.signal_all(Signal::SIGKILL);
            }
            watched
        }
        Err(err) => report(&link, Report::Failed(err.raw_os_error().unwrap_or(0))),
    }
}

struct Guard {
    /// The application until it is reaped.
    app: Option<Pid>,
    /// The group that the application had made for itself, from its end until nobody is left there.
    left: Option<Pid>,
    link: UnixStream,
    /// Readable when a child has died.
    woken: UnixStream,
    /// Set once the group is being ended: when SIGKILL follows.
    deadline: Option<Instant>,
}

impl Guard {
    /// Forwards and reaps until nobody is left.
    fn watch(&mut self) -> io::Result<()> {
        while !self.reap()? {
            let (link, woken) = self.wait()?;
            if link {
                self.obey();
            }
            if woken {
                // Only a wake-up call; how many there were doesn't matter.
                let _ = self.woken.read(&mut [0; 64]);
            }
            if self.deadline.is_some_and(|at| at <= Instant::now()) {
                self.signal_all(Signal::SIGKILL);
            }
        }
        Ok(())
    }

    /// Collects the dead; true when nobody is left.
    fn reap(&mut self) -> io::Result<bool> {
        if let Some(app) = self.app
            && let Some(exit) = exit_of(waitid(Id::Pid(app), DEAD_OR_NOT)?)
        {
            // Until it is reaped, the number of its group is its own.
            self.left = group_of_its_own(app);
            if let (Some(group), Some(_)) = (self.left, self.deadline) {
                // A child that it made in the moment of the signal may have missed it.
                let _ = killpg(group, Signal::SIGTERM);
            }
            waitpid(app, None)?;
            self.app = None;
            // If the daemon is gone, nobody wants to know.
            let _ = report(&self.link, Report::Ended(exit));
        }
        if let Some(group) = self.left
            && self.reap_group(group)?
        {
            self.left = None;
        }
        Ok(self.reap_group(getpgrp())? && self.app.is_none() && self.left.is_none())
    }

    /// Collects the dead of a group; true when nobody of it is left.
    fn reap_group(&mut self, group: Pid) -> io::Result<bool> {
        loop {
            match waitpid(Pid::from_raw(-group.as_raw()), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return Ok(false),
                Ok(status) if status.pid() == self.app => {
                    self.app = None;
                    if let Some(exit) = exit_of(status) {
                        let _ = report(&self.link, Report::Ended(exit));
                    }
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return Ok(true),
                Err(err) => return Err(err.into()),
            }
        }
    }

    /// Sleeps until there is something to do; says whether the socket and the wake-up pipe have data.
    fn wait(&self) -> io::Result<(bool, bool)> {
        let timeout = match self.deadline {
            // Rounded up, or the last millisecond would be a busy loop.
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        let mut fds = vec![PollFd::new(self.woken.as_fd(), PollFlags::POLLIN)];
        if self.deadline.is_none() {
            fds.push(PollFd::new(self.link.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(err) => return Err(err.into()),
        }
        let ready = |at: usize| fds.get(at).and_then(PollFd::any).unwrap_or(false);
        Ok((ready(1), ready(0)))
    }

    /// Does what the daemon asks for; its silence ends the group.
    fn obey(&mut self) {
        let mut byte = [0];
        match self.link.read(&mut byte) {
            Ok(1..) => {
                if let (Some(app), Ok(signal)) = (self.app, Signal::try_from(i32::from(byte[0]))) {
                    let _ = kill(app, signal);
                }
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => {
                self.signal_all(Signal::SIGTERM);
                self.deadline = Some(Instant::now() + GRACE);
            }
        }
    }

    /// Signals everyone, this process last: it survives SIGTERM but not SIGKILL.
    fn signal_all(&self, signal: Signal) {
        if let Some(group) = self.app.and_then(group_of_its_own).or(self.left) {
            let _ = killpg(group, signal);
        }
        let _ = killpg(getpgrp(), signal);
    }
}

/// The group that the application has made for itself, if it has.
fn group_of_its_own(app: Pid) -> Option<Pid> {
    getpgid(Some(app)).ok().filter(|group| *group != getpgrp())
}

/// Whether it has ended; it isn't reaped by that.
const DEAD_OR_NOT: WaitPidFlag =
    WaitPidFlag::WEXITED.union(WaitPidFlag::WNOHANG).union(WaitPidFlag::WNOWAIT);

/// A stream that becomes readable whenever a child changes its state.
fn on_child_signal() -> io::Result<UnixStream> {
    let (woken, waker) = UnixStream::pair()?;
    woken.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(consts::SIGCHLD, waker)?;
    Ok(woken)
}

/// Signals to the whole group, or to all processes of a service, must not end the guardian before the
/// application. A handler and not `SIG_IGN`, because the application would inherit that.
fn survive_signals() -> io::Result<()> {
    for signal in [
        consts::SIGHUP,
        consts::SIGINT,
        consts::SIGQUIT,
        consts::SIGTERM,
        consts::SIGUSR1,
        consts::SIGUSR2,
        consts::SIGALRM,
    ] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(())
}

fn report(mut link: &UnixStream, report: Report) -> io::Result<()> {
    link.write_all(report.encode().as_bytes())
}

fn exit_of(status: WaitStatus) -> Option<Exit> {
    match status {
        WaitStatus::Exited(_, code) => Some(Exit::Code(code)),
        WaitStatus::Signaled(_, signal, _) => Some(Exit::Signal(signal as i32)),
        _ => None,
    }
}

/// Process numbers fit: the kernel's own type is `i32`.
pub(crate) fn pid_of(child: &std::process::Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_round_trip() {
        for report in [
            Report::Started,
            Report::Failed(2),
            Report::Ended(Exit::Code(0)),
            Report::Ended(Exit::Code(255)),
            Report::Ended(Exit::Signal(9)),
        ] {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
        for line in ["", "exited", "exited x", "hello 1", "started now"] {
            assert_ne!(Report::decode(line), Some(Report::Ended(Exit::Code(1))), "{line}");
        }
    }
}
