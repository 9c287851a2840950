use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::trace_file::Limits;

/// What a subscriber writes to its main sink and to the trace log while `run` runs.
fn capture(format: &str, debug: bool, run: impl FnOnce()) -> (String, String) {
    let dir = tempfile::tempdir().unwrap();
    let [main, trace] = ["main", "trace"].map(|name| dir.path().join(name));
    let sink = |path| Sink::File(Arc::new(TraceFile::new(path, Limits::default())));
    let logging = Logging {
        format: format.into(),
        timestamp: false,
        debug,
        trace: vec![sink(trace.clone())],
    };
    tracing::subscriber::with_default(logging.subscriber(sink(main.clone())).unwrap(), run);
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    (read(main), read(trace))
}

#[test]
fn text_lines_are_slogs() {
    let (lines, _) = capture("text", false, || {
        tracing::info!("no backup client configured, skipping");
        tracing::warn!(db = "my db", txid = %"1", n = 5, ok = true, err = "", "done");
        tracing::error!(path = r#"a="b"\"#, "two\nlines");
        tracing::debug!("hidden");
    });
    assert_eq!(
        lines,
        "level=INFO msg=\"no backup client configured, skipping\"\n\
         level=WARN msg=done db=\"my db\" txid=1 n=5 ok=true err=\"\"\n\
         level=ERROR msg=\"two\\nlines\" path=\"a=\\\"b\\\"\\\\\"\n"
    );
}

#[test]
fn json_lines_are_valid_json() {
    let (lines, _) = capture("json", true, || {
        tracing::debug!(n = -1, x = f64::NAN, half = 0.5, s = "\"\u{1}", "a b");
    });
    assert_eq!(
        lines,
        "{\"level\":\"DEBUG\",\"msg\":\"a b\",\"n\":-1,\"x\":\"NaN\",\"half\":0.5,\"s\":\"\\\"\\u0001\"}\n"
    );
    serde_json::from_str::<serde_json::Value>(&lines).unwrap();
}

#[test]
fn inner_fields_replace_outer_ones() {
    let (lines, _) = capture("json", false, || {
        let outer =
            tracing::info_span!("outer", db = "a", name = "n", late = tracing::field::Empty);
        let _outer = outer.enter();
        outer.record("late", 7);
        let _inner = tracing::info_span!("inner", db = "b").entered();
        tracing::info!("hello");
    });
    let want = "{\"level\":\"INFO\",\"msg\":\"hello\",\"name\":\"n\",\"late\":7,\"db\":\"b\"}\n";
    assert_eq!(lines, want);
}

#[test]
fn trace_events_go_to_the_trace_log_only() {
    let (lines, trace) = capture("text", true, || {
        tracing::trace!(target: TRACE_TARGET, db = "a", "write");
        tracing::trace!("nowhere");
    });
    assert_eq!(lines, "");
    assert!(trace.ends_with(" write db=a\n"), "{trace}");
    assert_eq!(trace.lines().count(), 1);
}

#[test]
fn time_is_written_when_asked_for() {
    let mut fields = Fields::default();
    fields.set(MESSAGE, Value::Text("x".into()));
    let at = UNIX_EPOCH + Duration::from_millis(1);
    for (format, want) in [
        (Format::Text { timestamp: true }, "time=1970-01-01T00:00:00.001Z level=INFO msg=x\n"),
        (
            Format::Json { timestamp: true },
            "{\"time\":\"1970-01-01T00:00:00.001Z\",\"level\":\"INFO\",\"msg\":\"x\"}\n",
        ),
        (Format::Trace, "1970/01/01 00:00:00.001000 x\n"),
    ] {
        assert_eq!(fields.line(format, Level::INFO, at), want);
    }
}

#[test]
fn an_unknown_format_is_refused() {
    let logging =
        Logging { format: "xml".into(), timestamp: false, debug: false, trace: Vec::new() };
    let err = logging.subscriber(Sink::Stderr).err().unwrap();
    assert_eq!(err.to_string(), "init logger: invalid log format: \"xml\"");
}
