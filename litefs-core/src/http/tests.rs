//! The router, asked as a client asks it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use http_body_util::{BodyExt, Collected, channel::Channel};
use serde_json::Value;
use tower::ServiceExt;

use super::rig::Rig;
use super::*;
use crate::db::{Database, FileKind, OpenHow};
use crate::types::Pos;

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Result<Bytes, String>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_ref().unwrap()).unwrap()
    }

    fn refused(&self) -> (u16, &str) {
        (self.status.as_u16(), self.text())
    }
}

async fn ask(rig: &Rig, method: &str, path: &str, body: impl Into<Body>) -> Answer {
    let node = NodeInfo { candidate: true, hostname: "here".into(), control: None };
    let request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
    let response = router(Arc::clone(&rig.store), node).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map(Collected::to_bytes).map_err(|err| err.to_string());
    Answer { status: parts.status, headers: parts.headers, body }
}

async fn get(rig: &Rig, path: &str) -> Answer {
    ask(rig, "GET", path, Body::empty()).await
}

async fn import(rig: &Rig, db: &str, image: impl Into<Body>) -> Answer {
    ask(rig, "POST", &format!("/import?name={db}"), image).await
}

fn image_of(db: &Arc<Database>) -> Vec<u8> {
    let file = db.open_file(FileKind::Database, OpenHow::Existing).unwrap();
    let mut image = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut image, 0).unwrap();
    image
}

/// A database of `pages` pages, filled with `fill`, in the journal mode `version`.
fn image(pages: u32, fill: u8, version: u8) -> Vec<u8> {
    let mut image = vec![fill; pages as usize * 512];
    image[..100].fill(0);
    image[..16].copy_from_slice(b"SQLite format 3\0");
    image[16..24].copy_from_slice(&[2, 0, version, version, 0, 64, 32, 32]);
    image[28..32].copy_from_slice(&pages.to_be_bytes());
    image
}

fn be_u32(image: &[u8], offset: usize) -> u32 {
    u32::from_be_bytes(image[offset..][..4].try_into().unwrap())
}

#[tokio::test]
async fn info_tells_role_and_place() {
    let rig = Rig::primary().await;
    rig.store.ensure_cluster_id().unwrap();
    let answer = get(&rig, "/info").await;
    assert!(answer.status.is_success() && answer.headers.contains_key("litefs-id"));
    let body = answer.text();
    assert!(body.starts_with("{\n  \"clusterID\": \"LFSC"), "{body}");
    assert!(body.contains("\"isPrimary\": true") && body.contains("\"hostname\": \"here\""));
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let rig = Rig::primary().await;
    assert_eq!(get(&rig, "/x").await.refused(), (404, "404 page not found\n"));
    for (method, path) in [("DELETE", "/info"), ("GET", "/import"), ("POST", "/export")] {
        let answer = ask(&rig, method, path, Body::empty()).await;
        assert_eq!(answer.refused(), (405, "method not allowed\n"), "{method} {path}");
    }
}

#[tokio::test]
async fn an_export_is_the_database_byte_for_byte() {
    let rig = Rig::primary().await;
    rig.commit("db", 300);
    let answer = get(&rig, "/export?name=db").await;
    let want = image_of(&rig.database("db"));
    assert_eq!(answer.headers["content-length"], want.len().to_string());
    assert!(answer.body.unwrap() == want);
    rig.store.become_replica(None);
    assert!(get(&rig, "/export?name=db").await.body.unwrap() == want, "any node has it");
}

#[tokio::test]
async fn an_export_of_nothing_is_refused() {
    let rig = Rig::primary().await;
    rig.database("empty");
    assert_eq!(get(&rig, "/export").await.refused(), (400, "name required\n"));
    for name in ["x", "empty", "a%2Fb"] {
        let answer = get(&rig, &format!("/export?name={name}")).await;
        assert_eq!(answer.refused(), (404, "database not found\n"), "{name}");
    }
}

#[tokio::test]
async fn an_export_that_fails_breaks_the_body() {
    let rig = Rig::primary().await;
    rig.commit("db", 300);
    // Behind the back of the engine, so that the pages don't add up.
    let path = rig.database("db").dir().join("database");
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"damage", 299 * 4096).unwrap();
    let answer = get(&rig, "/export?name=db").await;
    assert!(answer.status.is_success() && answer.body.is_err());
}

#[tokio::test]
async fn an_import_is_one_transaction() {
    let rig = Rig::primary().await;
    let new = image(3000, 7, 1);
    assert_eq!(import(&rig, "new", new.clone()).await.refused(), (200, ""));
    let db = rig.database("new");
    assert!(image_of(&db) == new, "a database that is new is taken as it is");
    assert_eq!(db.pos().unwrap().txid.as_u64(), 1);

    // Another page size, another journal mode.
    let before = rig.commit("db", 3);
    assert_eq!(import(&rig, "db", image(2, 9, 2)).await.refused(), (200, ""));
    let db = rig.database("db");
    assert_eq!(db.pos().unwrap().txid, before.txid.next().unwrap());
    db.verify().unwrap();
    assert!(get(&rig, "/export?name=db").await.body.unwrap() == image_of(&db));
}

#[tokio::test]
async fn an_import_moves_counter_and_cookie_on() {
    let rig = Rig::primary().await;
    let mut counters = Vec::new();
    for _ in 0..3 {
        assert!(import(&rig, "db", image(2, 9, 1)).await.status.is_success());
        let image = image_of(&rig.database("db"));
        assert_eq!(be_u32(&image, 24), be_u32(&image, 92), "the size in the header counts");
        counters.push((be_u32(&image, 24), be_u32(&image, 40)));
    }
    assert_eq!(counters, [(0, 0), (1, 1), (2, 2)]);
}

#[tokio::test]
async fn what_cannot_be_imported_changes_nothing() {
    let rig = Rig::primary().await;
    let before = rig.commit("db", 3);
    let old = image_of(&rig.database("db"));
    let good = image(4, 1, 1);
    let long = [&good[..], &[0; 512]].concat();
    let mut strange = good.clone();
    strange[18] = 3;
    let table: [(&[u8], &str); 7] = [
        (b"", "read database header: EOF\n"),
        (&good[..99], "read database header: invalid database header\n"),
        (&[1; 4096], "read database header: invalid database header\n"),
        (&strange, "read database header: invalid database header\n"),
        (&good[..1024], "read page 3: unexpected EOF\n"),
        (&good[..2047], "read page 4: unexpected EOF\n"),
        (&long, "database has 4 pages by its header, but more bytes follow\n"),
    ];
    for (body, want) in table {
        for db in ["db", "new"] {
            let answer = import(&rig, db, body.to_vec()).await;
            assert_eq!(answer.refused(), (500, want));
        }
    }
    assert_eq!(import(&rig, "", good.clone()).await.refused(), (400, "name required\n"));
    assert_eq!(import(&rig, "a-wal", good.clone()).await.status, 500);
    rig.store.become_replica(None);
    assert_eq!(import(&rig, "db", good).await.refused(), (503, "lease expired\n"));

    assert_eq!(rig.store.databases().len(), 1, "no entry is left behind");
    assert!(image_of(&rig.database("db")) == old);
    assert_eq!(rig.database("db").pos(), Some(before));
    assert!(no_leftovers(&rig));
}

fn no_leftovers(rig: &Rig) -> bool {
    let dir = |path: &std::path::Path| std::fs::read_dir(path).unwrap();
    let mut names = dir(rig.store.data_dir()).chain(dir(rig.database("db").dir()));
    names.all(|entry| !entry.unwrap().file_name().to_string_lossy().starts_with("im"))
}

#[tokio::test]
async fn a_body_that_breaks_is_not_imported() {
    let rig = Rig::primary().await;
    rig.commit("db", 3);
    // It would be whole but for the end mark.
    let (mut to, body) = Channel::<Bytes, std::io::Error>::new(2);
    to.send_data(image(4, 1, 1).into()).await.unwrap();
    to.abort(std::io::ErrorKind::ConnectionReset.into());
    let answer = import(&rig, "db", Body::new(body)).await;
    assert_eq!(answer.status, 500);
    assert!(answer.text().starts_with("read database: "), "{}", answer.text());
    assert_eq!(rig.database("db").pos().unwrap().txid.as_u64(), 1);
    assert!(no_leftovers(&rig));
}

#[tokio::test]
async fn events_have_the_originals_shapes() {
    let rig = Rig::primary().await;
    let node = NodeInfo { candidate: true, hostname: "here".into(), control: None };
    let request = Request::builder().uri("/events").body(Body::empty()).unwrap();
    let response = router(Arc::clone(&rig.store), node).oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    let mut body = response.into_body();
    let mut line = async || {
        let frame = tokio::time::timeout(Duration::from_secs(10), body.frame()).await.unwrap();
        let bytes = frame.unwrap().unwrap().into_data().unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    assert_eq!(line().await, "{\"type\":\"init\",\"data\":{\"isPrimary\":true}}\n");
    let Pos { txid, post_apply } = rig.commit("db", 3);
    let tx = line().await;
    let (head, time) = tx.split_once("\"timestamp\":\"").unwrap();
    let want = format!(
        "{{\"type\":\"tx\",\"db\":\"db\",\"data\":{{\"txID\":\"{txid}\",\"postApplyChecksum\":\
         \"{post_apply}\",\"pageSize\":4096,\"commit\":3,"
    );
    assert_eq!(head, want);
    assert!(time.ends_with("Z\"}}\n") && !time.contains("0Z\"}}"), "{time}");
    rig.store.become_replica(None);
    assert_eq!(line().await, "{\"type\":\"primaryChange\",\"data\":{\"isPrimary\":false}}\n");
}

#[tokio::test]
async fn a_client_that_reads_no_events_is_disconnected() {
    let rig = Rig::primary().await;
    let node = NodeInfo { candidate: true, hostname: "here".into(), control: None };
    let request = Request::builder().uri("/events").body(Body::empty()).unwrap();
    let response = router(Arc::clone(&rig.store), node).oneshot(request).await.unwrap();
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    for _ in 0..1000 {
        rig.store.become_replica(None);
        rig.store.become_primary();
    }
    let rest = tokio::time::timeout(Duration::from_secs(10), body.collect()).await.unwrap();
    let lines = rest.unwrap().to_bytes().iter().filter(|byte| **byte == b'\n').count();
    assert!(lines < 1024, "{lines} of 2000 events");
}

#[tokio::test]
async fn metrics_tell_what_has_happened() {
    let rig = Rig::primary().await;
    rig.commit("db", 3);
    rig.commit("db", 5);
    assert!(get(&rig, "/export?name=db").await.status.is_success());
    assert!(import(&rig, "other", image(2, 9, 1)).await.status.is_success());
    rig.store.become_replica(None);
    let file = rig.database("db").open_file(FileKind::Database, OpenHow::Existing).unwrap();
    assert!(file.write_at(&[0; 4096], 0).is_err());
    drop(file);
    let answer = get(&rig, "/metrics").await;
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(!answer.headers.contains_key("litefs-id"));
    let text = answer.text();
    for line in [
        "litefs_db_count 2",
        "litefs_is_primary 0",
        "litefs_subscriber_count 0",
        "litefs_lag_seconds 0",
        "litefs_http_stream_count 0",
        "litefs_db_txid{db=\"db\"} 2",
        "litefs_db_database_write_count{db=\"db\"} 3",
        "litefs_db_journal_write_count{db=\"db\"} 0",
        "litefs_db_wal_write_count{db=\"db\"} 0",
        "litefs_db_shm_write_count{db=\"db\"} 0",
        "litefs_db_commit_count{db=\"db\"} 2",
        "litefs_db_commit_count{db=\"other\"} 1",
        "litefs_db_ltx_count{db=\"db\"} 2",
        "litefs_db_ltx_reap_count{db=\"db\"} 0",
        "litefs_db_lag_seconds{db=\"db\"} 0",
        "litefs_db_refused_write_count{db=\"db\"} 1",
        "litefs_db_wal_bytes{db=\"db\"} 0",
        "litefs_db_wal_held_frames{db=\"db\"} 0",
        "litefs_http_sent_bytes_total{kind=\"export\"} 20480",
        "litefs_http_received_bytes_total{kind=\"import\"} 1024",
        "litefs_commit_seconds_count 2",
        "litefs_apply_seconds_count 0",
        "litefs_replica_lag_seconds_count 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} isn't in\n{text}");
    }
    for name in ["litefs_db_ltx_bytes{db=\"db\"} ", "process_resident_memory_bytes "] {
        let value = text.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        assert!(value.parse::<f64>().unwrap() > 1000.0, "{name}{value}");
    }
}

#[tokio::test]
async fn variables_tell_positions_and_locks() {
    let rig = Rig::primary().await;
    let pos = rig.commit("db", 3);
    let answer = get(&rig, "/debug/vars").await;
    let vars: Value = serde_json::from_str(answer.text()).unwrap();
    assert!(vars["cmdline"][0].is_string() && vars["memstats"]["Sys"].is_u64());
    let store = &vars["store"];
    assert_eq!((&store["isPrimary"], &store["candidate"]), (&true.into(), &true.into()));
    let db = &store["dbs"]["db"];
    let text = format!("{}/{}", db["txid"].as_str().unwrap(), db["checksum"].as_str().unwrap());
    assert_eq!((text.as_str(), &db["name"]), (pos.to_string().as_str(), &"db".into()));
    let locks = db["locks"].as_object().unwrap();
    assert_eq!(locks.len(), 12);
    assert!(locks.values().all(|lock| lock == "unlocked"));
}
