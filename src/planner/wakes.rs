//! Word from elsewhere in this process that an account of some server is due soon, so that its
//! planner does not sleep over it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;

use super::MOST_SERVERS;
use crate::domain::identity::ServiceUrl;

/// The soonest of what was told, server by server. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Wakes(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    soonest: Mutex<BTreeMap<ServiceUrl, DateTime<Utc>>>,
    woken: Notify,
}

impl Wakes {
    /// An account of `service` is due at that time.
    pub fn wake(&self, service: &ServiceUrl, at: DateTime<Utc>) {
        let mut soonest = self.soonest();
        // Whoever never plans never takes them; then the oldest word is as good as any.
        if !soonest.contains_key(service)
            && u32::try_from(soonest.len()).is_ok_and(|many| many >= MOST_SERVERS)
        {
            return;
        }
        let told = soonest.entry(service.clone()).or_insert(at);
        *told = at.min(*told);
        drop(soonest);
        self.0.woken.notify_one();
    }

    /// What was told since the last time.
    pub(super) fn take(&self) -> BTreeMap<ServiceUrl, DateTime<Utc>> {
        std::mem::take(&mut *self.soonest())
    }

    /// Waits for the next word; one since the last wait counts. For one waiter.
    pub(super) async fn woken(&self) {
        self.0.woken.notified().await;
    }

    fn soonest(&self) -> MutexGuard<'_, BTreeMap<ServiceUrl, DateTime<Utc>>> {
        self.0.soonest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
