//! Who is trusted, and how we show who we are, when Consul is asked over TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::options::ConsulOptionsError;

/// Where the certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TlsOptions {
    /// Whether Consul's certificate is checked at all.
    pub(super) verify: bool,
    /// A file of authorities instead of the system's.
    pub(super) ca_cert: Option<PathBuf>,
    /// A directory of such files.
    pub(super) ca_path: Option<PathBuf>,
    pub(super) client_cert: Option<PathBuf>,
    pub(super) client_key: Option<PathBuf>,
    /// The name that Consul's certificate is for, if it isn't the one in the address.
    pub(super) server_name: Option<String>,
}

/// The configuration for connections; `None` in `options` if TLS isn't used.
pub(super) fn client_config(
    options: Option<&TlsOptions>,
) -> Result<ClientConfig, ConsulOptionsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring has all that these versions need");
    let Some(options) = options else {
        return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    };
    let builder = if options.verify {
        builder.with_root_certificates(roots(options)?)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
    };
    match (&options.client_cert, &options.client_key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|err| unusable(key, err))?;
            builder.with_client_auth_cert(chain, secret).map_err(|err| unusable(cert, err))
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err(ConsulOptionsError::HalfAnIdentity),
    }
}

fn roots(options: &TlsOptions) -> Result<RootCertStore, ConsulOptionsError> {
    let mut store = RootCertStore::empty();
    let mut files: Vec<PathBuf> = options.ca_cert.iter().cloned().collect();
    if let Some(dir) = &options.ca_path {
        for entry in dir.read_dir().map_err(|err| unusable(dir, err))? {
            files.push(entry.map_err(|err| unusable(dir, err))?.path());
        }
    }
    for file in &files {
        for certificate in certificates(file)? {
            store.add(certificate).map_err(|err| unusable(file, err))?;
        }
    }
    if files.is_empty() {
        // Some of the system's may be unreadable or odd; what is missing shows when Consul's is checked.
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    Ok(store)
}

/// At least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ConsulOptionsError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|err| unusable(file, err))?;
    match found.is_empty() {
        true => Err(unusable(file, "no certificate in it")),
        false => Ok(found),
    }
}

fn unusable(file: &Path, err: impl std::fmt::Display) -> ConsulOptionsError {
    ConsulOptionsError::File { file: file.to_owned(), message: err.to_string() }
}

/// Trusts whoever answers: the user has said so.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
