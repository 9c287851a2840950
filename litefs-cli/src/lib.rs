//! The `litefs` command: configuration, commands, logging and the supervision of child processes.
//!
//! This is a program, not a library for others: what is public here is public for its own tests and
//! may change at any time. No knowledge of SQLite, FUSE or leases lives here; `cmd::mount` asks the
//! crates below for them.
//!
//! ```text
//! args ─► cmd ─┬─► config  (search, expand, parse, validate)
//!              ├─► logging (stderr) and trace_file (rolling)
//!              └─► exec ═socket═► guardian ─► the application
//! ```

#![forbid(unsafe_code)]

mod args;
mod bytesize;
mod cmd;
mod config;
mod environment;
pub mod exec;
mod expand;
mod fly;
mod goduration;
mod guardian;
mod logging;
mod ostext;
mod signals;
mod trace_file;
mod utc;
mod words;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command that `args` (without the program's name) asks for; the result is the exit code.
pub fn main(args: Vec<OsString>) -> ExitCode {
    cmd::dispatch(args)
}
