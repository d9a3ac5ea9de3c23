//! A job's options, as BullMQ understands them: how often it is tried, how long it waits in between, what is
//! kept of it. Whatever is missing or odd there reads as BullMQ's default.

use std::time::Duration;

use serde_json::Value;

/// No wait is longer, whatever a job says.
const LONGEST_WAIT: Duration = Duration::from_hours(24);

/// The options of one job that matter to whoever serves it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// How often it is tried in all; 0 and 1 mean once.
    pub attempts: u64,
    backoff: Backoff,
    /// How long after it was made it was due first, in milliseconds.
    pub delay_ms: u64,
    pub(super) on_complete: Keep,
    pub(super) on_fail: Keep,
}

/// How long a job waits before it is tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Backoff {
    delay_ms: f64,
    is_exponential: bool,
    /// How much of the wait is left to chance, from 0 to 1.
    jitter: f64,
}

/// How many of those that ended in the same way are kept, and for how many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keep {
    /// `None`: as many as are young enough.
    pub(super) count: Option<u64>,
    pub(super) seconds: Option<u64>,
}

impl Keep {
    const ALL: Self = Self { count: None, seconds: None };

    fn read(value: Option<&Value>) -> Self {
        match value {
            Some(Value::Bool(true)) => Self { count: Some(0), seconds: None },
            Some(Value::Number(count)) => Self { count: count.as_u64(), seconds: None },
            Some(Value::Object(rules)) => {
                let number = |name: &str| rules.get(name).and_then(Value::as_u64);
                Self { count: number("count"), seconds: number("age") }
            }
            _ => Self::ALL,
        }
    }
}

impl Options {
    pub(super) fn read(json: &[u8]) -> Self {
        let read = serde_json::from_slice(json).unwrap_or(Value::Null);
        let number = |name: &str| read.get(name).and_then(Value::as_u64).unwrap_or(0);
        Self {
            attempts: number("attempts").max(1),
            backoff: Backoff::read(read.get("backoff")),
            delay_ms: number("delay"),
            on_complete: Keep::read(read.get("removeOnComplete")),
            on_fail: Keep::read(read.get("removeOnFail")),
        }
    }

    /// How long a job waits that was tried `made` times, the last one included; `None`: it is not tried again.
    /// `draw` is a number from 0 to 1.
    pub fn wait(&self, made: u64, draw: f64) -> Option<Duration> {
        (made < self.attempts).then(|| self.backoff.wait(made, draw))
    }
}

impl Backoff {
    fn read(value: Option<&Value>) -> Self {
        let number = |value: Option<&Value>| value.and_then(Value::as_f64).unwrap_or(0.0);
        let kind = value.and_then(|it| it.get("type")).and_then(Value::as_str);
        match value {
            Some(Value::Object(rules)) => Self {
                delay_ms: number(rules.get("delay")).max(0.0),
                is_exponential: kind == Some("exponential"),
                jitter: number(rules.get("jitter")).clamp(0.0, 1.0),
            },
            fixed => Self { delay_ms: number(fixed).max(0.0), is_exponential: false, jitter: 0.0 },
        }
    }

    fn wait(self, made: u64, draw: f64) -> Duration {
        let doubled = i32::try_from(made.saturating_sub(1)).unwrap_or(i32::MAX).min(64);
        let times = if self.is_exponential { 2_f64.powi(doubled) } else { 1.0 };
        let least = 1.0 - self.jitter;
        let ms = self.delay_ms * times * (least + self.jitter * draw.clamp(0.0, 1.0));
        Duration::try_from_secs_f64(ms / 1_000.0).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(json: &str) -> Vec<u128> {
        let options = Options::read(json.as_bytes());
        (1..9).map_while(|made| options.wait(made, 0.5)).map(|wait| wait.as_millis()).collect()
    }

    #[test]
    fn attempts_and_waits_are_as_in_bullmq() {
        for (json, expected) in [
            (
                r#"{"attempts":3,"backoff":{"type":"exponential","delay":1000}}"#,
                &[1_000, 2_000][..],
            ),
            (r#"{"attempts":4,"backoff":{"type":"exponential","delay":50}}"#, &[50, 100, 200]),
            (r#"{"attempts":3,"backoff":{"type":"fixed","delay":700}}"#, &[700, 700]),
            (r#"{"attempts":2,"backoff":700}"#, &[700]),
            (r#"{"attempts":3}"#, &[0, 0]),
            (r#"{"attempts":2,"backoff":{"type":"fixed","delay":1000,"jitter":0.5}}"#, &[750]),
            (r#"{"attempts":2,"backoff":{"type":"our-own","delay":9}}"#, &[9]),
            (r#"{"attempts":2,"backoff":{"type":"fixed","delay":-5}}"#, &[0]),
            (r#"{"attempts":2,"backoff":1e300}"#, &[86_400_000]),
            (r#"{"attempts":1}"#, &[]),
            (r#"{"attempts":0}"#, &[]),
            (r#"{"attempts":"3"}"#, &[]),
            ("{}", &[]),
            ("", &[]),
            ("null", &[]),
        ] {
            assert_eq!(waits(json), expected, "{json}");
        }
    }

    #[test]
    fn what_is_kept_is_as_in_bullmq() {
        for (json, count, seconds) in [
            ("true", Some(0), None),
            ("false", None, None),
            ("0", Some(0), None),
            ("1000", Some(1_000), None),
            (r#"{"count":5,"age":60}"#, Some(5), Some(60)),
            (r#"{"age":60}"#, None, Some(60)),
            ("null", None, None),
            (r#""x""#, None, None),
            ("-1", None, None),
        ] {
            let options = Options::read(format!(r#"{{"removeOnFail":{json}}}"#).as_bytes());
            assert_eq!(options.on_fail, Keep { count, seconds }, "{json}");
            assert_eq!(options.on_complete, Keep::ALL);
        }
    }
}
