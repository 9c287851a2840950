use std::sync::mpsc;

use bytes::Bytes;

use super::super::queue::{Feed, queue};
use super::*;
use crate::http::rig::name;
use crate::ltx::Header;
use crate::types::{DbName, Pos};

const DELTA: &[u8] = include_bytes!("../../../testdata/ltx/02-delta-512-wal.ltx");

/// Tells what is asked of it. `bad` and `unapplied` fail; `locked` can't be applied a number of times.
struct Witness(mpsc::Sender<String>, u32);

/// An earlier stream has left something.
struct Heir(Witness);

impl Target for Heir {
    fn pending(&self) -> BTreeSet<DbName> {
        [name("left")].into()
    }

    fn receive(&mut self, db: &DbName, ltx: &mut dyn Read) -> Result<(), Error> {
        self.0.receive(db, ltx)
    }

    fn apply(&mut self, db: &DbName) -> Result<Applied, Error> {
        self.0.apply(db)
    }

    fn ready(&mut self) {
        self.0.ready();
    }

    fn heard(&mut self, timestamp: Timestamp) {
        self.0.heard(timestamp);
    }
}

impl Target for Witness {
    fn receive(&mut self, db: &DbName, ltx: &mut dyn Read) -> Result<(), Error> {
        match db.as_str() {
            "bad" => return Err(Error::NotFound { db: db.clone() }),
            "mismatch" => {
                let (ours, theirs) = (None::<Pos>, None);
                return Err(Error::PositionMismatch { db: db.clone(), ours, theirs });
            }
            _ => {}
        }
        let mut bytes = Vec::new();
        // As the decoder does, it reads no further than the file goes.
        let read = ltx.take(DELTA.len() as u64).read_to_end(&mut bytes);
        read.map_err(|source| Error::Io { op: "read", path: "stream".into(), source })?;
        assert_eq!(bytes, DELTA);
        self.tell(format!("receive {db}"))
    }

    fn apply(&mut self, db: &DbName) -> Result<Applied, Error> {
        self.tell(format!("apply {db}"))?;
        match db.as_str() {
            "locked" if self.1 > 0 => {
                self.1 -= 1;
                Ok(Applied::Waiting)
            }
            "unapplied" => Err(Error::NotFound { db: db.clone() }),
            _ => Ok(Applied::All),
        }
    }

    fn pending(&self) -> BTreeSet<DbName> {
        BTreeSet::new()
    }

    fn ready(&mut self) {
        self.tell("ready".into()).unwrap();
    }

    fn heard(&mut self, timestamp: Timestamp) {
        self.tell(format!("heard {}", timestamp.as_millis())).unwrap();
    }
}

impl Witness {
    fn tell(&mut self, what: String) -> Result<(), Error> {
        self.0.send(what).unwrap();
        Ok(())
    }
}

fn ltx(db: &str) -> Vec<Step> {
    let (first, rest) = (Bytes::from_static(&DELTA[..50]), Bytes::from_static(&DELTA[50..]));
    let mut steps = vec![Step::Frame(Frame::Ltx { name: name(db) })];
    steps.extend([Step::Bytes(first), Step::Bytes(rest), Step::LtxEnd]);
    steps.push(Step::Frame(Frame::Hwm { txid: None, name: name(db) }));
    steps
}

fn heartbeat(millis: i64) -> Vec<Step> {
    vec![Step::Frame(Frame::Heartbeat { timestamp: Timestamp::from_millis(millis) })]
}

fn ready() -> Vec<Step> {
    vec![Step::Frame(Frame::Ready)]
}

/// Runs a stream of these batches, all of which are there from the start.
async fn outcome(batches: Vec<Vec<Step>>) -> (Vec<String>, Result<Option<String>, Error>) {
    outcome_for(|witness| witness, batches).await
}

async fn outcome_for<T: Target>(
    target: impl FnOnce(Witness) -> T + Send + 'static,
    batches: Vec<Vec<Step>>,
) -> (Vec<String>, Result<Option<String>, Error>) {
    let (feed, inbox): (Feed, _) = queue();
    for steps in batches {
        feed.send(steps).await.unwrap();
    }
    drop(feed);
    let (tell, told) = mpsc::channel();
    let ended = std::thread::spawn(|| run(inbox, target(Witness(tell, 2)))).join().unwrap();
    (told.iter().collect(), ended)
}

#[tokio::test]
async fn what_waits_is_applied_as_one() {
    let (did, ended) = outcome(vec![[ltx("a"), ltx("b")].concat(), ltx("a"), ready()]).await;
    ended.unwrap();
    assert_eq!(did, ["receive a", "receive b", "receive a", "apply a", "apply b", "ready"]);
}

#[tokio::test]
async fn what_comes_alone_is_applied_before_the_next_is_there() {
    let (feed, inbox) = queue();
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(|| run(inbox, Witness(tell, 2)));
    for _ in 0..3 {
        // The start of the next file is no reason to wait.
        let mut steps = ltx("a");
        steps.push(Step::Frame(Frame::Ltx { name: name("a") }));
        feed.send(steps).await.unwrap();
        assert_eq!(told.recv().unwrap(), "receive a");
        assert_eq!(told.recv().unwrap(), "apply a");
        feed.send(ltx("a").split_off(1)).await.unwrap();
        assert_eq!(told.recv().unwrap(), "receive a");
        assert_eq!(told.recv().unwrap(), "apply a");
    }
    drop(feed);
    thread.join().unwrap().unwrap();
}

#[tokio::test]
async fn the_primarys_time_counts_once_all_is_there() {
    let made = Header::decode(DELTA).unwrap().timestamp.as_millis();
    let (did, ended) = outcome(vec![ltx("a"), ready(), heartbeat(5), ltx("a"), heartbeat(6)]).await;
    ended.unwrap();
    let made = format!("heard {made}");
    // The first file has no say: others may still be missing.
    let before = ["receive a", "apply a", "ready", "heard 5"];
    let after = ["receive a", "apply a", &made, "heard 6"];
    assert_eq!(did, [before, after].concat());
}

#[tokio::test]
async fn what_is_locked_is_tried_again_and_shows_as_lag_until_then() {
    let (did, ended) = outcome(vec![ltx("locked"), heartbeat(5), ready(), heartbeat(6)]).await;
    ended.unwrap();
    let waits = ["receive locked", "apply locked", "apply locked"];
    assert_eq!(did, [&waits[..], &["apply locked", "ready", "heard 6"]].concat());
}

#[tokio::test]
async fn a_database_that_fails_does_not_stop_the_others() {
    let batch = [ltx("bad"), ltx("unapplied"), ltx("a"), ltx("bad"), ltx("unapplied")].concat();
    let (did, ended) = outcome(vec![batch, ready(), ltx("unapplied"), ltx("a")]).await;
    ended.unwrap();
    assert_eq!(did.iter().filter(|what| *what == "receive a").count(), 2, "{did:?}");
    assert_eq!(did.iter().filter(|what| *what == "receive unapplied").count(), 2, "{did:?}");
    assert!(!did.contains(&"ready".into()), "not all is there: {did:?}");
}

#[tokio::test]
async fn a_position_that_does_not_fit_ends_the_stream() {
    let (did, ended) = outcome(vec![[ltx("a"), ltx("mismatch")].concat(), ready()]).await;
    assert!(matches!(ended, Err(Error::PositionMismatch { .. })), "{ended:?}");
    assert_eq!(did, ["receive a", "apply a"], "what came before is kept");
}

#[tokio::test]
async fn a_file_that_is_cut_off_is_no_failure_of_the_database() {
    let mut cut = ltx("a");
    cut.truncate(2);
    let (did, ended) = outcome(vec![cut]).await;
    ended.unwrap();
    assert!(did.is_empty(), "{did:?}");
}

#[tokio::test]
async fn a_file_that_lacks_its_end_mark_only_is_applied() {
    let mut cut = ltx("a");
    cut.truncate(3);
    let (did, ended) = outcome(vec![cut]).await;
    ended.unwrap();
    assert_eq!(did, ["receive a", "apply a"]);
}

#[tokio::test]
async fn what_an_earlier_stream_has_left_is_applied() {
    let (did, ended) = outcome_for(Heir, vec![ready()]).await;
    ended.unwrap();
    assert_eq!(did, ["apply left", "ready"]);
}
