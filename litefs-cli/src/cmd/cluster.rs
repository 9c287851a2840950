//! `litefs promote`, `litefs demote` and `litefs status`: who leads, and how everybody is.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use litefs_core::http::client::{ClientError, NodeUrl};
use litefs_core::http::{Status, calls};
use thiserror::Error;

use super::{Failure, Usage, say};
use crate::args::{ArgError, Flag, Parsed};
use crate::goduration::GoDuration;

/// Why a node didn't do what it was asked for.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum CallError {
    #[error("not eligible to become primary")]
    NotEligible,
    #[error(transparent)]
    Client(ClientError),
    #[error("the node was asked to become primary, but isn't after {}", GoDuration::from(*.0))]
    NotYet(Duration),
    #[error("the node is still primary after {}", GoDuration::from(*.0))]
    Still(Duration),
    #[error("cannot print: {0}")]
    Json(#[from] serde_json::Error),
}

impl CallError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            CallError::NotEligible => Some("its configuration says lease.candidate: false".into()),
            CallError::Client(ClientError::Refused { text, .. }) if !text.is_empty() => {
                Some(text.clone())
            }
            CallError::Client(ClientError::Connect(_)) => {
                Some("is `litefs mount` running there? -url is its http.addr".into())
            }
            CallError::NotYet(_) | CallError::Still(_) => {
                Some("`litefs status` and its log say more".into())
            }
            _ => None,
        }
    }
}

impl From<ClientError> for CallError {
    fn from(err: ClientError) -> CallError {
        match err {
            ClientError::Refused { code: 409, ref text } if text.contains("not eligible") => {
                CallError::NotEligible
            }
            err => CallError::Client(err),
        }
    }
}

pub(super) fn promote(args: &[OsString]) -> Result<ExitCode, Failure> {
    let (url, _) = parse(&PROMOTE, args)?;
    let started = Instant::now();
    block_on(promoted(&url))?;
    say(format_args!("node is primary after {}", GoDuration::from(started.elapsed())));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn demote(args: &[OsString]) -> Result<ExitCode, Failure> {
    let (url, _) = parse(&DEMOTE, args)?;
    let started = Instant::now();
    block_on(async {
        calls::demote(&url).await?;
        until(&url, false, CallError::Still).await
    })?;
    say(format_args!("node is a replica after {}", GoDuration::from(started.elapsed())));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn status(args: &[OsString]) -> Result<ExitCode, Failure> {
    let (url, parsed) = parse(&STATUS, args)?;
    let status = block_on(calls::status(&url)).map_err(CallError::from)?;
    if parsed.switch("json") {
        let json = serde_json::to_string_pretty(&status).map_err(CallError::from)?;
        say(format_args!("{json}"));
    } else {
        say(format_args!("{}", table(&status).trim_end()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Has a node become the primary, and waits until it is.
pub(super) async fn promoted(url: &NodeUrl) -> Result<(), CallError> {
    calls::promote(url).await?;
    until(url, true, CallError::NotYet).await
}

async fn until(
    url: &NodeUrl,
    is_primary: bool,
    late: impl Fn(Duration) -> CallError,
) -> Result<(), CallError> {
    let started = Instant::now();
    while calls::info(url).await?.is_primary != is_primary {
        if started.elapsed() > PATIENCE {
            return Err(late(PATIENCE));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

fn parse(usage: &Usage, args: &[OsString]) -> Result<(NodeUrl, Parsed), Failure> {
    let parsed = usage.parse(args)?;
    if !parsed.positional.is_empty() || !parsed.command.is_empty() {
        return Err(usage.refuse(ArgError::TooMany));
    }
    let url = parsed.value("url").map_or(DEFAULT_URL.into(), OsStr::to_string_lossy);
    let url = NodeUrl::parse(&url).map_err(CallError::from)?;
    Ok((url, parsed))
}

/// Runs a call on this thread.
pub(super) fn block_on<T>(call: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .expect("a runtime of one thread needs an epoll instance and nothing else")
        .block_on(call)
}

fn table(status: &Status) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let role = match (status.is_primary, &status.primary) {
        (true, _) => "primary".to_owned(),
        (false, Some(primary)) => {
            format!("replica of {} ({})", primary.hostname, primary.advertise_url)
        }
        (false, None) => "replica without a primary".to_owned(),
    };
    let lag = match status.lag_seconds {
        _ if status.is_primary => "-".to_owned(),
        Some(seconds) => format!("{seconds:.3}s"),
        None => "unknown".to_owned(),
    };
    let facts = [
        ("node", format!("{} ({})", status.node_id, status.hostname)),
        ("cluster", status.cluster_id.clone().unwrap_or_else(|| "none yet".into())),
        ("role", role),
        ("candidate", if status.candidate { "yes" } else { "no" }.into()),
        ("lag", lag),
    ];
    for (name, value) in facts {
        // Writing to a string doesn't fail.
        let _ = writeln!(out, "{name:<10} {value}");
    }
    let rows = status.databases.iter().map(|db| {
        let problem = db.problem.clone().unwrap_or_else(|| "ok".into());
        let kept = match db.diverged.len() {
            0 => String::new(),
            n => format!("; {n} diverged, see {}", db.diverged.join(" ")),
        };
        [
            db.name.clone(),
            db.txid.clone(),
            db.checksum.clone(),
            db.size.to_string(),
            problem + &kept,
        ]
    });
    grid(&mut out, ["DATABASE", "TXID", "CHECKSUM", "BYTES", "STATE"], rows.collect());
    let rows = status.streams.iter().map(|stream| {
        let behind = stream.behind.map_or("catching up".into(), |n| n.to_string());
        let candidate = if stream.candidate { "yes" } else { "" }.to_owned();
        [stream.node_id.clone(), stream.addr.clone(), candidate, behind, String::new()]
    });
    grid(&mut out, ["STREAM TO", "ADDRESS", "CANDIDATE", "BEHIND", ""], rows.collect());
    out
}

/// Columns as wide as their longest cell; nothing without rows.
fn grid<const N: usize>(out: &mut String, head: [&str; N], rows: Vec<[String; N]>) {
    if rows.is_empty() {
        return;
    }
    let rows = std::iter::once(head.map(str::to_owned)).chain(rows).collect::<Vec<_>>();
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    out.push('\n');
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
}

pub(super) const DEFAULT_URL: &str = "http://localhost:20202";
/// How long a role may take to change.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(5);
const URL: Flag =
    Flag { name: "url", value: "URL", help: "the node's HTTP address (http://localhost:20202)" };

const PROMOTE: Usage = Usage {
    text: "\
Makes a node the primary: the present one stops writing, sends it everything, and
hands its lease over. No transaction is lost.

Usage:

    litefs promote [flags]
",
    flags: &[URL],
    bad_args: 1,
};

const DEMOTE: Usage = Usage {
    text: "\
Makes the primary a replica. The candidate that has come furthest takes over; if
none follows, the lease is free for lease.demote-delay.

Usage:

    litefs demote [flags]
",
    flags: &[URL],
    bad_args: 1,
};

const STATUS: Usage = Usage {
    text: "\
Shows a node: its role, its databases, and the replicas that follow it.

Usage:

    litefs status [flags]
",
    flags: &[URL, Flag { name: "json", value: "", help: "print all of it as JSON" }],
    bad_args: 1,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_shown_as_a_table() {
        let json = r#"{"nodeID":"00000000000000AB","hostname":"a","isPrimary":true,"candidate":true,"reign":3,
            "databases":[{"name":"app.db","txid":"0000000000000005","checksum":"abcebc991e998bb2","size":8192}],
            "streams":[{"nodeID":"00000000000000CD","addr":"10.0.0.2:5000","candidate":true,"behind":0}]}"#;
        let text = table(&serde_json::from_str(json).unwrap());
        let want = "\
node       00000000000000AB (a)
cluster    none yet
role       primary
candidate  yes
lag        -

DATABASE  TXID              CHECKSUM          BYTES  STATE
app.db    0000000000000005  abcebc991e998bb2  8192   ok

STREAM TO         ADDRESS        CANDIDATE  BEHIND
00000000000000CD  10.0.0.2:5000  yes        0
";
        assert_eq!(text, want);
    }
}
