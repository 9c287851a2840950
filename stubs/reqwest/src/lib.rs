//! The names of reqwest 0.11 that consulrs and rustify mention, without an HTTP client behind them.
//!
//! `litefs-lease` takes consulrs's types for Consul's requests and answers, and sends them with the HTTP and TLS stack
//! that is in the tree anyway. consulrs's own client would bring a second one, with OpenSSL and versions of hyper, h2
//! and rustls that have known defects. Nothing here is ever called; if it were, it would say [`Error`].

use std::convert::Infallible;
use std::fmt;

/// There is no client.
#[derive(Debug)]
pub struct Error;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this build has no reqwest")
    }
}

impl std::error::Error for Error {}

/// Sends nothing.
#[derive(Debug, Default)]
pub struct Client;

impl Client {
    /// Fails.
    pub async fn execute(&self, _: Request) -> Result<Response, Error> {
        Err(Error)
    }
}

/// Builds nothing.
#[derive(Debug)]
pub struct ClientBuilder;

impl ClientBuilder {
    #[allow(clippy::new_without_default)]
    /// As reqwest has it.
    pub fn new() -> ClientBuilder {
        ClientBuilder
    }

    /// Ignored.
    pub fn danger_accept_invalid_certs(self, _: bool) -> ClientBuilder {
        self
    }

    /// Can't be called.
    pub fn add_root_certificate(self, certificate: Certificate) -> ClientBuilder {
        match certificate.0 {}
    }

    /// Can't be called.
    pub fn identity(self, identity: Identity) -> ClientBuilder {
        match identity.0 {}
    }

    /// Fails.
    pub fn build(self) -> Result<Client, Error> {
        Err(Error)
    }
}

/// There is none.
#[derive(Debug)]
pub struct Certificate(Infallible);

impl Certificate {
    /// Fails.
    pub fn from_pem(_: &[u8]) -> Result<Certificate, Error> {
        Err(Error)
    }
}

/// There is none.
#[derive(Debug)]
pub struct Identity(Infallible);

impl Identity {
    /// Fails.
    pub fn from_pem(_: &[u8]) -> Result<Identity, Error> {
        Err(Error)
    }
}

/// There is none.
#[derive(Debug)]
pub struct Request(Infallible);

impl Request {
    /// Can't be called.
    pub fn url(&self) -> &str {
        match self.0 {}
    }

    /// Can't be called.
    pub fn method(&self) -> &http::Method {
        match self.0 {}
    }
}

impl TryFrom<http::Request<Vec<u8>>> for Request {
    type Error = Error;

    fn try_from(_: http::Request<Vec<u8>>) -> Result<Request, Error> {
        Err(Error)
    }
}

/// There is none.
#[derive(Debug)]
pub struct Response(Infallible);

impl Response {
    /// Can't be called.
    pub fn status(&self) -> http::StatusCode {
        match self.0 {}
    }

    /// Can't be called.
    pub fn headers(&self) -> &http::HeaderMap {
        match self.0 {}
    }

    /// Can't be called.
    pub async fn bytes(self) -> Result<Vec<u8>, Error> {
        match self.0 {}
    }
}
