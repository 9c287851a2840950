//! What a Consul lease is told: by the configuration, and where that says nothing by Consul's own environment variables.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use thiserror::Error;
use url::Url;

use super::tls::TlsOptions;
use crate::PrimaryInfo;

/// How to reach Consul, and what to hold there.
#[derive(Clone)]
#[non_exhaustive]
pub struct ConsulOptions {
    /// `scheme://:token@host:port/prefix`. Each part may be missing: the environment says then, or Consul's default.
    pub url: String,
    /// The lease's key, below the prefix.
    pub key: String,
    /// What this node says of itself as the primary.
    pub own: PrimaryInfo,
    /// This node's ID: it tells the node its own earlier life.
    pub node_id: u64,
    /// How long a session lives without being renewed, at least. Consul takes no less than 10 s.
    pub ttl: Duration,
    /// How long the key can't be taken after its holder was lost.
    pub lock_delay: Duration,
    /// Whether a lost primary is replaced within seconds instead of after the TTL.
    pub fast_failover: Option<FastFailover>,
    /// `CONSUL_HTTP_ADDR` and its like.
    pub environment: Environment,
}

/// See [the module](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FastFailover {
    /// How long a primary may write without having reached Consul.
    pub fence: Duration,
}

impl Default for FastFailover {
    fn default() -> FastFailover {
        FastFailover { fence: Duration::from_secs(2) }
    }
}

impl FastFailover {
    /// With another fence.
    pub fn fence(fence: Duration) -> FastFailover {
        FastFailover { fence }
    }
}

impl ConsulOptions {
    /// With the defaults: a TTL of 10 s, a lock delay of 1 s, no fast failover, this process's environment.
    pub fn new(url: &str, key: &str, own: PrimaryInfo, node_id: u64) -> ConsulOptions {
        ConsulOptions {
            url: url.into(),
            key: key.into(),
            own,
            node_id,
            ttl: Duration::from_secs(10),
            lock_delay: Duration::from_secs(1),
            fast_failover: None,
            environment: Environment::of_process(),
        }
    }
}

impl fmt::Debug for ConsulOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL and the environment may hold a token.
        f.debug_struct("ConsulOptions")
            .field("key", &self.key)
            .field("own", &self.own)
            .field("node_id", &self.node_id)
            .field("ttl", &self.ttl)
            .field("lock_delay", &self.lock_delay)
            .field("fast_failover", &self.fast_failover)
            .finish_non_exhaustive()
    }
}

/// The variables that Consul's own programs read. Empty ones count as not there.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// That of this process.
    pub fn of_process() -> Environment {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    fn flag(&self, name: &'static str) -> Result<Option<bool>, ConsulOptionsError> {
        match self.text(name) {
            None => Ok(None),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(_) => Err(ConsulOptionsError::NotABool { name }),
        }
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Environment {
        let consul = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Environment(consul.filter(|(name, _)| name.starts_with("CONSUL_")).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One of them is the token.
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What is wrong with the options. The token is in none of these texts.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConsulOptionsError {
    /// No key.
    #[error("must specify a consul key")]
    NoKey,
    /// No host name.
    #[error("must specify a hostname for this node")]
    NoHostname,
    /// No advertise URL.
    #[error("must specify an advertise URL for this node")]
    NoAdvertiseUrl,
    /// Consul would take it for another.
    #[error("consul key {key:?} may not have . or .. between its slashes")]
    Key {
        /// The key.
        key: String,
    },
    /// Not an address.
    #[error("cannot parse consul url: {message}")]
    Url {
        /// What is wrong.
        message: String,
    },
    /// HTTP and HTTPS only.
    #[error("unknown scheme {scheme:?} in consul url: http or https")]
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// It can't be sent.
    #[error("{what} has characters that an HTTP header can't hold")]
    Header {
        /// What it is.
        what: &'static str,
    },
    /// Not true or false.
    #[error("{name} is neither true nor false")]
    NotABool {
        /// The variable.
        name: &'static str,
    },
    /// A file that can't be read, or isn't what it should be.
    #[error("{file}: {message}", file = file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// One without the other.
    #[error("CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY need each other")]
    HalfAnIdentity,
}

/// Where and how, with everything decided.
pub(super) struct Target {
    /// Scheme, host, port.
    pub(super) base: Url,
    pub(super) token: Option<String>,
    /// User and password for a proxy before Consul.
    pub(super) auth: Option<String>,
    pub(super) namespace: Option<String>,
    /// Before the key, without slashes at its ends; may be empty.
    pub(super) prefix: String,
    /// `None` if Consul is asked in the clear.
    pub(super) tls: Option<TlsOptions>,
}

impl Target {
    pub(super) fn new(url: &str, environment: &Environment) -> Result<Target, ConsulOptionsError> {
        let tls_wanted = environment.flag("CONSUL_HTTP_SSL")?.unwrap_or(false);
        let verify = environment.flag("CONSUL_HTTP_SSL_VERIFY")?.unwrap_or(true);
        let url = match url {
            "" => None,
            url => Some(parse(url, tls_wanted)?),
        };
        let address = match &url {
            Some(url) => url.clone(),
            None => {
                let address = environment.text("CONSUL_HTTP_ADDR").unwrap_or("127.0.0.1:8500");
                parse(address, tls_wanted)?
            }
        };
        let tls = (address.scheme() == "https").then(|| TlsOptions {
            verify,
            ca_cert: environment.path("CONSUL_CACERT"),
            ca_path: environment.path("CONSUL_CAPATH"),
            client_cert: environment.path("CONSUL_CLIENT_CERT"),
            client_key: environment.path("CONSUL_CLIENT_KEY"),
            server_name: environment.text("CONSUL_TLS_SERVER_NAME").map(str::to_owned),
        });
        let token = match url.as_ref().and_then(Url::password) {
            Some(password) => Some(decode(password)),
            None => token(environment)?,
        };
        let mut base = address;
        for result in [base.set_username(""), base.set_password(None)] {
            result.map_err(|()| no_host())?;
        }
        base.set_path("");
        base.set_query(None);
        base.set_fragment(None);
        Ok(Target {
            prefix: url.map(|url| clean(&decode(url.path()))).unwrap_or_default(),
            base,
            token,
            auth: environment.text("CONSUL_HTTP_AUTH").map(str::to_owned),
            namespace: environment.text("CONSUL_NAMESPACE").map(str::to_owned),
            tls,
        })
    }
}

/// A file's token, if one is named, goes before the variable's.
fn token(environment: &Environment) -> Result<Option<String>, ConsulOptionsError> {
    if let Some(file) = environment.path("CONSUL_HTTP_TOKEN_FILE") {
        let token = std::fs::read_to_string(&file)
            .map_err(|err| ConsulOptionsError::File { file, message: err.to_string() })?;
        if !token.trim().is_empty() {
            return Ok(Some(token.trim().to_owned()));
        }
    }
    Ok(environment.text("CONSUL_HTTP_TOKEN").map(str::to_owned))
}

/// An address may lack its scheme.
fn parse(text: &str, tls: bool) -> Result<Url, ConsulOptionsError> {
    let text = match text.contains("://") {
        true => text.to_owned(),
        false => format!("{}://{text}", if tls { "https" } else { "http" }),
    };
    let url =
        Url::parse(&text).map_err(|err| ConsulOptionsError::Url { message: err.to_string() })?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        "http" | "https" => Err(no_host()),
        scheme => Err(ConsulOptionsError::Scheme { scheme: scheme.into() }),
    }
}

fn no_host() -> ConsulOptionsError {
    ConsulOptionsError::Url { message: "no host".into() }
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Without slashes at the ends or in a row: Consul answers such a key with a redirect.
pub(super) fn clean(key: &str) -> String {
    key.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str, variables: &[(&str, &str)]) -> Result<Target, ConsulOptionsError> {
        Target::new(url, &variables.iter().copied().collect())
    }

    #[test]
    fn an_address_is_that_of_the_url_else_of_the_environment_else_this_machines() {
        for (url, variables, want) in [
            ("", &[][..], "http://127.0.0.1:8500/"),
            ("", &[("CONSUL_HTTP_ADDR", "c:1")], "http://c:1/"),
            ("", &[("CONSUL_HTTP_ADDR", "127.0.0.1:8500")], "http://127.0.0.1:8500/"),
            ("", &[("CONSUL_HTTP_ADDR", "c:1"), ("CONSUL_HTTP_SSL", "true")], "https://c:1/"),
            ("", &[("CONSUL_HTTP_ADDR", "http://c:1"), ("CONSUL_HTTP_SSL", "1")], "http://c:1/"),
            ("", &[("CONSUL_HTTP_SSL", "1")], "https://127.0.0.1:8500/"),
            ("https://d:2", &[("CONSUL_HTTP_ADDR", "c:1")], "https://d:2/"),
            ("d:2/pre", &[("CONSUL_HTTP_SSL", "t")], "https://d:2/"),
            ("http://u:p@d:2/a?b#c", &[("CONSUL_HTTP_SSL", "true")], "http://d:2/"),
            ("http://[::1]:8500", &[], "http://[::1]:8500/"),
        ] {
            let target = target(url, variables).unwrap();
            assert_eq!(target.base.as_str(), want, "{url} {variables:?}");
            assert_eq!(target.tls.is_some(), want.starts_with("https"), "{url} {variables:?}");
        }
    }

    #[test]
    fn what_cant_be_an_address_is_refused() {
        for url in ["ftp://c", "unix:///run/consul.sock", "http://", "c:99999", "http://a b"] {
            let err = target(url, &[]).map(|_| ()).unwrap_err();
            assert!(
                matches!(err, ConsulOptionsError::Url { .. } | ConsulOptionsError::Scheme { .. }),
                "{url}: {err}"
            );
        }
        let err = target("", &[("CONSUL_HTTP_SSL", "yes")]).map(|_| ()).unwrap_err();
        assert_eq!(err.to_string(), "CONSUL_HTTP_SSL is neither true nor false");
    }

    #[test]
    fn the_token_is_the_urls_password_else_the_files_else_the_variables() {
        let dir = std::env::temp_dir().join(format!("litefs-token-{}", std::process::id()));
        std::fs::write(&dir, " of file\n").unwrap();
        let file = dir.to_str().unwrap();
        let variable = ("CONSUL_HTTP_TOKEN", "of variable");
        for (url, variables, want) in [
            ("http://c", &[][..], None),
            ("http://user@c", &[], None),
            ("http://c", &[variable], Some("of variable")),
            ("http://c", &[variable, ("CONSUL_HTTP_TOKEN_FILE", file)], Some("of file")),
            ("http://:of%20url%2F%23@c", &[variable], Some("of url/#")),
        ] {
            let target = target(url, variables).unwrap();
            assert_eq!(target.token.as_deref(), want, "{url} {variables:?}");
        }
        std::fs::remove_file(&dir).unwrap();
        assert!(target("http://c", &[("CONSUL_HTTP_TOKEN_FILE", file)]).is_err());
    }

    #[test]
    fn a_prefix_has_no_slashes_at_its_ends() {
        for (url, want) in [
            ("http://c", ""),
            ("http://c/", ""),
            ("http://c/a/", "a"),
            ("http://c//a//b%20c", "a/b c"),
        ] {
            assert_eq!(target(url, &[]).unwrap().prefix, want, "{url}");
        }
    }

    #[test]
    fn the_token_is_never_shown() {
        let own = PrimaryInfo { hostname: "a".into(), advertise_url: "http://a".into() };
        let mut options = ConsulOptions::new("http://:s3cret@c", "key", own, 1);
        options.environment = Environment::from_iter([("CONSUL_HTTP_TOKEN", "s3cret")]);
        let shown = format!("{options:?} {:?}", options.environment);
        assert!(shown.contains("CONSUL_HTTP_TOKEN") && !shown.contains("s3cret"), "{shown}");
        options.url = "http://:s3cret%0A@c".into();
        let err = super::super::ConsulLeaser::new(options).unwrap_err();
        assert!(!err.to_string().contains("s3cret"), "{err}");
    }
}
