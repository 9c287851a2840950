//! The primary's side, asked as a replica asks it. Transactions are another node's, whose history this one gets.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::db::{FileKind, OpenHow};
use crate::env::SystemEnv;
use crate::http::client::NodeUrl;
use crate::http::forward::HaltClient;
use crate::http::rig::{Rig, name};
use crate::http::{NodeInfo, router};
use crate::ltx::{Decoder, Encoder};
use crate::metrics::Traffic;
use crate::types::Checksum;

async fn ask(
    rig: &Rig,
    node: u64,
    method: &str,
    target: &str,
    body: impl Into<Body>,
) -> (u16, String) {
    let info = NodeInfo { candidate: true, hostname: "here".into(), control: None };
    let request = Request::builder().method(method).uri(target);
    let request = request.header("litefs-id", format!("{node:X}")).body(body.into()).unwrap();
    let response = router(Arc::clone(&rig.store), info).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

/// As a replica.
async fn call(rig: &Rig, method: &str, target: &str, body: impl Into<Body>) -> (u16, String) {
    ask(rig, OTHER, method, target, body).await
}

async fn halt(rig: &Rig, id: i64) -> (u16, String) {
    call(rig, "POST", &format!("/halt?name=db&id={id}"), Body::empty()).await
}

async fn tx(rig: &Rig, id: i64, ltx: &[u8]) -> (u16, String) {
    call(rig, "POST", &format!("/tx?name=db&lockID={id}"), ltx.to_vec()).await
}

/// The LTX files in the log of a node.
fn logged(rig: &Rig) -> Vec<Vec<u8>> {
    let records = crate::log::read(Arc::new(SystemEnv), rig.database("db").dir()).unwrap();
    let blobs = records.map(|record| {
        let mut bytes = Vec::new();
        record.unwrap().1.read_to_end(&mut bytes).unwrap();
        bytes
    });
    blobs.collect()
}

/// Commits on a node and returns the LTX file.
fn made(rig: &Rig, pages: u32) -> Vec<u8> {
    rig.commit("db", pages);
    logged(rig).pop().unwrap()
}

fn image(rig: &Rig) -> Vec<u8> {
    let file = rig.database("db").open_file(FileKind::Database, OpenHow::Existing).unwrap();
    let mut image = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut image, 0).unwrap();
    image
}

#[test]
fn positions_are_told_as_the_original_does() {
    let text = r#"{"id":5,"pos":{"TXID":"0000000000000005","PostApplyChecksum":"abcebc991e998bb2"},"expires":"2026-11-24T09:25:24.58520151Z"}"#;
    let lock: LockText = serde_json::from_str(text).unwrap();
    let pos = lock.pos.parse().unwrap().unwrap();
    assert_eq!(pos.to_string(), "0000000000000005/abcebc991e998bb2");
    assert_eq!(serde_json::to_string(&lock).unwrap(), text);
    let none = PosText::from(None);
    assert_eq!(none.parse().unwrap(), None);
    let zeros = "0000000000000000";
    assert_eq!((none.txid.as_str(), none.post_apply.as_str()), (zeros, zeros));
    PosText { txid: "x".into(), post_apply: String::new() }.parse().unwrap_err();
}

#[tokio::test]
async fn a_transaction_under_the_lock_is_committed_byte_for_byte() {
    let (rig, other) = (Rig::primary().await, Rig::primary().await);
    let (status, lock) = halt(&rig, 7).await;
    assert_eq!(status, 200, "{lock}");
    assert!(lock.starts_with(r#"{"id":7,"pos":{"TXID":"0000000000000000","#), "{lock}");
    assert_eq!(halt(&rig, 7).await, (200, lock), "the same ID gets the same lock");
    for pages in [2, 3, 5, 700] {
        let ltx = made(&other, pages);
        assert_eq!(tx(&rig, 7, &ltx).await, (200, String::new()));
        assert_eq!(rig.database("db").pos(), other.database("db").pos());
        assert!(image(&rig) == image(&other));
    }
    assert_eq!(logged(&rig), logged(&other));
    let target = "/halt?name=db&id=7";
    assert_eq!(call(&rig, "DELETE", target, Body::empty()).await, (200, String::new()));
    let (status, text) = tx(&rig, 7, &made(&other, 3)).await;
    assert_eq!((status, text.starts_with("halt lock 7 is not held")), (409, true), "{text}");
    let again = halt(&rig, 8).await;
    let pos = rig.database("db").pos().unwrap();
    assert!(again.1.contains(&pos.txid.to_string()), "{again:?}");
}

#[tokio::test]
async fn who_may_not_is_told_why() {
    let (rig, replica) = (Rig::primary().await, Rig::start().await);
    let own = rig.store.node_id();
    for (node, target, method, want) in [
        (own, "/halt?name=db&id=1", "POST", (400, "cannot remotely halt self\n")),
        (own, "/halt?name=db&id=1", "DELETE", (400, "cannot remotely unhalt self\n")),
        (own, "/tx?name=db&lockID=1", "POST", (400, "cannot remotely halt self\n")),
        (OTHER, "/halt?name=db&id=x", "POST", (400, "invalid id: \"x\"\n")),
        (OTHER, "/halt?name=db&id=", "DELETE", (400, "invalid id: \"\"\n")),
        (OTHER, "/halt?name=db&id=0", "POST", (500, "acquire halt lock: halt lock id required\n")),
        (OTHER, "/halt?name=no&id=1", "DELETE", (404, "database not found: \"no\"\n")),
        (OTHER, "/tx?name=no&lockID=1", "POST", (404, "database not found: \"no\"\n")),
        (OTHER, "/halt?name=db&id=5", "DELETE", (200, "")),
        (OTHER, "/halt?name=db", "GET", (405, "method not allowed\n")),
    ] {
        let got = ask(&rig, node, method, target, Body::empty()).await;
        assert_eq!((got.0, got.1.as_str()), want, "{method} {target}");
    }
    let (status, text) = halt_of_bad_name(&rig).await;
    assert_eq!((status, text.starts_with("create db: ")), (500, true), "{text}");
    for target in ["/halt?name=db&id=1", "/tx?name=db&lockID=1"] {
        let got = call(&replica, "POST", target, Body::empty()).await;
        assert_eq!(got, (503, "lease expired\n".into()), "{target}");
    }
}

async fn halt_of_bad_name(rig: &Rig) -> (u16, String) {
    call(rig, "POST", "/halt?name=db-wal&id=1", Body::empty()).await
}

#[tokio::test]
async fn nothing_but_a_transaction_that_fits_is_taken() {
    let (rig, other, third) = (Rig::primary().await, Rig::primary().await, Rig::primary().await);
    assert_eq!(halt(&rig, 7).await.0, 200);
    let first = made(&other, 2);
    assert_eq!(tx(&rig, 7, &first).await.0, 200);
    let good = made(&other, 2);
    made(&third, 2);
    let of_another_history = made(&third, 2);
    let longer = [&good[..], b"x"].concat();
    let lying = with_wrong_outcome(&good);
    let before = rig.database("db").pos();
    for (ltx, want) in [
        (&b""[..], "read ltx header: n=0 EOF"),
        (&good[..99], "read ltx header: n=99 unexpected EOF"),
        (&[b'x'; 200], "decode ltx header: invalid LTX file"),
        (&first, "non-sequential header minimum txid 0000000000000001, expecting 0000000000000002"),
        (&of_another_history, "pre-apply checksum mismatch: "),
        (&longer, "ltx validation error: more bytes follow"),
        (&lying, "ltx validation error: pages lead to checksum "),
        (&good[..good.len() - 1], "ltx validation error: unexpected EOF"),
    ] {
        let (status, text) = tx(&rig, 7, ltx).await;
        let want = format!("write ltx file: {want}");
        assert_eq!((status, text.starts_with(&want)), (500, true), "{text} instead of {want}");
    }
    for (id, status) in [(8, 409), (0, 409)] {
        assert_eq!(tx(&rig, id, &good).await.0, status);
    }
    assert_eq!((rig.database("db").pos(), logged(&rig).len()), (before, 1));
    assert_eq!(tx(&rig, 7, &good).await.0, 200);
    assert!(image(&rig) == image(&other));
}

/// A file whose own checksum is right, but that leads elsewhere than it says.
fn with_wrong_outcome(ltx: &[u8]) -> Vec<u8> {
    let mut decoder = Decoder::new(ltx).unwrap();
    let mut out = Vec::new();
    let header = *decoder.header();
    let mut encoder = Encoder::new(&mut out, &header).unwrap();
    let mut page = vec![0; header.page_size.as_usize()];
    while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
        encoder.page(pgno, &page).unwrap();
    }
    encoder.finish(Checksum::EMPTY).unwrap();
    out
}

#[tokio::test]
async fn a_damaged_file_changes_nothing() {
    let (rig, other) = (Rig::primary().await, Rig::primary().await);
    assert_eq!(halt(&rig, 7).await.0, 200);
    assert_eq!(tx(&rig, 7, &made(&other, 1)).await.0, 200);
    let (good, before) = (made(&other, 1), rig.database("db").pos());
    for at in (0..good.len()).step_by(1 + good.len() / 300) {
        assert_ne!(tx(&rig, 7, &good[..at]).await.0, 200, "cut at {at}");
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        assert_ne!(tx(&rig, 7, &flipped).await.0, 200, "flipped at {at}");
    }
    assert_eq!(rig.database("db").pos(), before);
    assert_eq!(tx(&rig, 7, &good).await.0, 200);
}

#[tokio::test]
async fn the_next_one_gets_the_lock_when_it_is_given_back() {
    let rig = Arc::new(Rig::primary().await);
    assert_eq!(halt(&rig, 1).await.0, 200);
    let waiting = {
        let rig = Arc::clone(&rig);
        tokio::spawn(async move { halt(&rig, 2).await })
    };
    // Whoever goes while he waits doesn't get it.
    let gone = tokio::time::timeout(Duration::from_millis(50), halt(&rig, 3)).await;
    assert!(gone.is_err() && !waiting.is_finished());
    let (status, text) = call(&rig, "POST", "/import?name=db", vec![0; 10]).await;
    assert_eq!(status, 500, "{text}");
    call(&rig, "DELETE", "/halt?name=db&id=1", Body::empty()).await;
    assert_eq!(waiting.await.unwrap().0, 200);
    call(&rig, "DELETE", "/halt?name=db&id=2", Body::empty()).await;
    assert_eq!(halt(&rig, 4).await.0, 200);
}

#[tokio::test]
async fn local_commits_are_refused_meanwhile() {
    let rig = Rig::primary().await;
    rig.commit("db", 2);
    assert_eq!(halt(&rig, 1).await.0, 200);
    let db = rig.database("db");
    let file = db.open_file(FileKind::Database, OpenHow::Existing).unwrap();
    file.write_at(&[7; 4096], 4096).unwrap();
    assert_eq!(file.sync().unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(db.unlink(FileKind::Database).unwrap_err().kind(), ErrorKind::Busy);
    call(&rig, "DELETE", "/halt?name=db&id=1", Body::empty()).await;
    file.sync().unwrap();
    assert_eq!(db.pos().unwrap().txid.as_u64(), 2);
}

/// An async task may be the last to hold a lock that it takes away.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_an_async_task_drops_is_given_back() {
    let rig = Rig::primary().await;
    rig.commit("db", 1);
    let (url, sent) = (NodeUrl::parse(&rig.url).unwrap(), rig.store.metrics().sent(Traffic::Tx));
    let give_up = Instant::now() + Duration::from_secs(10);
    let asked = spawn_blocking(move || HaltClient::ask(url, OTHER, &name("db"), 1, sent, give_up));
    let (lock, ..) = asked.await.unwrap().unwrap();
    drop(lock);
    let next = tokio::time::timeout(Duration::from_secs(5), halt(&rig, 2)).await;
    assert_eq!(next.unwrap().0, 200);
}

#[tokio::test]
async fn the_lock_ends_with_the_role() {
    let (rig, other) = (Rig::primary().await, Rig::primary().await);
    assert_eq!(halt(&rig, 1).await.0, 200);
    rig.store.become_replica(None);
    assert_eq!(tx(&rig, 1, &made(&other, 1)).await.0, StatusCode::SERVICE_UNAVAILABLE.as_u16());
    rig.store.become_primary();
    let next = tokio::time::timeout(Duration::from_secs(5), halt(&rig, 2)).await;
    assert_eq!(next.unwrap().0, 200);
    assert_eq!(name("db"), *rig.database("db").name());
}

const OTHER: u64 = 0xabc;
