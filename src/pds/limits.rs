//! What a server's headers say about its rate limit.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

/// Below this, `RateLimit-Reset` counts seconds from now (the IETF drafts) and not from 1970 (what
/// Bluesky's servers send).
const FIRST_UNIX_RESET: i64 = 1_000_000_000;

/// A server's own account of its limit. Every field is absent where the server does not say it,
/// or says it in a way that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// `RateLimit-Limit`: requests in one window.
    pub limit: Option<u64>,
    /// `RateLimit-Remaining`: requests left in this window.
    pub remaining: Option<u64>,
    /// `RateLimit-Reset`: when this window ends, by the server's clock.
    pub reset_at: Option<DateTime<Utc>>,
    /// The window's length, from `RateLimit-Policy: 3000;w=300`.
    pub window: Option<Duration>,
    /// `Retry-After`, in seconds or as a date; a date is measured against the answer's own `Date`,
    /// so that a difference between the two clocks does not matter.
    pub retry_after: Option<Duration>,
    /// `Date`: when the server sent the answer, by its own clock.
    pub sent_at: Option<DateTime<Utc>>,
}

impl Limits {
    /// How long a 429 asks to wait: `Retry-After`, else until the window ends.
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after.or_else(|| Some(until(self.reset_at?, self.sent_at?)))
    }

    /// How many requests are left for how long, in this window.
    pub fn left(&self) -> Option<(u64, Duration)> {
        Some((self.remaining?, until(self.reset_at?, self.sent_at?)))
    }

    pub(super) fn read(headers: &HeaderMap) -> Self {
        let number = |name: &'static str| {
            text(headers, &HeaderName::from_static(name))?.trim().parse::<u64>().ok()
        };
        let limit = number("ratelimit-limit");
        let sent_at = text(headers, &DATE).and_then(http_date);
        Self {
            limit,
            remaining: number("ratelimit-remaining"),
            reset_at: number("ratelimit-reset").and_then(|reset| moment(reset, sent_at)),
            window: text(headers, &HeaderName::from_static("ratelimit-policy"))
                .and_then(|policy| window(policy, limit)),
            retry_after: text(headers, &RETRY_AFTER).and_then(|value| delay(value, sent_at)),
            sent_at,
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// RFC 9110, section 5.6.7; its two obsolete forms are not read.
fn http_date(value: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc2822(value.trim()).ok().map(|date| date.with_timezone(&Utc))
}

/// From `now` to `then`; nothing if that has passed.
fn until(then: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (then - now).to_std().unwrap_or(Duration::ZERO)
}

fn moment(reset: u64, sent_at: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    let seconds = i64::try_from(reset).ok()?;
    if seconds >= FIRST_UNIX_RESET {
        return DateTime::from_timestamp(seconds, 0);
    }
    sent_at?.checked_add_signed(chrono::Duration::try_seconds(seconds)?)
}

/// RFC 9110, section 10.2.3.
fn delay(value: &str, sent_at: Option<DateTime<Utc>>) -> Option<Duration> {
    match value.trim().parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_a_date) => Some(until(http_date(value)?, sent_at?)),
    }
}

/// The window of the policy that `RateLimit-Limit` is about, among several.
fn window(policies: &str, limit: Option<u64>) -> Option<Duration> {
    let policy = |policy: &str| {
        let mut parts = policy.split(';').map(str::trim);
        let quota = parts.next()?.parse::<u64>().ok();
        let seconds = parts.find_map(|part| part.strip_prefix("w="))?.parse::<u64>().ok()?;
        Some((quota, Duration::from_secs(seconds)))
    };
    let all: Vec<_> = policies.split(',').filter_map(policy).collect();
    all.iter().find(|(quota, _)| quota.is_some() && *quota == limit).or(all.first()).map(|it| it.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE_TEXT: &str = "Mon, 23 Nov 2026 22:00:00 GMT";

    fn limits(lines: &[(&'static str, &'static str)]) -> Limits {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.insert(*name, value.parse().unwrap());
        }
        Limits::read(&headers)
    }

    #[test]
    fn what_the_reference_server_sends() {
        let read = limits(&[
            ("ratelimit-limit", "3000"),
            ("ratelimit-remaining", "2991"),
            ("ratelimit-reset", "1795471492"),
            ("ratelimit-policy", "3000;w=300"),
            ("retry-after", "292"),
            ("date", DATE_TEXT),
        ]);
        let sent_at = http_date(DATE_TEXT);
        let expected = Limits {
            limit: Some(3_000),
            remaining: Some(2_991),
            reset_at: DateTime::from_timestamp(1_795_471_492, 0),
            window: Some(Duration::from_mins(5)),
            retry_after: Some(Duration::from_secs(292)),
            sent_at,
        };
        assert_eq!(read, expected);
        assert_eq!(limits(&[]), Limits::default());
    }

    #[test]
    fn how_long_to_wait() {
        let seconds = |n| Some(Duration::from_secs(n));
        let in_a_minute = ("retry-after", "Mon, 23 Nov 2026 22:01:00 GMT");
        let reset = ("ratelimit-reset", "1795471260");
        let date = ("date", DATE_TEXT);
        for (lines, wait) in [
            (vec![("retry-after", "7"), reset, date], seconds(7)),
            (vec![("retry-after", "0"), date], seconds(0)),
            (vec![in_a_minute, date], seconds(60)),
            (vec![in_a_minute], None),
            (vec![("retry-after", "Mon, 23 Nov 2026 21:00:00 GMT"), date], seconds(0)),
            (vec![("retry-after", "soon"), reset, date], seconds(60)),
            (vec![("retry-after", "-5"), date], None),
            (vec![reset, date], seconds(60)),
            (vec![reset], None),
            (vec![("ratelimit-reset", "30"), date], seconds(30)),
            (vec![("ratelimit-reset", "18446744073709551615"), date], None),
            (vec![("ratelimit-reset", "9223372036854775807"), date], None),
            (vec![], None),
        ] {
            assert_eq!(limits(&lines).wait(), wait, "{lines:?}");
        }
    }

    #[test]
    fn the_window_of_the_policy_that_counts() {
        for (policy, limit, window) in [
            ("3000;w=300", Some(3_000), Some(300)),
            ("10;w=1, 3000;w=300", Some(3_000), Some(300)),
            ("10;w=1, 3000;w=300", None, Some(1)),
            ("3000; comment=\"x\"; w=300", None, Some(300)),
            ("3000", Some(3_000), None),
            ("3000;w=many", Some(3_000), None),
            ("", None, None),
        ] {
            assert_eq!(super::window(policy, limit), window.map(Duration::from_secs), "{policy}");
        }
    }
}
