//! How long calls take, server by server: so many are under way at a time as its budget asks for.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::identity::ServiceUrl;

/// One call's weight in the average.
const WEIGHT: f64 = 0.2;

/// A server that was not called for this long is forgotten.
const FORGOTTEN: Duration = Duration::from_mins(10);

/// The moving averages.
#[derive(Debug, Default)]
pub(super) struct Latencies(Mutex<BTreeMap<ServiceUrl, (Duration, Instant)>>);

impl Latencies {
    pub(super) fn hear(&self, service: &ServiceUrl, took: Duration) {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((mean, heard)) = all.get_mut(service) {
            *mean = mean.mul_f64(1.0 - WEIGHT) + took.mul_f64(WEIGHT);
            *heard = now;
            return;
        }
        all.retain(|_, (_, heard)| now.duration_since(*heard) < FORGOTTEN);
        all.insert(service.clone(), (took, now));
    }

    /// Nothing for a server that was never called.
    pub(super) fn of(&self, service: &ServiceUrl) -> Duration {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(service).map(|(mean, _)| *mean).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_average_follows_what_calls_take() {
        let latencies = Latencies::default();
        let service: ServiceUrl = "https://one.example".parse().unwrap();
        assert_eq!(latencies.of(&service), Duration::ZERO);
        latencies.hear(&service, Duration::from_secs(10));
        assert_eq!(latencies.of(&service), Duration::from_secs(10));
        for _ in 0..30 {
            latencies.hear(&service, Duration::from_secs(1));
        }
        assert!(latencies.of(&service) < Duration::from_millis(1_100));
        tokio::time::sleep(FORGOTTEN).await;
        latencies.hear(&"https://two.example".parse().unwrap(), Duration::ZERO);
        assert_eq!(latencies.of(&service), Duration::ZERO);
    }
}
