//! What benches have in common: what to measure, a table of figures, and the bench database.
//!
//! What isn't here: what is measured, and how it is compared; each bench has its own idea of that.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Instant;

use nix::time::{ClockId, clock_gettime};
use rusqlite::Connection;

use crate::node::{Node, litefs};
use crate::sqlite;

/// What is to be measured, and how thoroughly.
#[derive(Debug, Clone)]
pub struct Plan {
    words: Vec<String>,
    /// How often each figure is taken.
    pub rounds: usize,
    /// Divides sizes and counts.
    pub shrink: u64,
}

impl Plan {
    /// From arguments and `LITEFS_BENCH`: words, and `quick`.
    pub fn from_args() -> Plan {
        let env = std::env::var("LITEFS_BENCH").unwrap_or_default();
        let args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        let mut words: Vec<_> = args.chain(env.split_whitespace().map(String::from)).collect();
        let quick = words.iter().any(|w| w == "quick");
        words.retain(|w| w != "quick");
        let (rounds, shrink) = if quick { (3, 8) } else { (5, 1) };
        Plan { words, rounds, shrink }
    }

    /// Whether the item was asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }

    /// Whether figures are good for a look only.
    pub fn is_quick(&self) -> bool {
        self.shrink > 1
    }
}

/// Collects lines; prints each at once, and all at the end.
#[derive(Debug)]
pub struct Table<const COLUMNS: usize>(Vec<[String; COLUMNS]>);

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// A table without lines yet.
    pub fn new(head: [&str; COLUMNS]) -> Table<COLUMNS> {
        Table(vec![head.map(String::from)])
    }

    /// Adds a line.
    pub fn line(&mut self, line: [String; COLUMNS]) {
        println!("{}", line.join(" | "));
        self.0.push(line);
    }

    /// Prints the whole, with what it was measured on.
    pub fn print(&self, plan: &Plan) {
        let width = |column: usize| self.0.iter().map(|l| l[column].chars().count()).max();
        let widths: Vec<_> = (0..COLUMNS).map(|c| width(c).unwrap_or_default()).collect();
        println!("\n{}", surroundings(plan));
        for (i, line) in self.0.iter().enumerate() {
            let cells = line.iter().zip(&widths).fold(String::from("|"), |mut text, (cell, w)| {
                let _ = write!(text, " {cell:w$} |", w = *w);
                text
            });
            println!("{cells}");
            if i == 0 {
                let rules: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
                println!("| {} |", rules.join(" | "));
            }
        }
    }
}

fn surroundings(plan: &Plan) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let df = Command::new("df").args(["--output=source,fstype"]).arg(std::env::temp_dir()).output();
    let df = df.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    format!(
        "kernel {} · {} × {cores} · {} · {} · SQLite {} · {} · {} rounds · load {}{}",
        read("/proc/sys/kernel/osrelease").trim(),
        cpu.trim_start_matches([':', ' ', '\t']),
        df.lines()
            .last()
            .unwrap_or("unknown disk")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
        "log LZ4, strict-verify off",
        rusqlite::version(),
        litefs().display(),
        plan.rounds,
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
        if plan.is_quick() { " · quick: not for the record" } else { "" },
    )
}

/// The value in the middle.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

/// The value below which so many of 100 lie.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
        .get((values.len() * percent / 100).min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

/// A table of rows of about 100 bytes until the file has that many bytes.
pub fn fill(conn: &Connection, bytes: u64) {
    sqlite::run(conn, "PRAGMA synchronous=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, body BLOB)");
    let rows = bytes / 120;
    for first in (1..=rows).step_by(100_000) {
        let last = rows.min(first + 99_999);
        sqlite::run(
            conn,
            &format!(
                "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})
                 INSERT INTO t SELECT i, randomblob(105) FROM n"
            ),
        );
    }
}

/// How often per second `work` is done when it is done `count` times.
pub fn rate(count: u64, mut work: impl FnMut(u64)) -> f64 {
    let start = Instant::now();
    for i in 0..count {
        work(i);
    }
    count as f64 / start.elapsed().as_secs_f64()
}

/// A line of a node's `/proc/…/status` in MiB: `VmHWM`, `VmRSS`.
///
/// # Panics
/// If the node doesn't run.
pub fn memory(node: &Node, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.process().pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    let kib: f64 = line.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    kib / 1024.0
}

/// The machine's monotonic clock in seconds, the same for all processes.
///
/// # Panics
/// If there is none.
pub fn clock() -> f64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as f64 + now.tv_nsec() as f64 / 1e9
}
