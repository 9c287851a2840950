//! `GET /metrics`, as Prometheus reads it. The names are in `crate::metrics`; here are those of the process.

use std::fmt::Write as _;
use std::fs;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{AppState, error};

pub(super) async fn metrics(State(state): State<AppState>) -> Response {
    let store = state.store;
    // Sizes are asked of the file system.
    let rendered = tokio::task::spawn_blocking(move || store.metrics().render(&store)).await;
    let text = match rendered {
        Ok(Ok(text)) => text,
        Ok(Err(err)) => return failed(&err.to_string()),
        Err(err) => return failed(&err.to_string()),
    };
    let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (headers, text + &process()).into_response()
}

fn failed(text: &str) -> Response {
    error("GET", "/metrics", StatusCode::INTERNAL_SERVER_ERROR, text)
}

/// What the kernel tells of this process; what it doesn't tell is left out.
fn process() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (stat, status) = (read("/proc/self/stat"), read("/proc/self/status"));
    let fds = fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as f64);
    let size = |field| status_bytes(&status, field).map(|n| n as f64);
    let metrics = [
        ("process_cpu_seconds_total", "counter", "CPU time spent, of user and system.", cpu(&stat)),
        ("process_open_fds", "gauge", "Open file descriptors.", fds),
        ("process_resident_memory_bytes", "gauge", "Resident memory.", size("VmRSS")),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory.", size("VmSize")),
    ];
    let mut out = String::new();
    for (name, kind, help, value) in metrics {
        if let Some(value) = value {
            // Writing to a string can't fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
    }
    out
}

/// Source: proc_pid_stat(5). The fields after the program's name, which may hold anything, are numbers.
fn cpu(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / USER_HZ)
}

/// A size in kB of `/proc/self/status`, as bytes.
pub(super) fn status_bytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Of every Linux that is likely to be met; to ask would take a call into libc.
const USER_HZ: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_called_anything() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 100 8192 2 184";
        assert_eq!(cpu(stat), Some(3.0));
        assert_eq!((cpu("7 (a) S 1"), cpu("")), (None, None));
    }

    #[test]
    fn sizes_are_found_by_their_whole_name() {
        let status = "VmRSSx:\t1 kB\nVmRSS:\t  12 kB\nThreads:\t3\n";
        assert_eq!(status_bytes(status, "VmRSS"), Some(12288));
        assert_eq!((status_bytes(status, "Threads"), status_bytes(status, "Vm")), (None, None));
    }
}
