//! A moment by two clocks, so that neither of them alone can make a long time of a short one.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// A moment by this machine's clock and by the server's own, where it told the time (`Date`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// By this machine's clock.
    pub ours: DateTime<Utc>,
    /// By the server's.
    pub theirs: Option<DateTime<Utc>>,
}

impl Moment {
    /// How long `earlier` is ago: what the clock says that saw less time pass. A moment that is
    /// still to come is not ago at all.
    pub fn since(self, earlier: Self) -> Duration {
        let passed =
            |now: DateTime<Utc>, then: DateTime<Utc>| (now - then).to_std().unwrap_or_default();
        let ours = passed(self.ours, earlier.ours);
        match (self.theirs, earlier.theirs) {
            (Some(now), Some(then)) => ours.min(passed(now, then)),
            _ => ours,
        }
    }

    /// The earlier one, by each clock: a moment that is still to come was written by a clock that
    /// was wrong.
    #[must_use]
    pub fn at_latest(self, now: Self) -> Self {
        let theirs = match (self.theirs, now.theirs) {
            (Some(then), Some(now)) => Some(then.min(now)),
            (then, _) => then,
        };
        Self { ours: self.ours.min(now.ours), theirs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(ours: i64, theirs: Option<i64>) -> Moment {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        Moment { ours: at(ours), theirs: theirs.map(at) }
    }

    #[test]
    fn the_clock_that_saw_less_time_pass_is_believed() {
        for (now, then, seconds) in [
            (moment(700, None), moment(100, None), 600),
            (moment(700, Some(50)), moment(100, None), 600),
            (moment(700, Some(50)), moment(100, Some(20)), 30),
            (moment(130, Some(9_000)), moment(100, Some(20)), 30),
            (moment(100, Some(9_000)), moment(200, Some(20)), 0),
            (moment(900, Some(10)), moment(200, Some(20)), 0),
        ] {
            assert_eq!(now.since(then).as_secs(), seconds, "{now:?} since {then:?}");
        }
    }

    #[test]
    fn what_is_still_to_come_counts_as_now() {
        let now = moment(100, Some(50));
        assert_eq!(moment(200, Some(20)).at_latest(now), moment(100, Some(20)));
        assert_eq!(moment(20, Some(200)).at_latest(now), moment(20, Some(50)));
        assert_eq!(moment(20, None).at_latest(now), moment(20, None));
    }
}
