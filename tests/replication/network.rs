//! The network fails: silence, cuts, delay, and damage to what it carries.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use litefs_tests::cluster::{Cluster, ClusterOptions, Replica, Watching, address, eventually};
use litefs_tests::node::{LIMIT, Node};
use litefs_tests::proxy::{Damage, Fault, Layer};
use litefs_tests::random::Random;
use litefs_tests::sqlite;
use litefs_tests::workload::Mode;

use crate::{MODES, watch, while_writing};

const WAL: Mode = Mode::new("WAL", "NORMAL");

#[test]
fn a_silent_network_is_left_and_found_again() {
    let cluster = Cluster::start();
    let net = &cluster.replica().net;
    let writer = sqlite::open(&cluster.primary.path("db"));
    sqlite::run(&writer, "PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    cluster.converge("db");
    let before = net.accepted();
    net.stall(true);
    sqlite::run(&writer, "INSERT INTO t VALUES (1)");
    let began = Instant::now();
    // It gives up, tries again, and gets no answer from that either.
    assert!(net.wait_accepted(before + 1, Duration::from_secs(8)));
    assert!(began.elapsed() > Duration::from_secs(2), "it waits for some heartbeats");
    sqlite::run(&writer, "INSERT INTO t VALUES (2)");
    net.stall(false);
    cluster.converge("db");
}

#[test]
fn cuts_at_any_moment_lose_nothing() {
    let mut random = Random::from_env();
    let cluster = Cluster::start();
    let net = &cluster.replica().net;
    for mode in MODES {
        let path = cluster.primary.path(mode.journal);
        let mut watcher = None;
        while_writing(&path, mode, random.any(), || {
            let there = || cluster.replica().node.path(mode.journal).exists();
            assert!(eventually(LIMIT, there));
            // After a cut the replica may get a snapshot.
            watcher = Some(watch(&cluster.replica().node.path(mode.journal), Watching::Keep));
            for _ in 0..40 {
                net.cut();
                thread::park_timeout(Duration::from_micros(random.below(60_000)));
            }
        });
        cluster.converge(mode.journal);
        watcher.unwrap().finish();
    }
}

#[test]
fn a_slow_network_is_only_slow() {
    let mut random = Random::from_env();
    let cluster = Cluster::start();
    cluster.replica().net.delay(Duration::from_millis(30));
    while_writing(&cluster.primary.path("db"), WAL, random.any(), || {
        thread::park_timeout(Duration::from_secs(1));
    });
    cluster.converge("db");
}

/// A database of a few small pages, so that each byte of an exchange can have its turn.
fn small_database(cluster: &Cluster) -> rusqlite::Connection {
    let writer = sqlite::open(&cluster.primary.path("db"));
    sqlite::run(&writer, "PRAGMA page_size=512; PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    cluster.converge("db");
    writer
}

/// Damages byte after byte of what follows a commit.
fn damage_everywhere(cluster: &Cluster, layer: Layer, damage: impl Fn(u64) -> Damage, step: usize) {
    let net = &cluster.replica().net;
    let writer = small_database(cluster);
    for at in (0..).step_by(step) {
        net.stall(true);
        net.cut();
        sqlite::run(&writer, "DELETE FROM t; INSERT INTO t VALUES (hex(randomblob(20)))");
        let struck = net.struck();
        net.cut_and_damage(Fault { layer, at, damage: damage(at) });
        net.stall(false);
        // Once it has all, only a heartbeat per second would follow: the whole exchange had its turn.
        let whole = || cluster.replica().node.pos("db") == cluster.primary.pos("db");
        eventually(LIMIT, || net.struck() > struck || whole());
        if net.struck() == struck {
            assert!(at > 100, "{at}");
            break;
        }
        // Whatever it makes of the damage, what comes next is right.
        thread::park_timeout(Duration::from_millis(1));
        net.cut();
        cluster.await_position("db");
    }
    net.cut();
    cluster.converge("db");
}

#[test]
fn an_answer_that_ends_anywhere_is_asked_for_again() {
    damage_everywhere(&Cluster::start(), Layer::Body, |_| Damage::Cut, 1);
}

#[test]
fn a_connection_that_ends_anywhere_is_made_again() {
    damage_everywhere(&Cluster::start(), Layer::Tcp, |_| Damage::Cut, 3);
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    damage_everywhere(&Cluster::start(), Layer::Body, |at| Damage::Flip(1 << (at % 8)), 1);
}

#[test]
fn flipped_bytes_in_the_connection_are_survived() {
    damage_everywhere(&Cluster::start(), Layer::Tcp, |_| Damage::Flip(0xff), 3);
}

#[test]
fn somebody_else_answers_before_the_primary_does() {
    let primary = Node::start();
    sqlite::run(&sqlite::open(&primary.path("db")), "CREATE TABLE t(x)");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = other.local_addr().unwrap();
    thread::spawn(move || {
        let answers: [&[u8]; 5] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            b"",
            &[0; 4096],
            b"SSH-2.0-OpenSSH_9.2\r\n",
            // Settings of HTTP/2, then a frame of 16 MiB that never comes.
            b"\0\0\0\x04\0\0\0\0\0\xff\xff\xff\0\0\0\0\0\x01",
        ];
        for (stream, answer) in other.incoming().zip(answers.iter().cycle()) {
            let mut stream = stream.unwrap();
            let _ = stream.write_all(answer);
            thread::spawn(move || stream.read_to_end(&mut Vec::new()));
        }
    });
    let mut replica = Replica::new(Duration::from_secs(60));
    replica.net.set_target(Some(addr));
    replica.node.up_alone();
    assert!(replica.net.wait_accepted(10, LIMIT), "it tries again and again");
    replica.net.set_target(Some(address(&primary)));
    replica.net.cut();
    Cluster { primary, replicas: vec![replica] }.converge("db");
}

#[test]
fn two_replicas_with_one_host_name_are_two() {
    let cluster = Cluster::start_with(ClusterOptions { replicas: 2, ..ClusterOptions::default() });
    while_writing(&cluster.primary.path("db"), WAL, 1, || {
        cluster.replicas[0].net.cut();
        thread::park_timeout(Duration::from_millis(300));
    });
    cluster.converge("db");
}
