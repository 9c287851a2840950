//! What applications were told is committed: each adds rows to a database on its own node, one after the other, and notes
//! every one that SQLite has acknowledged.
//!
//! ```text
//!   Writer ──starts──► litefs-workload --receipts      row: "<site:number>"
//!      ◄── ROW NUMBER BEGIN END ──                       printed once COMMIT has returned
//! ```
//!
//! A writer never gives up: where it may not write it tries again and again, and where the database is gone it opens it
//! anew. So whoever may write has a writer that does. It is a process of its own, since a mapping of a mount that has died
//! may end it.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use rusqlite::ffi::SQLITE_READONLY_DBMOVED;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::bench::clock;
use crate::node::LIMIT;
use crate::process::{Process, Stream};
use crate::sqlite;

/// A row that SQLite has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Receipt {
    /// Who has written it, and his number for it.
    pub token: Token,
    /// Its place in the table: the table is only ever added to, so this is the place in its history.
    pub row: i64,
    /// Before the statement, by the machine's monotonic clock.
    pub begin: f64,
    /// After it.
    pub end: f64,
}

/// What a row holds: no two rows have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    /// The node.
    pub site: usize,
    /// Counts attempts.
    pub number: u64,
}

impl Token {
    /// As it is written.
    pub fn text(self) -> String {
        format!("<{}:{}>", self.site, self.number)
    }

    /// Reads it; anything may follow.
    pub fn parse(text: &[u8]) -> Option<Token> {
        let inner = text.strip_prefix(b"<")?;
        let inner = &inner[..inner.iter().take(LONGEST).position(|byte| *byte == b'>')?];
        let (site, number) = std::str::from_utf8(inner).ok()?.split_once(':')?;
        Some(Token { site: site.parse().ok()?, number: number.parse().ok()? })
    }

    /// All that are somewhere in these bytes.
    pub fn find_all(bytes: &[u8], into: &mut HashSet<Token>) {
        let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'<');
        into.extend(starts.filter_map(|(at, _)| Token::parse(&bytes[at..])));
    }
}

/// Makes the table.
///
/// # Panics
/// If it can't be.
pub fn create(database: &Path, journal: &str) {
    let conn = sqlite::open(database);
    sqlite::run(&conn, &format!("PRAGMA journal_mode={journal}"));
    sqlite::run(&conn, "CREATE TABLE row(id INTEGER PRIMARY KEY, token TEXT)");
}

/// What the process does.
pub fn write(database: &Path, site: usize, first: u64, pause: Duration) -> ! {
    // Without CREATE: below a mount that is gone there is a directory.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut token = Token { site, number: first };
    let mut said = String::new();
    loop {
        let ended = Connection::open_with_flags(database, flags)
            .and_then(|conn| write_with(&conn, &mut token, pause, &mut said));
        let Err(err) = ended;
        say(&mut said, &err);
        thread::sleep(RETRY);
    }
}

fn write_with(
    conn: &Connection,
    token: &mut Token,
    pause: Duration,
    said: &mut String,
) -> rusqlite::Result<Infallible> {
    if conn.is_readonly("main")? {
        // The mount came up between SQLite's attempts to open for writing and, as that had failed, for reading.
        return Err(rusqlite::Error::InvalidPath(conn.path().unwrap_or_default().into()));
    }
    conn.busy_timeout(Duration::from_secs(1))?;
    sqlite::try_run(conn, "PRAGMA synchronous=NORMAL")?;
    let mut insert = conn.prepare("INSERT INTO row(token) VALUES (?)")?;
    loop {
        token.number += 1;
        let begin = clock();
        match insert.execute([token.text()]) {
            Ok(_) => {
                let (end, row) = (clock(), conn.last_insert_rowid());
                println!("{row} {} {begin:.7} {end:.7}", token.number);
                said.clear();
                thread::sleep(pause);
            }
            Err(err) if may_pass(&err) => {
                say(said, &err);
                thread::sleep(RETRY);
            }
            Err(err) => return Err(err),
        }
    }
}

/// Whether a later attempt on the same connection may succeed. Of a mount that is gone there may be pages in the cache yet: then
/// SQLite finds that its file isn't the one of that name any more.
fn may_pass(err: &rusqlite::Error) -> bool {
    let busy = [ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked, ErrorCode::ReadOnly];
    err.sqlite_error()
        .is_some_and(|err| busy.contains(&err.code) && err.extended_code != SQLITE_READONLY_DBMOVED)
}

/// Says each error once.
fn say(said: &mut String, err: &rusqlite::Error) {
    let text = err.to_string();
    if *said != text {
        let _ = writeln!(io::stderr(), "{:.3} {text}", clock());
        *said = text;
    }
}

/// A process that writes, and what it was told.
#[derive(Debug)]
pub struct Writer {
    program: PathBuf,
    database: PathBuf,
    site: usize,
    pause: Duration,
    lives: u64,
    process: Process,
    /// How many of the process's lines were read.
    read: usize,
    receipts: Vec<Receipt>,
}

impl Writer {
    /// Starts it; `program` is `litefs-workload`.
    pub fn start(program: &str, database: PathBuf, site: usize, pause: Duration) -> Writer {
        let program = PathBuf::from(program);
        let process = launch(&program, &database, site, 0, pause);
        let (lives, read, receipts) = (0, 0, Vec::new());
        Writer { program, database, site, pause, lives, process, read, receipts }
    }

    /// All it was told up to now.
    ///
    /// # Panics
    /// If it says something else.
    pub fn receipts(&mut self) -> &[Receipt] {
        self.read_on();
        if !self.process.is_running() {
            // It had a mapping of a mount that has died.
            self.process.wait(LIMIT);
            self.read_on();
            self.lives += 1;
            let first = self.lives * NUMBERS_PER_LIFE;
            self.process = launch(&self.program, &self.database, self.site, first, self.pause);
            self.read = 0;
        }
        &self.receipts
    }

    fn read_on(&mut self) {
        let lines = self.process.lines_after(self.read);
        self.read += lines.len();
        let said = lines.iter().filter(|line| line.stream == Stream::Stdout);
        self.receipts.extend(said.map(|line| parse(&line.text, self.site)));
    }

    /// When it was last told so.
    pub fn last(&mut self) -> Option<f64> {
        self.receipts().last().map(|receipt| receipt.end)
    }

    /// When it was first told so after that moment.
    pub fn first_after(&mut self, moment: f64) -> Option<f64> {
        let receipts = self.receipts();
        let at = receipts.partition_point(|receipt| receipt.begin < moment);
        receipts.get(at).map(|receipt| receipt.end)
    }

    /// What it was last told before that moment.
    pub fn last_before(&mut self, moment: f64) -> Option<f64> {
        let receipts = self.receipts();
        let at = receipts.partition_point(|receipt| receipt.end <= moment);
        at.checked_sub(1).map(|at| receipts[at].end)
    }

    /// Ends it; all it was told.
    pub fn finish(mut self) -> Vec<Receipt> {
        self.process.signal(Signal::SIGKILL);
        self.process.wait(LIMIT);
        self.read_on();
        self.receipts
    }

    /// What else it has said, for people.
    pub fn complaints(&self) -> String {
        self.process.stream(Stream::Stderr).join("\n")
    }
}

fn launch(program: &Path, database: &Path, site: usize, first: u64, pause: Duration) -> Process {
    let mut command = Command::new(program);
    command.arg("--receipts").arg(database);
    command.args([site.to_string(), first.to_string(), pause.as_micros().to_string()]);
    Process::start(&mut command)
}

fn parse(line: &str, site: usize) -> Receipt {
    let fields: Vec<&str> = line.split(' ').collect();
    let [row, number, begin, end] = fields[..] else { panic!("no receipt: {line:?}") };
    Receipt {
        token: Token { site, number: number.parse().unwrap() },
        row: row.parse().unwrap(),
        begin: begin.parse().unwrap(),
        end: end.parse().unwrap(),
    }
}

/// Between two attempts.
const RETRY: Duration = Duration::from_millis(1);
/// Longer than any token's text.
const LONGEST: usize = 32;
const NUMBERS_PER_LIFE: u64 = 1_000_000_000;
