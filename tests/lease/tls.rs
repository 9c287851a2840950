//! Consul over TLS, with certificates that it has made itself.

use std::time::Duration;

use litefs_lease::consul::{ConsulLeaser, ConsulOptionsError, Environment};
use litefs_lease::{LeaseError, Leaser};
use litefs_tests::consul::{CA, CLIENT_CERT, CLIENT_KEY, Consul, ConsulOptions};

use crate::rig::{options, progress};

const CHECKED: &[(&str, &str)] = &[("CONSUL_CACERT", CA)];
const KNOWN: &[(&str, &str)] = &[
    ("CONSUL_CACERT", CA),
    ("CONSUL_CLIENT_CERT", CLIENT_CERT),
    ("CONSUL_CLIENT_KEY", CLIENT_KEY),
];

/// With the files that these variables name.
fn leaser(
    consul: &Consul,
    host: &str,
    files: &[(&str, &str)],
    others: &[(&str, &str)],
) -> Result<ConsulLeaser, ConsulOptionsError> {
    let port = consul.https_address().port();
    let mut options = options("", "a");
    options.ttl = Duration::from_secs(10);
    let path = |name: &str| consul.file(name).to_str().unwrap().to_owned();
    let files = files.iter().map(|(name, file)| ((*name).to_owned(), path(file)));
    let others = others.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let address = [
        ("CONSUL_HTTP_ADDR".to_owned(), format!("{host}:{port}")),
        ("CONSUL_HTTP_SSL".to_owned(), "true".to_owned()),
    ];
    options.environment = Environment::from_iter(address.into_iter().chain(files).chain(others));
    ConsulLeaser::new(options)
}

#[tokio::test]
async fn both_sides_are_known_by_their_certificates() {
    let consul = Consul::start_with(ConsulOptions { tls: true, ..ConsulOptions::default() });
    let mut lease = leaser(&consul, "localhost", KNOWN, &[]).unwrap().acquire().await.unwrap();
    lease.renew(progress(1, 1)).await.unwrap();
    lease.release().await.unwrap();

    let refused = |err: LeaseError, want: &str| assert!(err.to_string().contains(want), "{err}");
    let asked = leaser(&consul, "localhost", CHECKED, &[]).unwrap().primary_info().await;
    refused(asked.unwrap_err(), "CONSUL_CLIENT_CERT");
    let asked = leaser(&consul, "localhost", &KNOWN[1..], &[]).unwrap().primary_info().await;
    refused(asked.unwrap_err(), "name Consul's authority in CONSUL_CACERT");
    // Its certificate is for localhost and server.dc1.consul.
    let asked = leaser(&consul, "127.0.0.2", KNOWN, &[]).unwrap().primary_info().await;
    assert!(asked.is_err());

    let dc = [("CONSUL_TLS_SERVER_NAME", "server.dc1.consul")];
    let asked = leaser(&consul, "127.0.0.1", KNOWN, &dc).unwrap().primary_info().await;
    assert_eq!(asked, Err(LeaseError::NoPrimary));
    let unchecked = [("CONSUL_HTTP_SSL_VERIFY", "false")];
    let asked = leaser(&consul, "localhost", &KNOWN[1..], &unchecked).unwrap().primary_info().await;
    assert_eq!(asked, Err(LeaseError::NoPrimary));
}

#[tokio::test]
async fn files_that_hold_no_certificates_are_named() {
    let consul = Consul::start_with(ConsulOptions { tls: true, ..ConsulOptions::default() });
    for (files, want) in [
        (&[("CONSUL_CACERT", "nowhere.pem")][..], "nowhere.pem"),
        (&[("CONSUL_CACERT", "config.json")], "config.json"),
        (&[("CONSUL_CLIENT_CERT", CLIENT_CERT)], "need each other"),
        (&[("CONSUL_CLIENT_CERT", CLIENT_CERT), ("CONSUL_CLIENT_KEY", CA)], CA),
    ] {
        let err = leaser(&consul, "localhost", files, &[]).unwrap_err();
        assert!(err.to_string().contains(want), "{err}");
    }
}
