//! A real Consul: one server with its own ports and data directory, gone when dropped.
//!
//! It can be stopped as a machine stops ([`Consul::pause`]), as a process does ([`Consul::kill`]), and lose its memory
//! ([`Consul::wipe`]). What is asked of it here is asked by plain HTTP, as an original node or an operator would.
//! The binary is `LITEFS_CONSUL`, else what `tests/get-consul.sh` puts into `target/consul`; it is run if need be.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http;
use crate::process::Process;

/// A Consul that runs, or could again.
#[derive(Debug)]
pub struct Consul {
    dir: TempDir,
    http: SocketAddr,
    https: Option<SocketAddr>,
    process: Option<Process>,
}

/// How a Consul is set up.
#[derive(Debug, Clone, Default)]
pub struct ConsulOptions {
    /// The least TTL of a session; Consul's own is 10 s.
    pub session_ttl_min: Option<Duration>,
    /// Turns access control on, with this as the token that may do all.
    pub master_token: Option<String>,
    /// Listens for TLS, too, with an authority of its own, and there wants a certificate from who asks.
    pub tls: bool,
}

/// A key and what Consul knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its value.
    pub value: String,
    /// The session that holds it.
    pub session: Option<String>,
    /// When it was last written.
    pub modify_index: u64,
}

impl Consul {
    /// One that takes sessions of a second.
    pub fn start() -> Consul {
        Consul::start_with(ConsulOptions {
            session_ttl_min: Some(Duration::from_secs(1)),
            ..ConsulOptions::default()
        })
    }

    /// One as told; it answers when this returns.
    ///
    /// # Panics
    /// If it doesn't start.
    pub fn start_with(options: ConsulOptions) -> Consul {
        // Between finding a free port and using it somebody else may: then once more.
        for _ in 0..5 {
            let mut consul = Consul::prepare(&options);
            if consul.try_up() {
                return consul;
            }
        }
        panic!("consul doesn't start");
    }

    fn prepare(options: &ConsulOptions) -> Consul {
        let dir = tempfile::Builder::new().prefix("litefs-test-consul-").tempdir().unwrap();
        let listeners: Vec<_> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        let mut config = json!({
            "server": true,
            "bootstrap": true,
            "node_name": "consul",
            "data_dir": dir.path().join("data"),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": {
                "http": ports[0], "server": ports[1], "serf_lan": ports[2],
                "serf_wan": -1, "dns": -1, "grpc": -1,
            },
            "performance": {"raft_multiplier": 1},
            "disable_update_check": true,
            "log_level": "warn",
        });
        if let Some(least) = options.session_ttl_min {
            config["session_ttl_min"] = format!("{}ms", least.as_millis()).into();
        }
        if let Some(token) = &options.master_token {
            config["acl"] = json!({
                "enabled": true, "default_policy": "deny", "tokens": {"master": token},
            });
        }
        if options.tls {
            make_certificates(dir.path());
            config["ports"]["https"] = ports[3].into();
            config["ca_file"] = json!(dir.path().join(CA));
            config["cert_file"] = json!(dir.path().join("dc1-server-consul-0.pem"));
            config["key_file"] = json!(dir.path().join("dc1-server-consul-0-key.pem"));
            config["verify_incoming_https"] = true.into();
        }
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let http = listeners[0].local_addr().unwrap();
        let https = options.tls.then(|| listeners[3].local_addr().unwrap());
        Consul { dir, http, https, process: None }
    }

    /// Starts it again after [`Consul::kill`].
    ///
    /// # Panics
    /// If it doesn't come up.
    pub fn up(&mut self) {
        assert!(self.try_up(), "consul doesn't come up");
    }

    fn try_up(&mut self) -> bool {
        let mut command = Command::new(binary());
        command.arg("agent").arg("-config-file").arg(self.dir.path().join("config.json"));
        let process = self.process.insert(Process::start(&mut command));
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if !process.is_running() {
                return false;
            }
            if is_ready(self.http) {
                return true;
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        panic!("consul has no leader after 30 s:\n{}", process.output());
    }

    /// Ends it at once; its data stays.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.signal(Signal::SIGKILL);
            process.wait(Duration::from_secs(10));
        }
    }

    /// Ends it and removes its data. [`Consul::up`] starts one that knows nothing.
    pub fn wipe(&mut self) {
        self.kill();
        fs::remove_dir_all(self.dir.path().join("data")).unwrap();
    }

    /// Nothing moves in it any more; connections stay open.
    pub fn pause(&self) {
        self.process.as_ref().expect("it runs").signal(Signal::SIGSTOP);
    }

    /// After [`Consul::pause`].
    pub fn resume(&self) {
        self.process.as_ref().expect("it runs").signal(Signal::SIGCONT);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.http
    }

    /// The same as `http://…`.
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Where it listens for TLS.
    ///
    /// # Panics
    /// If it wasn't told to.
    pub fn https_address(&self) -> SocketAddr {
        self.https.expect("it was started with TLS")
    }

    /// A file in its directory: [`CA`], [`CLIENT_CERT`], [`CLIENT_KEY`].
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The value of a key and who holds it.
    pub fn get(&self, key: &str) -> Option<Entry> {
        let (status, body) = self.request("GET", &format!("/v1/kv/{key}?consistent"), "");
        match status {
            404 => None,
            200 => {
                let pair = serde_json::from_str::<Value>(&body).unwrap()[0].take();
                let session = pair["Session"].as_str().map(str::to_owned);
                let (_, value) = self.request("GET", &format!("/v1/kv/{key}?raw&consistent"), "");
                let modify_index = pair["ModifyIndex"].as_u64().unwrap();
                Some(Entry { value, session, modify_index })
            }
            _ => panic!("get {key}: {status} {body}"),
        }
    }

    /// Sets a key, whoever holds it.
    pub fn put(&self, key: &str, value: &str) {
        let answer = self.request("PUT", &format!("/v1/kv/{key}"), value);
        assert_eq!(answer.0, 200, "{answer:?}");
    }

    /// Removes a key, whoever holds it.
    pub fn delete(&self, key: &str) {
        assert_eq!(self.request("DELETE", &format!("/v1/kv/{key}"), "").0, 200);
    }

    /// A session as an original node makes it.
    pub fn create_session(&self, ttl: Duration) -> String {
        let body = json!({
            "Behavior": "delete", "LockDelay": "1000ms", "Name": "litefs", "NodeChecks": [],
            "TTL": format!("{}s", ttl.as_secs()),
        });
        let (status, body) = self.request("PUT", "/v1/session/create", &body.to_string());
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["ID"].as_str().unwrap().to_owned()
    }

    /// Takes a key for a session; whether it could be had.
    pub fn acquire(&self, key: &str, session: &str, value: &str) -> bool {
        let (status, body) = self.request("PUT", &format!("/v1/kv/{key}?acquire={session}"), value);
        assert_eq!(status, 200, "{body}");
        body.trim() == "true"
    }

    /// Ends a session, and with it its keys.
    pub fn destroy_session(&self, session: &str) {
        assert_eq!(self.request("PUT", &format!("/v1/session/destroy/{session}"), "").0, 200);
    }

    /// Whether a session is there.
    pub fn has_session(&self, session: &str) -> bool {
        self.request("GET", &format!("/v1/session/info/{session}"), "").1.contains(session)
    }

    /// Asks it; status and body.
    ///
    /// # Panics
    /// If it doesn't answer within ten seconds.
    pub fn request(&self, method: &str, target: &str, body: &str) -> (u16, String) {
        ask(self.http, method, target, body).expect("consul answers")
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The authority's certificate.
pub const CA: &str = "consul-agent-ca.pem";
/// A certificate for who asks.
pub const CLIENT_CERT: &str = "dc1-client-consul-0.pem";
/// Its key.
pub const CLIENT_KEY: &str = "dc1-client-consul-0-key.pem";

fn make_certificates(dir: &Path) {
    for args in
        [&["ca", "create"][..], &["cert", "create", "-server"], &["cert", "create", "-client"]]
    {
        let mut command = Command::new(binary());
        command.arg("tls").args(args).current_dir(dir);
        let (code, output) = Process::run(&mut command, Duration::from_secs(30));
        assert_eq!(code, Some(0), "{output}");
    }
}

/// Whether it has a leader that takes writes.
fn is_ready(http: SocketAddr) -> bool {
    matches!(ask(http, "GET", "/v1/kv/?keys&consistent", ""), Ok((200 | 403 | 404, _)))
}

fn ask(http: SocketAddr, method: &str, target: &str, body: &str) -> std::io::Result<(u16, String)> {
    let (status, body) = http::ask(http, method, target, body, Duration::from_secs(10))?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("LITEFS_CONSUL") {
            return path.into();
        }
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = tests.parent().unwrap().join("target/consul/usr/bin/consul");
        if !path.exists() {
            let (code, output) = Process::run(
                &mut Command::new(tests.join("get-consul.sh")),
                Duration::from_secs(300),
            );
            assert_eq!(code, Some(0), "{output}");
        }
        path
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_consul_keeps_its_keys_and_a_wiped_one_does_not() {
        let mut consul = Consul::start();
        consul.put("a/b", "1");
        let session = consul.create_session(Duration::from_secs(10));
        assert!(consul.acquire("a/lock", &session, "mine"));
        consul.kill();
        consul.up();
        assert_eq!(consul.get("a/b").unwrap().value, "1");
        assert_eq!(consul.get("a/lock").unwrap().session.as_ref(), Some(&session));
        consul.destroy_session(&session);
        assert_eq!(consul.get("a/lock"), None);
        assert!(!consul.has_session(&session));
        consul.wipe();
        consul.up();
        assert_eq!(consul.get("a/b"), None);
    }
}
