//! What went over the wire between two nodes, decoded a second time.

use std::time::Duration;

use litefs_tests::cluster::{Cluster, ClusterOptions, Replica, eventually};
use litefs_tests::node::LIMIT;
use litefs_tests::proxy::Recorded;
use litefs_tests::wire::{self, Frame, Ltx};
use litefs_tests::workload::{Mode, Workload};

/// Type and time.
const HEARTBEAT_LEN: usize = 4 + 8;

/// The frames of a recorded stream, which the primary has ended, and the positions it was asked for with.
fn decode(recorded: &Recorded) -> (Vec<(String, u64, u64)>, Vec<Frame>) {
    let positions = wire::positions(&wire::request_body(&recorded.request));
    (positions, wire::frames(&wire::body(&recorded.answer)))
}

/// The transactions among the frames.
fn transactions(frames: &[Frame]) -> Vec<Ltx> {
    let file = |frame: &Frame| match frame {
        Frame::Ltx { name, file } => {
            assert_eq!(name, "db");
            Some(Ltx::decode(file))
        }
        _ => None,
    };
    frames.iter().filter_map(file).collect()
}

#[test]
fn what_goes_over_the_wire_is_what_the_formats_say() {
    for mode in [Mode::new("WAL", "NORMAL"), Mode::new("DELETE", "NORMAL")] {
        let data = "compress: false".into();
        let mut cluster = Cluster::start_with(ClusterOptions { data, ..ClusterOptions::default() });
        let mut workload = Workload::open(&cluster.primary.path("db"), mode, 7).unwrap();
        workload.steps(20).unwrap();
        cluster.converge("db");
        let start = cluster.primary.pos("db");

        // One replica goes on from where it is, the other one has nothing.
        let net = &cluster.replica().net;
        net.record();
        net.cut();
        assert!(eventually(LIMIT, || !net.records().is_empty()));
        let mut late = Replica::new(Duration::from_secs(60));
        late.net.record();
        late.net.set_target(Some(cluster.address()));
        late.node.up();
        cluster.replicas.push(late);
        cluster.await_position("db");
        workload.steps(20).unwrap();
        drop(workload);
        cluster.converge("db");
        let end = cluster.primary.pos("db");
        assert!(end.txid >= start.txid + 20);
        // Each hears from the primary at rest, too.
        for replica in &cluster.replicas {
            let heard = || wire::body(&replica.net.records()[0].answer).len();
            let before = heard();
            assert!(eventually(LIMIT, || heard() >= before + HEARTBEAT_LEN));
        }
        assert_eq!(cluster.primary.stop(), Some(0));

        let recorded = |i: usize| cluster.replicas[i].net.records().swap_remove(0);
        let (positions, frames) = decode(&recorded(1));
        assert_eq!(positions, [], "it had nothing");
        check_order(&frames);
        let sent = transactions(&frames);
        let (snapshot, sent) = sent.split_first().unwrap();
        assert_eq!((snapshot.txids, snapshot.in_wal), ((1, start.txid), false));
        let mut image = Vec::new();
        snapshot.apply(&mut image);
        for (txid, ltx) in (start.txid + 1..).zip(sent) {
            assert_eq!((ltx.txids, ltx.in_wal), ((txid, txid), mode.journal == "WAL"));
            assert_eq!(ltx.node_id, snapshot.node_id);
            ltx.apply(&mut image);
        }
        let last = sent.last().unwrap();
        assert_eq!((last.txids.1, last.post_apply), (end.txid, end.checksum));

        let (positions, frames) = decode(&recorded(0));
        assert_eq!(positions, [("db".to_owned(), start.txid, start.checksum)]);
        check_order(&frames);
        assert_eq!(transactions(&frames), sent, "both got the same");
    }
}

/// After each transaction, but not after a snapshot, the high-water mark; once Ready; then heartbeats; last the End.
fn check_order(frames: &[Frame]) {
    for (i, frame) in frames.iter().enumerate() {
        if let Frame::Ltx { file, .. } = frame {
            let hwm = Frame::Hwm { txid: 0, name: "db".into() };
            assert_eq!(frames[i + 1] == hwm, Ltx::decode(file).txids.0 != 1, "frame {i}");
        }
    }
    let count = |wanted: fn(&Frame) -> bool| frames.iter().filter(|frame| wanted(frame)).count();
    assert_eq!(count(|frame| *frame == Frame::Ready), 1);
    let ready = frames.iter().position(|frame| *frame == Frame::Ready).unwrap();
    let first_heartbeat = frames.iter().position(|f| matches!(f, Frame::Heartbeat(_))).unwrap();
    assert!(ready < first_heartbeat, "a heartbeat before all was sent");
    assert!(count(|frame| matches!(frame, Frame::Heartbeat(_))) >= 2);
    assert_eq!(frames.last(), Some(&Frame::End));
    assert_eq!(count(|frame| *frame == Frame::End), 1);
}
