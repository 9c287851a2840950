//! Log lines: text as Go's slog writes it, or JSON, to stderr; and the trace log, to its own sinks.
//!
//! ```text
//! level=INFO msg="connected to cluster, ready" db=app.db        time=… first if asked for
//! {"time":"…","level":"INFO","msg":"…","db":"app.db"}           time only if asked for
//! 2026/11/24 15:04:05.000000 write db=app.db offset=4096        target "trace" only
//! ```
//!
//! Fields of the spans around an event come first, outermost first; an inner field replaces an outer
//! one of the same name. Events with the target [`TRACE_TARGET`] go to the trace log and nowhere else.
//! Invariant: a sink that fails never stops the program.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use litefs_core::error::chain;
use thiserror::Error;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{SetGlobalDefaultError, set_global_default};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry, Scope};

use crate::trace_file::TraceFile;
use crate::utc::Utc;

/// The target of events that belong to the trace log.
pub(crate) const TRACE_TARGET: &str = "trace";

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Text { timestamp: bool },
    Json { timestamp: bool },
    Trace,
}

/// Where finished lines go.
#[derive(Debug, Clone)]
pub(crate) enum Sink {
    Stdout,
    Stderr,
    File(Arc<TraceFile>),
}

/// What to log, and where.
#[derive(Debug)]
pub(crate) struct Logging {
    /// `text` or `json`.
    pub(crate) format: String,
    pub(crate) timestamp: bool,
    pub(crate) debug: bool,
    /// The sinks of the trace log.
    pub(crate) trace: Vec<Sink>,
}

impl Logging {
    /// Makes this the logging of the whole process.
    ///
    /// # Errors
    /// If the format isn't known, or logging was already set up.
    pub(crate) fn init(self) -> Result<(), LogError> {
        Ok(set_global_default(self.subscriber(Sink::Stderr)?)?)
    }

    fn subscriber(self, sink: Sink) -> Result<impl Subscriber + Send + Sync, LogError> {
        let timestamp = self.timestamp;
        let format = match self.format.as_str() {
            "text" => Format::Text { timestamp },
            "json" => Format::Json { timestamp },
            _ => return Err(LogError::Format(self.format)),
        };
        let level = if self.debug { Level::DEBUG } else { Level::INFO };
        let wanted = move |m: &Metadata<'_>| m.target() != TRACE_TARGET && *m.level() <= level;
        let lines = LineLayer { format, sinks: vec![sink] }
            .with_filter(FilterFn::new(wanted).with_max_level_hint(level));
        let trace = (!self.trace.is_empty()).then(|| {
            let wanted = |m: &Metadata<'_>| m.target() == TRACE_TARGET;
            LineLayer { format: Format::Trace, sinks: self.trace }
                .with_filter(FilterFn::new(wanted).with_max_level_hint(LevelFilter::TRACE))
        });
        Ok(Registry::default().with(lines).with(trace))
    }
}

/// Logging that can't be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum LogError {
    /// `log.format` is neither `text` nor `json`.
    #[error("init logger: invalid log format: {0:?}")]
    Format(String),
    /// It was set up before.
    #[error("init logger: {0}")]
    Twice(#[from] SetGlobalDefaultError),
}

/// Turns events into lines.
struct LineLayer {
    format: Format,
    sinks: Vec<Sink>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LineLayer {
    fn on_new_span(&self, attrs: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let mut fields = Fields::default();
        attrs.record(&mut fields);
        span.extensions_mut().replace(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in ctx.event_scope(event).into_iter().flat_map(Scope::from_root) {
            if let Some(outer) = span.extensions().get::<Fields>() {
                outer.0.iter().for_each(|(name, value)| fields.set(name, value.clone()));
            }
        }
        event.record(&mut fields);
        let line = fields.line(self.format, *event.metadata().level(), SystemTime::now());
        self.sinks.iter().for_each(|sink| sink.write(&line));
    }
}

impl Sink {
    fn write(&self, line: &str) {
        // Nobody can be told that stderr is closed.
        let _ = match self {
            Sink::Stdout => io::stdout().lock().write_all(line.as_bytes()),
            Sink::Stderr => io::stderr().lock().write_all(line.as_bytes()),
            Sink::File(file) => {
                file.write(line);
                Ok(())
            }
        };
    }
}

/// A field's value: text, which needs quotes, or what stands for itself.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    Raw(String),
}

/// The fields of a span or an event, in order; the message is among them.
#[derive(Debug, Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn set(&mut self, name: &'static str, value: Value) {
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value));
    }

    /// The message, and the other fields.
    fn split(&self) -> (&str, impl Iterator<Item = &(&'static str, Value)>) {
        let message = self.0.iter().find(|(name, _)| *name == MESSAGE).map(|(_, value)| value);
        let text = match message {
            Some(Value::Text(text) | Value::Raw(text)) => text.as_str(),
            None => "",
        };
        (text, self.0.iter().filter(|(name, _)| *name != MESSAGE))
    }

    fn line(&self, format: Format, level: Level, at: SystemTime) -> String {
        let mut line = String::new();
        // Writing to a string can't fail.
        let _ = match format {
            Format::Text { timestamp } => self.text(&mut line, level, timestamp.then_some(at)),
            Format::Json { timestamp } => self.json(&mut line, level, timestamp.then_some(at)),
            Format::Trace => self.trace(&mut line, at),
        };
        line.push('\n');
        line
    }

    fn text(&self, out: &mut String, level: Level, at: Option<SystemTime>) -> fmt::Result {
        let (message, fields) = self.split();
        if let Some(at) = at {
            write!(out, "time={} ", Utc::new(at))?;
        }
        write!(out, "level={level} msg={}", Quoted(message))?;
        fields.into_iter().try_for_each(|(name, value)| write!(out, " {name}={value}"))
    }

    fn json(&self, out: &mut String, level: Level, at: Option<SystemTime>) -> fmt::Result {
        let (message, fields) = self.split();
        out.push('{');
        if let Some(at) = at {
            write!(out, "\"time\":\"{}\",", Utc::new(at))?;
        }
        write!(out, "\"level\":\"{level}\",\"msg\":{}", JsonText(message))?;
        for (name, value) in fields {
            write!(out, ",{}:", JsonText(name))?;
            match value {
                Value::Text(text) => write!(out, "{}", JsonText(text))?,
                Value::Raw(raw) => out.push_str(raw),
            }
        }
        out.push('}');
        Ok(())
    }

    fn trace(&self, out: &mut String, at: SystemTime) -> fmt::Result {
        let (message, fields) = self.split();
        // A line is a line, whatever a file is called.
        write!(out, "{} {}", Utc::new(at).trace(), message.replace('\n', "\\n"))?;
        fields.into_iter().try_for_each(|(name, value)| write!(out, " {name}={value}"))
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field.name(), Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), Value::Text(value.into()));
    }

    /// With what lies beneath: "transaction log" alone helps nobody.
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.set(field.name(), Value::Text(chain(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), Value::Raw(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), Value::Raw(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), Value::Raw(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity and no NaN.
        let text = value.to_string();
        self.set(
            field.name(),
            if value.is_finite() { Value::Raw(text) } else { Value::Text(text) },
        );
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => Quoted(text).fmt(f),
            Value::Raw(raw) => f.write_str(raw),
        }
    }
}

/// Text as slog prints it: quoted only if it must be.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain =
            |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=' | '\\');
        if !self.0.is_empty() && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if u32::from(c) < 0x80 && c.is_control() => write!(f, "\\x{:02x}", u32::from(c))?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

struct JsonText<'a>(&'a str);

impl fmt::Display for JsonText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self.0).map_err(|_| fmt::Error)?)
    }
}

const MESSAGE: &str = "message";

#[cfg(test)]
mod tests;
