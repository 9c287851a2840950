//! A replica that can't go on from where it is: too far behind, ahead, or somewhere else.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use litefs_tests::cluster::{Cluster, ClusterOptions, Replica, Watching, address, eventually};
use litefs_tests::node::{LIMIT, Node, NodeOptions, unmount};
use litefs_tests::process::Process;
use litefs_tests::random::Random;
use litefs_tests::sqlite;
use litefs_tests::workload::{Mode, Workload};
use nix::mount::{MsFlags, mount};

use crate::watch;

/// A primary that forgets soon.
fn forgetful() -> Cluster {
    let data = "retention: 10ms\n  retention-size: 64KB\n  retention-monitor-interval: 20ms";
    Cluster::start_with(ClusterOptions { data: data.into(), ..ClusterOptions::default() })
}

fn steps(cluster: &Cluster, mode: Mode, seed: u64, count: usize) {
    let mut workload = Workload::open(&cluster.primary.path("db"), mode, seed).unwrap();
    workload.steps(count).unwrap();
}

/// Cuts the replica off until what it would need next is forgotten.
fn leave_behind(cluster: &Cluster, mode: Mode, seed: u64) {
    let net = &cluster.replica().net;
    net.stall(true);
    net.cut();
    // More than is kept, and more than a snapshot is long.
    steps(cluster, mode, seed, 800);
    net.stall(false);
    net.cut();
    cluster.primary.process().line("writing snapshot", LIMIT);
}

#[test]
fn a_replica_far_behind_gets_a_snapshot_under_readers_in_rollback_mode() {
    let mut random = Random::from_env();
    let cluster = forgetful();
    let mode = Mode::new("DELETE", "OFF");
    steps(&cluster, mode, random.any(), 20);
    cluster.converge("db");
    let path = cluster.replica().node.path("db");
    let watchers = [Watching::Keep, Watching::Reopen].map(|how| watch(&path, how));
    for _ in 0..3 {
        leave_behind(&cluster, mode, random.any());
        cluster.converge("db");
        watchers.iter().for_each(|watcher| watcher.look(2));
    }
}

#[test]
fn a_replica_far_behind_gets_a_snapshot_when_a_reader_in_wal_mode_closes() {
    let mut random = Random::from_env();
    let cluster = forgetful();
    let mode = Mode::new("WAL", "NORMAL");
    steps(&cluster, mode, random.any(), 20);
    cluster.converge("db");
    let path = cluster.replica().node.path("db");
    let watcher = watch(&path, Watching::Keep);
    leave_behind(&cluster, mode, random.any());
    watcher.look(20);
    watcher.finish();
    cluster.converge("db");
}

/// Applications keep their connections, so a snapshot must not wait for them.
#[test]
fn a_replica_far_behind_gets_a_snapshot_while_a_connection_in_wal_mode_stays() {
    let mut random = Random::from_env();
    let cluster = forgetful();
    let mode = Mode::new("WAL", "NORMAL");
    steps(&cluster, mode, random.any(), 20);
    cluster.converge("db");
    let watcher = watch(&cluster.replica().node.path("db"), Watching::Keep);
    leave_behind(&cluster, mode, random.any());
    cluster.converge("db");
    watcher.finish();
}

fn copy(from: &Path, to: &Path) {
    let (code, output) = Process::run(Command::new("cp").arg("-a").arg(from).arg(to), LIMIT);
    assert_eq!(code, Some(0), "{output}");
}

/// Of two nodes that were one: the first leads, and the other, after `ahead` and `behind` transactions of its own and of
/// the first, follows.
fn diverged(mode: Mode, ahead: usize, behind: usize) {
    let mut random = Random::from_env();
    let mut first = Node::start_with(NodeOptions::default());
    let mut steps = |node: &Node, count: usize| {
        let mut workload = Workload::open(&node.path("db"), mode, random.any()).unwrap();
        workload.steps(count).unwrap();
    };
    steps(&first, 30);
    assert_eq!(first.stop(), Some(0));
    let mut second = Replica::new(Duration::from_secs(90));
    fs::remove_dir(second.node.data()).unwrap();
    copy(first.data(), second.node.data());
    let lease = std::mem::take(&mut second.node.options().config);
    second.node.up();
    steps(&second.node, ahead);
    assert_eq!(second.node.stop(), Some(0));

    first.up();
    steps(&first, behind);
    second.node.options().config = lease;
    second.net.set_target(Some(address(&first)));
    second.node.up();
    let cluster = Cluster { primary: first, replicas: vec![second] };
    cluster.converge("db");
    steps(&cluster.primary, 5);
    cluster.converge("db");
}

const MODES: [Mode; 2] = [Mode::new("WAL", "NORMAL"), Mode::new("DELETE", "NORMAL")];

#[test]
fn a_replica_that_is_ahead_comes_back() {
    MODES.into_iter().for_each(|mode| diverged(mode, 20, 0));
}

#[test]
fn a_replica_with_the_same_number_of_other_transactions_comes_back() {
    MODES.into_iter().for_each(|mode| diverged(mode, 1, 1));
}

#[test]
fn a_replica_that_was_ahead_and_is_overtaken_comes_back() {
    MODES.into_iter().for_each(|mode| diverged(mode, 5, 20));
}

/// A data directory of its own small file system.
struct SmallDisk<'a>(&'a Path);

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        unmount(self.0);
    }
}

#[test]
fn a_replica_with_a_full_disk_serves_readers_and_catches_up_when_there_is_space() {
    for mode in MODES {
        let mut random = Random::from_env();
        let mut cluster = Cluster::start();
        cluster.replicas[0].node.stop();
        let data = cluster.replicas[0].node.data().to_owned();
        let flags = MsFlags::empty();
        mount(Some("tmpfs"), &data, Some("tmpfs"), flags, Some("size=24m")).unwrap();
        let _disk = SmallDisk(&data);
        cluster.replicas[0].node.up();
        let steps = |cluster: &Cluster, seed, count| steps(cluster, mode, seed, count);
        steps(&cluster, random.any(), 20);
        cluster.converge("db");
        let watcher = watch(&cluster.replica().node.path("db"), Watching::Keep);
        let ballast = data.join("ballast");
        let stat = nix::sys::statvfs::statvfs(&data).unwrap();
        let free = usize::try_from(stat.blocks_available() * stat.fragment_size()).unwrap();
        fs::write(&ballast, vec![1; free - (300 << 10)]).unwrap();
        steps(&cluster, random.any(), 600);
        cluster.replica().node.process().line("cannot follow the primary", LIMIT);
        watcher.look(20);
        fs::remove_file(&ballast).unwrap();
        steps(&cluster, random.any(), 1);
        // It tries again by itself after 15 seconds.
        let there = || cluster.replica().node.pos("db") == cluster.primary.pos("db");
        assert!(eventually(Duration::from_secs(30), there));
        watcher.look(20);
        watcher.finish();
        cluster.converge("db");
        cluster.replicas[0].node.kill();
    }
}

/// What a replica can't recover, the primary has: all of its files are replaced, also an old WAL or journal beside the database.
#[test]
fn a_replica_whose_log_is_damaged_gets_a_snapshot() {
    let mut random = Random::from_env();
    for (mode, what) in MODES.into_iter().flat_map(|mode| DAMAGES.map(|what| (mode, what))) {
        let mut cluster = Cluster::start();
        steps(&cluster, mode, random.any(), 50);
        cluster.converge("db");
        let replica = &mut cluster.replicas[0].node;
        replica.stop();
        let dir = replica.backing("db");
        damage(&dir, what);
        if mode.journal != "WAL" && what != Damage::Both {
            leave_hot_journal(&dir);
        }
        steps(&cluster, mode, random.any(), 20);
        cluster.replicas[0].node.up();
        println!("{mode:?} {what:?}");
        cluster.converge("db");
        steps(&cluster, mode, random.any(), 5);
        cluster.converge("db");
        // Not at its next start either does it come back.
        cluster.replicas[0].node.kill();
        cluster.replicas[0].node.up();
        cluster.converge("db");
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Damage {
    Lost,
    Cut,
    Garbage,
    /// The database file is lost, too.
    Both,
}

const DAMAGES: [Damage; 4] = [Damage::Lost, Damage::Cut, Damage::Garbage, Damage::Both];

fn damage(dir: &Path, what: Damage) {
    let entries = fs::read_dir(dir.join("log")).unwrap();
    let mut segments: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    let last = segments.last().expect("a segment");
    match what {
        Damage::Lost | Damage::Both => {
            segments.iter().for_each(|path| fs::remove_file(path).unwrap());
        }
        Damage::Cut => {
            let file = fs::OpenOptions::new().write(true).open(last).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }
        Damage::Garbage => fs::write(last, vec![0x5a; 10_000]).unwrap(),
    }
    if what == Damage::Both {
        fs::remove_file(dir.join("database")).unwrap();
    }
}

/// Of a transaction that was under way when everything ended.
fn leave_hot_journal(dir: &Path) {
    let database = dir.join("database");
    let conn = sqlite::open(&database);
    sqlite::run(&conn, "PRAGMA cache_size=5; BEGIN; UPDATE cell SET body = zeroblob(length(body))");
    fs::copy(dir.join("database-journal"), dir.join("journal")).unwrap();
    fs::copy(&database, dir.join("half-way")).unwrap();
    sqlite::run(&conn, "ROLLBACK");
    drop(conn);
    fs::rename(dir.join("half-way"), database).unwrap();
}
