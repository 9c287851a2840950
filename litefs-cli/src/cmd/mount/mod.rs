//! `litefs mount`: the order of a start, the wait for its end, and the way back.
//!
//! ```text
//! flags, config, logs ─► node (store, lease, mount, HTTP) ─► cluster ─► exec list ─► wait ─► close
//!                        └───────────── a signal stops it at any step ─────────────┘
//! ```
//!
//! One channel carries all that can happen: signals, the node's news, the end of a process. How the
//! node comes up is in [`node`], what can go wrong in [`start`]; processes are in [`crate::exec`].
//! Invariants: whatever happens after the node is up, it is closed (unmounted, lease released), and
//! never while a process of ours is alive.
//!
//! Differs from LiteFS: a signal during the start is obeyed; the node is closed and the exit code
//! passed on also if the application fails on a signal; a second signal kills it.
//! Source: `spec/cli-config.md` §5 and §6.

mod lease;
mod node;
mod services;
mod session;
pub(super) mod start;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use self::session::Session;
use super::{Failure, Usage, say, version};
use crate::args::{ArgError, Flag, Parsed};
use crate::config::load::{Loaded, Overrides, load};
use crate::config::validate::{validate, warnings};
use crate::environment::Environment;
use crate::exec::Launcher;
use crate::fly::FlyMachine;
use crate::logging::{Logging, Sink};
use crate::trace_file::{Limits, TraceFile};

/// Mounts, and returns when everything is closed again.
pub(super) fn run(args: &[OsString]) -> Result<ExitCode, Failure> {
    let parsed = USAGE.parse(args)?;
    if !parsed.positional.is_empty() {
        return Err(USAGE.refuse(ArgError::NoDashes));
    }
    let env = Environment::capture();
    let overrides = overrides(&parsed);
    let loaded = load(&overrides, &env)?;
    if let (None, Some(path)) = (&overrides.config, &loaded.path) {
        say(format_args!("config file read from {}", path.display()));
    }
    let commands = validate(&loaded.config)?;

    say(format_args!("{}", version::line()));
    init_logging(&loaded, parsed.switch("tracing"))?;
    warnings(&loaded).iter().for_each(|warning| tracing::warn!("{warning}"));

    let mut launcher = Launcher::new("/proc/self/exe");
    for (name, value) in env.additions() {
        launcher = launcher.env(name, value);
    }
    let host = FlyMachine::detect(&env);
    let skip_unmount = parsed.switch("skip-unmount");
    let session = Session::new(loaded.config, commands, launcher, host, skip_unmount);
    session.map_err(Failure::Signals)?.run()
}

fn overrides(parsed: &Parsed) -> Overrides {
    let path = |name| parsed.value(name).map(Into::into);
    let words: Vec<_> = parsed.command.iter().map(|word| word.to_string_lossy()).collect();
    Overrides {
        config: path("config"),
        no_expand_env: parsed.switch("no-expand-env"),
        fuse_dir: path("dir"),
        data_dir: path("data"),
        fuse_debug: parsed.switch("fuse.debug"),
        debug: parsed.switch("debug"),
        exec: (!words.is_empty()).then(|| words.join(" ")),
    }
}

fn init_logging(loaded: &Loaded, to_stdout: bool) -> Result<(), Failure> {
    let (log, tracing) = (&loaded.config.log, &loaded.config.tracing);
    let mut trace = Vec::new();
    if to_stdout {
        trace.push(Sink::Stdout);
    }
    if let Some(path) = tracing.file() {
        // 0 means the default, as everywhere.
        let megabytes = if tracing.max_size == 0 { 64 } else { u64::from(tracing.max_size) };
        let limits = Limits {
            max_len_bytes: megabytes << 20,
            max_count: tracing.max_count as usize,
            compress: tracing.compress,
        };
        trace.push(Sink::File(Arc::new(TraceFile::new(path.clone(), limits))));
        say(format_args!("trace log enabled: {}", path.display()));
    }
    let (format, timestamp, debug) = (log.format.clone(), log.timestamp, log.debug);
    Ok(Logging { format, timestamp, debug, trace }.init()?)
}

const USAGE: Usage = Usage {
    text: "\
Mounts a directory in which SQLite databases are captured transaction by
transaction, then runs an application.

Usage:

    litefs mount [flags] [-- CMD [ARG...]]

With -dir and -data no configuration is needed: this node is the only primary.

    litefs mount -dir /mnt/db -data /var/lib/litefs

Otherwise the configuration is ./litefs.yml, ~/litefs.yml or /etc/litefs.yml,
whichever exists first. `litefs config check` explains it. A small one:

    fuse:  {dir: /litefs}           # where the application finds its databases
    data:  {dir: /var/lib/litefs}   # where litefs keeps them
    lease: {type: static}           # this node is the only primary
    exec:  myapp -db /litefs/app.db

CMD replaces the exec setting. Its words are joined by blanks and split again by
quotes and backslashes, so protect quotes from your shell:

    litefs mount -- sh -c \"'migrate && exec myapp'\"

litefs ends when the application ends, with its exit code. SIGINT and SIGTERM are
passed to the application; a second one kills it. Processes the application leaves
behind are ended too, even if litefs is killed.
",
    flags: &[
        Flag { name: "config", value: "PATH", help: "read this configuration file" },
        Flag { name: "dir", value: "PATH", help: "mount here, instead of fuse.dir" },
        Flag { name: "data", value: "PATH", help: "keep data here, instead of data.dir" },
        Flag {
            name: "no-expand-env",
            value: "",
            help: "do not replace environment variables in the configuration",
        },
        Flag { name: "skip-unmount", value: "", help: "do not unmount a previous mount first" },
        Flag { name: "fuse.debug", value: "", help: "log FUSE requests" },
        Flag { name: "debug", value: "", help: "log more" },
        Flag { name: "tracing", value: "", help: "write the trace log to stdout" },
    ],
    bad_args: 2,
};
