//! Applications under their guardian: how they end, and that nobody is left when litefs is gone.
//!
//! The daemon is this test, or a copy of it that is killed by `kill -9` (see [`stand_in_daemon`]);
//! the guardian is the real program. Processes are told apart by a FIFO that all of them hold open
//! for writing: reading it to its end means that they are all gone. No test waits for a time to pass.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use litefs_cli::exec::{Exit, Launcher, Running, SpawnError};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

const LITEFS: &str = env!("CARGO_BIN_EXE_litefs");
const DEADLINE: Duration = Duration::from_secs(30);

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).into()).collect()
}

fn spawn(args: &[&str]) -> (Running, Receiver<Exit>) {
    let (sender, exits) = mpsc::channel();
    let launcher = Launcher::new(LITEFS);
    let running = launcher.spawn(&words(args), move |exit| sender.send(exit).unwrap()).unwrap();
    (running, exits)
}

/// A FIFO for the processes of one test.
struct Witness {
    dir: tempfile::TempDir,
}

impl Witness {
    fn new() -> Witness {
        let dir = tempfile::tempdir().unwrap();
        mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).unwrap();
        Witness { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("fifo")
    }

    /// A shell script whose processes hold the FIFO open as descriptor 3.
    fn script(&self, script: &str) -> String {
        format!("exec 3>{}; {script}", self.path().display())
    }

    /// Lines that the processes write; the channel closes when none of them is left.
    fn listen(&self) -> Receiver<String> {
        let (sender, lines) = mpsc::channel();
        let path = self.path();
        thread::spawn(move || {
            for line in BufReader::new(File::open(path).unwrap()).lines() {
                let _ = sender.send(line.unwrap());
            }
        });
        lines
    }
}

fn line(lines: &Receiver<String>) -> String {
    lines.recv_timeout(DEADLINE).expect("a line in time")
}

fn assert_all_gone(lines: &Receiver<String>) {
    let end = loop {
        match lines.recv_timeout(DEADLINE) {
            Ok(_) => {}
            Err(end) => break end,
        }
    };
    assert_eq!(end, mpsc::RecvTimeoutError::Disconnected, "processes are left");
}

#[test]
fn the_end_of_the_application_is_told_as_it_was() {
    for (script, want) in [
        ("exit 0", Exit::Code(0)),
        ("exit 3", Exit::Code(3)),
        ("exit 255", Exit::Code(255)),
        ("kill -9 $$", Exit::Signal(9)),
        ("kill -15 $$", Exit::Signal(15)),
    ] {
        let (running, exits) = spawn(&["sh", "-c", script]);
        assert_eq!(exits.recv_timeout(DEADLINE), Ok(want), "{script}");
        running.finish();
    }
}

#[test]
fn arguments_and_environment_arrive_and_stdin_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let script = r#"{ cat; printf '%s|' "$@" "$HOSTNAME"; } > "$0""#;
    let args = words(&["sh", "-c", script, out.to_str().unwrap(), "a b", "", "--", "-x"]);
    let (sender, exits) = mpsc::channel();
    let launcher = Launcher::new(LITEFS).env("HOSTNAME", "box");
    let _running = launcher.spawn(&args, move |exit| sender.send(exit).unwrap()).unwrap();
    assert_eq!(exits.recv_timeout(DEADLINE), Ok(Exit::Code(0)));
    assert_eq!(fs::read_to_string(out).unwrap(), "a b||--|-x|box|");
}

#[test]
fn a_program_that_cannot_run_is_an_error_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    fs::write(&plain, "").unwrap();
    for (program, want) in [
        ("no-such-program", "exec: \"no-such-program\": executable file not found in $PATH".into()),
        ("/no/such", "exec: \"/no/such\": no such file or directory".to_owned()),
        (plain.to_str().unwrap(), format!("exec: {plain:?}: permission denied")),
    ] {
        let err = Launcher::new(LITEFS).spawn(&words(&[program]), |_| {}).unwrap_err();
        assert!(matches!(err, SpawnError::Program { .. }));
        assert_eq!(err.to_string(), want);
    }
    let err = Launcher::new("/no/litefs").spawn(&words(&["true"]), |_| {}).unwrap_err();
    assert_eq!(err.to_string(), "guardian process: no such file or directory");
}

#[test]
fn a_signal_reaches_the_application_which_may_answer_with_a_code() {
    let witness = Witness::new();
    let lines = witness.listen();
    let script = witness.script("trap 'exit 7' TERM; echo ready >&3; while :; do sleep 1; done");
    let (running, exits) = spawn(&["sh", "-c", &script]);
    assert_eq!(line(&lines), "ready");
    running.signal(Signal::SIGTERM);
    assert_eq!(exits.recv_timeout(DEADLINE), Ok(Exit::Code(7)));
    running.finish();
    assert_all_gone(&lines);
}

#[test]
fn the_application_is_not_born_deaf_to_signals() {
    let (running, exits) = spawn(&["sleep", "600"]);
    running.signal(Signal::SIGINT);
    assert_eq!(exits.recv_timeout(DEADLINE), Ok(Exit::Signal(2)));
    running.finish();
}

#[test]
fn kill_ends_an_application_that_ignores_signals() {
    let witness = Witness::new();
    let lines = witness.listen();
    let script = witness.script("trap '' TERM; echo ready >&3; sleep 600 & wait; sleep 600");
    let (running, exits) = spawn(&["sh", "-c", &script]);
    assert_eq!(line(&lines), "ready");
    running.signal(Signal::SIGTERM);
    running.kill();
    assert_eq!(exits.recv_timeout(DEADLINE), Ok(Exit::Signal(9)));
    assert_all_gone(&lines);
}

#[test]
fn what_the_application_leaves_behind_lives_until_finish() {
    let witness = Witness::new();
    let lines = witness.listen();
    let script = witness.script(
        "(trap 'echo bye >&3; exit' TERM; echo ready >&3; while :; do sleep 1; done) & exit 4",
    );
    let (running, exits) = spawn(&["sh", "-c", &script]);
    assert_eq!(exits.recv_timeout(DEADLINE), Ok(Exit::Code(4)));
    assert_eq!(line(&lines), "ready");
    running.finish();
    assert_eq!(line(&lines), "bye");
    assert_all_gone(&lines);
}

#[test]
fn an_application_that_leaves_the_group_is_still_ended() {
    let witness = Witness::new();
    let lines = witness.listen();
    let script = witness.script("echo ready >&3; sleep 600");
    let (running, exits) = spawn(&["setsid", "sh", "-c", &script]);
    assert_eq!(line(&lines), "ready");
    running.finish();
    assert_eq!(exits.recv_timeout(DEADLINE), Ok(Exit::Signal(15)));
    assert_all_gone(&lines);
}

/// It may be made in the very moment of the signal, or not care for it.
#[test]
fn a_child_that_has_missed_the_signal_to_another_group_is_ended_with_its_parent() {
    for child in ["sleep 600", "(trap '' TERM; sleep 600; true)"] {
        let witness = Witness::new();
        let lines = witness.listen();
        let script = witness.script(&format!(
            "last() {{ {child} & exit 9; }}; trap last TERM; echo ready >&3; while :; do sleep 1; done"
        ));
        let (running, exits) = spawn(&["setsid", "sh", "-c", &script]);
        assert_eq!(line(&lines), "ready");
        running.finish();
        assert_eq!(exits.recv_timeout(DEADLINE), Ok(Exit::Code(9)));
        assert_all_gone(&lines);
    }
}

#[test]
fn what_the_application_leaves_in_another_group_lives_until_finish() {
    let witness = Witness::new();
    let lines = witness.listen();
    let script = witness.script("(echo ready >&3; sleep 600; true) & exit 4");
    let (running, exits) = spawn(&["setsid", "sh", "-c", &script]);
    assert_eq!(exits.recv_timeout(DEADLINE), Ok(Exit::Code(4)));
    assert_eq!(line(&lines), "ready");
    running.finish();
    assert_all_gone(&lines);
}

#[test]
fn a_killed_guardian_takes_the_group_along() {
    let witness = Witness::new();
    let lines = witness.listen();
    let script = witness.script("sleep 600 & echo ready >&3; wait");
    let (running, exits) = spawn(&["sh", "-c", &script]);
    assert_eq!(line(&lines), "ready");
    kill(Pid::from_raw(running.group()), Signal::SIGKILL).unwrap();
    assert_eq!(exits.recv_timeout(DEADLINE), Ok(Exit::Signal(9)));
    assert_all_gone(&lines);
}

#[test]
fn signals_to_the_whole_group_do_not_end_the_guardian_first() {
    let witness = Witness::new();
    let lines = witness.listen();
    let script = witness.script("trap 'exit 9' TERM; echo ready >&3; read x <&-; kill 0; exit 1");
    let (running, exits) = spawn(&["sh", "-c", &script]);
    assert_eq!(line(&lines), "ready");
    assert_eq!(exits.recv_timeout(DEADLINE), Ok(Exit::Code(9)));
    running.finish();
    assert_all_gone(&lines);
}

#[test]
fn a_killed_daemon_leaves_nobody_behind() {
    let witness = Witness::new();
    let lines = witness.listen();
    let script = witness.script("sleep 600 & (sleep 600; true) & echo ready >&3; wait");
    let mut daemon = start_stand_in(&script);
    assert_eq!(line(&lines), "ready");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_all_gone(&lines);
}

#[test]
fn a_killed_daemon_ends_even_those_who_ignore_sigterm() {
    let witness = Witness::new();
    let lines = witness.listen();
    let script = witness
        .script("trap '' TERM; (sleep 600; true) & echo ready >&3; while :; do sleep 600; done");
    let mut daemon = start_stand_in(&script);
    assert_eq!(line(&lines), "ready");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_all_gone(&lines);
}

/// The guardian alone, as the daemon sees it.
#[test]
fn the_protocol_is_lines_one_way_and_bytes_the_other() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut guardian = Command::new(LITEFS)
        .args(["__exec", "--", "sleep", "600"])
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .process_group(0)
        .spawn()
        .unwrap();
    ours.write_all(&[15]).unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert_eq!(text, "started\nkilled 15\n");
    assert!(guardian.wait().unwrap().success());
}

/// The daemon may die at any moment, also before it hears that the application runs.
#[test]
fn a_daemon_that_is_dead_from_the_start_leaves_nobody_behind() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(ours);
    let (mut witness, held) = std::io::pipe().unwrap();
    let mut guardian = Command::new(LITEFS)
        .args(["__exec", "--", "sleep", "600"])
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .stdout(held)
        .process_group(0)
        .spawn()
        .unwrap();
    guardian.wait().unwrap();
    let (sender, gone) = mpsc::channel();
    thread::spawn(move || sender.send(witness.read(&mut [0]).unwrap()));
    assert_eq!(gone.recv_timeout(DEADLINE), Ok(0), "the application is left");
}

/// Runs [`stand_in_daemon`] in a process of its own.
fn start_stand_in(script: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "stand_in_daemon", "--nocapture"])
        .env("STAND_IN_SCRIPT", script)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test: the process that [`start_stand_in`] starts.
#[test]
fn stand_in_daemon() {
    let Ok(script) = std::env::var("STAND_IN_SCRIPT") else { return };
    let (_running, exits) = spawn(&["sh", "-c", &script]);
    let _ = exits.recv();
}

#[test]
fn a_dropped_handle_leaves_no_zombie() {
    let (running, exits) = spawn(&["true"]);
    assert_eq!(exits.recv_timeout(DEADLINE), Ok(Exit::Code(0)));
    let group = running.group();
    running.finish();
    assert!(!Path::new(&format!("/proc/{group}")).exists());
}
