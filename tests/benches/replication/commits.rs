//! One commit after the other: when each is seen on the replica, and what sending them costs the primary.

use std::thread::sleep;
use std::time::{Duration, Instant};

use litefs_tests::bench::{Plan, clock, fill, median, percentile, rate};
use litefs_tests::node::Node;
use litefs_tests::random::Random;
use litefs_tests::sqlite;

use crate::Report;
use crate::pair::{LIMIT, Pair, workload};

pub(crate) fn run(plan: &Plan, report: &mut Report) {
    visible(plan, report);
    with_and_without(plan, report);
}

/// From the return of a commit on the primary to a connection on the replica that looks without pause.
fn visible(plan: &Plan, report: &mut Report) {
    let name = "commit to visible, WAL NORMAL";
    if !plan.wants(name) {
        return;
    }
    let pair = Pair::started();
    let conn = sqlite::open(&pair.primary.path("db"));
    let set_up = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;
                  CREATE TABLE tick(id INTEGER PRIMARY KEY, body)";
    sqlite::run(&conn, set_up);
    pair.follow("db");
    let count = 2000 / plan.shrink;
    let watch =
        workload(["--ticks", &pair.replica.path("db").to_string_lossy(), &count.to_string()]);
    let mut insert = conn.prepare("INSERT INTO tick(body) VALUES (?)").unwrap();
    let body = Random::new(1).bytes(100);
    let committed: Vec<[f64; 2]> = (0..count)
        .map(|_| {
            sleep(Duration::from_millis(2));
            let begun = clock();
            insert.execute([&body]).unwrap();
            [begun, clock()]
        })
        .collect();
    watch.wait(LIMIT);
    let lines = watch.lines();
    let seen: Vec<f64> = lines.iter().filter_map(|line| line.text.parse().ok()).collect();
    assert_eq!(seen.len() as u64, count);
    // It may be seen before SQLite has returned here.
    let waits = |from: usize| -> Vec<f64> {
        seen.iter().zip(&committed).map(|(seen, at)| (seen - at[from]).max(0.0) * 1e3).collect()
    };
    let (from_begin, waits) = (waits(0), waits(1));
    for (percent, bar) in [(50, "≤ 0.5 ms"), (99, "≤ 3 ms")] {
        let figure = format!("{:.3} ms", percentile(&waits, percent));
        let note = format!(
            "{count} commits, 2 ms apart; max {:.1} ms; from the commit's begin {:.3} ms",
            percentile(&waits, 100),
            percentile(&from_begin, percent)
        );
        report.line([format!("{name}, p{percent}"), figure, bar.into(), note]);
    }
}

fn with_and_without(plan: &Plan, report: &mut Report) {
    let name = "commit rate with a replica / without";
    if !plan.wants(name) {
        return;
    }
    let (alone, pair) = (Pair::new(), Pair::started());
    let nodes = [&alone.primary, &pair.primary];
    for node in nodes {
        let conn = sqlite::open(&node.path("db"));
        sqlite::run(&conn, "PRAGMA journal_mode=WAL");
        fill(&conn, 1 << 20);
    }
    let (mut rates, mut lags) = ([Vec::new(), Vec::new()], Vec::new());
    for round in 0..plan.rounds {
        for site in [round % 2, 1 - round % 2] {
            nix::unistd::sync();
            rates[site].push(insert(nodes[site], 8000 / plan.shrink));
            let end = Instant::now();
            pair.follow("db");
            if site == 1 {
                lags.push(end.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let [without, with] = rates.map(|rates| median(&rates));
    let lag = median(&lags);
    let note = format!(
        "one-row transactions, WAL NORMAL: {with:.0}/s and {without:.0}/s; the replica has them {lag:.0} ms later"
    );
    report.line([name.into(), format!("{:.3}", with / without), "≥ 0.7".into(), note]);
}

fn insert(node: &Node, count: u64) -> f64 {
    let conn = sqlite::open(&node.path("db"));
    sqlite::run(&conn, "PRAGMA synchronous=NORMAL");
    let body = Random::new(2).bytes(100);
    let mut insert = conn.prepare("INSERT INTO t(body) VALUES (?)").unwrap();
    rate(count, |_| {
        insert.execute([&body]).unwrap();
    })
}
