//! Reads settings out of the sources, and collects all that is wrong instead of stopping.

use std::time::Duration;

use secrecy::SecretString;

use super::problem::Problem;
use super::settings::{Kind, Setting};
use super::sources::Sources;
use crate::domain::renewal::Lead;
use crate::domain::session::USUAL_LIFE;

/// Reads settings; what does not fit goes to `problems`, and the reader answers `None`.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    sources: &'a Sources,
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sources: &'a Sources) -> Self {
        let problems = sources.problems().to_vec();
        Self { sources, problems, notes: sources.notes().to_vec() }
    }

    /// The value that fits, or the default; `None` when it does not fit or when there is neither.
    /// `parse` answers what is allowed.
    pub(super) fn parsed<T>(
        &mut self,
        setting: &'static Setting,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (text, origin) = self.value(setting)?;
        let parsed = parse(text);
        match parsed {
            Ok(value) => Some(value),
            Err(allowed) => {
                self.problems.push(Problem::value(setting, text, origin, &allowed));
                None
            }
        }
    }

    /// As [`parsed`](Self::parsed), with the setting's own words for what is allowed.
    pub(super) fn fitting<T>(
        &mut self,
        setting: &'static Setting,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.parsed(setting, |text| parse(text).ok_or_else(|| setting.allowed()))
    }

    /// Notes that a setting must be given, if it is not.
    pub(super) fn require(&mut self, setting: &'static Setting) {
        if self.value(setting).is_none() && !self.sources.is_spoilt(setting.name) {
            self.problems.push(Problem::missing(setting));
        }
    }

    /// A setting that is one of its kind's words.
    pub(super) fn word(&mut self, setting: &'static Setting) -> Option<&'static str> {
        self.fitting(setting, |text| match setting.kind {
            Kind::OneOf(words) => {
                words.iter().copied().find(|word| text.eq_ignore_ascii_case(word))
            }
            _ => None,
        })
    }

    /// A whole number within its kind's bounds.
    pub(super) fn number<T: TryFrom<u64>>(&mut self, setting: &'static Setting) -> Option<T> {
        self.fitting(setting, |text| match setting.kind {
            Kind::Number(min, max) => {
                let number = text.parse().ok().filter(|number| (min..=max).contains(number))?;
                T::try_from(number).ok()
            }
            _ => None,
        })
    }

    /// A time span within its kind's bounds.
    pub(super) fn span(&mut self, setting: &'static Setting) -> Option<Duration> {
        self.fitting(setting, |text| span_of(setting, text))
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, setting: &'static Setting) -> Option<bool> {
        self.fitting(setting, |text| match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        })
    }

    /// A secret, if it is given and fits.
    pub(super) fn secret(
        &mut self,
        setting: &'static Setting,
        fits: impl FnOnce(&str) -> bool,
    ) -> Option<SecretString> {
        self.fitting(setting, |text| fits(text).then(|| text.into()))
    }

    /// Whether a value was given, be it good or not.
    pub(super) fn is_given(&self, setting: &'static Setting) -> bool {
        self.sources.get(setting.name).is_some()
    }

    /// The name of this host, when it is known.
    pub(super) fn host_name(&self) -> Option<&'a str> {
        self.sources.host_name()
    }

    /// The folders that the supervisor keeps for the daemon's state, if it says so.
    pub(super) fn state_directory(&self) -> Option<&'a str> {
        self.sources.state_directory()
    }

    /// Something to be warned about once logging works.
    pub(super) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    fn value(&self, setting: &'static Setting) -> Option<(&'a str, &'a str)> {
        match self.sources.get(setting.name) {
            // Blanks around a secret may belong to it.
            Some(value) if setting.is_secret() => Some((value.text(), &value.origin)),
            Some(value) => Some((value.text().trim(), &value.origin)),
            None => Some((setting.default?, "the default")),
        }
    }
}

/// Whether a setting that can be switched off is.
pub(super) fn is_off(text: &str) -> bool {
    text.eq_ignore_ascii_case("off")
}

/// A time span within the bounds of a setting's kind.
pub(super) fn span_of(setting: &Setting, text: &str) -> Option<Duration> {
    match setting.kind {
        Kind::Span(min, max) | Kind::SpanOrOff(min, max) => {
            span(text).filter(|span| (min..=max).contains(span))
        }
        _ => None,
    }
}

/// A time span such as `15s` or `1h 30m`. A bare number, even 0, is none: nobody can tell its unit.
pub(super) fn span(text: &str) -> Option<Duration> {
    let bare = text.bytes().all(|b| b.is_ascii_digit());
    if bare { None } else { humantime::parse_duration(text).ok() }
}

/// Calls per second from `calls/time`, where the time is a unit (`s`, `m`, `h`) or a span (`5m`).
pub(super) fn rate(text: &str) -> Option<f64> {
    let (calls, per) = text.split_once('/')?;
    let calls: u32 = calls.trim().parse().ok().filter(|calls| (1..=1_000_000).contains(calls))?;
    let per = per.trim();
    let per = if per.starts_with(|c: char| c.is_ascii_digit()) {
        per.to_owned()
    } else {
        format!("1{per}")
    };
    let per = span(&per).filter(|per| (1..=86_400).contains(&per.as_secs()))?;
    // A worker waits for its turn: ten seconds are the most that it should.
    Some(f64::from(calls) / per.as_secs_f64()).filter(|rate| *rate >= 0.1)
}

/// A lead: a share such as `25%`, or a span. It leaves what the application itself asks for, 10
/// minutes, or a twentieth of a token's life (bluesky.md: two hours), whichever is less.
pub(super) fn lead(text: &str) -> Option<Lead> {
    if let Some(share) = text.strip_suffix('%') {
        let share: f64 = share.trim().parse().ok()?;
        return (5.0..=75.0).contains(&share).then_some(Lead::Share(share / 100.0));
    }
    let least = USUAL_LIFE.mul_f64(0.05).min(Duration::from_mins(10));
    let span = span(text).filter(|span| (least..=Duration::from_hours(24)).contains(span))?;
    Some(Lead::Span(span))
}

/// A name that can stand in a Redis key: letters, digits and `. _ - :`, at most `longest` bytes.
pub(super) fn key_part(text: &str, longest: usize) -> Option<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._-:".contains(&b);
    ((1..=longest).contains(&text.len()) && text.bytes().all(good)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads() {
        let minutes = |minutes| Some(Lead::Span(Duration::from_mins(minutes)));
        assert_eq!(lead("25%"), Some(Lead::Share(0.25)));
        assert_eq!([lead("5 %"), lead("75%")], [Some(Lead::Share(0.05)), Some(Lead::Share(0.75))]);
        assert_eq!([lead("6m"), lead("1h 30m"), lead("24h")], [6, 90, 1_440].map(minutes));
        for bad in ["", "%", "4.9%", "76%", "NaN%", "inf%", "-25%", "25", "0.25", "5m", "25h", "0s"]
        {
            assert_eq!(lead(bad), None, "{bad}");
        }
    }

    #[test]
    fn rates() {
        for (text, per_second) in [
            ("8/s", 8.0),
            (" 8 / s ", 8.0),
            ("120/m", 2.0),
            ("3000/5m", 10.0),
            ("3000/300s", 10.0),
            ("6/m", 0.1),
            ("540/1h 30m", 0.1),
        ] {
            let got = rate(text).unwrap();
            assert!((got - per_second).abs() < 1e-9, "{text}: {got}");
        }
        for bad in [
            "",
            "8",
            "/s",
            "8/",
            "0/s",
            "-1/s",
            "1.5/s",
            "8/0s",
            "8/5",
            "8/x",
            "8/10ms",
            "8/2d",
            "9999999/s",
            "1/h",
        ] {
            assert_eq!(rate(bad), None, "{bad}");
        }
    }
}
