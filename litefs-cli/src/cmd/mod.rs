//! The commands, their help texts and their exit codes.
//!
//! ```text
//! 0    done                                    1   any other failure
//! 2    help was asked for; mount: bad flags or configuration
//! N    mount: the application's own exit code
//! ```
//!
//! Each command is a module with `run(args) -> Result<ExitCode, Failure>`; nothing below this level
//! prints errors. Usage goes to stdout, flag lists and errors to stderr.

mod cluster;
mod config;
mod ltx;
mod mount;
mod run;
mod transfer;
mod verify;
mod version;

use litefs_core::error::chain;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use thiserror::Error;

use self::mount::start::{CloseError, StartError};
use crate::args::{self, ArgError, Flag, Parsed};
use crate::config::error::ConfigError;
use crate::config::load::{Overrides, load};
use crate::environment::Environment;
use crate::guardian;
use crate::logging::LogError;
use crate::ostext::os_text;

/// Runs the command that the first argument names.
pub(crate) fn dispatch(args: Vec<OsString>) -> ExitCode {
    let (name, rest) = match args.split_first() {
        Some((name, rest)) => (name.to_string_lossy(), rest),
        None => ("help".into(), &args[..]),
    };
    let result = match &*name {
        "export" => transfer::export(rest),
        "import" => transfer::import(rest),
        "mount" => mount::run(rest),
        "run" => run::run(rest),
        "promote" => cluster::promote(rest),
        "demote" => cluster::demote(rest),
        "status" => cluster::status(rest),
        "version" => version::run(rest),
        "config" => config::run(rest),
        "ltx" => ltx::run(rest),
        "verify" => verify::run(rest),
        guardian::SUBCOMMAND => guard(rest),
        "help" => show_usage(),
        flag if flag.starts_with('-') => show_usage(),
        unknown => Err(Failure::UnknownCommand(unknown.into())),
    };
    result.unwrap_or_else(|failure| {
        failure.print();
        ExitCode::from(failure.exit_code())
    })
}

/// Why a command failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum Failure {
    #[error("litefs {0}: unknown command")]
    UnknownCommand(String),
    /// Help was shown instead of running; there is nothing to add.
    #[error("help requested")]
    HelpShown,
    #[error("{source}")]
    Args {
        source: ArgError,
        /// What `mount` and the others disagree about.
        exit_code: u8,
    },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Close(#[from] CloseError),
    #[error(transparent)]
    Ltx(#[from] ltx::LtxError),
    #[error(transparent)]
    Transfer(#[from] transfer::TransferError),
    #[error(transparent)]
    Run(#[from] run::RunError),
    #[error(transparent)]
    Call(#[from] cluster::CallError),
    #[error("{}", chain(source))]
    Data { source: litefs_core::error::Error },
    #[error("cannot handle signals: {}", os_text(.0))]
    Signals(#[source] io::Error),
    #[error("cannot guard {program:?}: {}", os_text(source))]
    Guardian {
        /// What was to run.
        program: String,
        source: io::Error,
    },
}

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::HelpShown | Failure::Config(_) => 2,
            Failure::Args { exit_code, .. } => *exit_code,
            _ => 1,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Failure::UnknownCommand(_) => Some("run `litefs help` for the list".into()),
            Failure::Config(err) => err.hint(),
            Failure::Transfer(err) => err.hint(),
            Failure::Run(err) => err.hint(),
            Failure::Call(err) => err.hint(),
            Failure::Start(err) => err.hint().map(Into::into),
            Failure::Close(err) => err.hint().map(Into::into),
            _ => None,
        }
    }

    fn print(&self) {
        if !matches!(self, Failure::HelpShown) {
            say_err(format_args!("ERROR: {self}"));
            if let Some(hint) = self.hint() {
                say_err(format_args!("hint: {hint}"));
            }
        }
    }
}

/// The help of one command.
struct Usage {
    text: &'static str,
    flags: &'static [Flag],
    /// The exit code for arguments that can't be understood.
    bad_args: u8,
}

impl Usage {
    /// Reads the arguments, or shows the help if they ask for it or can't be understood.
    fn parse(&self, args: &[OsString]) -> Result<Parsed, Failure> {
        args::parse(self.flags, args).map_err(|source| {
            if source != ArgError::Help {
                say_err(format_args!("{source}"));
            }
            self.show();
            match source {
                ArgError::Help => Failure::HelpShown,
                source => self.refuse(source),
            }
        })
    }

    fn show(&self) {
        say(format_args!("{}", self.text));
        if !self.flags.is_empty() {
            say_err(format_args!("{}", args::describe(self.flags)));
        }
    }

    fn refuse(&self, source: ArgError) -> Failure {
        Failure::Args { source, exit_code: self.bad_args }
    }
}

fn show_usage() -> Result<ExitCode, Failure> {
    say(format_args!("{USAGE}"));
    Err(Failure::HelpShown)
}

/// What [`data_dir`] reads.
const DATA_DIR_FLAGS: &[Flag] = &[
    Flag { name: "data", value: "PATH", help: "the data directory" },
    Flag { name: "config", value: "PATH", help: "take the data directory from this configuration" },
];

/// The data directory that the flags `-data` and `-config` tell, or else the configuration.
fn data_dir(parsed: &Parsed) -> Result<PathBuf, Failure> {
    if let Some(dir) = parsed.value("data") {
        return Ok(dir.into());
    }
    let config = parsed.value("config").map(Into::into);
    let overrides = Overrides { config, ..Overrides::default() };
    Ok(load(&overrides, &Environment::capture())?.config.data.dir)
}

/// The hidden command: see [`guardian`].
fn guard(args: &[OsString]) -> Result<ExitCode, Failure> {
    let words = args.strip_prefix(&["--".into()][..]).unwrap_or(args);
    guardian::run(words).map_err(|source| Failure::Guardian {
        program: words.first().map(|w| w.to_string_lossy().into_owned()).unwrap_or_default(),
        source,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A line on stdout. Nobody can be told that it is closed.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A line on stderr.
fn say_err(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

const USAGE: &str = "\
litefs replicates SQLite databases: it mounts a directory, and every transaction
on a database in it is captured.

Usage:

    litefs <command> [arguments]

Commands:

    export     download a database from a running node
    import     upload a database, or replace it
    mount      mount the directory and run an application in it
    run        run a command on a running node, once that may write
    promote    make a node the primary
    demote     make the primary a replica
    status     show a node, its databases and its streams
    config     explain and check a configuration
    ltx        list, show and verify captured transactions
    verify     check databases against their checksums
    version    print the version

Try it, without any configuration:

    litefs mount -dir /tmp/mnt -data /tmp/data
    sqlite3 /tmp/mnt/app.db 'create table t(x)'     # in another terminal

`litefs <command> -h` tells more about a command.
";
