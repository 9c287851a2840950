//! `litefs-workload DB JOURNAL_MODE SYNCHRONOUS SEED [exclusive]`: commits random transactions until it is
//! killed or fails, and prints the number of each one that SQLite has acknowledged.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use litefs_tests::workload::{Mode, Workload};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let [path, journal, synchronous, seed, rest @ ..] = args.as_slice() else {
        eprintln!("usage: litefs-workload DB JOURNAL_MODE SYNCHRONOUS SEED [exclusive]");
        return ExitCode::from(2);
    };
    let mode = Mode {
        journal: journal.clone().leak(),
        synchronous: synchronous.clone().leak(),
        exclusive: !rest.is_empty(),
    };
    match write(&PathBuf::from(path), mode, seed.parse().unwrap_or_default()) {
        Ok(never) => match never {},
        Err(err) => {
            eprintln!("{err}");
            ExitCode::FAILURE
        }
    }
}

fn write(
    path: &std::path::Path,
    mode: Mode,
    seed: u64,
) -> rusqlite::Result<std::convert::Infallible> {
    let mut workload = Workload::open(path, mode, seed)?;
    loop {
        println!("{}", workload.step()?);
    }
}
