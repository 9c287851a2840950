//! The environment variables as the configuration and child processes see them.
//!
//! A snapshot taken once: this process never changes its own environment, which other threads may
//! read at any time. Invariant: `HOSTNAME` is never empty if the system knows its name.

use std::collections::BTreeMap;
use std::env;

/// Environment variables, `HOSTNAME` completed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    vars: BTreeMap<String, String>,
    hostname: Option<String>,
}

impl Environment {
    /// The environment of this process. Bytes that aren't UTF-8 are replaced.
    pub(crate) fn capture() -> Environment {
        let lossy = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
        let vars = env::vars_os().map(|(k, v)| (lossy(k), lossy(v))).collect();
        let hostname = nix::unistd::gethostname().ok().map(lossy);
        Environment { vars, hostname: None }.with_hostname(hostname)
    }

    /// The value of a variable; `None` if it isn't set.
    pub(crate) fn var(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str)
    }

    /// What children must get beside what they inherit.
    pub(crate) fn additions(&self) -> impl Iterator<Item = (&str, &str)> {
        self.hostname.iter().map(|h| ("HOSTNAME", h.as_str()))
    }

    fn with_hostname(mut self, hostname: Option<String>) -> Environment {
        if self.var("HOSTNAME").unwrap_or_default().is_empty()
            && let Some(hostname) = hostname
        {
            self.vars.insert("HOSTNAME".into(), hostname.clone());
            self.hostname = Some(hostname);
        }
        self
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(vars: [(&str, &str); N]) -> Environment {
        let vars = vars.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Environment { vars, hostname: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_hostname_is_completed_and_passed_on() {
        for (vars, want, passed) in [
            (Environment::default(), "box", true),
            (Environment::from([("HOSTNAME", "")]), "box", true),
            (Environment::from([("HOSTNAME", "mine")]), "mine", false),
        ] {
            let env = vars.with_hostname(Some("box".into()));
            assert_eq!(env.var("HOSTNAME"), Some(want));
            assert_eq!(env.additions().count() == 1, passed);
        }
    }
}
