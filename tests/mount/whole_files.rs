//! Databases that arrive, leave or change as a whole: copies, backups, restores; and many, or oddly named.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use litefs_tests::node::{LIMIT, Node, NodeOptions};
use litefs_tests::process::Process;
use litefs_tests::sqlite;
use rusqlite::MAIN_DB;
use rusqlite::backup::Backup;

/// A plain database of some 1.5 MB.
fn source(dir: &Path, name: &str, page_size: u32, salt: u32) -> PathBuf {
    let path = dir.join(name);
    let conn = sqlite::open(&path);
    sqlite::run(
        &conn,
        &format!(
            "PRAGMA page_size={page_size}; CREATE TABLE t(id INTEGER PRIMARY KEY, y BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             INSERT INTO t SELECT i, zeroblob((i * {salt}) % 1000) FROM n"
        ),
    );
    path
}

fn command(program: &str, args: &[&dyn AsRef<std::ffi::OsStr>]) {
    let mut command = Command::new(program);
    for arg in args {
        command.arg(arg);
    }
    let (code, output) = Process::run(&mut command, LIMIT);
    assert_eq!(code, Some(0), "{command:?}: {output}");
}

#[track_caller]
fn assert_copy(node: &Node, name: &str, source: &Path) {
    let got = sqlite::dump(&sqlite::open(&node.path(name)));
    assert!(got == sqlite::dump(&sqlite::open(source)), "{name} differs from {source:?}");
    node.check(name);
}

/// The tool under test, and whether it writes in blocks that are no multiple of the page size.
fn copy_with(tool: &str, from: &Path, to: &Path) {
    let (input, output) = (format!("if={}", from.display()), format!("of={}", to.display()));
    match tool {
        "cp" => command("cp", &[&from, &to]),
        "dd" => command("dd", &[&input, &output, &"bs=1000", &"status=none"]),
        "dd notrunc" => {
            command("dd", &[&input, &output, &"bs=1M", &"conv=notrunc,fsync", &"status=none"]);
        }
        "rsync" => command("rsync", &[&"--inplace", &"--no-whole-file", &from, &to]),
        _ => unreachable!("{tool}"),
    }
}

#[test]
fn a_database_is_copied_into_the_mount_by_common_tools() {
    let node = Node::start();
    let plain = tempfile::tempdir().unwrap();
    let small = source(plain.path(), "small", 4096, 3);
    let large = source(plain.path(), "large", 4096, 977);
    for tool in ["cp", "dd", "dd notrunc", "rsync"] {
        let name = tool.replace(' ', "-");
        copy_with(tool, &small, &node.path(&name));
        assert_copy(&node, &name, &small);
        let first = node.pos(&name);
        assert!(first.txid >= 1, "{tool}");

        copy_with(tool, &large, &node.path(&name));
        assert_copy(&node, &name, &large);
        assert!(node.pos(&name).txid > first.txid, "{tool} over an existing one");

        // And the database is one as any other.
        sqlite::run(&sqlite::open(&node.path(&name)), "INSERT INTO t(y) VALUES ('after')");
        node.check(&name);
    }
}

#[test]
fn a_copy_with_another_page_size_replaces_a_database() {
    let node = Node::start();
    let plain = tempfile::tempdir().unwrap();
    for (i, size) in [4096, 512, 65536].into_iter().enumerate() {
        let from = source(plain.path(), &size.to_string(), size, 3 + i as u32);
        copy_with("cp", &from, &node.path("db"));
        assert_copy(&node, "db", &from);
    }
}

#[test]
fn a_copy_of_the_same_database_over_itself_changes_nothing() {
    let node = Node::start();
    let plain = tempfile::tempdir().unwrap();
    let from = source(plain.path(), "a", 4096, 3);
    copy_with("cp", &from, &node.path("db"));
    let sum = node.pos("db").checksum;
    copy_with("dd notrunc", &from, &node.path("db"));
    assert_eq!(node.pos("db").checksum, sum);
    assert_copy(&node, "db", &from);
}

#[test]
fn a_database_is_copied_out_of_the_mount() {
    let node = Node::start();
    let plain = tempfile::tempdir().unwrap();
    let from = source(plain.path(), "a", 4096, 31);
    copy_with("cp", &from, &node.path("db"));
    let back = plain.path().join("back");
    copy_with("cp", &node.path("db"), &back);
    assert_eq!(fs::read(&from).unwrap(), fs::read(&back).unwrap());
}

#[test]
fn vacuum_into_and_the_shells_backup_and_restore() {
    let node = Node::start();
    let plain = tempfile::tempdir().unwrap();
    let from = source(plain.path(), "a", 4096, 77);

    let into = |to: &Path| format!("VACUUM INTO '{}'", to.display());
    sqlite::run(&sqlite::open(&from), &into(&node.path("into")));
    assert_copy(&node, "into", &from);
    sqlite::run(&sqlite::open(&node.path("into")), &into(&node.path("again")));
    assert_copy(&node, "again", &from);

    sqlite::shell(&from, &[&format!(".backup '{}'", node.path("backup").display())]).unwrap();
    assert_copy(&node, "backup", &from);
    let out = plain.path().join("out");
    sqlite::shell(&node.path("backup"), &[&format!(".backup '{}'", out.display())]).unwrap();
    assert_copy(&node, "backup", &out);

    for journal in ["DELETE", "WAL"] {
        let target = node.path(&format!("restored-{journal}"));
        let setup = format!(
            "PRAGMA journal_mode={journal}; CREATE TABLE old(x); INSERT INTO old VALUES (1)"
        );
        sqlite::shell(&target, &[&setup]).unwrap();
        sqlite::shell(&target, &[&format!(".restore '{}'", from.display())]).unwrap();
        assert_copy(&node, &format!("restored-{journal}"), &from);
    }
}

#[test]
fn an_online_backup_into_the_mount_while_others_read_it() {
    let node = Node::start();
    let plain = tempfile::tempdir().unwrap();
    let from = source(plain.path(), "a", 4096, 5);
    let reader = sqlite::open(&node.path("db"));
    sqlite::run(&reader, "PRAGMA journal_mode=WAL; CREATE TABLE old(x)");
    let mut target = sqlite::open(&node.path("db"));
    let from_conn = sqlite::open(&from);
    let backup = Backup::new(&from_conn, &mut target).unwrap();
    backup.run_to_completion(50, Duration::ZERO, None).unwrap();
    drop(backup);
    assert_eq!(sqlite::dump(&reader), sqlite::dump(&from_conn));
    drop((reader, target));
    assert_copy(&node, "db", &from);
}

#[test]
fn a_serialized_database_is_written_over_the_file() {
    let node = Node::start();
    let plain = tempfile::tempdir().unwrap();
    let from = source(plain.path(), "a", 4096, 13);
    let image = sqlite::open(&from).serialize(MAIN_DB).unwrap().to_vec();
    sqlite::run(&sqlite::open(&node.path("db")), "CREATE TABLE old(x); INSERT INTO old VALUES (1)");
    fs::write(node.path("db"), &image).unwrap();
    assert_copy(&node, "db", &from);
}

#[test]
fn names_with_spaces_and_other_scripts() {
    let node = Node::start();
    let long = "x".repeat(240);
    let names = [
        "my data.sqlite",
        "ünïcödé.db",
        "данные",
        "日本語.db",
        "a'b\"c;d",
        "-dash",
        ".hidden",
        "a.b.c",
        &long,
    ];
    for name in names {
        let conn = sqlite::open(&node.path(name));
        sqlite::run(&conn, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
        assert!(node.path(&format!("{name}-wal")).exists());
        drop(conn);
        node.check(name);
    }
    let listed = listing(&node);
    for name in names {
        assert!(listed.iter().any(|l| l == name), "{name} in {listed:?}");
        assert!(listed.contains(&format!("{name}-pos")));
    }
}

#[test]
fn three_hundred_databases() {
    let mut node = Node::start_with(NodeOptions { strict_verify: false, ..NodeOptions::default() });
    for i in 0..300 {
        let conn = sqlite::open(&node.path(&format!("db{i:03}")));
        let journal = ["DELETE", "WAL"][i % 2];
        sqlite::run(
            &conn,
            &format!(
                "PRAGMA synchronous=OFF; PRAGMA journal_mode={journal}; CREATE TABLE t(x); INSERT INTO t VALUES ({i})"
            ),
        );
    }
    let databases = |node: &Node| listing(node).iter().filter(|n| n.len() == 5).count();
    assert_eq!(databases(&node), 300);
    assert_eq!(node.stop(), Some(0));
    node.up();
    assert_eq!(databases(&node), 300);
    for i in (0..300).step_by(23) {
        let name = format!("db{i:03}");
        assert_eq!(sqlite::number(&sqlite::open(&node.path(&name)), "SELECT x FROM t"), i);
        node.check(&name);
    }
}

#[test]
fn the_listing_names_each_file_in_its_place() {
    let node = Node::start();
    let conn = sqlite::open(&node.path("b.db"));
    sqlite::run(&conn, "PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    let other = sqlite::open(&node.path("a.db"));
    sqlite::run(&other, "PRAGMA journal_mode=PERSIST; CREATE TABLE t(x)");
    let want =
        [".lag", "a.db", "a.db-pos", "a.db-journal", "b.db", "b.db-pos", "b.db-shm", "b.db-wal"];
    assert_eq!(listing(&node), want);
    assert_eq!(fs::read_to_string(node.path(".lag")).unwrap(), "+000000000\n");
    assert!(!node.path(".primary").exists());
    assert_eq!(fs::read(node.path("a.db-lock")).unwrap(), b"");
}

/// In the order in which the mount tells them.
fn listing(node: &Node) -> Vec<String> {
    let name = |e: std::io::Result<fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
    fs::read_dir(node.path("")).unwrap().map(name).collect()
}
