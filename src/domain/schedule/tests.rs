//! Tables: what patterns mean, what is refused and how, and the days on which clocks change.

use chrono::{DateTime, Utc};
use chrono_tz::{Africa, America, Australia, Europe, Pacific, Tz};

use super::Schedule;

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The next ticks after `after`, as the zone's clock shows them.
fn ticks(pattern: &str, zone: Tz, after: &str, count: usize) -> Vec<String> {
    let schedule = Schedule::parse(pattern, zone).unwrap();
    let next = |at: &DateTime<Utc>| schedule.next_after(*at);
    let all = std::iter::successors(schedule.next_after(utc(after)), next).take(count);
    all.map(|tick| tick.with_timezone(&zone).format("%a %m-%d %H:%M:%S %:z").to_string()).collect()
}

/// The days of the ticks in the two weeks from Monday 2026-06-01.
fn days(pattern: &str) -> String {
    let schedule = Schedule::parse(pattern, Tz::UTC).unwrap();
    let next = |at: &DateTime<Utc>| schedule.next_after(*at);
    let first = schedule.next_after(utc("2026-05-31T23:59:59Z"));
    let all =
        std::iter::successors(first, next).take_while(|tick| *tick < utc("2026-06-15T00:00:00Z"));
    all.map(|tick| tick.format("%a%-d").to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn days_are_those_of_crontab() {
    for (pattern, expected) in [
        // The rows of the plan, where the engine alone is wrong.
        ("0 0 * * 0", "Sun7 Sun14"),
        ("0 0 * * 7", "Sun7 Sun14"),
        ("0 0 * * 1-5", "Mon1 Tue2 Wed3 Thu4 Fri5 Mon8 Tue9 Wed10 Thu11 Fri12"),
        ("0 0 * * 5-7", "Fri5 Sat6 Sun7 Fri12 Sat13 Sun14"),
        ("0 0 13 * 5", "Fri5 Fri12 Sat13"),
        // Ranges that wrap, and both Sundays in them.
        ("0 0 * * fri-mon", "Mon1 Fri5 Sat6 Sun7 Mon8 Fri12 Sat13 Sun14"),
        ("0 0 * * fri-mon/2", "Fri5 Sun7 Fri12 Sun14"),
        ("0 0 * * 7-2", "Mon1 Tue2 Sun7 Mon8 Tue9 Sun14"),
        ("0 0 * * sun-sun", "Sun7 Sun14"),
        ("0 0 * * 5-7/2", "Fri5 Sun7 Fri12 Sun14"),
        ("0 0 30-2 * *", "Mon1 Tue2"),
        ("0 0 * NOV-jun/7 MON", "Mon1 Mon8"),
        // Only a lone * or ? leaves a field open.
        ("0 0 */9 * mon", "Mon1 Mon8 Wed10"),
        ("0 0 ? * mon", "Mon1 Mon8"),
        ("0 0 13 * ?", "Sat13"),
        ("0 0 0 13 6 ?", "Sat13"),
        ("@weekly", "Sun7 Sun14"),
        ("@monthly", "Mon1"),
        (
            "  @Midnight ",
            "Mon1 Tue2 Wed3 Thu4 Fri5 Sat6 Sun7 Mon8 Tue9 Wed10 Thu11 Fri12 Sat13 Sun14",
        ),
    ] {
        assert_eq!(days(pattern), expected, "{pattern}");
    }
}

#[test]
fn six_fields_have_seconds_in_front() {
    assert_eq!(
        ticks("*/30 59 22-0 * * *", Tz::UTC, "2026-06-01T00:59:00Z", 3),
        ["Mon 06-01 00:59:30 +00:00", "Mon 06-01 22:59:00 +00:00", "Mon 06-01 22:59:30 +00:00",]
    );
}

#[test]
fn refusals_say_where_and_what() {
    for (pattern, expected) in [
        ("", "the pattern has 0 fields; write 5"),
        ("* * * *", "the pattern has 4 fields; write 5"),
        ("0 0 0 * * * 2030", "the pattern has 7 fields; a field for years is not supported"),
        ("@reboot", "\"@reboot\" is not a supported nickname; write one of @yearly"),
        ("@every 5m", "\"@every 5m\" is not a supported nickname"),
        (
            "0 0 L * *",
            "field 3 (day of month) \"L\": \"L\" uses an extension (L, W, #, ? or +) that",
        ),
        ("0 0 15W * *", "field 3 (day of month) \"15W\": \"15W\" uses an extension"),
        ("0 0 * * 5#2", "field 5 (day of week) \"5#2\": \"5#2\" uses an extension"),
        ("0 0 * * +5", "field 5 (day of week) \"+5\": \"+5\" uses an extension"),
        ("0 ? * * *", "field 2 (hour) \"?\": \"?\" uses an extension"),
        (
            "0 0 0 * * 8",
            "field 6 (day of week) \"8\": \"8\" is out of range; allowed are 0-7 (0 and 7 are Sunday)",
        ),
        ("60 * * * *", "field 1 (minute) \"60\": \"60\" is out of range; allowed are 0-59"),
        ("0 0 0 * *", "field 3 (day of month) \"0\": \"0\" is out of range; allowed are 1-31"),
        (
            "0 0 * mon *",
            "field 4 (month) \"mon\": \"mon\" is not a value of this field; allowed are 1-12 or JAN-DEC",
        ),
        ("0 0 * * monday", "field 5 (day of week) \"monday\": \"monday\" is not a value"),
        ("1,,2 * * * *", "field 1 (minute) \"1,,2\": a value is missing"),
        ("5- * * * *", "field 1 (minute) \"5-\": a value is missing"),
        ("*,5 * * * *", "field 1 (minute) \"*,5\": * stands alone"),
        ("*/0 * * * *", "field 1 (minute) \"*/0\": \"0\" is not a step"),
        ("*/+5 * * * *", "field 1 (minute) \"*/+5\": \"+5\" is not a step"),
        (
            "0 2/5 * * *",
            "field 2 (hour) \"2/5\": a step needs * or a range before it: write */5, or 2-23/5",
        ),
        ("0 0 30 2 *", "the pattern never ticks"),
        ("0 0 31 4,6,9,11 *", "the pattern never ticks"),
    ] {
        let message = Schedule::parse(pattern, Tz::UTC).expect_err(pattern).to_string();
        assert!(message.starts_with(expected), "{pattern}: {message}");
    }
}

#[test]
fn fixed_times_are_neither_skipped_nor_doubled() {
    for (pattern, zone, after, expected) in [
        (
            "30 2 * * *",
            Europe::Berlin,
            "2026-03-28T12:00:00Z",
            ["Sun 03-29 03:00:00 +02:00", "Mon 03-30 02:30:00 +02:00"],
        ),
        (
            "30 2 * * *",
            Europe::Berlin,
            "2026-10-24T12:00:00Z",
            ["Sun 10-25 02:30:00 +02:00", "Mon 10-26 02:30:00 +01:00"],
        ),
        // From within the second pass the first is over.
        (
            "30 2 * * *",
            Europe::Berlin,
            "2026-10-25T01:10:00Z",
            ["Mon 10-26 02:30:00 +01:00", "Tue 10-27 02:30:00 +01:00"],
        ),
        (
            "15 2 * * *",
            Australia::Lord_Howe,
            "2026-10-03T00:00:00Z",
            ["Sun 10-04 02:30:00 +11:00", "Mon 10-05 02:15:00 +11:00"],
        ),
        (
            "30 1 * * 0",
            America::New_York,
            "2026-10-31T12:00:00Z",
            ["Sun 11-01 01:30:00 -04:00", "Sun 11-08 01:30:00 -05:00"],
        ),
        // Midnight itself is in the gap.
        (
            "0 0 * * *",
            Africa::Cairo,
            "2026-04-23T12:00:00Z",
            ["Fri 04-24 01:00:00 +03:00", "Sat 04-25 00:00:00 +03:00"],
        ),
        // A whole day was in the gap: its tick and the next day's fall together.
        (
            "0 0 * * *",
            Pacific::Apia,
            "2011-12-29T09:00:00Z",
            ["Thu 12-29 00:00:00 -10:00", "Sat 12-31 00:00:00 +14:00"],
        ),
    ] {
        assert_eq!(ticks(pattern, zone, after, 2), expected, "{pattern} in {zone}");
    }
}

#[test]
fn other_patterns_go_on_through_a_change_of_the_clock() {
    for (pattern, zone, after, expected) in [
        (
            "*/30 * * * *",
            Europe::Berlin,
            "2026-03-29T00:00:00Z",
            ["Sun 03-29 01:30:00 +01:00", "Sun 03-29 03:00:00 +02:00", "Sun 03-29 03:30:00 +02:00"],
        ),
        (
            "30 * * * *",
            Europe::Berlin,
            "2026-10-25T00:00:00Z",
            ["Sun 10-25 02:30:00 +02:00", "Sun 10-25 02:30:00 +01:00", "Sun 10-25 03:30:00 +01:00"],
        ),
        (
            "*/20 * * * *",
            Australia::Lord_Howe,
            "2026-04-04T14:30:00Z",
            ["Sun 04-05 01:40:00 +11:00", "Sun 04-05 01:40:00 +10:30", "Sun 04-05 02:00:00 +10:30"],
        ),
        // A list of hours is not a fixed time, here as in croner: 02:30 is left out.
        (
            "30 2,14 * * *",
            Europe::Berlin,
            "2026-03-29T00:00:00Z",
            ["Sun 03-29 14:30:00 +02:00", "Mon 03-30 02:30:00 +02:00", "Mon 03-30 14:30:00 +02:00"],
        ),
    ] {
        assert_eq!(ticks(pattern, zone, after, 3), expected, "{pattern} in {zone}");
    }
}

#[test]
fn the_last_missed_tick_is_found_from_the_end() {
    for (pattern, zone, after, until, expected) in [
        (
            "* * * * * *",
            Europe::Berlin,
            "1999-01-01T00:00:00Z",
            "2026-10-25T01:00:00.5Z",
            Some("2026-10-25T01:00:00Z"),
        ),
        (
            "0 0 29 2 *",
            Tz::UTC,
            "2000-01-01T00:00:00Z",
            "2027-12-31T00:00:00Z",
            Some("2024-02-29T00:00:00Z"),
        ),
        // `until` counts, `after` does not.
        (
            "0 0 * * 0",
            Tz::UTC,
            "2026-06-07T00:00:00Z",
            "2026-06-14T00:00:00Z",
            Some("2026-06-14T00:00:00Z"),
        ),
        ("0 0 * * 0", Tz::UTC, "2026-06-07T00:00:00Z", "2026-06-13T23:59:59Z", None),
        ("0 0 * * 0", Tz::UTC, "2026-06-14T00:00:00Z", "2026-06-07T00:00:00Z", None),
        // In the second pass, a fixed time of the first; in the gap's place, its end.
        (
            "50 2 * * *",
            Europe::Berlin,
            "2026-10-20T00:00:00Z",
            "2026-10-25T01:10:00Z",
            Some("2026-10-25T00:50:00Z"),
        ),
        (
            "50 * * * *",
            Europe::Berlin,
            "2026-10-20T00:00:00Z",
            "2026-10-25T01:10:00Z",
            Some("2026-10-25T00:50:00Z"),
        ),
        (
            "30 2 * * *",
            Europe::Berlin,
            "2026-03-28T12:00:00Z",
            "2026-03-29T01:00:00Z",
            Some("2026-03-29T01:00:00Z"),
        ),
        ("30 2 * * *", Europe::Berlin, "2026-03-28T12:00:00Z", "2026-03-29T00:59:59Z", None),
        (
            "* * * * * *",
            Tz::UTC,
            "2000-01-01T00:00:00Z",
            "2262-01-01T00:00:00Z",
            Some("2100-12-31T23:59:59Z"),
        ),
    ] {
        let schedule = Schedule::parse(pattern, zone).unwrap();
        assert_eq!(
            schedule.last_between(utc(after), utc(until)),
            expected.map(utc),
            "{pattern} in {zone} until {until}"
        );
    }
}

#[test]
fn times_beyond_the_engine_have_no_ticks() {
    let (low, high) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
    for (zone, first) in [
        (Tz::UTC, "1970-01-01T00:00:01Z"),
        (Europe::Berlin, "1970-01-01T00:00:01Z"),
        (America::New_York, "1970-01-01T05:00:00Z"),
    ] {
        let schedule = Schedule::parse("* * * * * *", zone).unwrap();
        assert_eq!(schedule.next_after(low), Some(utc(first)), "{zone}");
        assert_eq!(schedule.next_after(high), None, "{zone}");
        assert_eq!(schedule.last_between(low, low), None, "{zone}");
        let last = schedule.last_between(low, high).unwrap().with_timezone(&zone);
        assert_eq!(last.naive_local().to_string(), "2100-12-31 23:59:59", "{zone}");
    }
}

#[test]
fn a_gap_hides_no_tick_before_it() {
    let schedule = Schedule::parse("59 59 1,2 * * *", Europe::Berlin).unwrap();
    let last = schedule.last_between(utc("2026-03-28T12:00:00Z"), utc("2026-03-29T09:00:00Z"));
    assert_eq!(last, Some(utc("2026-03-29T00:59:59Z")));
}
