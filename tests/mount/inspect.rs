//! The commands that look at a data directory: `litefs ltx` beside a running node, `litefs verify` after it.

use std::path::Path;
use std::process::Command;

use litefs_tests::node::{LIMIT, Node, litefs};
use litefs_tests::process::Process;
use litefs_tests::sqlite;

#[track_caller]
fn run(data: &Path, args: &[&str], want: i32) -> String {
    let mut command = Command::new(litefs());
    // After the command's name come its flags, then the rest.
    let words = args.iter().position(|a| a.starts_with(':')).unwrap_or(args.len());
    command.args(&args[..words]).arg("-data").arg(data);
    command.args(args[words..].iter().map(|a| a.trim_start_matches(':')));
    let (code, output) = Process::run(&mut command, LIMIT);
    assert_eq!(code, Some(want), "{command:?}: {output}");
    output
}

#[test]
fn the_log_of_a_running_node_is_listed_shown_and_verified() {
    let node = Node::start();
    for journal in ["DELETE", "WAL"] {
        let conn = sqlite::open(&node.path(journal));
        sqlite::run(&conn, &format!("PRAGMA journal_mode={journal}; CREATE TABLE t(x)"));
        for _ in 0..10 {
            sqlite::run(&conn, "INSERT INTO t VALUES (randomblob(100))");
        }
        let last = node.pos(journal);
        let list = run(node.data(), &["ltx", "list", &format!(":{journal}")], 0);
        let text = format!("{:016x}", last.txid);
        assert!(list.contains(&text), "{text} isn't in\n{list}");
        assert!(list.contains(&format!("{:016x}", last.checksum)), "{list}");
        let show = run(node.data(), &["ltx", "show", &format!(":{journal}"), &text], 0);
        assert!(show.contains(&text), "{show}");
        run(node.data(), &["ltx", "verify", &format!(":{journal}")], 0);
    }
    run(node.data(), &["ltx", "list", ":unknown"], 1);
    run(node.data(), &["ltx", "show", ":WAL", "99"], 1);
}

#[test]
fn a_directory_in_use_isnt_verified_and_a_stopped_one_is_sound() {
    let mut node = Node::start();
    sqlite::run(&sqlite::open(&node.path("db")), "CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    let output = run(node.data(), &["verify"], 1);
    assert!(output.contains("another process"), "{output}");
    node.check("db");
    assert_eq!(node.stop(), Some(0));
    let output = run(node.data(), &["verify"], 0);
    assert!(output.contains("db"), "{output}");
    run(node.data(), &["verify", ":db"], 0);
    run(node.data(), &["verify", ":unknown"], 1);
}
