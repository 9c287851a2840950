//! `litefs version`.

use std::ffi::OsString;
use std::process::ExitCode;

use super::{Failure, Usage, say};
use crate::args::ArgError;

/// Prints the version.
pub(super) fn run(args: &[OsString]) -> Result<ExitCode, Failure> {
    let parsed = USAGE.parse(args)?;
    if !parsed.positional.is_empty() {
        return Err(USAGE.refuse(ArgError::TooMany));
    }
    say(format_args!("{}", line()));
    Ok(ExitCode::SUCCESS)
}

/// What a release build was told about itself.
pub(super) fn line() -> String {
    text(option_env!("LITEFS_VERSION"), option_env!("LITEFS_COMMIT"))
}

fn text(version: Option<&str>, commit: Option<&str>) -> String {
    let given = |s: Option<&str>| s.filter(|s| !s.is_empty()).map(str::to_owned);
    match (given(version), given(commit)) {
        (Some(version), Some(commit)) => format!("LiteFS {version}, commit={commit}"),
        (Some(version), None) => format!("LiteFS {version}"),
        (None, Some(commit)) => format!("LiteFS commit={commit}"),
        (None, None) => "LiteFS development build".into(),
    }
}

const USAGE: Usage = Usage {
    text: "\
Prints the version of litefs.

Usage:

    litefs version
",
    flags: &[],
    bad_args: 1,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_known() {
        for (version, commit, want) in [
            (Some("v1.0"), Some("abc"), "LiteFS v1.0, commit=abc"),
            (Some("v1.0"), None, "LiteFS v1.0"),
            (None, Some("abc"), "LiteFS commit=abc"),
            (Some(""), None, "LiteFS development build"),
        ] {
            assert_eq!(text(version, commit), want);
        }
    }
}
