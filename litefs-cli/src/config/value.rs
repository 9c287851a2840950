//! Values of the configuration that need a parser of their own.

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `data.durability`: what a commit promises about a power loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Durability {
    /// What the application asked of SQLite, no less, no more.
    Normal,
    /// Every commit is on disk before it is acknowledged.
    Always,
}

/// `exec`: a command line, or a list of them with conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ExecList(pub(crate) Vec<ExecCommand>);

/// One entry of `exec`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ExecCommand {
    /// The command line; see [`crate::words`].
    #[serde(default)]
    pub(crate) cmd: String,
    /// Run it only on a node that may become primary.
    #[serde(default)]
    pub(crate) if_candidate: bool,
}

impl ExecList {
    /// One command that runs everywhere.
    pub(crate) fn single(cmd: String) -> ExecList {
        ExecList(vec![ExecCommand { cmd, if_candidate: false }])
    }
}

impl Serialize for ExecList {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [ExecCommand { cmd, if_candidate: false }] => s.serialize_str(cmd),
            list => s.collect_seq(list),
        }
    }
}

// A visitor rather than an untagged enum, which would lose the line numbers of errors.
impl<'de> Deserialize<'de> for ExecList {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<ExecList, D::Error> {
        d.deserialize_any(ExecVisitor)
    }
}

struct ExecVisitor;

impl ExecVisitor {
    fn invalid<E: de::Error>() -> E {
        E::custom("invalid exec config format")
    }
}

impl<'de> Visitor<'de> for ExecVisitor {
    type Value = ExecList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command line or a list of commands")
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<ExecList, E> {
        Ok(ExecList::single(v.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<ExecList, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(seq)).map(ExecList)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<ExecList, E> {
        Err(ExecVisitor::invalid())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<ExecList, E> {
        Err(ExecVisitor::invalid())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<ExecList, E> {
        Err(ExecVisitor::invalid())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<ExecList, E> {
        Err(ExecVisitor::invalid())
    }
}
