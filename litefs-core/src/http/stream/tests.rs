use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http::client::{ClientError, Hello, NodeUrl, ReplicationStream, Timeouts};
use crate::http::frames::{Event, Frame, FrameDecoder, PositionMap};
use crate::http::rig::{Rig, name};
use crate::ltx;
use crate::types::{Checksum, DbName, Pos, Txid};

const TIMEOUTS: Timeouts =
    Timeouts { connect: Duration::from_secs(10), silence: Duration::from_secs(10) };

/// What came; an LTX file by its span.
#[derive(Debug, PartialEq)]
enum Item {
    Frame(Frame),
    File(u64, Pos),
}

struct Replica {
    stream: ReplicationStream,
    decoder: FrameDecoder,
    items: VecDeque<Item>,
    file: Vec<u8>,
}

impl Replica {
    async fn connect(rig: &Rig, positions: &[(&str, Option<Pos>)], filter: &[DbName]) -> Replica {
        let stream = open(rig, 7, positions, filter).await.unwrap();
        Replica { stream, decoder: FrameDecoder::new(), items: VecDeque::new(), file: Vec::new() }
    }

    /// The next item; `None` at the end. Heartbeats are left out.
    async fn next(&mut self) -> Result<Option<Item>, ClientError> {
        while self.items.is_empty() {
            let Some(bytes) = self.stream.next().await? else {
                self.decoder.finish().unwrap();
                return Ok(None);
            };
            let mut input = &bytes[..];
            while let Some(event) = self.decoder.next(&mut input).unwrap() {
                match event {
                    Event::Frame(Frame::Heartbeat { .. }) => {}
                    Event::Frame(frame) => self.items.push_back(Item::Frame(frame)),
                    Event::LtxBytes(bytes) => self.file.extend_from_slice(bytes),
                    Event::LtxEnd => {
                        let file = std::mem::take(&mut self.file);
                        let summary = ltx::verify(file.as_slice()).unwrap();
                        let (min, txid) = (summary.header.min_txid, summary.header.max_txid);
                        let pos = Pos { txid, post_apply: summary.trailer.post_apply };
                        self.items.push_back(Item::File(min.as_u64(), pos));
                    }
                }
            }
        }
        Ok(self.items.pop_front())
    }

    async fn expect(&mut self, want: &[Item]) {
        for want in want {
            // Heartbeats would let it wait for ever.
            let next = tokio::time::timeout(TIMEOUTS.silence, self.next()).await.expect("in time");
            assert_eq!(next.unwrap().as_ref(), Some(want));
        }
    }
}

async fn open(
    rig: &Rig,
    node_id: u64,
    positions: &[(&str, Option<Pos>)],
    filter: &[DbName],
) -> Result<ReplicationStream, ClientError> {
    let map = positions.iter().map(|(db, pos)| (name(db), *pos)).collect();
    let url = NodeUrl::parse(&rig.url).unwrap();
    let positions = &PositionMap(map);
    let hello = Hello { node_id, candidate: false, positions, filter };
    ReplicationStream::open(&url, hello, TIMEOUTS).await
}

fn ltx_items(db: &str, min: u64, pos: Pos) -> [Item; 3] {
    [
        Item::Frame(Frame::Ltx { name: name(db) }),
        Item::File(min, pos),
        Item::Frame(Frame::Hwm { txid: None, name: name(db) }),
    ]
}

/// A snapshot has no high-water mark.
fn snapshot_items(db: &str, pos: Pos) -> [Item; 2] {
    [Item::Frame(Frame::Ltx { name: name(db) }), Item::File(1, pos)]
}

/// A condition that must come true soon.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_replica_gets_what_it_lacks_and_then_what_is_committed() {
    let rig = Rig::primary().await;
    let first = rig.commit("a", 2);
    let second = rig.commit("a", 3);
    let mut replica = Replica::connect(&rig, &[("a", Some(first))], &[]).await;
    replica.expect(&ltx_items("a", 2, second)).await;
    replica.expect(&[Item::Frame(Frame::Ready)]).await;
    for pages in 1..50 {
        let pos = rig.commit("a", pages);
        replica.expect(&ltx_items("a", pos.txid.as_u64(), pos)).await;
    }
    let other = rig.commit("b", 1);
    replica.expect(&snapshot_items("b", other)).await;
}

#[tokio::test]
async fn a_replica_that_has_everything_gets_ready_at_once() {
    let rig = Rig::primary().await;
    let pos = rig.commit("a", 1);
    rig.database("empty");
    let mut replica = Replica::connect(&rig, &[("a", Some(pos)), ("empty", None)], &[]).await;
    replica.expect(&[Item::Frame(Frame::Ready)]).await;
}

#[tokio::test]
async fn unwanted_databases_are_not_sent_and_unknown_ones_are_named() {
    let rig = Rig::primary().await;
    let (_, b) = (rig.commit("a", 1), rig.commit("b", 1));
    let gone = Some(Pos { txid: Txid::FIRST, post_apply: Checksum::EMPTY });
    let has = [("gone", gone), ("c", gone)];
    let mut replica = Replica::connect(&rig, &has, &[name("b"), name("gone")]).await;
    replica.expect(&snapshot_items("b", b)).await;
    let dropped = Item::Frame(Frame::DropDb { name: name("gone") });
    replica.expect(&[dropped, Item::Frame(Frame::Ready)]).await;
    rig.commit("a", 1);
    let b = rig.commit("b", 1);
    replica.expect(&ltx_items("b", 2, b)).await;
}

#[tokio::test]
async fn a_position_of_another_history_is_taken_for_none() {
    let rig = Rig::primary().await;
    let pos = rig.commit("a", 1);
    for has in [
        Pos { txid: pos.txid, post_apply: Checksum::EMPTY },
        Pos { txid: Txid::new(9).unwrap(), post_apply: pos.post_apply },
    ] {
        let mut replica = Replica::connect(&rig, &[("a", Some(has))], &[]).await;
        replica.expect(&snapshot_items("a", pos)).await;
    }
}

#[tokio::test]
async fn heartbeats_come_while_nothing_happens() {
    let rig = Rig::primary().await;
    let mut replica = Replica::connect(&rig, &[], &[]).await;
    let (mut decoder, mut beats) = (FrameDecoder::new(), 0);
    while beats < 2 {
        let bytes = replica.stream.next().await.unwrap().unwrap();
        let mut input = &bytes[..];
        while let Some(event) = decoder.next(&mut input).unwrap() {
            beats += usize::from(matches!(event, Event::Frame(Frame::Heartbeat { .. })));
        }
    }
}

#[tokio::test]
async fn the_end_of_the_role_ends_the_stream() {
    let rig = Rig::primary().await;
    let mut replica = Replica::connect(&rig, &[], &[]).await;
    replica.expect(&[Item::Frame(Frame::Ready)]).await;
    rig.store.become_replica(None);
    replica.expect(&[Item::Frame(Frame::End)]).await;
    assert_eq!(replica.next().await.unwrap(), None);
    eventually("the thread has ended", || rig.store.subscribers() == 0).await;
}

#[tokio::test]
async fn the_end_of_the_role_within_a_file_breaks_the_stream() {
    let rig = Rig::primary().await;
    let mut replica = Replica::connect(&rig, &[], &[]).await;
    replica.expect(&[Item::Frame(Frame::Ready)]).await;
    // More than fits between the two.
    rig.commit("a", 8192);
    let mut decoder = FrameDecoder::new();
    let mut ends = 0;
    loop {
        let next = replica.stream.next().await;
        rig.store.become_replica(None);
        let Ok(Some(bytes)) = next else { break };
        let mut input = &bytes[..];
        while let Some(event) = decoder.next(&mut input).unwrap() {
            ends += usize::from(event == Event::LtxEnd);
        }
    }
    assert_eq!(ends, 0);
    assert!(decoder.finish().is_err());
}

#[tokio::test]
async fn a_replica_that_goes_is_forgotten() {
    let rig = Rig::primary().await;
    let mut replica = Replica::connect(&rig, &[], &[]).await;
    replica.expect(&[Item::Frame(Frame::Ready)]).await;
    assert_eq!(rig.store.subscribers(), 1);
    drop(replica);
    eventually("the thread has ended", || rig.store.subscribers() == 0).await;
}

#[tokio::test]
async fn a_replica_that_reads_nothing_slows_nobody_and_misses_nothing() {
    let rig = Rig::primary().await;
    let mut slow = Replica::connect(&rig, &[], &[]).await;
    slow.expect(&[Item::Frame(Frame::Ready)]).await;
    // Far more than fits between the two.
    let positions: Vec<Pos> = (0..16).map(|_| rig.commit("a", 1024)).collect();
    let last = positions[15];
    let mut fast = Replica::connect(&rig, &[("a", Some(last))], &[]).await;
    fast.expect(&[Item::Frame(Frame::Ready)]).await;
    // How many of them come on their own, and how many in a snapshot, is for the primary to decide.
    let mut has = 0;
    while has < last.txid.as_u64() {
        if let Some(Item::File(min, pos)) = slow.next().await.unwrap() {
            assert!(min == has + 1 || min == 1);
            assert_eq!(pos, positions[pos.txid.as_u64() as usize - 1]);
            has = pos.txid.as_u64();
        }
    }
}

#[tokio::test]
async fn who_may_not_have_a_stream_is_told_why() {
    let rig = Rig::primary().await;
    let status = |result: Result<ReplicationStream, ClientError>| match result {
        Err(ClientError::Status(code)) => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(status(open(&rig, rig.store.node_id(), &[], &[]).await), 400);
    rig.store.become_replica(None);
    assert_eq!(status(open(&rig, 7, &[], &[]).await), 503);

    let cases =
        [("POST", 426, "Upgrade to HTTP/2 required\n"), ("GET", 405, "method not allowed\n")];
    for (method, code, text) in cases {
        let address = rig.url.strip_prefix("http://").unwrap();
        let mut http1 = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "{method} /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        http1.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        http1.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
        assert!(answer.ends_with(text), "{answer}");
    }
}

#[tokio::test]
async fn a_silent_primary_is_left() {
    let rig = Rig::primary().await;
    let url = NodeUrl::parse(&rig.url).unwrap();
    let silence = Duration::from_millis(50);
    let timeouts = Timeouts { silence, ..TIMEOUTS };
    let map = PositionMap::default();
    let hello = Hello { node_id: 7, candidate: false, positions: &map, filter: &[] };
    let mut stream = ReplicationStream::open(&url, hello, timeouts).await.unwrap();
    let ended = loop {
        match stream.next().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(ended, Err(ClientError::Silence(_))), "{ended:?}");
}
