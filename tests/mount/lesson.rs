//! The course lesson: an app whose migration makes the database on the first start, run by
//! `litefs mount -- …` with `${LITEFS_DIR}` in its configuration, and none the wiser.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use litefs_tests::node::{LIMIT, Node, NodeOptions};
use litefs_tests::process::{Process, Stream};
use litefs_tests::sqlite;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Migrates, writes rows, and stays until it is told to end. A signal that comes before it waits for one isn't lost, as it would be
/// between a handler's set-up and `pause`.
const APP: &str = r#"
import os, signal, sqlite3
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
path = os.environ["DATABASE_PATH"]
fresh = not os.path.exists(path)
db = sqlite3.connect(path, timeout=10)
db.execute("PRAGMA journal_mode=WAL")
with db:
    db.execute("CREATE TABLE IF NOT EXISTS migration(version INTEGER PRIMARY KEY)")
    db.execute("CREATE TABLE IF NOT EXISTS visit(id INTEGER PRIMARY KEY, agent TEXT)")
    db.execute("INSERT OR IGNORE INTO migration VALUES (1)")
print("app: fresh" if fresh else "app: existing", os.getpid(), flush=True)
for line in range(int(os.environ.get("VISITS", "5"))):
    with db:
        db.execute("INSERT INTO visit(agent) VALUES (?)", ("browser %d" % line,))
print("app: visits", db.execute("SELECT count(*) FROM visit").fetchone()[0], flush=True)
if "ONCE" not in os.environ:
    signal.sigwait([signal.SIGTERM])
"#;

/// `litefs.yml` as the lesson writes it; the node's own configuration isn't used.
const CONFIG: &str = r#"# The lesson's file.
fuse:
  dir: "${LITEFS_DIR}"
data:
  dir: "${LITEFS_DATA}"
lease:
  type: "static"
  candidate: true
  hostname: "localhost"
  advertise-url: "http://localhost:20202"
http:
  addr: "127.0.0.1:0"
"#;

struct App {
    node: Node,
    files: tempfile::TempDir,
}

impl App {
    fn new() -> App {
        let files = tempfile::tempdir().unwrap();
        fs::write(files.path().join("app.py"), APP).unwrap();
        fs::write(files.path().join("litefs.yml"), CONFIG).unwrap();
        let mut node = Node::new(NodeOptions::default());
        let config = files.path().join("litefs.yml").display().to_string();
        let app = files.path().join("app.py").display().to_string();
        let db = node.path("app.db").display().to_string();
        let (mount, data) =
            (node.path("").display().to_string(), node.data().display().to_string());
        let options = node.options();
        // The last -config counts.
        options.args = ["-config", &config, "--", "python3", &app].map(String::from).to_vec();
        options.env = [("LITEFS_DIR", mount), ("LITEFS_DATA", data), ("DATABASE_PATH", db)]
            .map(|(k, v)| (k.to_owned(), v))
            .to_vec();
        App { node, files }
    }

    fn pid(process: &Process) -> Pid {
        let line = process.line("app: ", LIMIT).text;
        Pid::from_raw(line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    fn env(&mut self, name: &str, value: &str) {
        self.node.options().env.push((name.into(), value.into()));
    }
}

#[test]
fn the_first_start_migrates_and_later_ones_find_everything() {
    let mut app = App::new();
    let process = app.node.launch();
    process.line("app: fresh", LIMIT);
    process.line("app: visits 5", LIMIT);
    // The switch to WAL, each table by autocommit DDL in one transaction or more, five visits.
    assert!(app.node.pos("app.db").txid >= 7);
    let visits = sqlite::shell(&app.node.path("app.db"), &["SELECT count(*) FROM visit"]);
    assert_eq!(visits.as_deref(), Ok("5\n"));
    assert_eq!(app.node.stop(), Some(0));
    assert!(!app.node.is_mounted());
    assert!(process.output().contains("litefs shut down complete"), "{}", process.output());

    let process = app.node.launch();
    process.line("app: existing", LIMIT);
    process.line("app: visits 10", LIMIT);
    app.node.check("app.db");
    assert_eq!(app.node.stop(), Some(0));
}

#[test]
fn the_lines_of_a_start_and_a_stop_come_in_the_lessons_order() {
    let mut app = App::new();
    let process = app.node.launch();
    process.line("app: visits", LIMIT);
    process.line("waiting for signal or subprocess to exit", LIMIT);
    assert_eq!(app.node.stop(), Some(0));

    let stderr = process.stream(Stream::Stderr);
    let mut rest = stderr.iter();
    for want in [
        "no backup client configured, skipping",
        "Using static primary: primary=true hostname=localhost advertise-url=http://localhost:20202",
        "primary lease acquired, advertising as http://localhost:20202",
        "LiteFS mounted to: ",
        "waiting to connect to cluster",
        "connected to cluster, ready",
        "no proxy target set, skipping proxy",
        "starting background subprocess: python3 [",
        "sending signal to exec process",
        "waiting for exec process to close",
    ] {
        assert!(rest.any(|line| line.contains(want)), "{want:?} missing or late in {stderr:#?}");
    }
    for line in &stderr {
        assert!(
            line.starts_with("level=INFO msg=\"") || line.starts_with("level=WARN msg=\""),
            "{line}"
        );
    }
    let stdout = process.stream(Stream::Stdout);
    assert!(stdout[0].starts_with("LiteFS "), "{stdout:?}");
    assert_eq!(stdout.last().map(String::as_str), Some("litefs shut down complete"));
}

#[test]
fn a_killed_app_ends_litefs_and_loses_nothing() {
    let mut app = App::new();
    let process = app.node.launch();
    process.line("app: visits 5", LIMIT);
    kill(App::pid(&process), Signal::SIGKILL).unwrap();
    assert_eq!(process.wait(LIMIT).code(), Some(255));
    process.line("subprocess exited with error code -1, litefs shutting down", LIMIT);
    assert!(!app.node.is_mounted());

    let process = app.node.launch();
    process.line("app: visits 10", LIMIT);
    app.node.check("app.db");
}

#[test]
fn a_killed_litefs_takes_its_app_along() {
    let mut app = App::new();
    let process = app.node.launch();
    process.line("app: visits 5", LIMIT);
    let pid = App::pid(&process);
    app.node.kill();
    assert!(gone(pid), "the app lives on without its databases");

    let process = app.node.launch();
    process.line("app: visits 10", LIMIT);
    app.node.check("app.db");
}

#[test]
fn an_app_that_ends_by_itself_ends_litefs() {
    let mut app = App::new();
    app.env("ONCE", "1");
    let process = app.node.launch();
    assert_eq!(process.wait(LIMIT).code(), Some(0));
    process.line("subprocess exited successfully, litefs shutting down", LIMIT);
    assert!(!app.node.is_mounted());
}

#[test]
fn the_configuration_is_found_in_the_working_directory() {
    let mut app = App::new();
    app.env("ONCE", "1");
    let mut command = std::process::Command::new(litefs_tests::node::litefs());
    command.current_dir(app.files.path()).arg("mount").arg("--").args(["python3", "app.py"]);
    command.envs(app.node.options().env.iter().cloned());
    let (code, output) = Process::run(&mut command, LIMIT);
    assert_eq!(code, Some(0), "{output}");
    let file: PathBuf = app.files.path().canonicalize().unwrap().join("litefs.yml");
    assert!(output.contains(&format!("config file read from {}", file.display())), "{output}");
    assert!(output.contains("app: visits 5"), "{output}");
}

/// Waits for the end of a process that isn't our child.
fn gone(pid: Pid) -> bool {
    let deadline = std::time::Instant::now() + LIMIT;
    while std::time::Instant::now() < deadline {
        // A zombie has no more arguments; who reaps it isn't our concern.
        match fs::read(format!("/proc/{pid}/cmdline")) {
            Ok(arguments) if !arguments.is_empty() => {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            _ => return true,
        }
    }
    false
}
