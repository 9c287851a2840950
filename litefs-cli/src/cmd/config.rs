//! `litefs config check`: what a configuration means, where each value comes from, what is wrong.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;

use super::{Failure, Usage, say};
use crate::args::{ArgError, Flag};
use crate::config::load::{Loaded, Overrides, load};
use crate::config::validate::{Command, validate, warnings};
use crate::environment::Environment;

/// Explains a configuration; fails as `mount` would.
pub(super) fn run(args: &[OsString]) -> Result<ExitCode, Failure> {
    // `check` may stand before or behind the flags.
    let (action, args) = match args.split_first() {
        Some((first, rest)) if first == "check" => (true, rest),
        _ => (false, args),
    };
    let parsed = USAGE.parse(args)?;
    let file: Option<PathBuf> = match (action, &parsed.positional[..]) {
        (true, []) => None,
        (true, [file]) => Some(file.into()),
        (false, [check]) if check == "check" => None,
        (false, [check, file]) if check == "check" => Some(file.into()),
        (false, []) => {
            USAGE.show();
            return Err(Failure::HelpShown);
        }
        _ => return Err(USAGE.refuse(ArgError::TooMany)),
    };
    let env = Environment::capture();
    let overrides = Overrides {
        config: file,
        no_expand_env: parsed.switch("no-expand-env"),
        ..Overrides::default()
    };
    let loaded = load(&overrides, &env)?;
    explain(&loaded);
    let commands = validate(&loaded.config)?;
    explain_commands(&commands);
    say(format_args!("\nThe configuration is valid."));
    Ok(ExitCode::SUCCESS)
}

fn explain(loaded: &Loaded) {
    if let Some(path) = &loaded.path {
        say(format_args!("Config file: {}", path.display()));
    }
    if !loaded.expansions.is_empty() {
        say(format_args!("\nReplaced in its text:"));
        for e in &loaded.expansions {
            let note = if e.unset.is_empty() { String::new() } else { unset_note(&e.unset) };
            let value = if is_secret(&e.expr) { HIDDEN.into() } else { format!("{:?}", e.value) };
            say(format_args!("  line {}: {} -> {value}{note}", e.line, e.expr));
        }
    }
    say(format_args!("\nValues in effect:"));
    let rows: Vec<_> = loaded.values().into_iter().map(|(k, v)| (shown(&k, &v), k)).collect();
    let wide = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0).min(40);
    let key_width = wide(&mut rows.iter().map(|(_, key)| key.chars().count()));
    let value_width = wide(&mut rows.iter().map(|(value, _)| value.chars().count()));
    for (value, key) in &rows {
        let source = loaded.source(key);
        say(format_args!("  {key:key_width$}  {value:value_width$}  {source}"));
    }
    let warnings = warnings(loaded);
    if !warnings.is_empty() {
        say(format_args!("\nWarnings:"));
        warnings.iter().for_each(|warning| say(format_args!("  {warning}")));
    }
}

fn explain_commands(commands: &[Command]) {
    for (index, Command { words, if_candidate }) in commands.iter().enumerate() {
        if index == 0 {
            say(format_args!("\nCommands, each word in quotes:"));
        }
        let last = index + 1 == commands.len();
        let how = if last { "the application" } else { "to completion" };
        let only = if *if_candidate { ", if the node is a candidate" } else { "" };
        say(format_args!("  {index}: {words:?} ({how}{only})"));
    }
}

fn unset_note(unset: &[String]) -> String {
    let verb = if unset.len() == 1 { "is" } else { "are" };
    format!(" ({} {verb} not set)", unset.join(", "))
}

fn shown(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "\"\"".into(),
        Value::String(_) if is_secret(key) => HIDDEN.into(),
        Value::String(url) if key.ends_with("url") => without_password(url),
        Value::String(text) => text.clone(),
        Value::Array(list) if key == "exec" && !list.is_empty() => {
            format!("{} commands", list.len())
        }
        other => other.to_string(),
    }
}

/// Whether a key or a variable's name suggests that its value isn't for the screen.
fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["token", "secret", "passw", "credential", "_key"].iter().any(|word| name.contains(word))
}

/// A URL may carry a token between `:` and `@`.
pub(super) fn without_password(url: &str) -> String {
    let hide = || {
        let (scheme, rest) = url.split_once("://")?;
        let (user_info, host) = rest.split_once('@')?;
        let (user, _) = user_info.split_once(':')?;
        Some(format!("{scheme}://{user}:{HIDDEN}@{host}"))
    };
    hide().unwrap_or_else(|| url.into())
}

const HIDDEN: &str = "(hidden)";

const USAGE: Usage = Usage {
    text: "\
Explains a configuration without starting anything: which file is read, what
environment variables become in it, the value of every setting and where it comes
from (file, environment or default), settings without effect, mistakes.

Usage:

    litefs config check [flags] [FILE]

Without FILE the usual places are searched, as `litefs mount` does: ./litefs.yml,
~/litefs.yml, /etc/litefs.yml. The exit code is 0 if `litefs mount` would accept
the configuration, else 2.

Example:

    litefs config check ./litefs.yml
",
    flags: &[Flag {
        name: "no-expand-env",
        value: "",
        help: "do not replace environment variables in the file",
    }],
    bad_args: 1,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden() {
        for (key, value, want) in [
            ("backup.auth-token", "abc", HIDDEN),
            ("backup.auth-token", "", "\"\""),
            ("lease.consul.url", "http://u:tok@c:8500/p", "http://u:(hidden)@c:8500/p"),
            ("lease.consul.url", "http://c:8500", "http://c:8500"),
            ("data.dir", "/d", "/d"),
        ] {
            assert_eq!(shown(key, &Value::String(value.into())), want, "{key}");
        }
    }
}
