//! MongoDB's absence, told when it begins, now and then, and when it ends, however many jobs wait.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::StoreError;

/// While it lasts, it is told of this often.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// Whether MongoDB is away, as the jobs that need it have found.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Option<Away>>);

#[derive(Debug, Clone, Copy)]
struct Away {
    since: Instant,
    told: Instant,
}

impl Outage {
    /// MongoDB did not do what was asked of it, and may do so later.
    pub(super) fn met(&self, error: &StoreError) {
        let now = Instant::now();
        let mut away = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if away.is_some_and(|away| away.told.elapsed() < TELL_EVERY) {
            return;
        }
        let since = away.map_or(now, |away| away.since);
        *away = Some(Away { since, told: now });
        tracing::warn!(
            event = "mongo.down",
            away_s = since.elapsed().as_secs(),
            %error,
            "MongoDB is not usable; no account is refreshed until it is: {error}"
        );
    }

    /// MongoDB answered.
    pub(super) fn over(&self) {
        let away = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(away) = away {
            let away_s = away.since.elapsed().as_secs();
            tracing::info!(event = "mongo.up", away_s, "MongoDB is back after {away_s} s");
        }
    }
}
