use super::*;
use crate::bytesize::ByteSize;
use crate::config::Durability;
use crate::config::value::ExecCommand;
use crate::goduration::GoDuration;

fn config(text: &str) -> Config {
    parse(text).unwrap_or_else(|err| panic!("{text}: {err}")).0
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn every_key_is_known() {
    let text = "
exit-on-error: false
skip-sync: true
strict-verify: true
exec: [{cmd: a, if-candidate: true}, {cmd: b}]
data: {dir: /d, compress: false, retention: 1h, retention-monitor-interval: 5s,
       retention-size: 1GiB, durability: always}
fuse: {dir: /m, allow-other: true, debug: true}
http: {addr: ':1', snapshot-timeout: 1m}
proxy: {addr: ':2', target: 'localhost:3', db: db, max-lag: 1s, debug: true, passthrough: ['*.js'],
        always-forward: [/x], primary-redirect-timeout: 1s, read-timeout: 2s,
        read-header-timeout: 3s, write-timeout: 4s, idle-timeout: 5s}
lease: {type: static, hostname: h, advertise-url: 'http://h', candidate: false, promote: true,
        reconnect-delay: 2s, demote-delay: 3s, databases: [a, b],
        allow-stale-promotion: true,
        consul: {url: 'http://c', key: k, ttl: 11s, lock-delay: 2s, fast-failover: true}}
backup: {type: file, path: /b, url: u, cluster: c, auth-token: t}
log: {format: json, timestamp: true, debug: true}
tracing: {enabled: false, path: /t, max-size: 1, max-count: 2, compress: false}
";
    let (config, sources) = parse(text).unwrap();
    let loaded = Loaded { path: None, config, expansions: Vec::new(), sources };
    for (key, value) in loaded.values() {
        assert_eq!(loaded.source(&key), Source::File, "{key}");
        let default = Loaded::quick().values().into_iter().find(|(k, _)| *k == key).unwrap().1;
        assert!(value != default || key == "lease.type", "{key} kept its default {default}");
    }
    assert_eq!(loaded.values().len(), 54);
}

#[test]
fn absent_and_empty_keys_have_their_defaults() {
    let want = Config::default();
    for text in
        ["data:", "data: {dir: , retention: }", "exec:", "lease: {consul: }", "log: ~", "{}"]
    {
        assert_eq!(config(text), want, "{text}");
    }
    assert_eq!(want.data.retention, GoDuration::from_secs(600));
    assert_eq!(want.http.listen_addr(), Some(":20202"));
    assert!(want.exit_on_error && want.lease.candidate && want.data.compress);
}

#[test]
fn exec_is_a_line_or_a_list() {
    let cmd = |cmd: &str, if_candidate| ExecCommand { cmd: cmd.into(), if_candidate };
    assert_eq!(config("exec: a b").exec.0, [cmd("a b", false)]);
    let list = "exec:\n  - cmd: a\n    if-candidate: true\n  - cmd: b\n";
    assert_eq!(config(list).exec.0, [cmd("a", true), cmd("b", false)]);
    assert_eq!(config("exec: []").exec.0, []);
}

#[test]
fn own_keys_are_known() {
    let data = config("data: {durability: always, retention-size: 512MiB}").data;
    assert_eq!(data.durability, Durability::Always);
    assert_eq!(data.retention_size, "512MiB".parse::<ByteSize>().unwrap());
    assert_eq!(config("data: {retention-size: 0}").data.retention_size.limit(), None);
    for addr in ["''", "off"] {
        assert_eq!(config(&format!("http: {{addr: {addr}}}")).http.listen_addr(), None);
    }
}

#[test]
fn mistakes_are_named_with_their_line() {
    for (text, want) in [
        ("a: 1", "line 1: field a not found in type Config"),
        ("data:\n  dri: x", "line 2: field dri not found in type Config"),
        ("skip-sync: true\nskip-sync: true", "line 2: mapping key \"skip-sync\" already defined"),
        ("log: {}\n---\nlog: {}", "line 3: more than one document"),
        ("data:\n  retention: 5", "line 2: cannot unmarshal !!int `5` into time.Duration"),
        ("data:\n  retention: 0", "line 2: cannot unmarshal !!int `0` into time.Duration"),
        ("data:\n  retention: 1d", "line 2: cannot unmarshal !!str `1d` into time.Duration"),
        ("exec: 5", "line 1: invalid exec config format"),
        ("exec:\n  - cmd: a\n    if: true", "line 3: field if not found in type Config"),
        ("skip-sync: maybe", "line 1: invalid boolean"),
        ("\n\ntracing: {max-size: big}", "line 3: invalid u32"),
    ] {
        assert_eq!(error(text), format!("yaml: unmarshal errors:\n  {want}"), "{text}");
    }
    for text in
        ["exec: [a]", "- a", "5", "data: 5", "data: [", "log: {format: 'x}", "exec: {cmd: a}"]
    {
        assert!(
            error(text).starts_with("yaml: unmarshal errors:\n  line 1: "),
            "{text}: {}",
            error(text)
        );
    }
}

#[test]
fn nothing_but_comments_is_an_empty_file() {
    for text in ["", "\n", "# a\n\n  # b\n"] {
        assert_eq!(error(text), "EOF");
    }
}

#[test]
fn environment_turns_on_the_cloud_backup() {
    let token =
        Environment::from([("LITEFS_CLOUD_TOKEN", "t"), ("LITEFS_CLOUD_ENDPOINT", "http://e")]);
    for (text, env, want) in [
        ("{}", &token, ("litefs-cloud", "t", "http://e")),
        ("backup: {auth-token: own}", &token, ("litefs-cloud", "own", "http://e")),
        ("backup: {type: file}", &token, ("file", "", "https://litefs.fly.io")),
        (
            "{}",
            &Environment::from([("LITEFS_CLOUD_TOKEN", " ")]),
            ("", "", "https://litefs.fly.io"),
        ),
    ] {
        let (config, sources) = parse(text).unwrap();
        let mut loaded = Loaded { path: None, config, expansions: Vec::new(), sources };
        loaded.apply_environment(env);
        let backup = &loaded.config.backup;
        assert_eq!((&*backup.r#type, &*backup.auth_token, &*backup.url), want, "{text}");
    }
}

#[test]
fn two_directories_replace_the_file() {
    let overrides = Overrides {
        fuse_dir: Some("/m".into()),
        data_dir: Some("/d".into()),
        exec: Some("app -x".into()),
        ..Overrides::default()
    };
    let loaded = load(&overrides, &Environment::default()).unwrap();
    assert_eq!(loaded.path, None);
    assert_eq!(loaded.config.lease.r#type, "static");
    assert_eq!(loaded.config.data.dir, PathBuf::from("/d"));
    assert_eq!(loaded.source("fuse.dir"), Source::Flag("-dir"));
    assert_eq!(loaded.source("data.compress"), Source::Default);
    assert_eq!(loaded.config.exec, ExecList::single("app -x".into()));
}
