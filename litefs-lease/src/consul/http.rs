//! A request to Consul and its answer, with a time-out. What is asked is in [`super::api`].

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::ServerName;

use super::options::{ConsulOptionsError, Target};
use super::tls;
use crate::chain;

/// Connections to Consul, and what goes with each request.
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Scheme, host, port, without a slash at the end.
    base: String,
    /// Who we are.
    headers: HeaderMap,
}

/// What Consul said.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The state of the place at the answer, for queries that wait for the next.
    pub(super) index: Option<u64>,
    pub(super) body: Bytes,
}

/// Why it said nothing. The text names no token.
#[derive(Debug)]
pub(super) enum Silence {
    /// Not within the time.
    TimedOut(Duration),
    /// The connection failed: how.
    Broken(String),
}

impl Http {
    pub(super) fn new(target: &Target) -> Result<Http, ConsulOptionsError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let config = tls::client_config(target.tls.as_ref())?;
        let mut connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
        if let Some(name) = target.tls.as_ref().and_then(|tls| tls.server_name.clone()) {
            let name = ServerName::try_from(name)
                .map_err(|err| ConsulOptionsError::Url { message: err.to_string() })?;
            connector = connector.with_server_name_resolver(FixedServerNameResolver::new(name));
        }
        let mut headers = HeaderMap::new();
        if let Some(token) = &target.token {
            headers.insert(TOKEN, secret(token, "the consul token")?);
        }
        if let Some(auth) = &target.auth {
            let basic = format!("Basic {}", base64::encode(auth));
            headers.insert(AUTHORIZATION, secret(&basic, "CONSUL_HTTP_AUTH")?);
        }
        Ok(Http {
            client: Client::builder(TokioExecutor::new())
                .build(connector.enable_http1().wrap_connector(tcp)),
            base: target.base.as_str().trim_end_matches('/').to_owned(),
            headers,
        })
    }

    /// Scheme, host, port.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// `uri` is absolute.
    pub(super) async fn send(
        &self,
        method: &str,
        uri: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<Answer, Silence> {
        match tokio::time::timeout(limit, self.exchange(method, uri, body)).await {
            Ok(answer) => answer.map_err(|err| Silence::Broken(chain(&*err))),
            Err(_) => Err(Silence::TimedOut(limit)),
        }
    }

    async fn exchange(
        &self,
        method: &str,
        uri: &str,
        body: Vec<u8>,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = Method::from_bytes(method.as_bytes())?;
        *request.uri_mut() = uri.parse()?;
        *request.headers_mut() = self.headers.clone();
        let (head, body) = self.client.request(request).await?.into_parts();
        let index = head.headers.get(INDEX).and_then(|index| index.to_str().ok()?.parse().ok());
        let body = Limited::new(body, BODY_LIMIT).collect().await?.to_bytes();
        Ok(Answer { status: head.status.as_u16(), index, body })
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("base", &self.base).finish_non_exhaustive()
    }
}

/// A header's value that isn't shown when the header is.
fn secret(value: &str, what: &'static str) -> Result<HeaderValue, ConsulOptionsError> {
    let mut value =
        HeaderValue::from_str(value).map_err(|_| ConsulOptionsError::Header { what })?;
    value.set_sensitive(true);
    Ok(value)
}

const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
/// Consul's values are no longer than 512 KiB; ours are much shorter.
const BODY_LIMIT: usize = 4 << 20;
