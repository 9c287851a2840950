//! The table: raw and mount side by side.

use litefs_tests::bench::{Plan, Table, median};

/// The figures.
#[derive(Debug)]
pub(crate) struct Report(Table<6>);

impl Report {
    pub(crate) fn new() -> Report {
        Report(Table::new(["work", "raw", "mount", "ratio", "bar", "note"]))
    }

    /// Two series of rates (operations or bytes per second; more is better).
    pub(crate) fn ratio(&mut self, name: &str, unit: &str, bar: &str, raw: &[f64], mount: &[f64]) {
        let (raw, mount) = (median(raw), median(mount));
        let rate = |rate: f64| format!("{} {unit}", short(rate));
        self.0.line([
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
        self.0.line([
            name.into(),
            "–".into(),
            value.into(),
            "–".into(),
            format!("≤ {bar}"),
            note.into(),
        ]);
    }

    pub(crate) fn print(&self, plan: &Plan) {
        self.0.print(plan);
    }
}

fn short(n: f64) -> String {
    match n {
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 1e4 => format!("{:.1} k", n / 1e3),
        n if n >= 100.0 => format!("{n:.0} "),
        n => format!("{n:.1} "),
    }
}
