//! The network between two hosts is cut in the kernel, without a word to either: no reset, no end of a connection.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use litefs_tests::cluster::{Watching, converge, eventually, replica_config};
use litefs_tests::netns::{Host, Network};
use litefs_tests::node::{LIMIT, Node, NodeOptions, litefs};
use litefs_tests::process::Process;
use litefs_tests::random::Random;
use litefs_tests::workload::{Mode, Workload};

use crate::watch;

const PORT: u16 = 20202;
const DATABASES: [Mode; 2] = [Mode::new("WAL", "NORMAL"), Mode::new("DELETE", "NORMAL")];

/// A node that listens on its host, with more lines of `litefs.yml`.
fn node(host: &Host, config: &str) -> Node {
    Node::start_with(NodeOptions {
        config: format!("http:\n  addr: \"{}\"\n{config}", host.address(PORT)),
        through: host.through(),
        ..NodeOptions::default()
    })
}

/// The digest of a database as its node exports it.
fn export_digest(host: &Host, name: &str, dir: &Path) -> String {
    let file = dir.join(format!("{}-{name}", host.ip()));
    let url = format!("http://{}", host.address(PORT));
    let mut export = host.command(litefs());
    export.args(["export", "-url", &url, "-name", name]).arg(&file);
    let (code, output) = Process::run(&mut export, LIMIT);
    assert_eq!(code, Some(0), "{output}");
    let (code, output) = Process::run(Command::new("sha256sum").arg(&file), LIMIT);
    assert_eq!(code, Some(0), "{output}");
    output.split(' ').next().unwrap().to_owned()
}

fn lag(node: &Node) -> Duration {
    let text = fs::read_to_string(node.path(".lag")).unwrap();
    Duration::from_millis(text.trim().parse().unwrap())
}

/// Cuts the network between a primary and its replica; what happens until it is whole again, and after.
fn parted(cut: impl Fn(&Host, &Host), heal: impl Fn(&Host, &Host)) {
    let mut random = Random::from_env();
    let network = Network::new();
    let hosts = [network.host(), network.host()];
    let primary = node(&hosts[0], "");
    let config = replica_config(&format!("http://{}", hosts[0].address(PORT)));
    let replica = node(&hosts[1], &config);
    let mut write = || {
        for mode in DATABASES {
            let path = primary.path(mode.journal);
            Workload::open(&path, mode, random.any()).unwrap().steps(20).unwrap();
        }
    };
    write();
    DATABASES.iter().for_each(|mode| converge(&primary, &[&replica], mode.journal));
    assert_eq!(fs::read_to_string(replica.path(".primary")).unwrap(), "primary\n");
    assert!(eventually(LIMIT, || lag(&replica) < Duration::from_millis(1500)));
    let watchers = DATABASES.map(|mode| watch(&replica.path(mode.journal), Watching::Keep));

    cut(&hosts[0], &hosts[1]);
    let began = Instant::now();
    write();
    // Three seconds of silence, after the last that still came.
    assert!(eventually(Duration::from_secs(8), || !replica.path(".primary").exists()));
    assert!(began.elapsed() > Duration::from_secs(1), "it left early: {:?}", began.elapsed());
    let then = lag(&replica);
    assert!(eventually(LIMIT, || lag(&replica) > then + Duration::from_millis(500)));
    assert!(lag(&replica) >= Duration::from_secs(3), "{:?}", lag(&replica));
    write();
    watchers.iter().for_each(|watcher| watcher.look(5));
    for mode in DATABASES {
        let [replica, primary] = [&replica, &primary].map(|node| node.pos(mode.journal).txid);
        assert!(replica < primary, "{}: {replica} < {primary}", mode.journal);
    }

    heal(&hosts[0], &hosts[1]);
    assert!(eventually(LIMIT, || replica.path(".primary").exists()));
    write();
    let dir = tempfile::tempdir().unwrap();
    for mode in DATABASES {
        converge(&primary, &[&replica], mode.journal);
        let digests = hosts.each_ref().map(|host| export_digest(host, mode.journal, dir.path()));
        assert_eq!(digests[0], digests[1], "{}", mode.journal);
    }
    assert!(eventually(LIMIT, || lag(&replica) < Duration::from_millis(1500)));
    watchers.into_iter().for_each(|watcher| watcher.finish());
}

#[test]
fn a_primary_whose_cable_is_pulled_is_left_and_found_again() {
    parted(|primary, _| primary.unplug(), |primary, _| primary.plug());
}

#[test]
fn a_primary_that_hears_but_isnt_heard_is_left_and_found_again() {
    parted(Host::lose, Host::carry);
}

#[test]
fn a_primary_that_is_heard_but_doesnt_hear_is_left_and_found_again() {
    parted(|primary, replica| replica.lose(primary), |primary, replica| replica.carry(primary));
}
