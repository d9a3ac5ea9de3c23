//! What there is to know of the queue before anybody serves it, for `refreshd check`, `refreshd adopt` and the start.

use std::collections::BTreeMap;

use super::Server;
use crate::bullmq::BullMqError;
use crate::bullmq::requests::{Depth, Requests, Schedule};
use crate::domain::request::is_for_all;
use crate::events;
use crate::store::{Store, StoreError};

/// Why the queue could not be looked at.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OutlookError {
    /// The queue cannot be used.
    #[error(transparent)]
    BullMq(#[from] BullMqError),
    /// The accounts cannot.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the queue looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// How much is in it.
    pub depth: Depth,
    /// The addresses of other workers that serve it; `None`: Redis's user may not ask who does.
    pub consumers: Option<Vec<String>>,
    /// Its repeatable schedules.
    pub schedules: Vec<Schedule>,
    /// Those of the queue for other platforms.
    pub other_schedules: Vec<Schedule>,
    /// How many accounts there are of each other platform.
    pub others: BTreeMap<String, u64>,
}

impl Outlook {
    /// Looks; `None`: BullMQ has never used the queue.
    ///
    /// # Errors
    /// If Redis or MongoDB cannot be used.
    pub async fn of(requests: &Requests, store: &Store) -> Result<Option<Self>, OutlookError> {
        if !requests.is_known().await? {
            return Ok(None);
        }
        Ok(Some(Self {
            depth: requests.depth().await?,
            consumers: requests.consumers().await?,
            schedules: requests.schedules().await?,
            other_schedules: requests.other_schedules().await?,
            others: store.count_others().await?,
        }))
    }

    /// The addresses of other workers that serve it, as far as is known.
    pub fn consumers(&self) -> &[String] {
        self.consumers.as_deref().unwrap_or_default()
    }

    /// How many accounts of other platforms there are.
    pub fn other_accounts(&self) -> u64 {
        self.others.values().sum()
    }
}

/// The schedules by which the old system asked for all accounts: one more with each start of the application.
pub fn piled_up(schedules: &[Schedule]) -> Vec<&Schedule> {
    schedules.iter().filter(|it| is_for_all(&it.kind)).collect()
}

impl Server {
    /// Says who else serves the queue, and whom nobody serves.
    pub(super) async fn look_around(&self) -> Result<(), OutlookError> {
        let requests = &self.parts.requests;
        let consumers = requests.consumers().await?.unwrap_or_default();
        if !consumers.is_empty() {
            events::requests_shared(requests.queue(), &consumers);
        }
        if requests.other().is_none() {
            let accounts = self.parts.store.count_others().await?.values().sum();
            if accounts > 0 {
                events::requests_orphaned(requests.queue(), accounts);
            }
        }
        Ok(())
    }
}
