//! What a node keeps of itself in its data directory: its cluster, its identity, and the reign it has seen.
//!
//! Each is one line in a file of its own, replaced atomically and durably. What isn't here: what they mean to a
//! role (see [`crate::cluster`]).

use std::io;
use std::path::Path;

use litefs_lease::ClusterId;

use super::layout::DataPaths;
use crate::env::{Env, OpenMode};
use crate::error::{Error, IoContext};

pub(super) fn read_cluster_id(
    env: &dyn Env,
    paths: &DataPaths,
) -> Result<Option<ClusterId>, Error> {
    let path = paths.cluster_id();
    let Some(text) = read(env, &path)? else { return Ok(None) };
    text.parse().map(Some).map_err(|source| Error::ClusterId { path, source })
}

pub(super) fn write_cluster_id(
    env: &dyn Env,
    paths: &DataPaths,
    id: &ClusterId,
) -> Result<(), Error> {
    write(env, paths, &paths.cluster_id(), &id.to_string())
}

/// The reign in which the node last had all that its primary had; 0 if that isn't known.
pub(super) fn read_reign(env: &dyn Env, paths: &DataPaths) -> Result<u64, Error> {
    Ok(read(env, &paths.reign())?.and_then(|text| text.parse().ok()).unwrap_or(0))
}

pub(super) fn write_reign(env: &dyn Env, paths: &DataPaths, reign: u64) -> Result<(), Error> {
    write(env, paths, &paths.reign(), &reign.to_string())
}

/// A number that stays with the data directory; made if there is none.
pub(super) fn identity(env: &dyn Env, paths: &DataPaths) -> Result<u64, Error> {
    let path = paths.identity();
    let known = read(env, &path)?.and_then(|text| u64::from_str_radix(&text, 16).ok());
    if let Some(known) = known {
        return Ok(known);
    }
    let new = env.random();
    write(env, paths, &path, &format!("{new:016X}"))?;
    Ok(new)
}

fn read(env: &dyn Env, path: &Path) -> Result<Option<String>, Error> {
    let file = match env.open(path, OpenMode::Existing) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).at("open", path),
    };
    let mut text = [0; 64];
    let n = file.read_at(&mut text, 0).at("read", path)?;
    Ok(Some(String::from_utf8_lossy(&text[..n]).trim().to_owned()))
}

fn write(env: &dyn Env, paths: &DataPaths, path: &Path, line: &str) -> Result<(), Error> {
    let tmp = path.with_extension("tmp");
    let file = env.open(&tmp, OpenMode::Create).at("create", &tmp)?;
    file.set_len(0).at("truncate", &tmp)?;
    file.write_at(format!("{line}\n").as_bytes(), 0).at("write", &tmp)?;
    file.sync().at("sync", &tmp)?;
    env.rename(&tmp, path).at("rename", &tmp)?;
    env.sync_dir(paths.dir()).at("sync", paths.dir())
}
