//! Clients that speak the stream and do nothing with it: many of them, and a slow one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use litefs_core::http::client::{Hello, NodeUrl, ReplicationStream, Timeouts};
use litefs_core::http::frames::{Event, Frame, FrameDecoder, PositionMap};
use litefs_tests::bench::{Plan, clock, fill, median, memory, percentile};
use litefs_tests::random::Random;
use litefs_tests::sqlite;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::Report;
use crate::pair::Pair;

pub(crate) fn run(plan: &Plan, report: &mut Report) {
    many(plan, report);
    a_slow_one(plan, report);
}

const CLIENTS: usize = 50;

fn many(plan: &Plan, report: &mut Report) {
    let name = "50 replicas";
    if !plan.wants(name) {
        return;
    }
    let pair = Pair::new();
    let conn = sqlite::open(&pair.primary.path("db"));
    sqlite::run(&conn, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL");
    fill(&conn, 1 << 20);
    let count = 1000 / plan.shrink as usize;
    let runtime = runtime();
    let (ready, mut readies) = mpsc::channel(CLIENTS);
    let clients: Vec<_> = (0..CLIENTS as u64)
        .map(|id| runtime.spawn(follow(pair.url.clone(), id, ready.clone(), count)))
        .collect();
    for _ in 0..CLIENTS {
        readies.blocking_recv().unwrap();
    }
    let body = Random::new(1).bytes(100);
    let committed: Vec<f64> = (0..count)
        .map(|_| {
            sleep(Duration::from_millis(10));
            conn.execute("INSERT INTO t(body) VALUES (?)", [&body]).unwrap();
            clock()
        })
        .collect();
    let mut lags: Vec<f64> = Vec::new();
    for client in clients {
        let seen = runtime.block_on(client).unwrap();
        lags.extend(seen.iter().zip(&committed).map(|(seen, at)| (seen - at) * 1e3));
    }
    let figure = format!("{:.1} MiB", memory(&pair.primary, "VmHWM"));
    let note = format!("VmHWM; {:.1} MiB now", memory(&pair.primary, "VmRSS"));
    report.line([format!("{name}, primary"), figure, "≤ 96 MiB".into(), note]);
    let figure = format!("{:.1} ms", percentile(&lags, 100));
    let [p50, p99] = [50, 99].map(|p| percentile(&lags, p));
    let note = format!("{count} commits, 10 ms apart, to all; p50 {p50:.2} ms, p99 {p99:.1} ms");
    report.line([format!("{name}, slowest one's lag"), figure, "–".into(), note]);
}

/// When each of `count` transactions was complete, from when all that there was has come.
async fn follow(url: String, id: u64, ready: mpsc::Sender<()>, count: usize) -> Vec<f64> {
    let mut stream = open(&url, id).await;
    let (mut decoder, mut is_ready, mut times) = (FrameDecoder::new(), false, Vec::new());
    while times.len() < count {
        let bytes = stream.next().await.unwrap().unwrap();
        let mut input = &bytes[..];
        while let Some(event) = decoder.next(&mut input).unwrap() {
            match event {
                Event::Frame(Frame::Ready) => {
                    is_ready = true;
                    ready.send(()).await.unwrap();
                }
                Event::LtxEnd if is_ready => times.push(clock()),
                _ => {}
            }
        }
    }
    times
}

/// What a download of the whole database at 1 MB/s costs the writer.
fn a_slow_one(plan: &Plan, report: &mut Report) {
    let name = "writer beside a slow snapshot / alone";
    if !plan.wants(name) {
        return;
    }
    let pair = Pair::new();
    let conn = sqlite::open(&pair.primary.path("db"));
    sqlite::run(&conn, "PRAGMA journal_mode=WAL");
    fill(&conn, (256 << 20) / plan.shrink);
    sqlite::run(&conn, "PRAGMA synchronous=NORMAL; PRAGMA wal_checkpoint(TRUNCATE)");
    let rows = sqlite::number(&conn, "SELECT max(id) FROM t");
    let runtime = runtime();
    let mut random = Random::new(1);
    let mut update = conn.prepare("UPDATE t SET body = ? WHERE id = ?").unwrap();
    let seconds = Duration::from_secs(if plan.is_quick() { 1 } else { 5 });
    let mut rates = [Vec::new(), Vec::new()];
    let mut loaded = Vec::new();
    // The first round is for the caches.
    for round in 0..=plan.rounds.min(3) {
        for slow in [round % 2, 1 - round % 2] {
            let stop = Arc::new(AtomicBool::new(false));
            let load = (slow == 1)
                .then(|| runtime.spawn(load_slowly(pair.url.clone(), Arc::clone(&stop))));
            // A writer over all pages: most of them have to be kept for the download.
            let (start, mut count) = (Instant::now(), 0);
            while start.elapsed() < seconds {
                let id = 1 + random.below(rows as u64) as i64;
                update.execute((random.bytes(105), id)).unwrap();
                count += 1;
            }
            if round > 0 {
                rates[slow].push(f64::from(count) / start.elapsed().as_secs_f64());
            }
            stop.store(true, Ordering::Relaxed);
            if let Some(load) = load {
                loaded.push(runtime.block_on(load).unwrap() as f64 / 1e6);
            }
        }
    }
    let [alone, beside] = rates.map(|rates| median(&rates));
    let note = format!(
        "one-row updates anywhere: {beside:.0}/s and {alone:.0}/s; {:.1} MB came in {} s",
        median(&loaded),
        seconds.as_secs()
    );
    report.line([name.into(), format!("{:.3}", beside / alone), "≥ 0.8".into(), note]);
}

/// Takes 1 MB/s until it is stopped; the bytes.
async fn load_slowly(url: String, stop: Arc<AtomicBool>) -> usize {
    let mut stream = open(&url, 7).await;
    let (start, mut bytes) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        if start.elapsed().as_secs_f64() * 1e6 > bytes as f64 {
            bytes += stream.next().await.unwrap().map_or(0, |bytes| bytes.len());
        } else {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    bytes
}

async fn open(url: &str, id: u64) -> ReplicationStream {
    let timeouts = Timeouts { connect: Duration::from_secs(20), silence: Duration::from_secs(20) };
    let url = NodeUrl::parse(url).unwrap();
    let positions = &PositionMap::default();
    let hello = Hello { node_id: id + 1, candidate: false, positions, filter: &[] };
    ReplicationStream::open(&url, hello, timeouts).await.unwrap()
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}
