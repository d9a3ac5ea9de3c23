//! The brake of one server: whether its permanent answers are believed at all (contract.md, "The
//! brake, per server").
//!
//! A server that suddenly ends many sessions which were kept alive is more likely broken (restored
//! from a backup, badly deployed) than right. While its brake is on, its verdicts wait.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::moment::Moment;

/// How long answers count, in minutes.
pub const WINDOW: i64 = 10;

/// More accounts than this have to be told off within the window.
const MORE_THAN: u64 = 20;

/// And more than one in this many of those that were answered.
const ONE_IN: u64 = 5;

/// How long the brake holds at most: then the answers are believed.
const LONGEST: Duration = Duration::from_hours(24);

/// How long after it was put on it may be put on again.
const AGAIN_AFTER: Duration = Duration::from_hours(48);

/// A minute, counted from 1970.
pub fn minute(at: DateTime<Utc>) -> i64 {
    at.timestamp().div_euclid(60)
}

/// Answers of one minute about accounts that were kept alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Minute {
    /// Which one, counted from 1970.
    pub at: i64,
    /// First hearings of permanent answers.
    pub told_off: u64,
    /// Answers of any kind.
    pub answered: u64,
}

/// What all instances know of one server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Since when it is suspect, if it is.
    pub suspect_since: Option<Moment>,
    /// Its answers of late, in any order.
    pub minutes: Vec<Minute>,
}

/// Whether a server's permanent answers are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brake {
    /// They are.
    Off,
    /// From now on they are not: the server has just become suspect.
    Trips,
    /// They wait.
    On,
}

/// Judges a server by its record.
pub fn judge(record: &Record, now: Moment) -> Brake {
    if let Some(since) = record.suspect_since {
        let age = now.since(since);
        if age < LONGEST {
            return Brake::On;
        }
        if age < AGAIN_AFTER {
            return Brake::Off;
        }
    }
    let this = minute(now.ours);
    let (mut told_off, mut answered) = (0_u64, 0_u64);
    for it in record.minutes.iter().filter(|it| (this - WINDOW..=this).contains(&it.at)) {
        told_off = told_off.saturating_add(it.told_off);
        answered = answered.saturating_add(it.answered);
    }
    let many = told_off > MORE_THAN && told_off.saturating_mul(ONE_IN) > answered;
    if many { Brake::Trips } else { Brake::Off }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 29_000_000;

    fn moment(minute: i64) -> Moment {
        Moment { ours: DateTime::from_timestamp(minute * 60, 0).unwrap(), theirs: None }
    }

    fn record(minutes: &[(i64, u64, u64)]) -> Record {
        let minutes = minutes.iter().map(|&(ago, told_off, answered)| Minute {
            at: NOW - ago,
            told_off,
            answered,
        });
        Record { suspect_since: None, minutes: minutes.collect() }
    }

    #[test]
    fn more_than_twenty_and_more_than_a_fifth_within_ten_minutes() {
        for (minutes, brake) in [
            (&[(0, 20, 20)][..], Brake::Off),
            (&[(0, 21, 21)], Brake::Trips),
            (&[(0, 21, 104)], Brake::Trips),
            (&[(0, 21, 105)], Brake::Off),
            (&[(0, 10, 10), (10, 11, 11)], Brake::Trips),
            (&[(0, 10, 10), (11, 11, 11)], Brake::Off),
            (&[(-1, 21, 21)], Brake::Off),
            (&[(0, u64::MAX, u64::MAX), (1, 5, 5)], Brake::Off),
            (&[], Brake::Off),
        ] {
            assert_eq!(judge(&record(minutes), moment(NOW)), brake, "{minutes:?}");
        }
    }

    #[test]
    fn it_holds_for_a_day_and_is_not_put_on_again_at_once() {
        let many = record(&[(0, 1_000, 1_000)]);
        for (hours, brake) in [
            (-5, Brake::On),
            (0, Brake::On),
            (23, Brake::On),
            (24, Brake::Off),
            (47, Brake::Off),
            (48, Brake::Trips),
        ] {
            let record = Record { suspect_since: Some(moment(NOW - hours * 60)), ..many.clone() };
            assert_eq!(judge(&record, moment(NOW)), brake, "{hours} h");
        }
    }

    #[test]
    fn a_clock_that_is_a_year_ahead_does_not_let_it_off() {
        let at = |minute| DateTime::from_timestamp(minute * 60, 0);
        let since = Moment { ours: moment(NOW).ours, theirs: at(NOW) };
        let record = Record { suspect_since: Some(since), minutes: Vec::new() };
        let now = Moment { ours: moment(NOW + 525_600).ours, theirs: at(NOW + 5) };
        assert_eq!(judge(&record, now), Brake::On);
    }
}
