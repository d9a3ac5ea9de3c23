//! The services that the tests run against, and how they wait for things.

pub(crate) mod redis;

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Waits until `condition` holds, and panics if it does not within `limit`.
pub(crate) async fn eventually<F>(what: &str, limit: Duration, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
