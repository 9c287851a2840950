//! A node that isn't root: `fusermount3` mounts and unmounts for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use litefs_tests::node::{LIMIT, Node, NodeOptions, litefs};
use litefs_tests::process::Process;

/// The user `nobody`, who owns nothing and may nothing.
const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// Runs a program as that user; what it printed.
#[track_caller]
fn as_nobody(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(NOBODY[0]);
    let (code, output) = Process::run(command.args(&NOBODY[1..]).arg(program).args(args), LIMIT);
    assert_eq!(code, Some(0), "{program} {args:?}: {output}");
    output
}

/// A node whose files are all that user's. Only he can look into its mount, root can't.
fn node() -> Node {
    let through = NOBODY.map(str::to_owned).to_vec();
    let mut node = Node::new(NodeOptions { through, ..NodeOptions::default() });
    let dir = node.data().parent().unwrap().to_owned();
    // The binary may lie where he can't go.
    let program = dir.join("litefs");
    fs::copy(litefs(), &program).unwrap();
    node.options().program = program;
    let (code, output) =
        Process::run(Command::new("chown").arg("-R").arg("65534:65534").arg(dir), LIMIT);
    assert_eq!(code, Some(0), "{output}");
    node
}

#[track_caller]
fn up(node: &mut Node) {
    node.launch().line("waiting for signal or subprocess to exit", LIMIT);
}

#[test]
fn a_user_without_rights_mounts_writes_and_unmounts() {
    // As udev has it, which not every container runs.
    fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o666)).unwrap();
    let mut node = node();
    let path = |suffix: &str| node.path(&format!("db{suffix}")).display().to_string();
    let (db, pos, mount) = (path(""), path("-pos"), node.path("").display().to_string());

    up(&mut node);
    for journal in ["DELETE", "WAL"] {
        let sql = format!(
            "PRAGMA journal_mode={journal}; CREATE TABLE IF NOT EXISTS t(x); INSERT INTO t VALUES (1)"
        );
        as_nobody("sqlite3", &["-batch", "-bail", &db, &sql]);
    }
    let before = as_nobody("cat", &[&pos]);
    assert!(before.starts_with("0000000000000"), "{before}");
    assert!(fs::read_dir(&mount).is_err(), "root isn't this user");
    assert!(node.backing("db").join("database").exists());
    assert_eq!(node.stop(), Some(0), "{}", node.process().output());
    assert!(!node.is_mounted());

    up(&mut node);
    assert_eq!(as_nobody("cat", &[&pos]), before);
    // What a dead process left is unmounted by the next start.
    for round in 0..3 {
        node.kill();
        assert!(node.is_mounted());
        up(&mut node);
        let sql = "INSERT INTO t VALUES (2); PRAGMA integrity_check; SELECT count(*) FROM t";
        let output = as_nobody("sqlite3", &["-batch", "-bail", &db, sql]);
        assert_eq!(output, format!("ok\n{}\n", round + 3));
        node.check_log();
    }
    assert_eq!(node.stop(), Some(0), "{}", node.process().output());
    assert!(!node.is_mounted(), "mounts were stacked");
}
