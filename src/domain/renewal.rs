//! When a session is refreshed next: by its access token's own life, before it ends. Pure.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::backoff::LONGEST_WAIT;
use super::session::Life;

/// How much earlier than its lead asks for an account may be refreshed, as a share of the wait:
/// accounts that were refreshed at one moment drift apart, at the cost of as many calls.
const EARLIER: f64 = 0.05;

/// A token that lives less long than its lead would be due for ever.
const MOST_OF_LIFE: f64 = 0.75;

/// The shortest wait after a refresh, whatever the server says of its token's life.
const SHORTEST_WAIT: Duration = Duration::from_secs(5);

/// How long before its access token's end an account is refreshed (`REFRESH_LEAD`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lead {
    /// A share of the token's life, between 0 and 1.
    Share(f64),
    /// The same for every token.
    Span(Duration),
}

impl Lead {
    /// The default.
    pub const USUAL: Self = Self::Share(0.25);

    /// The lead for a token that lives so long: at most three quarters of its life.
    pub fn of(self, life: Duration) -> Duration {
        let lead = match self {
            Self::Share(share) => life.mul_f64(share.clamp(0.0, 1.0)),
            Self::Span(span) => span,
        };
        lead.min(life.mul_f64(MOST_OF_LIFE))
    }

    /// How long after a refresh whose token lives so long the next one comes: up to a twentieth
    /// sooner than the lead asks for, never later, and within a day. By our own clock alone, so
    /// that one which is wrong does no harm. `draw` is uniform in [0, 1).
    pub fn wait(self, life: Duration, draw: f64) -> Duration {
        bounded(self.interval(life).mul_f64(1.0 - EARLIER * draw))
    }

    /// The same after a first refresh that was overdue: any time within that wait, so that a fleet
    /// that came at one moment does not come back at one moment.
    pub fn spread(self, life: Duration, draw: f64) -> Duration {
        bounded(self.interval(life).mul_f64(draw))
    }

    /// When an account is due whose tokens somebody else stored, which may be in the past. With
    /// `wide`, for one that the daemon has never refreshed, any time from `now` until then.
    pub fn due(self, life: Life, now: DateTime<Utc>, wide: bool, draw: f64) -> DateTime<Utc> {
        let lead = TimeDelta::from_std(self.of(life.length())).unwrap_or(TimeDelta::MAX);
        let latest = life.ends(now).checked_sub_signed(lead).unwrap_or(now);
        let Ok(left) = (latest - now).to_std() else { return later(latest, Duration::ZERO) };
        let share = if wide { draw } else { 1.0 - EARLIER * draw };
        later(now, left.min(LONGEST_WAIT).mul_f64(share))
    }

    /// How long an account goes from one refresh to the next.
    pub fn interval(self, life: Duration) -> Duration {
        life.saturating_sub(self.of(life))
    }
}

fn bounded(wait: Duration) -> Duration {
    wait.clamp(SHORTEST_WAIT, LONGEST_WAIT)
}

/// `wait` from `now`, to the millisecond, as MongoDB keeps it.
pub fn later(now: DateTime<Utc>, wait: Duration) -> DateTime<Utc> {
    let wait = i64::try_from(wait.as_millis()).ok().and_then(TimeDelta::try_milliseconds);
    let now = DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap_or(now);
    wait.and_then(|wait| now.checked_add_signed(wait)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::session::USUAL_LIFE;
    use proptest::prelude::*;

    const QUARTER: Lead = Lead::Share(0.25);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn the_lead_is_a_share_of_the_life_or_a_span() {
        let minutes = |lead: Lead, life| lead.of(Duration::from_mins(life)).as_secs() / 60;
        let span = Lead::Span(Duration::from_mins(10));
        assert_eq!([minutes(QUARTER, 120), minutes(QUARTER, 4)], [30, 1]);
        assert_eq!([minutes(span, 120), minutes(span, 12), minutes(span, 0)], [10, 9, 0]);
    }

    #[test]
    fn a_refresh_comes_at_its_lead_or_a_twentieth_sooner() {
        let waits = [0.0, 0.5, 1.0].map(|draw| QUARTER.wait(USUAL_LIFE, draw).as_secs());
        assert_eq!(waits, [5_400, 5_265, 5_130]);
        let spread = [0.0, 0.5, 1.0].map(|draw| QUARTER.spread(USUAL_LIFE, draw).as_secs());
        assert_eq!(spread, [5, 2_700, 5_400]);
    }

    #[test]
    fn tokens_of_somebody_else_are_due_by_their_own_end() {
        let life = Life { issued_at: at(0), expires_at: at(7_200) };
        let due = |now, wide, draw| QUARTER.due(life, at(now), wide, draw).timestamp();
        assert_eq!([due(0, false, 0.0), due(0, false, 1.0)], [5_400, 5_130]);
        assert_eq!([due(0, true, 0.0), due(0, true, 0.5), due(0, true, 1.0)], [0, 2_700, 5_400]);
        assert_eq!([due(5_300, true, 0.5), due(5_300, false, 0.0)], [5_350, 5_400]);
        assert_eq!([due(6_000, true, 0.5), due(9_999, false, 0.0)], [5_400, 5_400]);
    }

    proptest! {
        #[test]
        fn nothing_is_due_at_once_again_or_never(
            life in 0_u64..100_000_000,
            share in 0.0_f64..1.0,
            span in 0_u64..10_000_000,
            draw in 0.0_f64..1.0,
        ) {
            let life = Duration::from_secs(life);
            for lead in [Lead::Share(share), Lead::Span(Duration::from_secs(span))] {
                let (sooner, latest) = (lead.wait(life, draw), lead.wait(life, 0.0));
                prop_assert!(sooner >= SHORTEST_WAIT && latest <= LONGEST_WAIT);
                prop_assert!(sooner <= latest && sooner >= latest.mul_f64(0.95).min(latest));
                // Where it can be, the next refresh comes while the token lives.
                prop_assert!(life <= SHORTEST_WAIT * 4 || latest < life);
                let (now, ends) = (at(1_000), at(1_000) + life);
                let due = lead.due(Life { issued_at: now, expires_at: ends }, now, true, draw);
                prop_assert!(due >= now && due <= ends);
            }
        }
    }
}
