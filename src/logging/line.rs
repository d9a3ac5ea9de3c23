//! An event as one line: JSON, or text for people.

use std::fmt;
use std::io::Write as _;

use chrono::SecondsFormat;
use serde::{Serialize as _, Serializer as _};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::clock::Clock;

/// What an event without a kind of its own, as libraries send them, is called.
const OTHER: &str = "log";

/// Writes an event as one line.
pub(super) struct Line {
    pub(super) style: Style,
    /// Whether to say which module an event comes from: noise until someone looks for a bug.
    pub(super) targets: bool,
    pub(super) clock: Clock,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut fields = Fields::new(self.style);
        event.record(&mut fields);
        if self.targets {
            fields.put("target", Value::Text(metadata.target()));
        }
        let time = self.clock.now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let line = fields.line(&time, *metadata.level());
        writer.write_str(str::from_utf8(&line).map_err(|_text| fmt::Error)?)
    }
}

/// How a line is written.
#[derive(Clone, Copy)]
pub(super) enum Style {
    Json,
    Text { colour: bool },
}

/// The value of a field.
enum Value<'a> {
    Text(&'a str),
    /// What becomes a text once it is written.
    Shown(fmt::Arguments<'a>),
    Number(serde_json::Number),
    Flag(bool),
}

/// An event's fields, in their order, already written; the message and the kind, which come first in
/// the line, stand apart.
struct Fields {
    style: Style,
    message: Option<String>,
    event: Option<String>,
    rest: Vec<u8>,
}

impl Fields {
    fn new(style: Style) -> Self {
        Self { style, message: None, event: None, rest: Vec::with_capacity(512) }
    }

    fn put(&mut self, name: &'static str, value: Value<'_>) {
        match (name, value) {
            ("message", Value::Text(text)) => self.message = Some(text.to_owned()),
            ("message", Value::Shown(text)) => self.message = Some(text.to_string()),
            ("event", Value::Text(text)) => self.event = Some(text.to_owned()),
            // A second one would make two keys of one name.
            ("timestamp" | "level" | "message" | "event", _) => {}
            (name, value) => self.style.put(&mut self.rest, name, &value),
        }
    }

    /// The line, with its end. A line always has a message: for want of one, the event's kind.
    fn line(&self, time: &str, level: Level) -> Vec<u8> {
        let event = self.event.as_deref().unwrap_or(OTHER);
        let message = self.message.as_deref().unwrap_or(event);
        let mut line = Vec::with_capacity(self.rest.len() + message.len() + 128);
        match self.style {
            Style::Json => {
                let texts = [("timestamp", time), ("level", level.as_str())];
                for (name, text) in
                    texts.into_iter().chain([("message", message), ("event", event)])
                {
                    self.style.put(&mut line, name, &Value::Text(text));
                }
                // A field begins with the comma that parts it from the one before.
                if let Some(first) = line.first_mut() {
                    *first = b'{';
                }
            }
            Style::Text { colour } => {
                text_head(&mut line, time, level, message, colour);
                if event != OTHER {
                    self.style.put(&mut line, "event", &Value::Text(event));
                }
            }
        }
        line.extend_from_slice(&self.rest);
        if matches!(self.style, Style::Json) {
            line.push(b'}');
        }
        line.push(b'\n');
        line
    }
}

impl Style {
    /// Writes a field, behind what parts it from the one before.
    fn put(self, line: &mut Vec<u8>, name: &str, value: &Value<'_>) {
        match self {
            Self::Json => {
                line.push(b',');
                json(line, &Value::Text(name));
                line.push(b':');
                json(line, value);
            }
            Self::Text { colour } => {
                line.push(b' ');
                paint(line, colour, "2", format_args!("{name}="));
                match value {
                    Value::Text(text) => plain(line, text),
                    Value::Shown(text) => plain(line, &text.to_string()),
                    other => json(line, other),
                }
            }
        }
    }
}

/// Writing to memory cannot fail, and no value here has a form that JSON lacks.
fn json(line: &mut Vec<u8>, value: &Value<'_>) {
    let mut json = serde_json::Serializer::new(line);
    let written = match value {
        Value::Text(text) => json.serialize_str(text),
        Value::Shown(text) => json.collect_str(text),
        Value::Number(number) => number.serialize(&mut json),
        Value::Flag(flag) => json.serialize_bool(*flag),
    };
    written.unwrap_or_default();
}

/// A text as it is, where that cannot be misread.
fn plain(line: &mut Vec<u8>, text: &str) {
    if is_plain(text) {
        line.extend_from_slice(text.as_bytes());
    } else {
        json(line, &Value::Text(text));
    }
}

fn paint(line: &mut Vec<u8>, colour: bool, code: &str, text: fmt::Arguments<'_>) {
    let written =
        if colour { write!(line, "\u{1b}[{code}m{text}\u{1b}[0m") } else { line.write_fmt(text) };
    // Writing to memory cannot fail.
    written.unwrap_or_default();
}

fn text_head(line: &mut Vec<u8>, time: &str, level: Level, message: &str, colour: bool) {
    let code = match level {
        Level::ERROR => "31",
        Level::WARN => "33",
        Level::INFO => "32",
        Level::DEBUG => "34",
        _ => "35",
    };
    paint(line, colour, "2", format_args!("{time}"));
    line.push(b' ');
    paint(line, colour, code, format_args!("{:>5}", level.as_str()));
    line.push(b' ');
    line.extend_from_slice(one_line(message).as_bytes());
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), Value::Shown(format_args!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), Value::Text(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), Value::Flag(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), Value::Number(value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), Value::Number(value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let number = serde_json::Number::from_f64(value);
        self.put(field.name(), number.map_or(Value::Text("NaN"), Value::Number));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        self.put(field.name(), Value::Text(&text));
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '"')
}

/// Line breaks and the control codes of terminals, which a server's answer could smuggle in.
fn one_line(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let escape =
        |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}
