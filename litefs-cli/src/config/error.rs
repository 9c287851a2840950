//! What can be wrong with a configuration, in the original's words, and what to do about it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::config::load::SEARCH_PATHS;
use crate::ostext::os_text;
use crate::words::InvalidCommandLine;

/// A configuration that can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum ConfigError {
    /// None of the usual places has one.
    #[error("config file not found")]
    NotFound,
    /// It is there, or was named, but can't be read.
    #[error("cannot read config file at {}: {}", path.display(), os_text(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It isn't UTF-8.
    #[error("cannot read config file at {}: it isn't UTF-8 text", .0.display())]
    NotText(PathBuf),
    /// It was named by `-config` and has no content.
    #[error("EOF")]
    Empty,
    /// It isn't YAML, or not what it should hold.
    #[error(transparent)]
    Yaml(YamlError),
    /// The same, in a file that was searched for.
    #[error("cannot unmarshal config file at {}: {source}", path.display())]
    Unmarshal {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<ConfigError>,
    },
    #[error("fuse directory required")]
    FuseDir,
    #[error("data directory required")]
    DataDir,
    #[error("fuse directory and data directory cannot be the same path")]
    SameDir,
    /// The data would vanish behind the mount.
    #[error("data directory {} cannot be inside the fuse directory {}", data.display(), fuse.display())]
    DataInFuse {
        /// `data.dir`
        data: PathBuf,
        /// `fuse.dir`
        fuse: PathBuf,
    },
    #[error("invalid lease type, must be either 'consul' or 'static', got: '{0}'")]
    LeaseType(String),
    #[error("cannot specify a database replication filter on candidate nodes")]
    FilterOnCandidate,
    /// `lease.databases` with something that can't be a database.
    #[error("lease.databases: {0}")]
    FilterName(#[source] litefs_core::types::ParseError),
    #[error("cannot parse exec command[{index}]: {source}")]
    ExecParse {
        /// Which entry, from 0.
        index: usize,
        /// Why.
        source: InvalidCommandLine,
    },
    /// Nothing to run.
    #[error("exec command[{0}] is empty")]
    ExecEmpty(usize),
}

/// A mistake in the YAML text.
#[derive(Debug, Error)]
#[error("yaml: unmarshal errors:\n  {}{text}", line_prefix(*line))]
pub(crate) struct YamlError {
    /// From 1; `None` if unknown.
    pub(crate) line: Option<u64>,
    /// What is wrong there.
    pub(crate) text: String,
    /// What would be right.
    pub(crate) hint: Option<String>,
}

impl ConfigError {
    /// What the user can do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            ConfigError::NotFound => Some(format!(
                "looked for {}; give one with -config PATH, or run without: \
                 litefs mount -dir MOUNT -data DIRECTORY",
                SEARCH_PATHS.join(", ")
            )),
            ConfigError::Empty => {
                Some("the file is empty; it needs at least `lease: {type: static}`".into())
            }
            ConfigError::Yaml(err) => err.hint.clone(),
            ConfigError::Unmarshal { source, .. } => source.hint(),
            ConfigError::SameDir => Some(
                "data.dir holds the real files, fuse.dir is where the application sees them".into(),
            ),
            ConfigError::DataInFuse { .. } => {
                Some("the mount would hide the data; put data.dir somewhere else".into())
            }
            ConfigError::LeaseType(_) => {
                Some("for a single primary that never changes, set `lease: {type: static}`".into())
            }
            ConfigError::FilterOnCandidate => {
                Some("remove lease.databases, or set lease.candidate to false".into())
            }
            ConfigError::ExecParse { .. } => Some(
                "check for an open quote, a trailing backslash or a parenthesis; \
                 for shell syntax write sh -c '…'"
                    .into(),
            ),
            ConfigError::ExecEmpty(_) => {
                Some("remove the entry, or check that the variable it expands to is set".into())
            }
            _ => None,
        }
    }
}

impl From<&serde_saphyr::Error> for YamlError {
    fn from(err: &serde_saphyr::Error) -> YamlError {
        use serde_saphyr::Error as E;
        let err = err.without_snippet();
        let location = err.location();
        let line = location.map(|at| at.line());
        let (text, hint) = match err {
            E::SerdeUnknownField { field, expected, .. } => (
                format!("field {field} not found in type Config"),
                Some(match closest(field, expected) {
                    Some(key) => format!("did you mean `{key}`?"),
                    None => format!("known here: {}", expected.join(", ")),
                }),
            ),
            E::DuplicateMappingKey { key, .. } => (
                format!("mapping key {:?} already defined", key.as_deref().unwrap_or_default()),
                None,
            ),
            E::MultipleDocuments { .. } => {
                ("more than one document".into(), Some("keep one, without a second `---`".into()))
            }
            _ => (strip_location(&err.to_string()).to_owned(), None),
        };
        let hint = hint.or_else(|| {
            text.ends_with("into time.Duration").then(|| {
                "a duration is a number with a unit: ns, us, ms, s, m or h, such as 5s or 1m30s"
                    .into()
            })
        });
        YamlError { line, text, hint }
    }
}

fn line_prefix(line: Option<u64>) -> String {
    line.map(|n| format!("line {n}: ")).unwrap_or_default()
}

/// The parser ends its texts in ` at line 1, column 2`; ours begin with the line.
fn strip_location(text: &str) -> &str {
    text.rfind(" at line ").map_or(text, |at| &text[..at])
}

/// The known key that a misspelt one is nearest to, if it is near at all.
fn closest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().map(|key| (distance(word, key), *key)).min()?;
    (near.0 <= 1 + word.len() / 3).then_some(near.1)
}

/// How many insertions, deletions and replacements turn one text into the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_keys_find_their_neighbour() {
        let known = ["dir", "compress", "retention", "retention-size"];
        for (word, want) in [
            ("retension", Some("retention")),
            ("Dir", Some("dir")),
            ("comprss", Some("compress")),
            ("retention_size", Some("retention-size")),
            ("exec", None),
        ] {
            assert_eq!(closest(word, &known), want, "{word}");
        }
    }
}
