//! Two servers, each a process of its own. Needs root and `/dev/fuse`; skipped without them.

// Clippy knows tests by their attribute, not by their directory.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

struct Server {
    child: Child,
    app: String,
    node: String,
}

impl Server {
    fn start(dir: &Path, primary: Option<&Server>) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_litefs-example-axum"));
        command.arg(dir).args(["127.0.0.1:0", "127.0.0.1:0"]);
        if let Some(primary) = primary {
            command.args([&primary.app, &primary.node]);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        let ["app", app, "node", node] = words[..] else { panic!("{line:?}") };
        Server { app: app.into(), node: node.into(), child }
    }

    /// Status line and headers, and body.
    fn ask(&self, request: &str, body: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.app).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let (host, len) = (&self.app, body.len());
        let head = format!(
            "{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len}\r\n"
        );
        write!(stream, "{head}\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.trim().to_owned())
    }

    #[track_caller]
    fn eventually(&self, path: &str, want: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let (_, body) = self.ask(&format!("GET {path}"), "");
            if body.contains(want) {
                return;
            }
            assert!(Instant::now() < deadline, "{path}: {body} instead of {want}");
        }
    }

    /// Ends it as a service manager does.
    fn stop(mut self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_is_written_on_the_primary_is_read_on_the_replica() {
    if !Path::new("/dev/fuse").exists() || !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root and /dev/fuse");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (a, b) = (temp.path().join("a"), temp.path().join("b"));
    let primary = Server::start(&a, None);
    let replica = Server::start(&b, Some(&primary));
    let (head, note) = primary.ask("POST /notes", "milk");
    assert!(head.starts_with("HTTP/1.1 201 "), "{head}");
    assert_eq!(note, r#"{"id":1,"text":"milk"}"#);
    replica.eventually("/notes", r#"[{"id":1,"text":"milk"}]"#);

    let (head, _) = replica.ask("POST /notes", "bread");
    let location = format!("location: http://{}/notes", primary.app);
    assert!(head.starts_with("HTTP/1.1 307 ") && head.contains(&location), "{head}");
    for i in 2..=50 {
        primary.ask("POST /notes", &format!("note {i}"));
        replica.eventually("/notes", &format!(r#"{{"id":{i},"text":"note {i}"}}]"#));
    }
    let (_, health) = primary.ask("GET /health", "");
    assert!(health.contains(r#""primary":true"#), "{health}");
    let position = health.split(r#""position":"#).nth(1).unwrap().split([',', '}']).next().unwrap();
    replica.eventually("/health", position);
    let (head, health) = replica.ask("GET /health", "");
    assert!(head.contains(" 200 ") && health.contains(r#""primary":false"#), "{head} {health}");

    // Stopped in either order, what one has the other gets.
    replica.stop();
    primary.ask("POST /notes", "while it was away");
    let replica = Server::start(&b, Some(&primary));
    replica.eventually("/notes", r#"{"id":51,"text":"while it was away"}]"#);
    primary.stop();
    replica.eventually("/notes", r#"{"id":51,"text":"while it was away"}]"#);
    replica.stop();
    for dir in [a, b] {
        assert_eq!(std::fs::read_dir(dir.join("mnt")).unwrap().count(), 0, "still mounted");
    }
}

const LIMIT: Duration = Duration::from_secs(20);
