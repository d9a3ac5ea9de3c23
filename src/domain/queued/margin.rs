//! How much of its access token's life an account has left when a post of its is due. Pure.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::renewal::Lead;
use crate::domain::session::Life;

/// The application takes a token with less than this left for expired.
pub const LONGEST_MARGIN: Duration = Duration::from_mins(10);

/// A refresh for a post's sake comes this many margins before it: there is time for a second try.
const AHEAD: u32 = 2;

/// What an account with a queued post must have left when that is due: ten minutes, or the lead of
/// its token's life where that is less.
pub fn margin(lead: Lead, life: Duration) -> Duration {
    lead.of(life).min(LONGEST_MARGIN)
}

/// When an account is to be refreshed so that its access token has `margin` left when its post is
/// due, which may be in the past; `None`: it has that anyway, or no token of that life ever could.
///
/// Not long before the post, for most accounts are refreshed in time for other reasons; and not
/// before a new token would live to see it.
pub fn refresh_at(
    now: DateTime<Utc>,
    due: DateTime<Utc>,
    life: Life,
    margin: Duration,
) -> Option<DateTime<Utc>> {
    let span = |span: Duration| TimeDelta::from_std(span).ok();
    // What is late is posted at any moment.
    let due = due.max(now);
    let needed_until = due.checked_add_signed(span(margin)?)?;
    if life.ends(now) >= needed_until {
        return None;
    }
    let useful_from = needed_until.checked_sub_signed(span(life.length())?)?;
    let usual = due.checked_sub_signed(span(margin * AHEAD)?)?;
    (useful_from <= due).then_some(usual.max(useful_from))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    /// Of a token that ends at `end` and lived `length`.
    fn life(end: i64, length: i64) -> Life {
        Life { issued_at: at(end - length), expires_at: at(end) }
    }

    #[test]
    fn the_margin_is_ten_minutes_or_the_lead() {
        let quarter = |minutes| margin(Lead::Share(0.25), Duration::from_mins(minutes));
        assert_eq!([120, 40, 4].map(|it| quarter(it).as_secs()), [600, 600, 60]);
    }

    #[test]
    fn only_a_post_that_would_find_too_little_left_is_refreshed_for() {
        let ten = Duration::from_mins(10);
        let when = |due: i64, end: i64| {
            refresh_at(at(10_000), at(due), life(end, 7_200), ten).map(|at| at.timestamp())
        };
        // Enough left, to the second.
        assert_eq!(when(12_000, 12_600), None);
        assert_eq!(when(12_000, 12_599), Some(10_800), "two margins ahead");
        assert_eq!(when(10_500, 10_900), Some(9_300), "at once");
        assert_eq!(when(9_000, 9_600), Some(8_800), "late, and posted at any moment");
        assert_eq!(when(9_000, 10_599), Some(8_800), "late, and soon without a token");
        assert_eq!(when(9_000, 10_600), None, "late, and has enough left");
    }

    #[test]
    fn a_margin_that_no_token_could_give_is_not_tried_for() {
        let minute = |margin| {
            refresh_at(at(0), at(600), life(30, 60), Duration::from_secs(margin))
                .map(|at| at.timestamp())
        };
        assert_eq!(minute(15), Some(570), "two margins, and a new token lives until 630");
        assert_eq!(minute(40), Some(580), "not before a new token would live to see it");
        assert_eq!([minute(60), minute(61)], [Some(600), None]);
    }

    proptest! {
        #[test]
        fn a_refresh_at_that_time_gives_the_margin(
            due in 0_i64..100_000, end in 0_i64..100_000, length in 1_i64..20_000, margin in 0_u64..10_000,
        ) {
            let now = at(0);
            let (life, span) = (life(end, length), Duration::from_secs(margin));
            let needed = at(due) + span;
            match refresh_at(now, at(due), life, span) {
                Some(when) => {
                    prop_assert!(life.ends(now) < needed);
                    prop_assert!(when <= at(due));
                    prop_assert!(when.max(now) + TimeDelta::seconds(length) >= needed);
                }
                None => prop_assert!(life.ends(now) >= needed || length < i64::try_from(margin).unwrap()),
            }
        }
    }
}
