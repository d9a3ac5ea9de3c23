//! Log lines on standard error: text for people at a terminal, one JSON object a line otherwise.

mod line;

use std::io::{self, BufWriter, Write};
use std::panic::PanicHookInfo;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use thiserror::Error;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry};

use crate::clock::Clock;
use crate::config::{Log, LogFormat};

use line::{Line, Style};

/// Why logging could not be set up.
#[derive(Debug, Error)]
pub enum LoggingError {
    /// The configuration lets no such filter through.
    #[error("the log filter is not valid")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// It was called twice.
    #[error("logging is already set up")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Sends all events, and every panic, to standard error, until what is returned is dropped.
///
/// That waits, for a second at most, until all is written. `is_terminal` is whether standard error
/// is one: it chooses the format that `auto` means, and whether text has colours.
///
/// A thread of its own writes, so that a terminal or a pipe that stands still holds up nobody: lines
/// beyond [`MOST_LINES`] are dropped then, and told of.
///
/// # Errors
/// When the filter is not valid or logging is set up already.
pub fn init(log: &Log, is_terminal: bool) -> Result<WorkerGuard, LoggingError> {
    let (writer, guard) = in_background(io::stderr(), MOST_LINES, |lines| {
        tracing::warn!(
            event = "log.dropped",
            lines,
            "{lines} lines are missing here: whoever reads the log is too slow"
        );
    });
    let subscriber = subscriber(log, is_terminal, Clock::system(), writer)?;
    tracing::subscriber::set_global_default(subscriber)?;
    std::panic::set_hook(Box::new(panicked));
    Ok(guard)
}

/// Lines that may wait for the thread that writes them: some six megabytes.
const MOST_LINES: usize = 16_384;

/// After a write others gather for this long. A line that comes after a pause waits for nothing.
const LINGER: Duration = Duration::from_millis(5);

fn in_background(
    to: impl Write + Send + 'static,
    most: usize,
    tell: impl FnMut(usize) + Send + 'static,
) -> (NonBlocking, WorkerGuard) {
    let dropped = Arc::new(OnceLock::new());
    let lines = Lines { to: BufWriter::new(to), dropped: Arc::clone(&dropped), told: 0, tell };
    let builder = NonBlockingBuilder::default().buffered_lines_limit(most).thread_name("log");
    let (writer, guard) = builder.finish(lines);
    dropped.get_or_init(|| writer.error_counter());
    (writer, guard)
}

/// What the thread writes to: a burst of lines at once.
struct Lines<W: Write, T> {
    to: BufWriter<W>,
    dropped: Arc<OnceLock<ErrorCounter>>,
    told: usize,
    tell: T,
}

impl<W: Write, T: FnMut(usize)> Write for Lines<W, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes)
    }

    /// The burst is over. That standard error is gone cannot be said anywhere.
    fn flush(&mut self) -> io::Result<()> {
        let _written = self.to.flush();
        let dropped = self.dropped.get().map_or(0, ErrorCounter::dropped_lines);
        if dropped > self.told {
            (self.tell)(dropped - self.told);
            self.told = dropped;
        }
        #[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
        std::thread::sleep(LINGER);
        Ok(())
    }
}

/// What [`init`] installs, writing elsewhere.
fn subscriber<W>(
    log: &Log,
    is_terminal: bool,
    clock: Clock,
    writer: W,
) -> Result<impl Subscriber + Send + Sync, LoggingError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&log.filter)?;
    let style = match log.format {
        LogFormat::Json => Style::Json,
        LogFormat::Auto if !is_terminal => Style::Json,
        LogFormat::Auto | LogFormat::Text => Style::Text { colour: is_terminal },
    };
    let targets = filter.max_level_hint() >= Some(LevelFilter::DEBUG);
    let line = Line { style, targets, clock };
    let layer = tracing_subscriber::fmt::layer()
        .event_format(line)
        .with_writer(writer)
        // Whether to say on standard error that standard error is gone: that would panic.
        .log_internal_errors(false)
        .with_filter(filter);
    Ok(Registry::default().with(layer))
}

/// A panic is one line like any other. Its text holds no token: none is ever formatted.
fn panicked(info: &PanicHookInfo<'_>) {
    let text = info.payload_as_str().unwrap_or("without a text");
    let location = info.location().map(ToString::to_string);
    let thread = std::thread::current();
    tracing::error!(event = "panic", location, thread = thread.name(), "panic: {text}");
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError, mpsc};

    use chrono::DateTime;

    use super::*;

    #[test]
    fn a_reader_that_stands_still_holds_nobody_up_and_is_told_what_it_missed() {
        let (gate, opened) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let buffer = Buffer::default();
        let pipe = Pipe { opened, to: buffer.clone(), open: false };
        let (mut writer, guard) = in_background(pipe, 100, move |lines| tell.send(lines).unwrap());
        let line = "x".repeat(20_000) + "\n";
        for _ in 0..1_000 {
            writer.write_all(line.as_bytes()).unwrap();
        }
        gate.send(()).unwrap();
        let missing = told.recv_timeout(Duration::from_secs(30)).unwrap();
        drop(guard);
        let written = buffer.0.lock().unwrap().len() / line.len();
        assert_eq!(written + missing, 1_000);
        assert!((100..110).contains(&written), "{written}");
    }

    /// A pipe that takes nothing until it is opened.
    struct Pipe {
        opened: mpsc::Receiver<()>,
        to: Buffer,
        open: bool,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.open {
                self.open = self.opened.recv().is_ok();
            }
            self.to.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            lines.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, is_terminal: bool, emit: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let log = Log { format, filter: filter.to_owned() };
        let clock = Clock::manual(DateTime::from_timestamp_millis(1_700_000_000_120).unwrap());
        let subscriber = subscriber(&log, is_terminal, clock, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, emit);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_has_the_names_that_others_rely_on() {
        let line = logged(LogFormat::Auto, "info", false, || {
            tracing::info!(event = "refresh", did = None::<&str>, n = 7, ok = true, at = %"x\"y", "refreshed {}", "al\nice");
        });
        let expected = r#"{"timestamp":"2023-11-14T22:13:20.120Z","level":"INFO","message":"refreshed al\nice","event":"refresh","n":7,"ok":true,"at":"x\"y"}"#;
        assert_eq!(line, format!("{expected}\n"));
    }

    #[test]
    fn a_line_without_message_or_kind_still_has_both() {
        let lines = logged(LogFormat::Json, "info", true, || {
            tracing::warn!(event = "run", level = 3);
            tracing::error!("from a library");
        });
        let expected = [
            r#"{"timestamp":"2023-11-14T22:13:20.120Z","level":"WARN","message":"run","event":"run"}"#,
            r#"{"timestamp":"2023-11-14T22:13:20.120Z","level":"ERROR","message":"from a library","event":"log"}"#,
        ];
        assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn text_is_one_line_with_colours_on_a_terminal_only() {
        let emit = || {
            tracing::warn!(event = "x", a = 1, b = "two words", c = "\u{1b}[31m", "hot\n\u{1b}[0m");
        };
        let plain = logged(LogFormat::Text, "info", false, emit);
        let expected = r#"2023-11-14T22:13:20.120Z  WARN hot\n\u{1b}[0m event=x a=1 b="two words" c="\u001b[31m""#;
        assert_eq!(plain, format!("{expected}\n"));
        let coloured = logged(LogFormat::Auto, "info", true, emit);
        assert!(
            coloured.starts_with("\u{1b}[2m2023-11-14")
                && coloured.contains("\u{1b}[33m WARN\u{1b}[0m")
        );
        assert_eq!(coloured.lines().count(), 1);
    }

    #[test]
    fn modules_are_named_only_when_someone_looks_for_a_bug() {
        let emit = || {
            tracing::debug!("d");
            tracing::info!("i");
        };
        assert_eq!(logged(LogFormat::Json, "info", false, emit).matches("target").count(), 0);
        assert_eq!(
            logged(LogFormat::Json, "debug", false, emit).matches("refreshd::logging").count(),
            2
        );
    }

    #[test]
    fn a_panic_is_one_line() {
        let previous = std::panic::take_hook();
        let mine = std::thread::current().id();
        // Panics of other tests go where they always went.
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().id() == mine { panicked(info) } else { previous(info) }
        }));
        let line = logged(LogFormat::Json, "info", false, || {
            std::panic::catch_unwind(|| panic!("out of {}\nluck", "all")).unwrap_err();
        });
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["event"], "panic");
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["message"], "panic: out of all\nluck");
        assert!(line["location"].as_str().unwrap().starts_with("src/logging/mod.rs:"), "{line}");
    }

    #[test]
    fn an_error_tells_its_causes() {
        #[derive(Debug, Error)]
        #[error("the outside")]
        struct Outside(#[source] io::Error);
        let error = Outside(io::Error::other("the cause"));
        let line = logged(LogFormat::Json, "info", false, || {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::error!(error, "failed");
        });
        assert!(line.contains(r#""error":"the outside: the cause""#), "{line}");
    }
}
