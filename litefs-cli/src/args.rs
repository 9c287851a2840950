//! Command line flags as Go's `flag` package reads them.
//!
//! ```text
//! -f value   -f=value   --f value   --f=value      flags with a value
//! -b         -b=false                              switches
//! --                                               the rest is a command, not ours
//! ```
//!
//! The first argument that isn't a flag ends the flags. Written by hand because no argument parser
//! knows long names behind a single dash, and the texts are the original's.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use thiserror::Error;

/// A flag that a command knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    /// Without the dash.
    pub(crate) name: &'static str,
    /// What stands for the value in the help; empty for a switch.
    pub(crate) value: &'static str,
    /// One line.
    pub(crate) help: &'static str,
}

/// What was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    flags: Vec<(&'static str, OsString)>,
    /// Arguments that aren't flags.
    pub(crate) positional: Vec<OsString>,
    /// What follows `--`; empty if nothing does.
    pub(crate) command: Vec<OsString>,
}

impl Parsed {
    /// The last value given for a flag.
    pub(crate) fn value(&self, name: &str) -> Option<&OsStr> {
        self.flags.iter().rev().find(|(known, _)| *known == name).map(|(_, v)| v.as_os_str())
    }

    /// Whether a switch is on.
    pub(crate) fn switch(&self, name: &str) -> bool {
        self.value(name).is_some_and(|v| v == "true")
    }
}

/// Arguments that can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum ArgError {
    /// `-h`, `-help`.
    #[error("flag: help requested")]
    Help,
    /// Not a flag of this command.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    /// Such as `-=x`.
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    /// The arguments end where a value should be.
    #[error("flag needs an argument: -{0}")]
    MissingValue(&'static str),
    /// A switch that is neither on nor off.
    #[error("invalid boolean value {value:?} for -{name}: parse error")]
    Switch {
        /// The switch.
        name: &'static str,
        /// What it was given.
        value: String,
    },
    /// Positional arguments where a command was meant.
    #[error("too many arguments, specify a '--' to specify an exec command")]
    NoDashes,
    /// More positional arguments than the command takes.
    #[error("too many arguments")]
    TooMany,
}

/// Reads `args`.
///
/// # Errors
/// If a flag isn't known or lacks its value.
pub(crate) fn parse(flags: &[Flag], args: &[OsString]) -> Result<Parsed, ArgError> {
    let mut parsed = Parsed::default();
    let dashes = args.iter().position(|a| a == "--");
    let (ours, command) = args.split_at(dashes.unwrap_or(args.len()));
    parsed.command = command.iter().skip(1).cloned().collect();

    let mut rest = ours.iter();
    while let Some(arg) = rest.as_slice().first().filter(|arg| is_flag(arg)) {
        rest.next();
        let (name, inline) = split_flag(arg)?;
        let Some(flag) = flags.iter().find(|flag| OsStr::new(flag.name) == name) else {
            let name = name.to_string_lossy().into_owned();
            return Err(match name.as_str() {
                "h" | "help" => ArgError::Help,
                _ => ArgError::Unknown(name),
            });
        };
        let value = match (flag.value, inline) {
            ("", None) => "true".into(),
            ("", Some(value)) => parse_switch(flag.name, &value)?.to_string().into(),
            (_, Some(value)) => value,
            (_, None) => rest.next().cloned().ok_or(ArgError::MissingValue(flag.name))?,
        };
        parsed.flags.push((flag.name, value));
    }
    parsed.positional = rest.cloned().collect();
    Ok(parsed)
}

/// The list of flags for a help text.
pub(crate) fn describe(flags: &[Flag]) -> String {
    let mut out = String::from("Flags:\n");
    for Flag { name, value, help } in flags {
        let gap = if value.is_empty() { "" } else { " " };
        // Writing to a string can't fail.
        let _ = writeln!(out, "  -{name}{gap}{value}\n        {help}");
    }
    out
}

/// A lone `-` is an argument.
fn is_flag(arg: &OsStr) -> bool {
    arg.len() > 1 && arg.as_bytes()[0] == b'-'
}

/// The name of a flag, and the value behind its `=`.
fn split_flag(arg: &OsStr) -> Result<(&OsStr, Option<OsString>), ArgError> {
    let bytes = arg.as_bytes();
    let body = bytes.strip_prefix(b"--").unwrap_or(&bytes[1..]);
    if body.is_empty() || matches!(body[0], b'-' | b'=') {
        return Err(ArgError::Syntax(arg.to_string_lossy().into_owned()));
    }
    Ok(match body.iter().position(|b| *b == b'=') {
        Some(at) => {
            (OsStr::from_bytes(&body[..at]), Some(OsString::from_vec(body[at + 1..].to_vec())))
        }
        None => (OsStr::from_bytes(body), None),
    })
}

fn parse_switch(name: &'static str, value: &OsStr) -> Result<bool, ArgError> {
    let value = value.to_string_lossy();
    match &*value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(ArgError::Switch { name, value: value.into_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag { name: "config", value: "PATH", help: "" },
        Flag { name: "fuse.debug", value: "", help: "" },
    ];

    fn run(line: &str) -> Result<Parsed, ArgError> {
        parse(FLAGS, &line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn values_and_switches_in_every_spelling() {
        for (line, config, debug) in [
            ("", None, false),
            ("-config a", Some("a"), false),
            ("--config a", Some("a"), false),
            ("-config=a", Some("a"), false),
            ("--config=a=b", Some("a=b"), false),
            ("-config=", Some(""), false),
            ("-config -x", Some("-x"), false),
            ("-config a -config b", Some("b"), false),
            ("-fuse.debug", None, true),
            ("--fuse.debug=1 -config a", Some("a"), true),
            ("-fuse.debug=false", None, false),
        ] {
            let got = run(line).unwrap();
            assert_eq!(got.value("config").and_then(OsStr::to_str), config, "{line}");
            assert_eq!(got.switch("fuse.debug"), debug, "{line}");
        }
    }

    #[test]
    fn a_command_is_kept_as_it_is() {
        let got = run("-fuse.debug a -config -- cmd -x -- y").unwrap();
        assert_eq!(got.positional, ["a", "-config"]);
        assert_eq!(got.command, ["cmd", "-x", "--", "y"]);
        assert_eq!(run("-").unwrap().positional, ["-"]);
    }

    #[test]
    fn mistakes_are_told_in_gos_words() {
        for (line, want) in [
            ("-x", "flag provided but not defined: -x"),
            ("--x=1", "flag provided but not defined: -x"),
            ("-config", "flag needs an argument: -config"),
            ("-config -- a", "flag needs an argument: -config"),
            ("-=x", "bad flag syntax: -=x"),
            ("---x", "bad flag syntax: ---x"),
            ("-fuse.debug=maybe", "invalid boolean value \"maybe\" for -fuse.debug: parse error"),
            ("-h", "flag: help requested"),
            ("--help", "flag: help requested"),
        ] {
            assert_eq!(run(line).unwrap_err().to_string(), want, "{line}");
        }
    }
}
