//! Finds, expands and parses the configuration, and remembers where each value comes from.
//!
//! ```text
//! file ─► text ─► expand ($NAME) ─► YAML ─► defaults ─► environment ─► flags ─► Config
//! ```
//!
//! Whether the result makes sense is decided in [`super::validate`].

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::{ConfigError, YamlError};
use super::{Config, ExecList};
use crate::environment::Environment;
use crate::expand::{Expansion, expand};

/// What the command line says about the configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// `-config`: this file and no other.
    pub(crate) config: Option<PathBuf>,
    /// `-no-expand-env`
    pub(crate) no_expand_env: bool,
    /// `-dir`, for `fuse.dir`.
    pub(crate) fuse_dir: Option<PathBuf>,
    /// `-data`, for `data.dir`.
    pub(crate) data_dir: Option<PathBuf>,
    /// `-fuse.debug`
    pub(crate) fuse_debug: bool,
    /// `-debug`
    pub(crate) debug: bool,
    /// The command after `--`, for the whole `exec` list.
    pub(crate) exec: Option<String>,
}

/// A configuration and how it came to be.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// The file, if there was one.
    pub(crate) path: Option<PathBuf>,
    /// The values in effect.
    pub(crate) config: Config,
    /// What was replaced in the file's text.
    pub(crate) expansions: Vec<Expansion>,
    /// Keys that don't have their default, by their dotted name.
    pub(crate) sources: BTreeMap<String, Source>,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// It was set nowhere.
    Default,
    /// The file.
    File,
    /// This environment variable.
    Environment(&'static str),
    /// This flag.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File => f.write_str("file"),
            Source::Environment(name) => write!(f, "environment ({name})"),
            Source::Flag(name) => write!(f, "flag ({name})"),
        }
    }
}

/// Reads the configuration.
///
/// With both `-dir` and `-data` and no `-config`, no file is looked for: the node is a static primary.
///
/// # Errors
/// If there is none, or it can't be read or parsed.
pub(crate) fn load(overrides: &Overrides, env: &Environment) -> Result<Loaded, ConfigError> {
    let quick = overrides.fuse_dir.is_some() && overrides.data_dir.is_some();
    let mut loaded = match &overrides.config {
        Some(path) => load_file(path, overrides, env)?,
        None if quick => Loaded::quick(),
        None => load_searched(overrides, env)?,
    };
    loaded.apply_environment(env);
    loaded.apply_flags(overrides);
    Ok(loaded)
}

impl Loaded {
    /// Where the value of the key with this dotted name comes from.
    pub(crate) fn source(&self, key: &str) -> Source {
        self.sources.get(key).copied().unwrap_or(Source::Default)
    }

    /// All keys with their values in effect, sorted by name.
    pub(crate) fn values(&self) -> Vec<(String, Value)> {
        let mut leaves = Vec::new();
        // Serializing plain structs into JSON values can't fail; nothing to show if it did.
        walk("", &serde_json::to_value(&self.config).unwrap_or_default(), &mut leaves);
        leaves
    }

    fn quick() -> Loaded {
        let mut config = Config::default();
        config.lease.r#type = "static".into();
        let sources = BTreeMap::from([("lease.type".to_owned(), Source::Flag("-dir"))]);
        Loaded { path: None, config, expansions: Vec::new(), sources }
    }

    fn set(&mut self, key: &str, source: Source) {
        self.sources.insert(key.to_owned(), source);
    }

    fn apply_environment(&mut self, env: &Environment) {
        let set = |name| env.var(name).filter(|v| !v.trim().is_empty());
        let backup = &self.config.backup;
        let Some(token) = set("LITEFS_CLOUD_TOKEN") else { return };
        if !matches!(backup.r#type.as_str(), "" | "litefs-cloud") {
            return;
        }
        if backup.r#type.is_empty() {
            self.config.backup.r#type = "litefs-cloud".into();
            self.set("backup.type", Source::Environment("LITEFS_CLOUD_TOKEN"));
        }
        if self.config.backup.auth_token.is_empty() {
            self.config.backup.auth_token = token.into();
            self.set("backup.auth-token", Source::Environment("LITEFS_CLOUD_TOKEN"));
        }
        if let Some(url) = set("LITEFS_CLOUD_ENDPOINT") {
            self.config.backup.url = url.into();
            self.set("backup.url", Source::Environment("LITEFS_CLOUD_ENDPOINT"));
        }
    }

    fn apply_flags(&mut self, overrides: &Overrides) {
        if let Some(dir) = &overrides.fuse_dir {
            self.config.fuse.dir.clone_from(dir);
            self.set("fuse.dir", Source::Flag("-dir"));
        }
        if let Some(dir) = &overrides.data_dir {
            self.config.data.dir.clone_from(dir);
            self.set("data.dir", Source::Flag("-data"));
        }
        if overrides.fuse_debug {
            self.config.fuse.debug = true;
            self.set("fuse.debug", Source::Flag("-fuse.debug"));
        }
        if overrides.debug {
            self.config.log.debug = true;
            self.set("log.debug", Source::Flag("-debug"));
        }
        if let Some(cmd) = &overrides.exec {
            self.config.exec = ExecList::single(cmd.clone());
            self.set("exec", Source::Flag("--"));
        }
    }
}

/// The first of the usual files that exists.
fn load_searched(overrides: &Overrides, env: &Environment) -> Result<Loaded, ConfigError> {
    for place in SEARCH_PATHS {
        let path = match place.strip_prefix("~/") {
            Some(name) => match std::env::home_dir() {
                Some(home) => home.join(name),
                None => continue,
            },
            None => PathBuf::from(place),
        };
        match load_file(&path, overrides, env) {
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(err @ (ConfigError::Yaml(_) | ConfigError::Empty)) => {
                let source = Box::new(err);
                return Err(ConfigError::Unmarshal { path, source });
            }
            result => return result,
        }
    }
    Err(ConfigError::NotFound)
}

fn load_file(path: &Path, overrides: &Overrides, env: &Environment) -> Result<Loaded, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    let bytes = std::fs::read(path).map_err(read)?;
    let text = String::from_utf8(bytes).map_err(|_| ConfigError::NotText(path.to_owned()))?;
    let (text, expansions) =
        if overrides.no_expand_env { (text, Vec::new()) } else { expand(&text, env) };
    let (config, sources) = parse(&text)?;
    let path = Some(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    Ok(Loaded { path, config, expansions, sources })
}

/// Parses expanded text; also says which keys it sets.
fn parse(text: &str) -> Result<(Config, BTreeMap<String, Source>), ConfigError> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Err(ConfigError::Empty);
    }
    let yaml = |err| ConfigError::Yaml(YamlError::from(&err));
    let config: Config = serde_saphyr::from_str(text).map_err(yaml)?;
    let tree: Value = serde_saphyr::from_str(text).map_err(yaml)?;
    let mut leaves = Vec::new();
    walk("", &tree, &mut leaves);
    let set = leaves.into_iter().filter(|(_, value)| !value.is_null());
    Ok((config, set.map(|(key, _)| (key, Source::File)).collect()))
}

/// The values below `value` that aren't sections, with their dotted names.
fn walk(prefix: &str, value: &Value, leaves: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(section) => {
            for (key, value) in section {
                let dot = if prefix.is_empty() { "" } else { "." };
                walk(&format!("{prefix}{dot}{key}"), value, leaves);
            }
        }
        leaf => leaves.push((prefix.to_owned(), leaf.clone())),
    }
}

/// In this order. `~` is the home directory.
pub(super) const SEARCH_PATHS: [&str; 3] = ["./litefs.yml", "~/litefs.yml", "/etc/litefs.yml"];

#[cfg(test)]
mod tests;
