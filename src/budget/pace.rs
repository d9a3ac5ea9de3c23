//! What this instance may send while Redis cannot be asked: an even pace per server.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::identity::ServiceUrl;

/// The next turn of each server that was lately asked for.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<BTreeMap<ServiceUrl, Instant>>);

impl Pace {
    /// Takes the next turn, `interval` after the last. Answers the wait until then, and whether
    /// the turn was taken: not when it is further away than `longest`.
    pub(super) fn take(
        &self,
        service: &ServiceUrl,
        interval: Duration,
        longest: Duration,
    ) -> (bool, Duration) {
        let now = Instant::now();
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| *turn > now);
        let turn = turns.get(service).copied().unwrap_or(now);
        let wait = turn.saturating_duration_since(now);
        if wait > longest {
            return (false, wait);
        }
        turns.insert(service.clone(), turn + interval);
        (true, wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_are_even_and_none_is_taken_from_far_away() {
        let (pace, one, two) = (
            Pace::default(),
            "https://one.example".parse().unwrap(),
            "https://two.example".parse().unwrap(),
        );
        let (interval, longest) = (Duration::from_millis(400), Duration::from_secs(1));
        let take = |service| {
            let (taken, wait) = pace.take(service, interval, longest);
            (taken, wait.as_millis())
        };
        assert_eq!([take(&one), take(&one), take(&one)], [(true, 0), (true, 400), (true, 800)]);
        assert_eq!([take(&one), take(&one)], [(false, 1_200), (false, 1_200)]);
        assert_eq!(take(&two), (true, 0));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!([take(&one), take(&one)], [(true, 0), (true, 400)]);
    }
}
