//! When a refresh-all is due: crontab patterns in a time zone, without a clock.
//!
//! The `cron` crate finds the matching wall-clock times; this module lays them on the real time line. It is not asked
//! to do that itself: its own zone handling (0.17) drops a daily tick that falls into a spring gap, runs it twice in
//! the repeated hour of autumn, and from the second pass of that hour answers with a time that is already past.

mod error;
mod pattern;

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

use chrono::{
    DateTime, Datelike as _, Days, MappedLocalTime, NaiveDate, NaiveDateTime, TimeDelta,
    TimeZone as _, Utc,
};
use chrono_tz::Tz;

pub use error::{PatternError, Problem};

/// The last year that the `cron` crate knows.
const LAST_YEAR: i32 = 2100;
const SECOND: TimeDelta = TimeDelta::seconds(1);

/// A crontab pattern in a zone.
///
/// A *fixed time* has one value each for hour, minute and second. It ticks once on each of its days: at the first
/// moment after a spring gap that swallowed it, and on the first of two passes through a repeated hour. Any other
/// pattern (`*`, lists, ranges, steps) goes by the wall clock as it passes: not in the gap, twice in the repeated hour.
/// Source of the rule: vixie cron, and the `croner` crate for where the line between the two is drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pattern: String,
    zone: Tz,
    /// One, or two when the day of month and the day of week are both restricted: then either is enough.
    wall: Vec<cron::Schedule>,
    fixed: bool,
}

impl Schedule {
    /// Reads a crontab pattern: five fields, six with seconds in front, or a nickname such as `@weekly`.
    ///
    /// # Errors
    /// [`PatternError`] when the text is no such pattern, uses an extension that would not be honoured, or names days
    /// that no month has.
    pub fn parse(pattern: &str, zone: Tz) -> Result<Self, PatternError> {
        let translated = pattern::translate(pattern)?;
        Ok(Self {
            pattern: pattern.to_owned(),
            zone,
            wall: translated.wall,
            fixed: translated.fixed,
        })
    }

    /// The first tick strictly after `after`, or `None` when there is none before the end of the year 2100.
    ///
    /// There are no ticks before 1970 either.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if after.year() > LAST_YEAR {
            return None;
        }
        let after = after.max(DateTime::UNIX_EPOCH);
        let ahead = self.first_tick(self.local(after), after);
        // Past the edge nothing new lies behind it: the filter, here and below, saves a walk through the whole hour.
        let second_pass = self.second_pass(after).filter(|edge| after < *edge);
        let again = second_pass.and_then(|edge| self.first_tick(self.local(edge) - SECOND, after));
        ahead.into_iter().chain(again).min()
    }

    /// The last tick in (`after`, `until`], for catching up one missed tick.
    ///
    /// It searches backwards from `until`, so the length of the interval costs nothing.
    pub fn last_between(
        &self,
        after: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let end = NaiveDate::from_ymd_opt(LAST_YEAR + 1, 1, 1)?.and_hms_opt(0, 0, 0)?;
        // A day more, because the year ends later in the west.
        let until =
            DateTime::from_timestamp(until.min(end.and_utc() + Days::new(1)).timestamp(), 0)?;
        if until < DateTime::UNIX_EPOCH {
            return None;
        }
        let behind = self.last_tick((self.local(until) + SECOND).min(end), until);
        let second_pass = self.second_pass(until).filter(|edge| until >= *edge);
        let earlier =
            second_pass.and_then(|edge| self.last_tick(self.local(edge - SECOND) + SECOND, until));
        behind.into_iter().chain(earlier).max().filter(|tick| *tick > after)
    }

    /// The pattern as it was written.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The zone whose wall clock the pattern is read by.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The first tick after `after`, among wall-clock times strictly later than `wall`.
    fn first_tick(&self, mut wall: NaiveDateTime, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        loop {
            wall = self
                .wall
                .iter()
                .filter_map(|days| days.after(&wall.and_utc()).next())
                .min()?
                .naive_utc();
            let instants = self.instants(wall);
            if let Some(tick) = instants.into_iter().flatten().find(|tick| *tick > after) {
                return Some(tick);
            }
            if instants == [None, None] {
                // Over the gap in one step: a pattern may name each of its seconds.
                wall = self.local(self.gap_end(wall)?) - SECOND;
            }
        }
    }

    /// The last tick up to `until`, among wall-clock times strictly earlier than `wall`, which is a whole second.
    fn last_tick(&self, mut wall: NaiveDateTime, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        loop {
            wall = self
                .wall
                .iter()
                .filter_map(|days| days.after(&wall.and_utc()).next_back())
                .max()?
                .naive_utc();
            let instants = self.instants(wall);
            if let Some(tick) = instants.into_iter().flatten().rfind(|tick| *tick <= until) {
                return Some(tick);
            }
            if instants == [None, None] {
                wall = self.local(self.gap_end(wall)? - SECOND) + SECOND;
            }
        }
    }

    /// When the pattern ticks for one wall-clock time that it names, in order.
    fn instants(&self, wall: NaiveDateTime) -> [Option<DateTime<Utc>>; 2] {
        match self.zone.from_local_datetime(&wall) {
            MappedLocalTime::Single(only) => [Some(only.to_utc()), None],
            MappedLocalTime::Ambiguous(first, _) if self.fixed => [Some(first.to_utc()), None],
            MappedLocalTime::Ambiguous(first, second) => {
                [Some(first.to_utc()), Some(second.to_utc())]
            }
            MappedLocalTime::None if self.fixed => [self.gap_end(wall), None],
            MappedLocalTime::None => [None, None],
        }
    }

    fn local(&self, instant: DateTime<Utc>) -> NaiveDateTime {
        instant.with_timezone(&self.zone).naive_local()
    }

    /// If the wall-clock time at `instant` happens twice: the instant at which the clock goes back.
    fn second_pass(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let MappedLocalTime::Ambiguous(first, second) =
            self.zone.from_local_datetime(&self.local(instant))
        else {
            return None;
        };
        let (first, second) = (first.to_utc(), second.to_utc());
        let lag = second.naive_utc() - self.local(second);
        first_second(first.timestamp(), second.timestamp(), |at| {
            at.naive_utc() - self.local(at) == lag
        })
    }

    /// The first instant after the gap that swallowed `wall`.
    fn gap_end(&self, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
        // Offsets stay within a day of UTC, and the largest gap, a day lost at the date line, is a day long.
        let around = TimeDelta::days(2);
        let (from, to) = ((wall - around).and_utc(), (wall + around).and_utc());
        first_second(from.timestamp(), to.timestamp(), |at| self.local(at) >= wall)
    }
}

/// The first second in (`low`, `high`] from which `holds` is true; it must be false at `low` and true at `high`.
fn first_second(
    mut low: i64,
    mut high: i64,
    holds: impl Fn(DateTime<Utc>) -> bool,
) -> Option<DateTime<Utc>> {
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if holds(DateTime::from_timestamp(middle, 0)?) {
            high = middle;
        } else {
            low = middle;
        }
    }
    DateTime::from_timestamp(high, 0)
}
