//! What servers say is left of their limit: the law where it is less than our own budget.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::identity::ServiceUrl;

/// A limit's window is not longer than this: what was said is forgotten by then.
const LONGEST_WINDOW: Duration = Duration::from_hours(1);

/// Servers whose limits are remembered.
const MOST_LIMITS: usize = 10_000;

/// What was said last of each server, until it is over.
#[derive(Debug, Default)]
pub(super) struct Told {
    left: Mutex<BTreeMap<ServiceUrl, Said>>,
    limits: Mutex<BTreeMap<ServiceUrl, f64>>,
}

#[derive(Debug, Clone, Copy)]
struct Said {
    interval: Duration,
    until: Instant,
}

impl Told {
    /// What the server's limit allows in all, in requests per second.
    pub(super) fn limit(&self, service: &ServiceUrl) -> Option<f64> {
        self.limits().get(service).copied()
    }

    /// So many requests are allowed in a window of that length.
    pub(super) fn hear_limit(&self, service: &ServiceUrl, requests: u64, window: Duration) {
        let Some(requests) = u32::try_from(requests).ok().filter(|_| !window.is_zero()) else {
            return;
        };
        let per_second = f64::from(requests) / window.as_secs_f64();
        let mut limits = self.limits();
        if limits.get(service) == Some(&per_second) {
            return;
        }
        if limits.len() >= MOST_LIMITS {
            limits.clear();
        }
        limits.insert(service.clone(), per_second);
    }

    /// So many requests are left for so long, and `others` a second are not ours. That none is left
    /// is a closure, and not heard here.
    pub(super) fn hear(
        &self,
        service: &ServiceUrl,
        (remaining, others): (u64, f64),
        until_reset: Duration,
    ) {
        let Some(remaining) = u32::try_from(remaining).ok().filter(|left| *left > 0) else {
            return;
        };
        let (now, until_reset) = (Instant::now(), until_reset.min(LONGEST_WINDOW));
        // Whatever others take, a tenth is ours: what is thought of them may be wrong.
        let left = f64::from(remaining);
        let ours = (left - others * until_reset.as_secs_f64()).max(left / 10.0);
        let mut said = self.said();
        said.retain(|_, said| said.until > now);
        let news = Said { interval: until_reset.div_f64(ours), until: now + until_reset };
        said.insert(service.clone(), news);
    }

    /// How far apart calls have to be so that what is left lasts.
    pub(super) fn interval(&self, service: &ServiceUrl) -> Option<Duration> {
        let said = *self.said().get(service)?;
        (said.until > Instant::now()).then_some(said.interval)
    }

    fn said(&self) -> MutexGuard<'_, BTreeMap<ServiceUrl, Said>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self) -> MutexGuard<'_, BTreeMap<ServiceUrl, f64>> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_left_is_spread_until_the_reset() {
        let told = Told::default();
        let (one, two): (ServiceUrl, ServiceUrl) =
            ("https://one.example".parse().unwrap(), "https://two.example".parse().unwrap());
        let millis = |service| told.interval(service).map(|it| it.as_millis());
        told.hear(&one, (300, 0.0), Duration::from_secs(150));
        assert_eq!([millis(&one), millis(&two)], [Some(500), None]);
        told.hear(&one, (600, 5.0), Duration::from_secs(100));
        told.hear(&one, (0, 0.0), Duration::from_secs(100));
        assert_eq!(millis(&one), Some(1_000));
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(millis(&one), None);
        told.hear(&two, (9, 0.0), Duration::ZERO);
        assert_eq!(told.said().len(), 1, "what is over is forgotten");
    }
}
