//! `litefs ltx`: looks at logged transactions and LTX files. Reads only; a litefs may be running.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use litefs_core::env::SystemEnv;
use litefs_core::error::chain;
use litefs_core::log::{self, RecordKind, RecordMeta, Records};
use litefs_core::ltx::{self, Decoder, Timestamp};
use litefs_core::types::{Checksum, Txid};
use thiserror::Error;

use super::{DATA_DIR_FLAGS, Failure, Usage, data_dir, say, say_err};
use crate::args::{ArgError, Parsed};
use crate::ostext::os_text;

/// Why a transaction can't be shown.
#[derive(Debug, Error)]
pub(crate) enum LtxError {
    #[error("{}: {}", .0.display(), os_text(.1))]
    Open(PathBuf, #[source] io::Error),
    #[error("{}", chain(.0))]
    Log(#[source] log::LogError),
    #[error("{}", chain(.0))]
    Decode(#[source] ltx::DecodeError),
    #[error("{0}: no such database in {path}", path = .1.display())]
    NoDatabase(String, PathBuf),
    #[error("transaction {0} is not in the log")]
    NoTransaction(Txid),
    #[error("{0:?} is no transaction ID: 16 hexadecimal digits, or a decimal number")]
    BadTxid(String),
}

/// Dispatches to the action.
pub(super) fn run(args: &[OsString]) -> Result<ExitCode, Failure> {
    let Some((action, rest)) = args.split_first() else {
        USAGE.show();
        return Err(Failure::HelpShown);
    };
    let parsed = USAGE.parse(rest)?;
    match (action.to_str(), &parsed.positional[..]) {
        (Some("list"), names) => list(&parsed, names),
        (Some("show"), [file]) => show_file(Path::new(file)),
        (Some("show"), [db, txid]) => show_logged(&parsed, db, txid),
        (Some("verify"), files @ [_, ..]) => verify(&parsed, files),
        (Some("-h" | "--help" | "-help"), _) => {
            USAGE.show();
            Err(Failure::HelpShown)
        }
        _ => Err(USAGE.refuse(ArgError::TooMany)),
    }
}

fn list(parsed: &Parsed, names: &[OsString]) -> Result<ExitCode, Failure> {
    let dir = data_dir(parsed)?;
    let names = if names.is_empty() { databases(&dir)? } else { names.to_vec() };
    for name in &names {
        if names.len() > 1 {
            say(format_args!("{}:", name.to_string_lossy()));
        }
        say(format_args!(
            "{:<33}  {:>8}  {:>9}  {:<24}  {:<16}  {:<16}  kind",
            "transactions", "pages", "bytes", "time", "before", "after"
        ));
        for record in records(&dir, name)? {
            let (meta, blob) = record.map_err(LtxError::Log)?;
            let before = meta.pre_apply.map(|sum| sum.to_string()).unwrap_or_default();
            say(format_args!(
                "{}-{}  {:>8}  {:>9}  {}  {before:<16}  {}  {}",
                meta.min_txid,
                meta.max_txid,
                meta.commit,
                blob.remaining(),
                Timestamp::from_millis(meta.timestamp_ms),
                meta.post_apply,
                kind(&meta)
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show_file(path: &Path) -> Result<ExitCode, Failure> {
    let file = File::open(path).map_err(|source| LtxError::Open(path.into(), source))?;
    show(BufReader::new(file))?;
    Ok(ExitCode::SUCCESS)
}

fn show_logged(parsed: &Parsed, db: &OsStr, txid: &OsStr) -> Result<ExitCode, Failure> {
    let txid = parse_txid(&txid.to_string_lossy())?;
    for record in records(&data_dir(parsed)?, db)? {
        let (meta, blob) = record.map_err(LtxError::Log)?;
        if meta.min_txid <= txid && txid <= meta.max_txid {
            show(BufReader::new(blob))?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(LtxError::NoTransaction(txid).into())
}

fn show(reader: impl Read) -> Result<(), LtxError> {
    let mut decoder = Decoder::new(reader).map_err(LtxError::Decode)?;
    let header = *decoder.header();
    let sum =
        |sum: Option<Checksum>| sum.map_or_else(|| "none (snapshot)".into(), |s| s.to_string());
    say(format_args!("transactions  {} - {}", header.min_txid, header.max_txid));
    say(format_args!("time          {}", header.timestamp));
    say(format_args!("page size     {}", header.page_size));
    say(format_args!("database      {} pages", header.commit));
    say(format_args!("compressed    {}", header.compressed));
    say(format_args!("before        {}", sum(header.pre_apply)));
    if let Some(wal) = header.wal {
        let [salt1, salt2] = wal.salt;
        say(format_args!(
            "wal           {} bytes at {}, salts {salt1:08x} {salt2:08x}",
            wal.len_bytes, wal.offset
        ));
    }
    say(format_args!("node          {:016X}", header.node_id));
    let mut buf = vec![0; header.page_size.as_usize()];
    while let Some(pgno) = decoder.next_page(&mut buf).map_err(LtxError::Decode)? {
        say(format_args!("page          {pgno:>10}  {}", ltx::page_checksum(pgno, &buf)));
    }
    let trailer = decoder.finish().map_err(LtxError::Decode)?;
    say(format_args!("after         {}", trailer.post_apply));
    say(format_args!("file checksum {}", trailer.file_checksum));
    Ok(())
}

/// Each argument is an LTX file or, if there is none of that name, a database.
fn verify(parsed: &Parsed, targets: &[OsString]) -> Result<ExitCode, Failure> {
    let mut failed = false;
    for target in targets {
        let path = Path::new(target);
        let verified = match File::open(path) {
            Ok(file) if path.is_file() => {
                ltx::verify(BufReader::new(file)).map(|s| s.pages).map_err(|e| chain(&e))
            }
            _ => verify_log(&data_dir(parsed)?, target).map_err(|e| chain(&e)),
        };
        match verified {
            Ok(pages) => say(format_args!("{}: ok, {pages} pages", path.display())),
            Err(err) => {
                say_err(format_args!("{}: FAILED: {err}", path.display()));
                failed = true;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn verify_log(dir: &Path, db: &OsStr) -> Result<u64, LtxError> {
    let mut pages = 0;
    for record in records(dir, db)? {
        let (meta, blob) = record.map_err(LtxError::Log)?;
        let mut decoder = Decoder::new(BufReader::new(blob)).map_err(LtxError::Decode)?;
        let mut buf = vec![0; meta.page_size.as_usize()];
        while decoder.next_page(&mut buf).map_err(LtxError::Decode)?.is_some() {
            pages += 1;
        }
        // Without its pages, a snapshot can't have their checksum.
        if meta.kind != RecordKind::PositionOnly {
            decoder.finish().map_err(LtxError::Decode)?;
        }
    }
    Ok(pages)
}

fn records(dir: &Path, db: &OsStr) -> Result<Records, LtxError> {
    let path = dir.join("dbs").join(db);
    if !path.is_dir() {
        return Err(LtxError::NoDatabase(db.to_string_lossy().into(), dir.into()));
    }
    log::read(Arc::new(SystemEnv), &path).map_err(LtxError::Log)
}

fn databases(dir: &Path) -> Result<Vec<OsString>, LtxError> {
    let path = dir.join("dbs");
    let entries = std::fs::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(|source| LtxError::Open(path, source))?;
    let mut names: Vec<_> = entries.into_iter().map(|entry| entry.file_name()).collect();
    names.sort();
    Ok(names)
}

fn parse_txid(text: &str) -> Result<Txid, LtxError> {
    let hex = text.parse().ok();
    let decimal = || text.parse().ok().and_then(Txid::new);
    hex.or_else(decimal).ok_or_else(|| LtxError::BadTxid(text.into()))
}

fn kind(meta: &RecordMeta) -> &'static str {
    match meta.kind {
        RecordKind::PositionOnly => "position only",
        _ if meta.is_snapshot() => "snapshot",
        _ if meta.commit.is_zero() => "dropped",
        _ if meta.wal.is_some() => "wal",
        _ => "rollback",
    }
}

const USAGE: Usage = Usage {
    text: "\
Looks at logged transactions. Changes nothing; a litefs may be running.

Usage:

    litefs ltx list   [flags] [DB...]        the transactions in the log
    litefs ltx show   [flags] DB TXID        one of them, page by page
    litefs ltx show   FILE                   the same of an LTX file
    litefs ltx verify [flags] DB|FILE...     check every checksum
",
    flags: DATA_DIR_FLAGS,
    bad_args: 1,
};
