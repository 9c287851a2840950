//! `litefs verify`: reads every page and every logged transaction of a data directory.
//!
//! The directory must not be in use. Opening it recovers what a crash left, as a start does.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use litefs_core::db::{Database, Health};
use litefs_core::error::chain;
use litefs_core::store::StoreOptions;
use litefs_core::types::{DbName, Pos};

use super::{DATA_DIR_FLAGS, Failure, Usage, data_dir, say, say_err};
use crate::args::ArgError;

/// Checks the named databases, or all.
pub(super) fn run(args: &[OsString]) -> Result<ExitCode, Failure> {
    let parsed = USAGE.parse(args)?;
    if !parsed.command.is_empty() {
        return Err(USAGE.refuse(ArgError::NoDashes));
    }
    let dir = data_dir(&parsed)?;
    let options =
        StoreOptions::new(PathBuf::from(&dir)).retention(Default::default(), Default::default());
    let store = options.open().map_err(|source| Failure::Data { source })?;
    let mut damaged = false;
    let mut found = 0;
    for db in store.databases() {
        let wanted = parsed.positional.is_empty()
            || parsed.positional.iter().any(|name| name == db.name().as_str());
        if wanted {
            found += 1;
            damaged |= !check(&db);
        }
    }
    for name in &parsed.positional {
        let known =
            name.to_str().and_then(|n| DbName::new(n).ok()).and_then(|n| store.database(&n));
        if known.is_none() {
            say_err(format_args!("{}: no such database", name.to_string_lossy()));
            damaged = true;
        }
    }
    store.close();
    if found == 0 && !damaged {
        say(format_args!("no databases in {}", dir.display()));
    }
    Ok(if damaged { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn check(db: &Database) -> bool {
    if let Health::ReadOnly { reason } = db.health() {
        say_err(format_args!("{}: FAILED: {reason}", db.name()));
        return false;
    }
    match db.verify() {
        Ok(_) if db.repaired_pages() > 0 => {
            let pages = db.repaired_pages();
            say_err(format_args!("{}: REPAIRED: {pages} damaged pages, from the log", db.name()));
            false
        }
        Ok(report) => {
            let (pos, pages, records) = (Pos::text(report.pos), report.pages, report.records);
            say(format_args!(
                "{}: ok, position {pos}, {pages} pages, {records} logged transactions",
                db.name()
            ));
            true
        }
        Err(err) => {
            say_err(format_args!("{}: FAILED: {}", db.name(), chain(&err)));
            false
        }
    }
}

const USAGE: Usage = Usage {
    text: "\
Checks databases: every page against the checksum of the position, and every
logged transaction. Exits with 1 if anything doesn't add up.

Usage:

    litefs verify [flags] [DB...]

Without names, all databases of the data directory are checked. No litefs may be
running on it.
",
    flags: DATA_DIR_FLAGS,
    bad_args: 1,
};
