//! Whether a configuration makes sense, and which of its keys have no effect yet.

use std::path::{Path, PathBuf, absolute};

use litefs_core::types::DbName;

use super::Config;
use super::error::ConfigError;
use super::load::{Loaded, Source};
use crate::words;

/// A command of the `exec` list, split into words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    /// The program and its arguments; never empty.
    pub(crate) words: Vec<String>,
    /// Run it only on a node that may become primary.
    pub(crate) if_candidate: bool,
}

/// Checks a configuration and splits its commands.
///
/// # Errors
/// The first mistake, in the original's order.
pub(crate) fn validate(config: &Config) -> Result<Vec<Command>, ConfigError> {
    let (fuse, data) = (&config.fuse.dir, &config.data.dir);
    if fuse.as_os_str().is_empty() {
        return Err(ConfigError::FuseDir);
    }
    if data.as_os_str().is_empty() {
        return Err(ConfigError::DataDir);
    }
    if normal(fuse) == normal(data) {
        return Err(ConfigError::SameDir);
    }
    if normal(data).starts_with(normal(fuse)) {
        return Err(ConfigError::DataInFuse { data: data.clone(), fuse: fuse.clone() });
    }
    if !matches!(config.lease.r#type.as_str(), "consul" | "static") {
        return Err(ConfigError::LeaseType(config.lease.r#type.clone()));
    }
    if config.lease.candidate && !config.lease.databases.is_empty() {
        return Err(ConfigError::FilterOnCandidate);
    }
    for name in &config.lease.databases {
        // Left out, it could make the filter empty, which means all databases.
        DbName::new(name).map_err(ConfigError::FilterName)?;
    }
    config
        .exec
        .0
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            let words = words::split(&entry.cmd)
                .map_err(|source| ConfigError::ExecParse { index, source })?
                .words;
            if words.is_empty() {
                return Err(ConfigError::ExecEmpty(index));
            }
            Ok(Command { words, if_candidate: entry.if_candidate })
        })
        .collect()
}

/// What is allowed but probably not meant, or has no effect yet; one sentence each.
pub(crate) fn warnings(loaded: &Loaded) -> Vec<String> {
    let mut warnings = Vec::new();
    for (key, _) in loaded.values() {
        let (source, inert) = (loaded.source(&key), without_effect(&key));
        if source != Source::Default && inert {
            warnings.push(format!("{key} has no effect yet (set by {source})"));
        }
    }
    for (index, entry) in loaded.config.exec.0.iter().enumerate() {
        if let Ok(split) = words::split(&entry.cmd)
            && !split.ignored.is_empty()
        {
            warnings.push(format!(
                "exec command[{index}]: everything from {:?} on is ignored, there is no shell; write sh -c '…' to use one",
                split.ignored
            ));
        }
    }
    warnings
}

/// Whether the part of the program that would read this key doesn't exist yet.
fn without_effect(key: &str) -> bool {
    NOT_YET.iter().any(|known| {
        key.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// An absolute path without `.` and `..`, as text; symbolic links aren't followed.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in absolute(path).unwrap_or_else(|_| path.to_owned()).components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

/// Keys, or whole sections, of parts that come later. Whoever builds a part removes its line.
const NOT_YET: [&str; 3] = ["http.snapshot-timeout", "proxy", "backup"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{Overrides, load};
    use crate::config::value::{ExecCommand, ExecList};
    use crate::environment::Environment;

    fn config(change: impl FnOnce(&mut Config)) -> Config {
        let mut config = Config::default();
        config.lease.r#type = "static".into();
        change(&mut config);
        config
    }

    #[test]
    fn mistakes_are_refused_in_the_originals_words() {
        let cases: [(&str, Config); 10] = [
            ("fuse directory required", config(|c| c.fuse.dir = PathBuf::new())),
            ("data directory required", config(|c| c.data.dir = PathBuf::new())),
            (
                "fuse directory and data directory cannot be the same path",
                config(|c| c.data.dir = "/litefs/x/..//".into()),
            ),
            (
                "data directory /litefs/data cannot be inside the fuse directory /litefs",
                config(|c| c.data.dir = "/litefs/data".into()),
            ),
            (
                "invalid lease type, must be either 'consul' or 'static', got: ''",
                config(|c| c.lease.r#type = String::new()),
            ),
            (
                "cannot specify a database replication filter on candidate nodes",
                config(|c| c.lease.databases = vec!["db".into()]),
            ),
            (
                "lease.databases: invalid database name: \"a/b\"",
                config(|c| {
                    c.lease.candidate = false;
                    c.lease.databases = vec!["db".into(), "a/b".into()];
                }),
            ),
            (
                "cannot parse exec command[0]: invalid command line string",
                config(|c| c.exec = ExecList::single("a 'b".into())),
            ),
            ("exec command[0] is empty", config(|c| c.exec = ExecList::single(String::new()))),
            ("exec command[0] is empty", config(|c| c.exec = ExecList::single(" ; a".into()))),
        ];
        for (want, config) in cases {
            assert_eq!(validate(&config).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn commands_are_split() {
        let exec = ExecList(vec![
            ExecCommand { cmd: "a 'b c'".into(), if_candidate: true },
            ExecCommand { cmd: "d".into(), if_candidate: false },
        ]);
        let got = validate(&config(|c| c.exec = exec)).unwrap();
        assert_eq!(got[0], Command { words: vec!["a".into(), "b c".into()], if_candidate: true });
        assert_eq!(got[1].words, ["d"]);
    }

    #[test]
    fn keys_without_effect_and_dropped_words_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("litefs.yml");
        let text = "lease: {type: static}\nbackup: {path: /b}\nproxy: {target: x}\nexec: a; b\n";
        std::fs::write(&path, text).unwrap();
        let env = Environment::default();
        let overrides = Overrides { config: Some(path), ..Overrides::default() };
        let got = warnings(&load(&overrides, &env).unwrap());
        let want = [
            "proxy.target has no effect yet",
            "backup.path has no effect yet",
            "exec command[0]: everything from \"; b",
        ];
        for text in want {
            assert!(got.iter().any(|w| w.starts_with(text)), "{text} in {got:?}");
        }
        assert_eq!(got.len(), want.len(), "{got:?}");
    }
}
