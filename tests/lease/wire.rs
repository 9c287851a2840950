//! What goes over the wire: for the lease itself, what an original node sends.

use litefs_lease::consul::{ConsulLeaser, Environment};
use litefs_lease::{ClusterId, LeaseError, Leaser};
use litefs_tests::consul::Consul;

use crate::rig::{options, progress};
use litefs_tests::fake::{Asked, Fake, Reply};

const SESSION: &str = "7b1e62ac-a5b1-4c7e-9f3a-0f5c3f9a2a11";

/// All is well: the key is free, and once it is taken, looking again shows it so.
fn agreeable(asked: &Asked) -> Reply {
    let path = asked.line.split(' ').nth(1).unwrap();
    match path.split('?').next().unwrap() {
        "/v1/session/create" => Reply::new(200, &format!(r#"{{"ID":"{SESSION}"}}"#)),
        path if path.starts_with("/v1/session/renew/") => Reply::new(200, "[]"),
        "/v1/txn" => Reply::new(200, r#"{"Results":[],"Errors":null}"#),
        _ if path.ends_with("?consistent") => {
            // {"hostname":"a","advertise-url":"http://a:20202","node-id":"0000000000000061"}
            let value = "eyJob3N0bmFtZSI6ImEiLCJhZHZlcnRpc2UtdXJsIjoiaHR0cDovL2E6MjAyMDIiLCJub2RlLWlkIjoiMDAwMDAwMDAwMDAwMDA2MSJ9";
            let pair = format!(
                r#"[{{"Key":"k","Value":"{value}","Session":"{SESSION}","LockIndex":1,"Flags":0,"CreateIndex":7,"ModifyIndex":7}}]"#
            );
            Reply::new(200, &pair)
        }
        _ if asked.line.starts_with("GET") => Reply::new(404, ""),
        _ => Reply::new(200, "true"),
    }
}

fn leaser(url: &str) -> ConsulLeaser {
    let mut options = options(url, "a");
    options.ttl = std::time::Duration::from_secs(10);
    ConsulLeaser::new(options).unwrap()
}

#[tokio::test]
async fn requests_for_the_lease_are_those_of_the_original() {
    let fake = Fake::start(agreeable);
    let url = format!("http://:s3cret@{}/pre/fix", fake.address());
    let leaser = leaser(&url);
    assert_eq!(leaser.primary_info().await, Err(LeaseError::NoPrimary));
    assert_eq!(leaser.cluster_id().await, Ok(None));
    let lease = leaser.acquire().await.unwrap();
    leaser.set_cluster_id(&"LFSC0123456789ABCDEF".parse::<ClusterId>().unwrap()).await.unwrap();
    lease.release().await.unwrap();
    let value = r#"{"hostname":"a","advertise-url":"http://a:20202","node-id":"0000000000000061"}"#;
    let want = [
        "GET /v1/kv/pre/fix/litefs/primary",
        "GET /v1/kv/pre/fix/litefs/primary/clusterid",
        r#"PUT /v1/catalog/register {"Node":"pre/fix/litefs","Address":"localhost","SkipNodeUpdate":false}"#,
        r#"PUT /v1/session/create {"Behavior":"delete","LockDelay":"1000ms","Name":"litefs","Node":"pre/fix/litefs","NodeChecks":[],"TTL":"10s"}"#,
        &format!("PUT /v1/kv/pre/fix/litefs/primary?acquire={SESSION} {value}"),
        "PUT /v1/kv/pre/fix/litefs/primary/clusterid?cas=0 LFSC0123456789ABCDEF",
        "GET /v1/kv/pre/fix/litefs/primary?consistent",
        &format!(
            r#"PUT /v1/txn?consistent [{{"KV":{{"Verb":"check-index","Key":"pre/fix/litefs/primary","Index":7}}}},{{"KV":{{"Verb":"unlock","Key":"pre/fix/litefs/primary","Session":"{SESSION}"}}}}]"#
        ),
        &format!("PUT /v1/session/destroy/{SESSION}"),
    ];
    assert_eq!(fake.script(), want);
    for asked in fake.asked() {
        assert_eq!(asked.header("x-consul-token"), Some("s3cret"), "{asked:?}");
        assert_eq!(asked.header("authorization"), None);
    }
}

#[tokio::test]
async fn a_session_has_no_node_without_a_prefix_and_is_renewed_by_its_id() {
    let fake = Fake::start(agreeable);
    let leaser = leaser(&fake.url());
    let mut lease = leaser.acquire().await.unwrap();
    lease.renew(progress(1, 1)).await.unwrap();
    let script = fake.script();
    assert_eq!(
        script[0],
        r#"PUT /v1/session/create {"Behavior":"delete","LockDelay":"1000ms","Name":"litefs","NodeChecks":[],"TTL":"10s"}"#
    );
    assert_eq!(script[2], format!("PUT /v1/session/renew/{SESSION}"));
    assert_eq!(script[3], "GET /v1/kv/litefs/primary?consistent");
    let check = r#"PUT /v1/txn?consistent [{"KV":{"Verb":"check-index","Key":"litefs/primary","Index":7}},{"KV":{"Verb":"delete-tree","Key":"litefs/primary/candidates/"}},{"KV":{"Verb":"set","Key":"litefs/primary/progress","#;
    assert!(script[4].starts_with(check), "{}", script[4]);
    assert!(fake.asked().iter().all(|asked| asked.header("x-consul-token").is_none()));
}

#[tokio::test]
async fn the_environment_says_what_the_configuration_leaves_open() {
    let fake = Fake::start(agreeable);
    let mut options = options("", "a");
    options.environment = Environment::from_iter([
        ("CONSUL_HTTP_ADDR", fake.address().to_string()),
        ("CONSUL_HTTP_TOKEN", "from environment".into()),
        ("CONSUL_HTTP_AUTH", "user:word".into()),
        ("CONSUL_NAMESPACE", "a b".into()),
    ]);
    let leaser = ConsulLeaser::new(options.clone()).unwrap();
    assert_eq!(leaser.primary_info().await, Err(LeaseError::NoPrimary));
    // What the configuration says goes first.
    options.url = format!("http://:p%40ss%2Fw%C3%BCrd!@{}", fake.address());
    let err = ConsulLeaser::new(options.clone()).map(drop);
    assert_eq!(err, Ok(()), "a header may hold these bytes");
    options.url = format!("http://:p%40ss%2F%20%25x@{}", fake.address());
    let leaser = ConsulLeaser::new(options).unwrap();
    assert_eq!(leaser.primary_info().await, Err(LeaseError::NoPrimary));
    let asked = fake.asked();
    assert_eq!(asked[0].line, "GET /v1/kv/litefs/primary?ns=a%20b");
    assert_eq!(asked[0].header("x-consul-token"), Some("from environment"));
    assert_eq!(asked[0].header("authorization"), Some("Basic dXNlcjp3b3Jk"));
    assert_eq!(asked[1].header("x-consul-token"), Some("p@ss/ %x"));
}

#[tokio::test]
async fn keys_with_odd_characters_are_the_keys_that_consul_knows() {
    let consul = Consul::start();
    let mut options = options(&format!("{}/pre%20fix//x/", consul.url()), "a");
    options.key = "/sp ace/ü?x#y%2F//".into();
    let leaser = ConsulLeaser::new(options).unwrap();
    let mut lease = leaser.acquire().await.unwrap();
    lease.renew(progress(1, 1)).await.unwrap();
    assert!(leaser.primary_info().await.is_ok());
    let (_, keys) = consul.request("GET", "/v1/kv/?keys", "");
    let keys: Vec<String> = serde_json::from_str(&keys).unwrap();
    let key = "pre fix/x/sp ace/ü?x#y%2F";
    assert_eq!(keys, [key.to_owned(), format!("{key}/progress")]);
    let (_, nodes) = consul.request("GET", "/v1/catalog/nodes", "");
    assert!(nodes.contains("pre fix/x/litefs"), "{nodes}");
}
