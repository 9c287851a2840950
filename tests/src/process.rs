//! A child process with captured output.
//!
//! Every wait has a deadline and ends at once when the process does. A process is killed when dropped,
//! and only ever by a PID that is still ours: it is reaped under the same lock under which it is signalled.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// A running or ended child.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    shared: Arc<Shared>,
}

/// Where a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where.
    pub stream: Stream,
    /// Without its end.
    pub text: String,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    child: Child,
    lines: Vec<Line>,
    /// Streams that may still bring lines.
    open: usize,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts the command; its input is empty.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(command: &mut Command) -> Process {
        let name = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|err| panic!("start {name}: {err}"));
        let pid = Pid::from_raw(child.id().try_into().expect("a PID is an i32"));
        let stdout = child.stdout.take().expect("piped above");
        let stderr = child.stderr.take().expect("piped above");
        let state = State { child, lines: Vec::new(), open: 2, status: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        shared.clone().read(Stream::Stdout, stdout);
        shared.clone().read(Stream::Stderr, stderr);
        shared.clone().reap(pid);
        Process { name, pid, shared }
    }

    /// Starts the command and waits for its end: exit code (`None` if killed), and what it wrote.
    pub fn run(command: &mut Command, limit: Duration) -> (Option<i32>, String) {
        let process = Process::start(command);
        let status = process.wait(limit);
        (status.code(), process.output())
    }

    /// Its PID.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal, unless the process has ended.
    pub fn signal(&self, signal: Signal) {
        if self.lock().status.is_none() {
            // It may be a zombie, but it isn't reaped, so the PID is still its own.
            let _ = kill(self.pid, signal);
        }
    }

    /// Stops it (SIGSTOP), and returns when all its threads stand still.
    ///
    /// # Panics
    /// If they don't.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        let deadline = Instant::now() + Duration::from_secs(10);
        // The state follows the name, which is in parentheses.
        let stands =
            |stat: &str| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'));
        let tasks = format!("/proc/{}/task", self.pid);
        while !fs::read_dir(&tasks).unwrap().flatten().all(|task| {
            fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| stands(&stat))
        }) {
            assert!(Instant::now() < deadline, "{} goes on", self.name);
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.lock().status.is_none()
    }

    /// Waits for its end and for the last of its output.
    ///
    /// # Panics
    /// If it doesn't end within the limit; it is killed then.
    pub fn wait(&self, limit: Duration) -> ExitStatus {
        let done = |s: &State| s.status.filter(|_| s.open == 0);
        if let Some(status) = self.wait_for(limit, done) {
            return status;
        }
        // A grandchild may keep the pipes open; that isn't this process's fault.
        if let Some(status) = self.lock().status {
            return status;
        }
        self.signal(Signal::SIGKILL);
        panic!("{} didn't end within {limit:?}\n{}", self.name, self.output());
    }

    /// Waits for a line that contains `text`, which may have been written already.
    ///
    /// # Panics
    /// If there is none when the process ends or the limit is over.
    #[track_caller]
    pub fn line(&self, text: &str, limit: Duration) -> Line {
        self.find(text, limit, |line| line.text.contains(text))
    }

    /// Waits for a line that begins with `text`. A log may quote the command that is to print it.
    ///
    /// # Panics
    /// If there is none when the process ends or the limit is over.
    #[track_caller]
    pub fn line_of(&self, text: &str, limit: Duration) -> Line {
        self.find(text, limit, |line| line.text.starts_with(text))
    }

    /// Waits for a line that contains one of `texts`.
    ///
    /// # Panics
    /// If there is none when the process ends or the limit is over.
    #[track_caller]
    pub fn line_with_any(&self, texts: &[&str], limit: Duration) -> Line {
        self.find(&texts.join("|"), limit, |line| texts.iter().any(|t| line.text.contains(t)))
    }

    #[track_caller]
    fn find(&self, what: &str, limit: Duration, matches: impl Fn(&Line) -> bool) -> Line {
        let found = self.wait_for(limit, |s| {
            let ended = s.status.is_some() && s.open == 0;
            let line = s.lines.iter().find(|line| matches(line)).cloned();
            (line.is_some() || ended).then_some(line)
        });
        match found {
            Some(Some(line)) => line,
            Some(None) => panic!("{} ended without {what:?}\n{}", self.name, self.output()),
            None => panic!("{} wrote no {what:?} in {limit:?}\n{}", self.name, self.output()),
        }
    }

    /// Waits until it has written `count` lines or has ended; how many there are.
    pub fn lines_at_least(&self, count: usize, limit: Duration) -> usize {
        let enough = |s: &State| {
            let ended = s.status.is_some() && s.open == 0;
            (s.lines.len() >= count || ended).then_some(s.lines.len())
        };
        self.wait_for(limit, enough)
            .unwrap_or_else(|| panic!("{}: no {count} lines in {limit:?}", self.name))
    }

    /// The lines so far.
    pub fn lines(&self) -> Vec<Line> {
        self.lock().lines.clone()
    }

    /// The lines after the first `count`.
    pub fn lines_after(&self, count: usize) -> Vec<Line> {
        self.lock().lines.get(count..).unwrap_or_default().to_vec()
    }

    /// The lines of one stream so far.
    pub fn stream(&self, stream: Stream) -> Vec<String> {
        self.lines().into_iter().filter(|l| l.stream == stream).map(|l| l.text).collect()
    }

    /// All lines so far, as text.
    pub fn output(&self) -> String {
        self.lines().iter().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{}", line.text);
            text
        })
    }

    fn wait_for<T>(&self, limit: Duration, ready: impl Fn(&State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(value) = ready(&state) {
                return Some(value);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            (state, _) = self.shared.changed.wait_timeout(state, left).expect("no panic inside");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no panic inside")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

impl Shared {
    fn read(self: Arc<Shared>, stream: Stream, pipe: impl Read + Send + 'static) {
        thread::spawn(move || {
            for bytes in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                self.change(|state| state.lines.push(Line { stream, text }));
            }
            self.change(|state| state.open -= 1);
        });
    }

    fn reap(self: Arc<Shared>, pid: Pid) {
        thread::spawn(move || {
            // Waits without reaping, so that nobody signals a PID that was given away.
            let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
            self.change(|state| state.status = state.child.wait().ok());
        });
    }

    fn change(&self, f: impl FnOnce(&mut State)) {
        f(&mut self.state.lock().expect("no panic inside"));
        self.changed.notify_all();
    }
}
