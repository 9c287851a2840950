//! The program from outside: what it prints, and its exit codes.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs `litefs` in `dir`, with an environment of its own.
fn litefs_in(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_litefs"))
        .arg0("litefs")
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("HOME", dir)
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

fn litefs(args: &[&str]) -> Output {
    litefs_in(Path::new("/"), args, &[])
}

fn stdout(out: &Output) -> String {
    String::from_utf8(out.stdout.clone()).unwrap()
}

fn stderr(out: &Output) -> String {
    String::from_utf8(out.stderr.clone()).unwrap()
}

#[test]
fn usage_goes_to_stdout_with_code_2() {
    for args in [&[][..], &["help"], &["-h"], &["-x", "mount"], &["--help"]] {
        let out = litefs(args);
        assert!(stdout(&out).contains("Usage:\n\n    litefs <command>"), "{args:?}");
        assert_eq!((out.status.code(), stderr(&out).as_str()), (Some(2), ""), "{args:?}");
    }
}

#[test]
fn help_of_a_command_teaches_with_code_2() {
    for (args, text) in [
        (&["mount", "-h"][..], "litefs mount [flags] [-- CMD [ARG...]]"),
        (&["version", "-h"], "litefs version"),
        (&["config", "check", "-h"], "litefs config check [flags] [FILE]"),
        (&["config"], "litefs config check [flags] [FILE]"),
    ] {
        let out = litefs(args);
        assert!(stdout(&out).contains(text), "{args:?}");
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(!stderr(&out).contains("ERROR"), "{args:?}");
    }
    assert!(stderr(&litefs(&["mount", "-h"])).contains("-config PATH"));
}

#[test]
fn mistakes_on_the_command_line_have_their_codes() {
    for (args, code, error) in [
        (&["nope"][..], 1, "ERROR: litefs nope: unknown command"),
        (&["version", "x"], 1, "ERROR: too many arguments"),
        (&["version", "-x"], 1, "ERROR: flag provided but not defined: -x"),
        (&["mount", "-x"], 2, "ERROR: flag provided but not defined: -x"),
        (&["mount", "-config"], 2, "ERROR: flag needs an argument: -config"),
        (
            &["mount", "sh"],
            2,
            "ERROR: too many arguments, specify a '--' to specify an exec command",
        ),
        (&["config", "check", "a", "b"], 1, "ERROR: too many arguments"),
    ] {
        let out = litefs(args);
        assert_eq!(out.status.code(), Some(code), "{args:?}");
        assert!(stderr(&out).contains(error), "{args:?}: {}", stderr(&out));
    }
    let out = litefs(&["mount", "-x"]);
    assert!(stderr(&out).starts_with("flag provided but not defined: -x\n"));
    assert!(stdout(&out).contains("litefs mount [flags]"));
}

#[test]
fn version_is_one_line() {
    let out = litefs(&["version"]);
    assert!(out.status.success());
    assert!(stdout(&out).starts_with("LiteFS "));
    assert_eq!(stdout(&out).lines().count(), 1);
}

#[test]
fn a_configuration_is_looked_for_and_named_when_bad() {
    let dir = tempfile::tempdir().unwrap();
    let out = litefs_in(dir.path(), &["mount"], &[]);
    if !Path::new("/etc/litefs.yml").exists() {
        assert_eq!(out.status.code(), Some(2));
        assert!(stderr(&out).starts_with("ERROR: config file not found\nhint: "));
    }

    fs::write(dir.path().join("litefs.yml"), "data:\n  dri: /x\n").unwrap();
    let out = litefs_in(dir.path(), &["mount"], &[]);
    assert_eq!(out.status.code(), Some(2));
    assert_eq!(
        stderr(&out),
        "ERROR: cannot unmarshal config file at ./litefs.yml: yaml: unmarshal errors:\n  \
         line 2: field dri not found in type Config\nhint: did you mean `dir`?\n"
    );

    for (args, error) in [
        (&["mount", "-config", "litefs.yml"][..], "ERROR: yaml: unmarshal errors:\n  line 2: "),
        (
            &["mount", "-config", "none.yml"],
            "ERROR: cannot read config file at none.yml: no such file or directory\n",
        ),
        (&["config", "check", "litefs.yml"], "ERROR: yaml: unmarshal errors:\n  line 2: "),
    ] {
        let out = litefs_in(dir.path(), args, &[]);
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(stderr(&out).starts_with(error), "{args:?}: {}", stderr(&out));
    }
}

#[test]
fn mount_refuses_bad_values_with_code_2() {
    let dir = tempfile::tempdir().unwrap();
    for (text, error) in [
        ("fuse: {dir: ''}", "ERROR: fuse directory required"),
        ("{}", "ERROR: invalid lease type, must be either 'consul' or 'static', got: ''"),
        ("lease: {type: static}\nexec: \"a '\"", "ERROR: cannot parse exec command[0]: invalid"),
        ("lease: {type: static}\nexec: '$NONE'", "ERROR: exec command[0] is empty"),
        ("", "ERROR: "),
    ] {
        fs::write(dir.path().join("litefs.yml"), text).unwrap();
        let out = litefs_in(dir.path(), &["mount"], &[]);
        assert_eq!(out.status.code(), Some(2), "{text}");
        assert!(stderr(&out).contains(error), "{text}: {}", stderr(&out));
    }
    let out = litefs_in(dir.path(), &["mount", "-dir", "/m", "-data", "/d", "--", ""], &[]);
    assert_eq!((out.status.code(), stderr(&out).contains("is empty")), (Some(2), true));
}

#[test]
fn mount_tells_what_is_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = held.local_addr().unwrap();
    let head = "fuse: {dir: ./mnt}\ndata: {dir: ./data}\n";
    for (text, error) in [
        (
            "lease: {type: consul}".to_owned(),
            "ERROR: cannot init consul: must specify a consul key",
        ),
        (
            format!("lease: {{type: static}}\nhttp: {{addr: '{addr}'}}"),
            "address already in use\nhint: the port is taken",
        ),
        (
            "lease: {type: static}\nlog: {format: xml}".to_owned(),
            "ERROR: init logger: invalid log format: \"xml\"",
        ),
    ] {
        fs::write(dir.path().join("litefs.yml"), format!("{head}{text}")).unwrap();
        let out = litefs_in(dir.path(), &["mount"], &[]);
        assert_eq!(out.status.code(), Some(1), "{text}");
        assert!(stderr(&out).contains(error), "{text}: {}", stderr(&out));
    }
    let promote = "lease: {type: consul}\nbackup: {path: /b}\nlog: {format: json}";
    fs::write(dir.path().join("litefs.yml"), format!("{head}{promote}")).unwrap();
    let out = litefs_in(dir.path(), &["mount"], &[]);
    let warning = r#"{"level":"WARN","msg":"backup.path has no effect yet (set by file)"}"#;
    assert!(stderr(&out).contains(warning), "{}", stderr(&out));
}

#[test]
fn check_explains_values_and_where_they_come_from() {
    let dir = tempfile::tempdir().unwrap();
    let text = "data:\n  dir: /data/${REGION}\nlease: {type: static, candidate: '${REGION == \"ams\"}'}\n\
                exec: \"sh -c 'a; b' ; c $NONE\"\nproxy: {target: 'localhost:1'}\n";
    fs::write(dir.path().join("litefs.yml"), text).unwrap();
    let env = [("REGION", "ams"), ("LITEFS_CLOUD_TOKEN", "verysecret")];
    let out = litefs_in(dir.path(), &["config", "check"], &env);
    let text = stdout(&out);
    assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
    let squeezed: Vec<String> =
        text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for want in [
        "line 2: ${REGION} -> \"ams\"",
        "line 3: ${REGION == \"ams\"} -> \"true\"",
        "line 4: $NONE -> \"\" (NONE is not set)",
        "data.dir /data/ams file",
        "data.retention 10m0s default",
        "lease.candidate true file",
        "backup.type litefs-cloud environment (LITEFS_CLOUD_TOKEN)",
        "backup.auth-token (hidden) environment (LITEFS_CLOUD_TOKEN)",
        "proxy.target has no effect yet (set by file)",
        "0: [\"sh\", \"-c\", \"a; b\"] (the application)",
        "The configuration is valid.",
    ] {
        assert!(squeezed.iter().any(|line| line == want), "{want} in:\n{text}");
    }
    assert!(text.contains("everything from \"; c \" on is ignored"), "{text}");
    assert!(!text.contains("verysecret"));
}
