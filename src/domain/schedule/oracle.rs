//! Generated patterns, the same ticks as `croner`.
//!
//! Where `croner` is not the oracle: it refuses ranges that wrap (it is given their values as a list), reads `sun-sun`
//! as every day, takes names in any field and empty list entries, and does not know `@midnight`. After
//! a spring gap that runs past midnight it drops a fixed time whose days do not name the new day, and it gives up on
//! gaps longer than two hours; we tick at the end of the gap. `tests.rs` has those.

use std::str::FromStr as _;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::{America, Australia, Europe, Tz};
use croner::Cron;
use proptest::prelude::*;

use super::{PatternError, Schedule};

const WEEKDAYS: &[&str] = &["sun", "Mon", "TUE", "wEd", "thu", "Fri", "SAT"];
const MONTHS: &[&str] =
    &["jan", "Feb", "MAR", "aPr", "may", "Jun", "JUL", "aug", "Sep", "OCT", "nov", "Dec"];

/// A field as we read it, and the same in the forms that `croner` knows.
#[derive(Clone, Debug)]
struct Both {
    ours: String,
    croner: String,
}

impl Both {
    fn same(text: String) -> Self {
        Self { ours: text.clone(), croner: text }
    }

    fn join(parts: &[Self], with: &str) -> Self {
        let join = |side: fn(&Self) -> &str| parts.iter().map(side).collect::<Vec<_>>().join(with);
        Self { ours: join(|both| &both.ours), croner: join(|both| &both.croner) }
    }
}

/// `last` is the last value before the field starts over, `max` the last that may be written.
#[derive(Clone, Copy, Debug)]
struct Range {
    min: u32,
    last: u32,
    max: u32,
    names: &'static [&'static str],
}

impl Range {
    const fn clock(last: u32) -> Self {
        Self { min: 0, last, max: last, names: &[] }
    }

    fn write(self, value: u32, named: bool) -> String {
        let name = usize::try_from(value - self.min).ok().and_then(|place| self.names.get(place));
        name.filter(|_| named).map_or_else(|| value.to_string(), |name| (*name).to_owned())
    }

    /// From `start` round to `end`, one value at a time.
    fn round(self, start: u32, end: u32) -> Vec<u32> {
        let sunday = |value: u32| if value > self.last { self.min } else { value };
        let mut values = vec![sunday(start)];
        while values.last() != Some(&sunday(end)) {
            let next = values.last().unwrap() + 1;
            values.push(sunday(next));
        }
        values
    }

    fn span(self, start: u32, end: u32, step: usize, named: bool) -> Both {
        let suffix = if step == 1 { String::new() } else { format!("/{step}") };
        let ours = format!("{}-{}{suffix}", self.write(start, named), self.write(end, named));
        if start < end || (start == end && !named) {
            return Both::same(ours);
        }
        if start == end {
            return Both { croner: format!("{start}-{end}{suffix}"), ours };
        }
        let values: Vec<u32> = self.round(start, end).into_iter().step_by(step).collect();
        // The step is kept on the first value: croner draws its line between fixed and other times by it.
        let list: Vec<String> =
            values.iter().map(|value| format!("{value}-{value}{suffix}")).collect();
        Both { croner: list.join(","), ours }
    }

    fn entry(self, steps: std::ops::Range<usize>) -> impl Strategy<Value = Both> {
        let value = prop_oneof![self.min..=self.max, self.min..=(self.min + 3)];
        prop_oneof![
            3 => (value.clone(), any::<bool>()).prop_map(move |(value, named)| Both::same(self.write(value, named))),
            2 => (value.clone(), value, steps.clone(), any::<bool>(), any::<bool>()).prop_map(
                move |(start, end, step, stepped, named)| self.span(start, end, if stepped { step } else { 1 }, named)
            ),
            1 => steps.prop_map(|step| Both::same(format!("*/{step}"))),
        ]
    }

    fn field(self, wild: u32) -> impl Strategy<Value = Both> {
        prop_oneof![
            wild => Just(Both::same("*".to_owned())),
            3 => (self.min..=self.max).prop_map(|value| Both::same(value.to_string())),
            3 => self.entry(1..70),
            // Two stepped entries: croner judges by the last step alone, so none of them is 1 here.
            2 => prop::collection::vec(self.entry(2..9), 2..5).prop_map(|entries| Both::join(&entries, ",")),
        ]
    }
}

const SIXTY: Range = Range::clock(59);
const HOUR: Range = Range::clock(23);
const DAY: Range = Range { min: 1, last: 31, max: 31, names: &[] };
const MONTH: Range = Range { min: 1, last: 12, max: 12, names: MONTHS };
const WEEKDAY: Range = Range { min: 0, last: 6, max: 7, names: WEEKDAYS };

fn pattern() -> impl Strategy<Value = Both> {
    let hour =
        prop_oneof![HOUR.field(2), (0_u32..=3).prop_map(|hour| Both::same(hour.to_string()))];
    let any_day = || Just(Both::same("?".to_owned()));
    let day = prop_oneof![9 => DAY.field(8), 1 => any_day()];
    let weekday = prop_oneof![9 => WEEKDAY.field(5), 1 => any_day()];
    let second = prop_oneof![2 => Just(None), 1 => SIXTY.field(2).prop_map(Some)];
    let nickname = prop::sample::select(vec![
        "@yearly",
        "@Annually",
        "@MONTHLY",
        "@weekly",
        "@daily",
        " @hourly ",
    ]);
    prop_oneof![
        1 => nickname.prop_map(|name| Both::same(name.to_owned())),
        40 => (second, SIXTY.field(2), hour, day, MONTH.field(12), weekday).prop_map(
            |(second, minute, hour, day, month, weekday)| {
                let fields: Vec<Both> = second.into_iter().chain([minute, hour, day, month, weekday]).collect();
                Both::join(&fields, " ")
            }
        ),
    ]
}

/// An instant from 2024 to 2040, half of the time within some hours of a change of the clock.
fn place() -> impl Strategy<Value = (Tz, DateTime<Utc>)> {
    let changes = vec![
        (Tz::UTC, "2026-02-28T23:59:59Z"),
        (Europe::Berlin, "2025-03-30T01:00:00Z"),
        (Europe::Berlin, "2025-10-26T01:00:00Z"),
        (America::New_York, "2025-03-09T07:00:00Z"),
        (America::New_York, "2025-11-02T06:00:00Z"),
        (Australia::Lord_Howe, "2025-10-04T15:30:00Z"),
        (Australia::Lord_Howe, "2026-04-04T15:00:00Z"),
    ];
    let near = (-20_000_i64..10_000).prop_map(|seconds| (true, seconds));
    let far = (1_704_067_200_i64..2_208_988_800).prop_map(|seconds| (false, seconds));
    let millis = prop_oneof![Just(0_u32), 0_u32..1000];
    (prop::sample::select(changes), prop_oneof![near, far], millis).prop_map(
        |((zone, change), at, millis)| {
            let start = match at {
                (true, seconds) => {
                    change.parse::<DateTime<Utc>>().unwrap() + TimeDelta::seconds(seconds)
                }
                (false, seconds) => DateTime::from_timestamp(seconds, 0).unwrap(),
            };
            (zone, start + TimeDelta::milliseconds(millis.into()))
        },
    )
}

fn croner_next(cron: &Cron, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    cron.find_next_occurrence(&after.with_timezone(&zone), false).ok().map(|tick| tick.to_utc())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8000, ..ProptestConfig::default() })]

    #[test]
    fn ticks_as_croner_does(pattern in pattern(), (zone, start) in place()) {
        let cron = Cron::from_str(&pattern.croner).expect("croner takes its own form");
        let ours = match Schedule::parse(&pattern.ours, zone) {
            Err(PatternError::Never) => {
                prop_assert_eq!(croner_next(&cron, zone, start), None);
                return Ok(());
            }
            parsed => parsed.expect("a valid pattern"),
        };
        let mut at = start;
        for _ in 0..5 {
            let next = ours.next_after(at);
            prop_assert_eq!(next, croner_next(&cron, zone, at), "after {} in {}", at, zone);
            at = next.expect("it ticks again");
        }
        // Backwards from a moment between the last ticks, and on the last one.
        for until in [at - TimeDelta::milliseconds(1), at, at + TimeDelta::milliseconds(1500)] {
            let mut forward = start;
            let mut last = None;
            while let Some(next) = ours.next_after(forward).filter(|next| *next <= until) {
                (forward, last) = (next, Some(next));
            }
            prop_assert_eq!(ours.last_between(start, until), last, "until {} in {}", until, zone);
        }
    }

    #[test]
    fn takes_any_text_without_a_panic(text in prop_oneof![".*", "[-0-9*/,?LW#@a-zA-Z ]{0,40}", "([-0-9*/,]{1,6} ){4,6}[-0-9*/,]{1,6}"]) {
        if let Ok(schedule) = Schedule::parse(&text, Europe::Berlin) {
            for at in [DateTime::<Utc>::MIN_UTC, DateTime::UNIX_EPOCH, DateTime::<Utc>::MAX_UTC] {
                let _: Option<DateTime<Utc>> = schedule.next_after(at);
                let _: Option<DateTime<Utc>> = schedule.last_between(DateTime::<Utc>::MIN_UTC, at);
            }
        }
    }
}
