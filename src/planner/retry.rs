//! Accounts whose last attempt failed, when their time has come.

use std::time::Duration;

use super::choice::job;
use super::looks::{self, AT_THE_EARLIEST, Looks};
use super::room::Room;
use super::{Next, Parts, PlanError};
use crate::domain::identity::ServiceUrl;
use crate::domain::outcome::Trigger;
use crate::queue::Lane;

/// The planner's part for retries.
#[derive(Debug)]
pub(super) struct Retry {
    parts: Parts,
    looks: Looks,
}

impl Retry {
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts, looks: Looks::default() }
    }

    pub(super) async fn step(&mut self, room: &mut Room) -> Result<Next, PlanError> {
        if self.looks.is_stale() {
            self.looks.list(looks::servers(&self.parts.store).await?);
        }
        for service in self.looks.ready() {
            let wait = self.look(&service, room).await?;
            self.looks.again(&service, wait);
        }
        Ok(Next::After(self.looks.wait()))
    }

    /// A run has just found all servers, new ones among them.
    pub(super) fn list_again(&mut self) {
        self.looks.list_again();
    }

    /// Makes jobs for the retries of one server; answers when to look again.
    async fn look(&self, service: &ServiceUrl, room: &mut Room) -> Result<Duration, PlanError> {
        if let Some(closed) = self.parts.budget.closed_for(service).await {
            return Ok(closed);
        }
        if let Some(wait) = self.parts.budget.open_for(service).filter(|wait| !wait.is_zero()) {
            return Ok(wait);
        }
        let left = room.left(service.as_str());
        if left == 0 {
            return Ok(AT_THE_EARLIEST);
        }
        let now = self.parts.clock.now();
        let due = looks::due(&self.parts.store, service, now).await?;
        let jobs: Vec<_> = due
            .iter()
            .take(left)
            .map(|document| job(document, Trigger::Recovery, Lane::Due, &self.parts.routing))
            .collect();
        self.parts.queue.enqueue(&jobs).await?;
        room.give(service.as_str(), u64::try_from(jobs.len()).unwrap_or(u64::MAX));
        if jobs.len() == left {
            return Ok(AT_THE_EARLIEST);
        }
        Ok(looks::next(&self.parts.store, service, now).await?)
    }
}
