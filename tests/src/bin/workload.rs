//! A process that uses a database until it is killed or fails.
//!
//! ```text
//! litefs-workload DB JOURNAL_MODE SYNCHRONOUS SEED [exclusive]   random transactions; prints the number of
//!                                                                each one that SQLite has acknowledged
//! litefs-workload --watch|--watch-anew DB                        checks what another one writes, over and over, with one
//!                                                                connection or a new one each time; prints "ready", then
//!                                                                the number of the last transaction
//! litefs-workload --read|--write DB SECONDS                      at full speed; prints "ready", then its rate
//! litefs-workload --ticks DB COUNT                               looks for new rows of `tick` without pause; prints
//!                                                                "ready", then when it saw each (CLOCK_MONOTONIC)
//! litefs-workload --check DB SECONDS                             a read each 0.2 ms; all rows of `t` must be equal,
//!                                                                and never older than before; prints "ready", then
//!                                                                reads, errors, wrong ones; p50, p99, max in µs
//! litefs-workload --receipts DB SITE FIRST MICROS                adds rows whatever comes, after so many µs each;
//!                                                                prints those that SQLite has acknowledged: row,
//!                                                                number, begin, end (CLOCK_MONOTONIC)
//! ```

use std::convert::Infallible;
use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use litefs_tests::bench::{clock, percentile};
use litefs_tests::random::Random;
use litefs_tests::receipts;
use litefs_tests::sqlite;
use litefs_tests::workload::{self, Mode, Workload};
use rusqlite::{Connection, ErrorCode, OpenFlags};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["--read", path, seconds] => {
            measure(Path::new(path), seconds, false).map_err(|err| err.to_string())
        }
        ["--write", path, seconds] => {
            measure(Path::new(path), seconds, true).map_err(|err| err.to_string())
        }
        ["--watch", path] => watch(Path::new(path), false).map(never),
        ["--watch-anew", path] => watch(Path::new(path), true).map(never),
        ["--ticks", path, count] => {
            ticks(Path::new(path), count.parse().unwrap_or_default()).map_err(|err| err.to_string())
        }
        ["--check", path, seconds] => {
            check(Path::new(path), seconds).map_err(|err| err.to_string())
        }
        ["--receipts", path, site, first, micros] => {
            let number = |text: &str| text.parse().unwrap_or_default();
            let pause = Duration::from_micros(number(micros));
            receipts::write(Path::new(path), number(site) as usize, number(first), pause)
        }
        [path, journal, synchronous, seed, rest @ ..] => {
            let mode = Mode {
                journal: journal.to_string().leak(),
                synchronous: synchronous.to_string().leak(),
                exclusive: !rest.is_empty(),
            };
            write(Path::new(path), mode, seed.parse().unwrap_or_default())
                .map(never)
                .map_err(|err| err.to_string())
        }
        _ => {
            eprintln!("see the source for the arguments");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("{err}");
            ExitCode::FAILURE
        }
    }
}

fn write(path: &Path, mode: Mode, seed: u64) -> rusqlite::Result<Infallible> {
    let mut workload = Workload::open(path, mode, seed)?;
    loop {
        println!("{}", workload.step()?);
    }
}

fn never(never: Infallible) {
    match never {}
}

/// Reads transactions until one isn't as it should be.
fn watch(path: &Path, anew: bool) -> Result<Infallible, String> {
    let open = || -> rusqlite::Result<Connection> {
        // As an application that only reads: it creates nothing.
        let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        conn.busy_timeout(Duration::from_secs(5))?;
        Ok(conn)
    };
    let text = |err: rusqlite::Error| format!("{err} ({:?})", err.sqlite_error());
    let mut kept = if anew { None } else { Some(open().map_err(text)?) };
    println!("ready");
    loop {
        if anew {
            kept = match open() {
                Ok(conn) => Some(conn),
                Err(err) if err.sqlite_error_code() == Some(ErrorCode::CannotOpen) => None,
                Err(err) => return Err(text(err)),
            };
        }
        let Some(conn) = &mut kept else {
            println!("missing");
            std::thread::park_timeout(Duration::from_millis(2));
            continue;
        };
        let tx = conn.transaction().map_err(text)?;
        println!("{}", workload::check(&tx)?);
        tx.commit().map_err(text)?;
        // Readers that overlap without a pause would be all that a small machine does.
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Point reads of, or single inserts into, the benches' table.
fn measure(path: &Path, seconds: &str, write: bool) -> rusqlite::Result<()> {
    let conn = sqlite::open(path);
    sqlite::try_run(&conn, "PRAGMA synchronous=NORMAL; PRAGMA cache_size=50")?;
    let rows = sqlite::number(&conn, "SELECT max(id) FROM t") as u64;
    let mut random = Random::new(rows);
    let body = random.bytes(100);
    let mut insert = conn.prepare("INSERT INTO t(body) VALUES (?)")?;
    let mut select = conn.prepare("SELECT length(body) FROM t WHERE id = ?")?;
    println!("ready");
    let limit = Duration::from_secs_f64(seconds.parse().unwrap_or(1.0));
    let (start, mut count) = (Instant::now(), 0_u32);
    while start.elapsed() < limit {
        if write {
            insert.execute([&body])?;
        } else {
            select.query_row([1 + random.below(rows) as i64], |row| row.get::<_, i64>(0))?;
        }
        count += 1;
    }
    println!("{}", f64::from(count) / start.elapsed().as_secs_f64());
    Ok(())
}

fn ticks(path: &Path, count: i64) -> rusqlite::Result<()> {
    let conn = sqlite::open(path);
    let mut version = conn.prepare("PRAGMA data_version")?;
    let mut last = conn.prepare("SELECT coalesce(max(id), 0) FROM tick")?;
    let read = |statement: &mut rusqlite::Statement<'_>| {
        statement.query_row([], |row| row.get::<_, i64>(0))
    };
    let (mut known, mut times) = (read(&mut version)?, Vec::new());
    println!("ready");
    while (times.len() as i64) < count {
        let now = read(&mut version)?;
        if now != known {
            known = now;
            let seen = read(&mut last)?;
            times.resize(seen as usize, clock());
        }
    }
    times.iter().for_each(|time| println!("{time:.9}"));
    Ok(())
}

fn check(path: &Path, seconds: &str) -> rusqlite::Result<()> {
    let conn = sqlite::open(path);
    let mut select = conn.prepare("SELECT min(x), max(x), count(*) FROM t")?;
    println!("ready");
    let limit = Duration::from_secs_f64(seconds.parse().unwrap_or(1.0));
    let (start, mut times) = (Instant::now(), Vec::new());
    let (mut errors, mut wrong, mut latest) = (0, 0, 0);
    while start.elapsed() < limit {
        let before = Instant::now();
        let row = select.query_row([], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        });
        times.push(before.elapsed().as_secs_f64() * 1e6);
        match row {
            Ok((min, max, rows)) => {
                wrong += u32::from(min != max || rows != 100 || max < latest);
                latest = max;
            }
            Err(err) => {
                eprintln!("{err}");
                errors += 1;
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    let of = |percent| percentile(&times, percent);
    println!("{} {errors} {wrong} {} {} {}", times.len(), of(50), of(99), of(100));
    Ok(())
}
