//! The calls to Consul that a lease needs, and what its answers mean.
//!
//! Requests are consulrs's types; transactions, which it lacks, are here. A session is made and renewed, and the key read and
//! taken, as an original node does it, byte for byte. What comes after that are transactions with the same effect.

use std::time::Duration;

use consulrs::api::catalog::requests::RegisterEntityRequest;
use consulrs::api::kv::common::KVPair;
use consulrs::api::kv::requests::{DeleteKeyRequest, ReadKeyRequest, SetKeyRequest};
use consulrs::api::session::requests::{
    CreateSessionRequest, DeleteSessionRequest, RenewSessionRequest,
};
use rustify::endpoint::Endpoint;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::http::{Answer, Http, Silence};
use super::options::{ConsulOptionsError, Target};
use crate::LeaseError;

/// Consul.
#[derive(Debug)]
pub(super) struct Api {
    http: Http,
    namespace: Option<String>,
}

/// Why a call has no result.
#[derive(Debug, Error)]
pub(super) enum ApiError {
    #[error("no answer from {base} within {limit:?}")]
    TimedOut { base: String, limit: Duration },
    #[error("{base}: {message}{}", advice(message))]
    Broken { base: String, message: String },
    #[error("{base} answers {status}: {text}{}", advice(text))]
    Refused { base: String, status: u16, text: String },
    #[error("{base} answers with something else than {what}: is this Consul?")]
    Malformed { base: String, what: &'static str },
}

impl ApiError {
    /// Whether Consul has said no; otherwise nobody knows what it did.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, ApiError::Refused { .. })
    }

    /// Whether the node that a session should belong to isn't in the catalog.
    pub(super) fn is_unknown_node(&self) -> bool {
        matches!(self, ApiError::Refused { text, .. } if text.contains("Missing node registration"))
    }
}

impl From<ApiError> for LeaseError {
    fn from(err: ApiError) -> LeaseError {
        LeaseError::Unavailable { message: format!("consul: {err}") }
    }
}

/// How fresh an answer must be, and what it waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Read {
    /// As the original asks.
    Plain,
    /// What is true now, checked with the other servers.
    Consistent,
    /// The state after `index`, or what it is when `wait` is over.
    After { index: u64, wait: Duration },
}

/// A key, and what else Consul knows of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Vec<u8>,
    pub(super) session: Option<String>,
    pub(super) modify_index: u64,
}

/// One step of a transaction, which happens as a whole or not at all.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// The key was last written then.
    Check {
        key: &'a str,
        modify_index: u64,
    },
    Set {
        key: &'a str,
        value: Vec<u8>,
    },
    Lock {
        key: &'a str,
        value: Vec<u8>,
        session: &'a str,
    },
    Unlock {
        key: &'a str,
        session: &'a str,
    },
    /// All keys that begin so.
    List {
        prefix: &'a str,
    },
    /// Removes them.
    Clear {
        prefix: &'a str,
    },
}

impl Api {
    pub(super) fn new(target: &Target) -> Result<Api, ConsulOptionsError> {
        Ok(Api { http: Http::new(target)?, namespace: target.namespace.clone() })
    }

    /// Puts a node into the catalog, for sessions to belong to.
    pub(super) async fn register(&self, node: &str, limit: Duration) -> Result<(), ApiError> {
        let mut request = RegisterEntityRequest::builder();
        let request = request.node(node).address("localhost").skip_node_update(false);
        self.call(request.build().expect(COMPLETE), "", limit).await?;
        Ok(())
    }

    /// Makes a session; its ID.
    pub(super) async fn create_session(
        &self,
        node: Option<&str>,
        ttl: Duration,
        lock_delay: Duration,
        limit: Duration,
    ) -> Result<String, ApiError> {
        #[derive(Deserialize)]
        struct Created {
            #[serde(rename = "ID")]
            id: String,
        }
        let mut request = CreateSessionRequest::builder();
        let request = request
            .behavior("delete")
            .lock_delay(format!("{}ms", lock_delay.as_millis()))
            .name("litefs")
            .node_checks(Vec::<String>::new())
            .ttl(go_duration(ttl));
        if let Some(node) = node {
            request.node(node);
        }
        let answer = self.call(request.build().expect(COMPLETE), "", limit).await?;
        Ok(self.parse::<Created>(&answer, "a session")?.id)
    }

    /// Whether the session was still there, and now lives on.
    pub(super) async fn renew_session(
        &self,
        session: &str,
        limit: Duration,
    ) -> Result<bool, ApiError> {
        let request = RenewSessionRequest::builder().uuid(session).build().expect(COMPLETE);
        match self.call(request, "", limit).await {
            Ok(_) => Ok(true),
            Err(ApiError::Refused { status: 404, .. }) => Ok(false),
            Err(err) => Err(err),
        }
    }

    pub(super) async fn destroy_session(
        &self,
        session: &str,
        limit: Duration,
    ) -> Result<(), ApiError> {
        let request = DeleteSessionRequest::builder().uuid(session).build().expect(COMPLETE);
        self.call(request, "", limit).await?;
        Ok(())
    }

    /// The key, and the index for the next [`Read::After`].
    pub(super) async fn read(
        &self,
        key: &str,
        read: Read,
        limit: Duration,
    ) -> Result<(Option<Entry>, u64), ApiError> {
        let query = match read {
            Read::Plain => String::new(),
            Read::Consistent => "consistent".into(),
            Read::After { index, wait } => format!("index={index}&wait={}ms", wait.as_millis()),
        };
        let request = ReadKeyRequest::builder().key(key).build().expect(COMPLETE);
        let answer = match self.exchange(request, &query, limit).await? {
            answer if answer.status == 404 => return Ok((None, answer.index.unwrap_or(0))),
            answer => self.accept(answer)?,
        };
        let pairs: Vec<KVPair> = self.parse(&answer, "keys")?;
        let entry = match pairs.into_iter().next() {
            Some(pair) => Some(self.entry(pair)?),
            None => None,
        };
        Ok((entry, answer.index.unwrap_or(0)))
    }

    /// Takes a key for a session and sets it; whether it could be had.
    pub(super) async fn acquire(
        &self,
        key: &str,
        value: Vec<u8>,
        session: &str,
        limit: Duration,
    ) -> Result<bool, ApiError> {
        let mut request = SetKeyRequest::builder();
        let request = request.key(key).value(value).acquire(session).build().expect(COMPLETE);
        self.call_bool(request, limit).await
    }

    /// Sets a key that isn't there; whether it wasn't.
    pub(super) async fn create(
        &self,
        key: &str,
        value: Vec<u8>,
        limit: Duration,
    ) -> Result<bool, ApiError> {
        let mut request = SetKeyRequest::builder();
        let request = request.key(key).value(value).cas(0_u64).build().expect(COMPLETE);
        self.call_bool(request, limit).await
    }

    /// Removes a key that was last written then; whether it was.
    pub(super) async fn remove(
        &self,
        key: &str,
        modify_index: u64,
        limit: Duration,
    ) -> Result<bool, ApiError> {
        let mut request = DeleteKeyRequest::builder();
        let request = request.key(key).cas(modify_index).build().expect(COMPLETE);
        self.call_bool(request, limit).await
    }

    /// The keys that the steps have touched or found, in their order; `None` if one of them didn't apply.
    pub(super) async fn transaction(
        &self,
        steps: &[Step<'_>],
        limit: Duration,
    ) -> Result<Option<Vec<Entry>>, ApiError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Done {
            results: Option<Vec<Touched>>,
        }
        #[derive(Deserialize)]
        struct Touched {
            #[serde(rename = "KV")]
            pair: KVPair,
        }
        let operations: Vec<_> = steps.iter().map(operation).collect();
        let body = serde_json::to_vec(&operations).expect("strings and numbers only");
        // A transaction that only reads is answered like a query.
        let uri = self.with_query(format!("{}/v1/txn", self.http.base()), "consistent");
        let answer = match self.send("PUT", &uri, body, limit).await? {
            answer if answer.status == 409 => return Ok(None),
            answer => self.accept(answer)?,
        };
        let done: Done = self.parse(&answer, "a transaction's results")?;
        let touched = done.results.unwrap_or_default().into_iter();
        touched.map(|touched| self.entry(touched.pair)).collect::<Result<_, _>>().map(Some)
    }

    async fn call_bool(&self, request: impl Endpoint, limit: Duration) -> Result<bool, ApiError> {
        let answer = self.call(request, "", limit).await?;
        self.parse(&answer, "true or false")
    }

    async fn call(
        &self,
        request: impl Endpoint,
        query: &str,
        limit: Duration,
    ) -> Result<Answer, ApiError> {
        self.exchange(request, query, limit).await.and_then(|answer| self.accept(answer))
    }

    /// Sends what the request says; not with rustify's client, which has no time-out and logs every 404 as an error.
    async fn exchange(
        &self,
        request: impl Endpoint,
        query: &str,
        limit: Duration,
    ) -> Result<Answer, ApiError> {
        let request = request.request(&format!("{}/v1", self.http.base())).map_err(|err| {
            ApiError::Broken { base: self.http.base().into(), message: err.to_string() }
        })?;
        let uri = self.with_query(request.uri().to_string(), query);
        let method = request.method().as_str().to_owned();
        self.send(&method, &uri, request.into_body(), limit).await
    }

    fn with_query(&self, mut uri: String, query: &str) -> String {
        // rustify writes the mark for an empty query, too.
        if uri.ends_with('?') {
            uri.pop();
        }
        let namespace = self.namespace.as_ref().map(|namespace| {
            let name = percent_encoding::NON_ALPHANUMERIC;
            format!("ns={}", percent_encoding::utf8_percent_encode(namespace, name))
        });
        for part in [query].into_iter().chain(namespace.as_deref()).filter(|part| !part.is_empty())
        {
            uri.push(if uri.contains('?') { '&' } else { '?' });
            uri.push_str(part);
        }
        uri
    }

    async fn send(
        &self,
        method: &str,
        uri: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<Answer, ApiError> {
        self.http.send(method, uri, body, limit).await.map_err(|silence| {
            let base = self.http.base().to_owned();
            match silence {
                Silence::TimedOut(limit) => ApiError::TimedOut { base, limit },
                Silence::Broken(message) => ApiError::Broken { base, message },
            }
        })
    }

    fn accept(&self, answer: Answer) -> Result<Answer, ApiError> {
        if answer.status == 200 {
            return Ok(answer);
        }
        let text = String::from_utf8_lossy(&answer.body);
        let text = text.trim().chars().take(300).collect();
        Err(ApiError::Refused { base: self.http.base().into(), status: answer.status, text })
    }

    fn parse<T: DeserializeOwned>(
        &self,
        answer: &Answer,
        what: &'static str,
    ) -> Result<T, ApiError> {
        serde_json::from_slice(&answer.body)
            .map_err(|_| ApiError::Malformed { base: self.http.base().into(), what })
    }

    fn entry(&self, pair: KVPair) -> Result<Entry, ApiError> {
        let value = pair.value.map(TryInto::<Vec<u8>>::try_into).transpose();
        let malformed = |_| ApiError::Malformed { base: self.http.base().into(), what: "base64" };
        Ok(Entry {
            key: pair.key,
            value: value.map_err(malformed)?.unwrap_or_default(),
            session: pair.session.filter(|session| !session.is_empty()),
            modify_index: pair.modify_index,
        })
    }
}

/// A transaction's step as Consul reads it.
fn operation(step: &Step<'_>) -> impl Serialize {
    #[derive(Serialize)]
    struct Operation<'a> {
        #[serde(rename = "KV")]
        kv: Kv<'a>,
    }
    #[derive(Serialize, Default)]
    #[serde(rename_all = "PascalCase")]
    struct Kv<'a> {
        verb: &'static str,
        key: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        value: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        index: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        session: Option<&'a str>,
    }
    let kv = match *step {
        Step::Check { key, modify_index } => {
            Kv { verb: "check-index", key, index: Some(modify_index), ..Kv::default() }
        }
        Step::Set { key, ref value } => {
            Kv { verb: "set", key, value: Some(base64::encode(value)), ..Kv::default() }
        }
        Step::Lock { key, ref value, session } => {
            let value = Some(base64::encode(value));
            Kv { verb: "lock", key, value, session: Some(session), ..Kv::default() }
        }
        Step::Unlock { key, session } => {
            Kv { verb: "unlock", key, session: Some(session), ..Kv::default() }
        }
        Step::List { prefix } => Kv { verb: "get-tree", key: prefix, ..Kv::default() },
        Step::Clear { prefix } => Kv { verb: "delete-tree", key: prefix, ..Kv::default() },
    };
    Operation { kv }
}

/// What to do about an error that comes from the configuration; empty if it doesn't.
fn advice(text: &str) -> &'static str {
    const ADVICE: [(&str, &str); 9] = [
        ("Invalid Session TTL", "; lease.consul.ttl must lie in Consul's limits, 10s or more"),
        ("Permission denied", DENIED),
        ("ACL not found", "; Consul doesn't know this token"),
        ("HTTP request to an HTTPS server", "; write https:// in lease.consul.url"),
        ("InvalidContentType", "; Consul speaks no TLS here: write http:// in lease.consul.url"),
        ("UnknownIssuer", "; name Consul's authority in CONSUL_CACERT"),
        ("BadCertificate", UNKNOWN),
        ("CertificateRequired", UNKNOWN),
        ("Invalid query parameter: \"ns\"", "; CONSUL_NAMESPACE is for Consul Enterprise only"),
    ];
    ADVICE.iter().find(|(cause, _)| text.contains(cause)).map_or("", |(_, advice)| advice)
}

/// As Go writes a whole number of milliseconds.
fn go_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    match (ms / 60_000, ms % 60_000) {
        (0, ms) if ms < 1000 => format!("{ms}ms"),
        (0, ms) => format!("{}s", seconds(ms)),
        (minutes, ms) if minutes < 60 => format!("{minutes}m{}s", seconds(ms)),
        (minutes, ms) => format!("{}h{}m{}s", minutes / 60, minutes % 60, seconds(ms)),
    }
}

fn seconds(ms: u128) -> String {
    let text = format!("{}.{:03}", ms / 1000, ms % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

const COMPLETE: &str = "all of its fields have defaults";
const UNKNOWN: &str =
    "; Consul wants a certificate from us: name one in CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY";
const DENIED: &str = "; the token (lease.consul.url's password, or CONSUL_HTTP_TOKEN) needs key_prefix \"<key>\" write \
                      and session_prefix \"\" write";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_does() {
        for (ms, want) in [
            (10_000, "10s"),
            (1500, "1.5s"),
            (500, "500ms"),
            (60_000, "1m0s"),
            (90_250, "1m30.25s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(ms)), want);
        }
    }
}
