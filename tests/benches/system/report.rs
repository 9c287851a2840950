//! The table, and what it was measured on.

use std::fs;
use std::process::Command;

use litefs_tests::node::litefs;

use crate::Plan;

/// Collects lines; prints each at once, and all at the end.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<[String; 6]>);

impl Report {
    /// Two series of rates (operations or bytes per second; more is better).
    pub(crate) fn ratio(&mut self, name: &str, unit: &str, bar: &str, raw: &[f64], mount: &[f64]) {
        let (raw, mount) = (median(raw), median(mount));
        let rate = |rate: f64| format!("{} {unit}", short(rate));
        self.line([
            name.into(),
            rate(raw),
            rate(mount),
            format!("{:.3}", mount / raw),
            format!("≥ {bar}"),
            String::new(),
        ]);
    }

    /// A figure that isn't compared with raw.
    pub(crate) fn figure(&mut self, name: &str, value: &str, bar: &str, note: &str) {
        self.line([
            name.into(),
            "–".into(),
            value.into(),
            "–".into(),
            format!("≤ {bar}"),
            note.into(),
        ]);
    }

    fn line(&mut self, line: [String; 6]) {
        println!("{}", line.join(" | "));
        self.0.push(line);
    }

    pub(crate) fn print(&self, plan: &Plan) {
        let head = ["work", "raw", "mount", "ratio", "bar", "note"].map(String::from);
        let lines = || [&head].into_iter().chain(&self.0);
        let width =
            |column: usize| lines().map(|l| l[column].chars().count()).max().unwrap_or_default();
        let widths: Vec<_> = (0..head.len()).map(width).collect();
        println!("\n{}", surroundings(plan));
        for (i, line) in lines().enumerate() {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            println!("| {} |", cells.collect::<Vec<_>>().join(" | "));
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
        "kernel {} · {} × {cores} · {} · {} · SQLite {} · {} · medians of {} rounds{}",
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
        if plan.shrink > 1 { " · quick: not for the record" } else { "" },
    )
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn short(n: f64) -> String {
    match n {
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 1e4 => format!("{:.1} k", n / 1e3),
        n if n >= 100.0 => format!("{n:.0} "),
        n => format!("{n:.1} "),
    }
}
