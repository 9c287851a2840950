//! SQLite as applications use it: connections, the shell, and a dump to compare by.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::fallible_iterator::FallibleIterator as _;

use crate::process::Process;

/// A connection that waits up to ten seconds for locks.
///
/// # Panics
/// If it can't be opened.
pub fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap_or_else(|err| panic!("open {path:?}: {err}"));
    conn.busy_timeout(Duration::from_secs(10)).unwrap();
    conn
}

/// Runs statements, among them pragmas that return rows.
///
/// # Panics
/// If one fails.
#[track_caller]
pub fn run(conn: &Connection, sql: &str) {
    try_run(conn, sql).unwrap_or_else(|err| panic!("{sql}: {err}"));
}

/// Runs statements, among them pragmas that return rows.
///
/// # Errors
/// If one fails; those before it were executed.
pub fn try_run(conn: &Connection, sql: &str) -> rusqlite::Result<()> {
    let mut batch = rusqlite::Batch::new(conn, sql);
    while let Some(mut statement) = batch.next()? {
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(())
}

/// The first column of the first row, as text.
///
/// # Panics
/// If the query fails.
#[track_caller]
pub fn text(conn: &Connection, sql: &str) -> String {
    let value: rusqlite::types::Value =
        conn.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|err| panic!("{sql}: {err}"));
    match value {
        rusqlite::types::Value::Text(text) => text,
        rusqlite::types::Value::Integer(n) => n.to_string(),
        other => format!("{other:?}"),
    }
}

/// A number.
///
/// # Panics
/// If the query fails.
#[track_caller]
pub fn number(conn: &Connection, sql: &str) -> i64 {
    conn.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|err| panic!("{sql}: {err}"))
}

/// Schema and content, in an order that doesn't depend on the file's layout.
///
/// # Panics
/// If it can't be read.
pub fn dump(conn: &Connection) -> String {
    let mut dump = String::new();
    let mut tables = Vec::new();
    let sql = "SELECT type, name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name";
    let mut schema = conn.prepare(sql).unwrap();
    let mut rows = schema.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let (kind, name, sql): (String, String, String) =
            (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap());
        writeln!(dump, "{kind} {name} {sql}").unwrap();
        if kind == "table" && !name.starts_with("sqlite_") {
            tables.push(name);
        }
    }
    for table in tables {
        let mut content = conn.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
        let columns = content.column_count();
        let mut lines = Vec::new();
        let mut rows = content.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<_> = (0..columns).map(|i| row.get_ref_unwrap(i)).collect();
            lines.push(format!("{values:?}"));
        }
        lines.sort();
        writeln!(dump, "-- {table}: {} rows\n{}", lines.len(), lines.join("\n")).unwrap();
    }
    dump
}

/// The `sqlite3` shell: what it printed.
///
/// # Errors
/// What it printed, if it failed.
///
/// # Panics
/// If it doesn't end.
pub fn shell(database: &Path, commands: &[&str]) -> Result<String, String> {
    let mut command = Command::new("sqlite3");
    command.args(["-batch", "-bail"]).arg(database).args(commands);
    match Process::run(&mut command, Duration::from_secs(60)) {
        (Some(0), output) => Ok(output),
        (_, output) => Err(output),
    }
}
