//! The wall clock: the system's, or one that a test sets by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};

/// Tells the time. Cheap to clone; clones of a manual clock are set together.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands still until it is [set](Self::set).
    pub fn manual(now: DateTime<Utc>) -> Self {
        Self(Some(Arc::new(AtomicI64::new(now.timestamp_millis()))))
    }

    /// Now, to the millisecond: what MongoDB keeps of a time, so that a time that was written
    /// and read back is equal to itself.
    pub fn now(&self) -> DateTime<Utc> {
        let millis = match &self.0 {
            Some(manual) => manual.load(Ordering::SeqCst),
            #[expect(clippy::disallowed_methods, reason = "this is where the time comes from")]
            None => Utc::now().timestamp_millis(),
        };
        DateTime::from_timestamp_millis(millis).unwrap_or(DateTime::UNIX_EPOCH)
    }

    /// Sets a manual clock; the system's stays as it is.
    pub fn set(&self, now: DateTime<Utc>) {
        if let Some(manual) = &self.0 {
            manual.store(now.timestamp_millis(), Ordering::SeqCst);
        }
    }
}
