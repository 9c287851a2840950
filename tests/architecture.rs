//! The rules of ARCHITECTURE.md that a compiler doesn't check: which crate may know which, and which modules
//! touch nothing but memory.

// A failed expectation is what a test has to report.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Each crate and the ones below it that it may use.
const EDGES: [(&str, &[&str]); 4] = [
    ("litefs-lease", &[]),
    ("litefs-core", &["litefs-lease"]),
    ("litefs-fuse", &["litefs-core", "litefs-lease"]),
    ("litefs-cli", &["litefs-core", "litefs-fuse", "litefs-lease"]),
];

/// Crates that would mean a layer does another's work.
const FOREIGN: [(&str, &[&str]); 3] = [
    ("litefs-lease", &["fuser", "rusqlite", "axum"]),
    ("litefs-core", &["fuser", "rusqlite"]),
    ("litefs-fuse", &["axum", "hyper", "tokio", "rusqlite"]),
];

/// Sans-IO: bytes in, values out.
const PURE: [&str; 5] = ["ltx", "sqlite", "log/segment.rs", "types.rs", "http/frames"];

const IMPURE: [&str; 9] = [
    "std::fs",
    "std::net",
    "std::os",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime::now",
    "tokio",
    "crate::env",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Crate → what it depends on outside of its own tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let graph: BTreeMap<_, _> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let normal = dependencies.filter(|d| d["kind"].as_str() != Some("dev"));
            (text(&package["name"]), normal.map(|d| text(&d["name"])).collect())
        })
        .collect();
    assert!(graph.len() >= EDGES.len(), "{graph:?}");
    graph
}

#[test]
fn crates_know_only_the_ones_below() {
    let graph = dependencies();
    for (name, allowed) in EDGES {
        let ours = graph[name].iter().filter(|d| d.starts_with("litefs-"));
        let beyond: Vec<_> = ours.filter(|d| !allowed.contains(&d.as_str())).collect();
        assert!(beyond.is_empty(), "{name} knows {beyond:?}");
    }
}

#[test]
fn crates_leave_each_others_work_alone() {
    let graph = dependencies();
    for (name, foreign) in FOREIGN {
        let found: Vec<_> = foreign.iter().filter(|f| graph[name].contains(**f)).collect();
        assert!(found.is_empty(), "{name} uses {found:?}");
    }
}

#[test]
fn formats_touch_nothing_but_memory() {
    let source = root().join("litefs-core/src");
    for module in PURE {
        let files = rust_files(&source.join(module));
        assert!(!files.is_empty(), "{module} is gone");
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for (number, line) in code(&text) {
                for word in IMPURE {
                    assert!(!line.contains(word), "{}:{number}: {line}", file.display());
                }
            }
        }
    }
}

#[test]
fn files_stay_small() {
    for name in ["litefs-lease", "litefs-core", "litefs-fuse", "litefs-cli", "tests"] {
        for file in rust_files(&root().join(name)) {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            assert!(lines <= 650, "{} has {lines} lines", file.display());
        }
    }
}

/// The lines of a file that are compiled into the library: no comments, no tests.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    lines
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Without tests, build output and fuzz targets.
fn rust_files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match path.is_dir() {
            true if ["target", "fuzz"].contains(&name.as_str()) => {}
            true if name == "tests" && path.parent().unwrap().ends_with("src") => {}
            true => files.extend(rust_files(&path)),
            false if name.ends_with(".rs") && name != "tests.rs" => files.push(path),
            false => {}
        }
    }
    files
}
