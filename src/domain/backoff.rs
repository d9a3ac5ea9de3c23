//! How long to wait before the next attempt: exponential backoff with full jitter, and ladders.

use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// The longest wait that any rule here yields. A longer one means that a clock was wrong.
pub const LONGEST_WAIT: Duration = DAY;

/// The longest time that a server's `Retry-After` is taken at its word.
pub const LONGEST_RETRY_AFTER: Duration = DAY;

/// How long a server that refuses more calls is left alone when it does not say for how long.
pub const UNSAID_RETRY_AFTER: Duration = Duration::from_secs(10);

/// How long at the least, whatever it says: a `Retry-After` of zero is no invitation.
pub const SHORTEST_RETRY_AFTER: Duration = SECOND;

/// The wait after `failures` transient failures in a row; 1 is the first.
///
/// A draw between 0 and 1 s, doubling to 15 min: full jitter, as in the AWS Architecture Blog's
/// "Exponential Backoff And Jitter".
pub fn transient(failures: u32, draw: f64) -> Duration {
    doubling(SECOND, failures, MINUTE * 15).mul_f64(draw.clamp(0.0, 1.0))
}

/// The wait of an account in `error`: 15 min doubling to 24 h, less up to a tenth, so that a heap
/// of them does not come back at one moment.
pub fn error_ladder(failures: u32, draw: f64) -> Duration {
    doubling(MINUTE * 15, failures, DAY).mul_f64(1.0 - 0.1 * draw.clamp(0.0, 1.0))
}

/// When a believed `revoked` or `expired` is probed again: after ten minutes, an hour and a day;
/// `None` from the fourth time on.
pub fn probe(hearings: u32) -> Option<Duration> {
    match hearings {
        0 | 1 => Some(MINUTE * 10),
        2 => Some(HOUR),
        3 => Some(DAY),
        _ => None,
    }
}

fn doubling(first: Duration, failures: u32, most: Duration) -> Duration {
    let doublings = failures.saturating_sub(1).min(24);
    first.saturating_mul(1 << doublings).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ladders() {
        let error: Vec<_> = (1..=9).map(|n| error_ladder(n, 0.0).as_secs() / 60).collect();
        assert_eq!(error, [15, 30, 60, 120, 240, 480, 960, 1_440, 1_440]);
        let transients: Vec<_> =
            [1, 2, 3, 10, 11, u32::MAX].map(|n| transient(n, 1.0).as_secs()).into();
        assert_eq!(transients, [1, 2, 4, 512, 900, 900]);
        let probes: Vec<_> = (1..=4).map(|n| probe(n).map(|d| d.as_secs())).collect();
        assert_eq!(probes, [Some(600), Some(3_600), Some(86_400), None]);
    }

    proptest! {
        #[test]
        fn no_wait_leaves_its_bounds(failures: u32, draw in 0.0_f64..1.0) {
            prop_assert!(transient(failures, draw) <= MINUTE * 15);
            let error = error_ladder(failures, draw);
            prop_assert!(error <= DAY && error >= MINUTE * 13);
        }
    }
}
