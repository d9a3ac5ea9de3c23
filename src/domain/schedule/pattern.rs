//! What a crontab pattern means, written down for the `cron` crate, whose own reading differs (Sunday is 1, no wrapping
//! ranges, day of month AND day of week).

use std::{collections::BTreeSet, num::NonZeroUsize};

use chrono::DateTime;

use super::error::{PatternError, Problem};

/// A pattern as the `cron` crate understands it.
pub(super) struct Translated {
    /// A tick of any of these is a tick.
    pub(super) wall: Vec<cron::Schedule>,
    /// One value each for second, minute and hour.
    pub(super) fixed: bool,
}

struct Spec {
    name: &'static str,
    min: u32,
    /// The last value before the field starts over.
    last: u32,
    /// The last value that may be written: 7 for a second Sunday.
    max: u32,
    /// In order, from `min`.
    names: &'static [&'static str],
    days: bool,
    allowed: &'static str,
}

const fn clock(name: &'static str, last: u32, allowed: &'static str) -> Spec {
    Spec { name, min: 0, last, max: last, names: &[], days: false, allowed }
}

const SECOND: Spec = clock("second", 59, "0-59, lists (0,30), ranges (0-29) and steps (*/10)");
const MINUTE: Spec = clock("minute", 59, "0-59, lists (0,30), ranges (0-29) and steps (*/15)");
const HOUR: Spec = clock("hour", 23, "0-23, lists (6,18), ranges (22-4) and steps (*/6)");
const DAY_OF_MONTH: Spec = Spec {
    name: "day of month",
    min: 1,
    last: 31,
    max: 31,
    names: &[],
    days: true,
    allowed: "1-31, lists (1,15), ranges (1-7) and steps (*/2)",
};
const MONTH: Spec = Spec {
    name: "month",
    min: 1,
    last: 12,
    max: 12,
    names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    days: false,
    allowed: "1-12 or JAN-DEC, lists (1,7), ranges (NOV-FEB) and steps (*/3)",
};
const DAY_OF_WEEK: Spec = Spec {
    name: "day of week",
    min: 0,
    last: 6,
    max: 7,
    names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
    days: true,
    allowed: "0-7 (0 and 7 are Sunday) or SUN-SAT, lists (1,4), ranges (FRI-MON) and steps (*/2)",
};

pub(super) fn translate(text: &str) -> Result<Translated, PatternError> {
    let text = text.trim();
    let text = if text.starts_with('@') { nickname(text)? } else { text };
    let parts: Vec<&str> = text.split_whitespace().collect();
    let (skipped, [second, minute, hour, day, month, weekday]) = match *parts.as_slice() {
        [minute, hour, day, month, weekday] => (1, ["0", minute, hour, day, month, weekday]),
        [second, minute, hour, day, month, weekday] => {
            (0, [second, minute, hour, day, month, weekday])
        }
        [_, _, _, _, _, _, _] => return Err(PatternError::Years),
        _ => return Err(PatternError::FieldCount { count: parts.len() }),
    };
    let read = |place: usize, spec: &Spec, text: &str| {
        Field::read(spec, text).map_err(|problem| PatternError::Field {
            position: place - skipped,
            name: spec.name,
            text: text.to_owned(),
            problem,
            allowed: spec.allowed,
        })
    };
    let second = read(1, &SECOND, second)?;
    let minute = read(2, &MINUTE, minute)?;
    let hour = read(3, &HOUR, hour)?;
    let day = read(4, &DAY_OF_MONTH, day)?;
    let month = read(5, &MONTH, month)?;
    let weekday = read(6, &DAY_OF_WEEK, weekday)?;

    let time = format!("{} {} {}", second.list(0), minute.list(0), hour.list(0));
    let month = month.list(0);
    let by_day = format!("{time} {} {month} *", day.list(0));
    // `cron` counts the days of the week from Sunday = 1.
    let by_weekday = format!("{time} * {month} {}", weekday.list(1));
    // Either is enough when both are restricted. Only a lone `*` (or `?`) leaves a field open: so `*/2` and `1-31`
    // restrict, as in `croner` and in the crontab manual's words. Vixie cron itself takes any field that begins with
    // a `*` as open.
    let lines = match (day.open, weekday.open) {
        (_, true) => vec![by_day],
        (true, false) => vec![by_weekday],
        (false, false) => vec![by_day, by_weekday],
    };
    let wall: Result<Vec<cron::Schedule>, cron::error::Error> =
        lines.iter().map(|line| line.parse()).collect();
    let wall = wall.map_err(|error| PatternError::Engine { reason: error.to_string() })?;
    if wall.iter().all(|days| days.after(&DateTime::UNIX_EPOCH).next().is_none()) {
        return Err(PatternError::Never);
    }
    Ok(Translated { wall, fixed: [second, minute, hour].iter().all(Field::is_fixed) })
}

fn nickname(text: &str) -> Result<&'static str, PatternError> {
    match text.to_ascii_lowercase().as_str() {
        "@yearly" | "@annually" => Ok("0 0 1 1 *"),
        "@monthly" => Ok("0 0 1 * *"),
        "@weekly" => Ok("0 0 * * 0"),
        "@daily" | "@midnight" => Ok("0 0 * * *"),
        "@hourly" => Ok("0 * * * *"),
        _ => Err(PatternError::Nickname { text: text.to_owned() }),
    }
}

/// The values that one field selects.
struct Field {
    values: BTreeSet<u32>,
    open: bool,
    stepped: bool,
}

impl Field {
    fn read(spec: &Spec, text: &str) -> Result<Self, Problem> {
        if text == "*" || (text == "?" && spec.days) {
            return Ok(Self {
                values: (spec.min..=spec.last).collect(),
                open: true,
                stepped: false,
            });
        }
        let mut field = Self { values: BTreeSet::new(), open: false, stepped: false };
        for entry in text.split(',') {
            // A `*` with a step is an entry like any other: croner takes it in a list too.
            let (span, step) = match entry.split_once('/') {
                Some((span, step)) => (span, Some(read_step(step)?)),
                None => (entry, None),
            };
            field.stepped |= span == "*" || step.is_some_and(|step| step > NonZeroUsize::MIN);
            let span = read_span(spec, span, step)?;
            field.values.extend(span.into_iter().step_by(step.unwrap_or(NonZeroUsize::MIN).get()));
        }
        // A Sunday that was written as 7.
        if spec.max > spec.last && field.values.remove(&spec.max) {
            field.values.insert(spec.min);
        }
        Ok(field)
    }

    fn is_fixed(&self) -> bool {
        self.values.len() == 1 && !self.open && !self.stepped
    }

    fn list(&self, shift: u32) -> String {
        if self.open {
            return "*".to_owned();
        }
        self.values.iter().map(|value| (value + shift).to_string()).collect::<Vec<_>>().join(",")
    }
}

fn read_step(text: &str) -> Result<NonZeroUsize, Problem> {
    let refused = || Problem::Step(text.to_owned());
    // `parse` alone would take a sign.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused());
    }
    text.parse().ok().ok_or_else(refused)
}

/// The values of one entry in the order in which the clock passes them.
fn read_span(spec: &Spec, text: &str, step: Option<NonZeroUsize>) -> Result<Vec<u32>, Problem> {
    if text == "*" && step.is_some() {
        return Ok((spec.min..=spec.last).collect());
    }
    let Some((start, end)) = text.split_once('-') else {
        let value = read_value(spec, text)?;
        return match step {
            None => Ok(vec![value]),
            Some(step) => {
                Err(Problem::StepWithoutRange { start: text.to_owned(), max: spec.max, step })
            }
        };
    };
    let (start, end) = (read_value(spec, start)?, read_value(spec, end)?);
    if start <= end {
        return Ok((start..=end).collect());
    }
    // It wraps. `last`, not `max`: Sunday as 7 is Sunday as 0 here, or a step would count the day twice.
    Ok((start..=spec.last).chain(spec.min..=end).collect())
}

fn read_value(spec: &Spec, text: &str) -> Result<u32, Problem> {
    if text.is_empty() {
        return Err(Problem::Missing);
    }
    if text.contains('*') {
        return Err(Problem::Star);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let value = text.parse().ok().filter(|value| (spec.min..=spec.max).contains(value));
        return value.ok_or_else(|| Problem::OutOfRange(text.to_owned()));
    }
    let named = (spec.min..).zip(spec.names).find(|(_, name)| name.eq_ignore_ascii_case(text));
    if let Some((value, _)) = named {
        return Ok(value);
    }
    let letters = text.trim_start_matches(|sign: char| sign.is_ascii_digit()).to_ascii_uppercase();
    if text.contains(['#', '?', '+']) || ["L", "W", "LW"].contains(&letters.as_str()) {
        return Err(Problem::Extension(text.to_owned()));
    }
    Err(Problem::NotAValue(text.to_owned()))
}
