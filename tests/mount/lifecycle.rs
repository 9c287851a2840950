//! Start, stop, and what goes wrong with either: exit codes, messages, mounts that must not stay behind.

use std::fs;
use std::fs::File;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use litefs_tests::node::{LIMIT, Node, NodeOptions, litefs, unmount};
use litefs_tests::process::Process;
use litefs_tests::sqlite;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Who starts a node without a configuration holds this: it listens on the default port.
static DEFAULT_PORT: Mutex<()> = Mutex::new(());

fn default_port() -> MutexGuard<'static, ()> {
    DEFAULT_PORT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with_command(words: &[&str]) -> Node {
    let mut args = vec!["--".to_owned()];
    args.extend(words.iter().map(|w| (*w).to_owned()));
    Node::new(NodeOptions { args, ..NodeOptions::default() })
}

fn run(args: &[&str]) -> (Option<i32>, String) {
    Process::run(Command::new(litefs()).args(args), LIMIT)
}

#[test]
fn stop_and_start_keep_everything() {
    let mut node = Node::start();
    node.make_databases();
    for round in 1..4 {
        let before = (node.pos("DELETE"), node.pos("WAL"));
        assert_eq!(node.stop(), Some(0), "{}", node.process().output());
        assert!(!node.is_mounted());
        node.up();
        assert_eq!((node.pos("DELETE"), node.pos("WAL")), before);
        for name in ["DELETE", "WAL"] {
            let conn = sqlite::open(&node.path(name));
            assert_eq!(sqlite::number(&conn, "SELECT count(*) FROM t"), round);
            sqlite::run(&conn, "INSERT INTO t VALUES (1)");
            drop(conn);
            node.check(name);
        }
    }
}

#[test]
fn a_node_needs_no_configuration() {
    let _port = default_port();
    let dir = tempfile::tempdir().unwrap();
    let (mount, data) = (dir.path().join("mnt"), dir.path().join("data"));
    let mut command = Command::new(litefs());
    let process =
        Process::start(command.args(["mount", "-dir"]).arg(&mount).arg("-data").arg(&data).args([
            "--",
            "sqlite3",
            &mount.join("db").display().to_string(),
            "'CREATE TABLE t(x); INSERT INTO t VALUES (42); SELECT x FROM t'",
        ]));
    let status = process.wait(LIMIT);
    let left = unmount(&mount);
    assert_eq!(status.code(), Some(0), "{}", process.output());
    assert!(!left, "the mount was left");
    assert!(process.output().lines().any(|l| l == "42"), "{}", process.output());
    assert!(data.join("dbs/db/database").exists());
}

#[test]
fn sigterm_and_sigint_end_it_while_files_are_open() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let node = Node::start();
        let path = node.path("db");
        sqlite::run(&sqlite::open(&path), "CREATE TABLE t(x); INSERT INTO t VALUES (1)");
        let open = File::open(&path).unwrap();
        let writer = Process::start(Command::new("sqlite3").arg(&path).args([
            "-cmd",
            "PRAGMA journal_mode=PERSIST",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
        ]));
        node.process().line("waiting for signal", LIMIT);
        node.process().signal(signal);
        let status = node.process().wait(LIMIT);
        assert_eq!(status.code(), Some(0), "{signal}: {}", node.process().output());
        assert!(!node.is_mounted());
        assert!(open.sync_all().is_err(), "the file of a mount that is gone still works");
        drop(writer);
    }
}

#[test]
fn the_exit_code_of_the_command_is_passed_on() {
    for (script, code, text) in [
        ("exit 0", 0, "subprocess exited successfully"),
        ("exit 7", 7, "subprocess exited with error code 7"),
        ("kill -9 $$", 255, "subprocess exited with error code -1"),
    ] {
        let mut node = with_command(&["sh", "-c", &format!("'{script}'")]);
        let process = node.launch();
        assert_eq!(process.wait(LIMIT).code(), Some(code), "{script}: {}", process.output());
        assert!(process.output().contains(text), "{}", process.output());
        assert!(!node.is_mounted(), "{script}");
    }
}

#[test]
fn a_command_that_fails_on_the_signal_leaves_no_mount() {
    let mut node = with_command(&[
        "sh",
        "-c",
        "'trap \"exit 3\" TERM; echo armed; while :; do sleep 0.05; done'",
    ]);
    let process = node.launch();
    process.line_of("armed", LIMIT);
    process.line("waiting for signal", LIMIT);
    process.signal(Signal::SIGTERM);
    let status = process.wait(LIMIT);
    assert!(!node.is_mounted());
    assert_eq!(status.code(), Some(3), "{}", process.output());
}

#[test]
fn a_command_that_cant_start_leaves_no_mount() {
    let mut node = with_command(&["/nonexistent/app"]);
    let process = node.launch();
    assert_eq!(process.wait(LIMIT).code(), Some(1), "{}", process.output());
    assert!(process.output().contains("ERROR: "), "{}", process.output());
    assert!(!node.is_mounted());
}

#[test]
fn the_process_group_of_the_command_is_never_orphaned() {
    let script = "'sleep 1000 & echo grandchild $!; wait'";
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut node = with_command(&["sh", "-c", script]);
        let process = node.launch();
        let line = process.line_of("grandchild ", LIMIT).text;
        let pid = Pid::from_raw(line.rsplit(' ').next().unwrap().parse().unwrap());
        process.line("waiting for signal", LIMIT);
        process.signal(signal);
        process.wait(LIMIT);
        assert!(gone(pid), "{signal} leaves the grandchild");
    }
}

#[test]
fn the_exec_list_runs_in_order() {
    let mut node = Node::new(NodeOptions {
        config: "exec:\n  - cmd: \"sh -c 'echo first'\"\n  - cmd: \"sh -c 'echo second'\"\n    if-candidate: true\n  \
                 - cmd: \"sh -c 'echo third'\"\n"
            .into(),
        ..NodeOptions::default()
    });
    let process = node.launch();
    assert_eq!(process.wait(LIMIT).code(), Some(0), "{}", process.output());
    let lines: Vec<_> =
        process.lines().into_iter().map(|l| l.text).filter(|l| !l.contains(' ')).collect();
    assert_eq!(lines, ["first", "second", "third"]);

    node.options().config =
        "exec:\n  - cmd: \"sh -c 'exit 5'\"\n  - cmd: \"sh -c 'echo never'\"\n".into();
    let process = node.launch();
    assert_eq!(process.wait(LIMIT).code(), Some(1));
    let want = "cannot exec: sync cmd: cannot run command: exit status 5";
    assert!(process.output().contains(want), "{}", process.output());
    assert!(!node.is_mounted());
}

#[test]
fn what_a_dead_process_left_is_unmounted() {
    let mut node = Node::start();
    sqlite::run(&sqlite::open(&node.path("db")), "CREATE TABLE t(x)");
    for _ in 0..3 {
        node.kill();
        assert!(node.is_mounted());
        assert!(fs::read_dir(node.path("")).is_err(), "the dead mount answers");
        node.up();
        node.check("db");
    }
    assert_eq!(node.stop(), Some(0));
    assert!(!node.is_mounted(), "mounts were stacked");
}

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let _port = default_port();
    let node = Node::start();
    let mount = tempfile::tempdir().unwrap();
    let (code, output) = run(&[
        "mount",
        "-dir",
        &mount.path().display().to_string(),
        "-data",
        &node.data().display().to_string(),
    ]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("ERROR: ") && output.contains("another process"), "{output}");
    node.check_log();
}

#[test]
fn a_taken_port_is_refused() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let config = format!("http:\n  addr: \"{addr}\"\n");
    let mut node = Node::new(NodeOptions { config, ..NodeOptions::default() });
    let process = node.launch();
    assert_eq!(process.wait(LIMIT).code(), Some(1), "{}", process.output());
    let want = format!("cannot init http server: cannot open http server: listen tcp {addr}");
    assert!(process.output().contains(&want), "{}", process.output());
    assert!(!node.is_mounted());
    drop(taken);
    node.up();
}

#[test]
fn a_signal_during_the_start_ends_it() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut node = Node::new(NodeOptions {
            config: "exec:\n  - cmd: sleep 1000\n  - cmd: sleep 2000\n".into(),
            ..NodeOptions::default()
        });
        let process = node.launch();
        process.line("executing command: sleep", LIMIT);
        process.signal(signal);
        process.wait(LIMIT);
        assert!(!process.output().contains("starting background"), "{}", process.output());
        assert!(process.output().contains("litefs shut down complete"), "{}", process.output());
        assert!(!node.is_mounted());
    }
}

#[test]
fn a_second_mount_on_the_same_directory_is_refused() {
    let _port = default_port();
    let node = Node::start();
    sqlite::run(&sqlite::open(&node.path("db")), "CREATE TABLE t(x)");
    let data = tempfile::tempdir().unwrap();
    let (code, output) = run(&[
        "mount",
        "-dir",
        &node.path("").display().to_string(),
        "-data",
        &data.path().display().to_string(),
    ]);
    assert_eq!(code, Some(1), "{output}");
    node.check("db");
}

#[test]
fn a_directory_with_files_is_no_mount_point() {
    let _port = default_port();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("precious"), "").unwrap();
    let data = tempfile::tempdir().unwrap();
    let (mount, data) = (dir.path().display().to_string(), data.path().display().to_string());
    let (code, output) = run(&["mount", "-dir", &mount, "-data", &data]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("not empty"), "{output}");
    assert!(dir.path().join("precious").exists());
}

#[test]
fn configurations_that_cant_be_used_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("litefs.yml");
    let path = file.display().to_string();
    let valid = "fuse:\n  dir: /m\ndata:\n  dir: /d\nlease:\n  type: static\n";
    for (text, want) in [
        (String::new(), "EOF"),
        (format!("{valid}nonsense: 1\n"), "line 7: field nonsense not found"),
        (valid.replace("/m", "\"\""), "fuse directory required"),
        (valid.replace("/d", "\"\""), "data directory required"),
        (valid.replace("/m", "/d"), "cannot be the same path"),
        (valid.replace("static", "raft"), "invalid lease type"),
    ] {
        fs::write(&file, &text).unwrap();
        let (code, output) = run(&["mount", "-config", &path]);
        assert_eq!(code, Some(2), "{text}: {output}");
        assert!(output.contains("ERROR: ") && output.contains(want), "{text}: {output}");
    }
    let (code, output) = run(&["mount", "-config", &dir.path().join("none").display().to_string()]);
    assert_eq!(code, Some(2), "{output}");
    // A directory, since root may read every file.
    let (code, output) = run(&["mount", "-config", &dir.path().display().to_string()]);
    assert_eq!(code, Some(2), "{output}");
    fs::write(&file, [0xff, 0xfe, 0x00, 0x9f]).unwrap();
    let (code, output) = run(&["mount", "-config", &path]);
    assert_eq!(code, Some(2), "{output}");
}

#[test]
fn a_start_after_a_clean_stop_doesnt_read_the_databases() {
    let mut node = Node::start_with(NodeOptions { strict_verify: false, ..NodeOptions::default() });
    let conn = sqlite::open(&node.path("db"));
    sqlite::run(
        &conn,
        "PRAGMA synchronous=OFF; CREATE TABLE t(x); INSERT INTO t VALUES (zeroblob(300000000))",
    );
    drop(conn);
    assert_eq!(node.stop(), Some(0));
    let started = Instant::now();
    node.up();
    let took = started.elapsed();
    // Generous: reading and summing 300 MB takes several times as long on any disk.
    assert!(took < Duration::from_millis(400), "{took:?}");
    node.check("db");
}

#[test]
fn an_unclean_end_is_followed_by_a_full_check() {
    let mut node = Node::start();
    for journal in ["DELETE", "WAL"] {
        let conn = sqlite::open(&node.path(journal));
        sqlite::run(
            &conn,
            &format!(
                "PRAGMA journal_mode={journal}; CREATE TABLE t(x); INSERT INTO t VALUES (zeroblob(100000))"
            ),
        );
        std::mem::forget(conn);
    }
    let before = (node.pos("DELETE"), node.pos("WAL"));
    node.kill();
    node.up();
    assert_eq!((node.pos("DELETE"), node.pos("WAL")), before);
    node.check("DELETE");
    node.check("WAL");
}

#[test]
fn version_and_help() {
    let (code, output) = run(&["version"]);
    assert_eq!(code, Some(0));
    assert!(output.starts_with("LiteFS "), "{output}");
    let (code, output) = run(&["help"]);
    assert_eq!(code, Some(2));
    assert!(output.contains("mount"), "{output}");
    let (code, output) = run(&["nonsense"]);
    assert_eq!(code, Some(1));
    assert!(output.contains("ERROR: litefs nonsense: unknown command"), "{output}");
}

/// Waits for the end of a process that isn't our child.
fn gone(pid: Pid) -> bool {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        let zombie = fs::read_to_string(format!("/proc/{pid}/stat"))
            .map_or(true, |stat| stat.contains(") Z "));
        if zombie || kill(pid, None).is_err() {
            return true;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    false
}
