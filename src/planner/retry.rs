//! Accounts whose last attempt failed, when their time has come.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::choice::job;
use super::room::Room;
use super::{MOST_SERVERS, Next, Parts, PlanError};
use crate::domain::account::Unusable;
use crate::domain::identity::ServiceUrl;
use crate::domain::outcome::Trigger;
use crate::queue::Lane;

/// A server's accounts are looked at this often at the latest, so a retry that another instance
/// wrote starts this much late at most.
const AT_THE_LATEST: Duration = Duration::from_secs(10);

/// And not more often than this: a job that was just made is still due until it has run.
const AT_THE_EARLIEST: Duration = Duration::from_secs(1);

/// Retries read at once for one server.
const PAGE: u32 = 500;

/// A `nextAttemptAt` further away than any rule could have put it was written under a clock that
/// was wrong, and is due now (contract.md). An hour more than that: clocks differ.
const ASTRAY: Duration = Duration::from_hours(25);

/// The planner's part for retries.
#[derive(Debug)]
pub(super) struct Retry {
    parts: Parts,
    servers: BTreeMap<ServiceUrl, Instant>,
    listed: Option<Instant>,
}

impl Retry {
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts, servers: BTreeMap::new(), listed: None }
    }

    pub(super) async fn step(&mut self, room: &mut Room) -> Result<Next, PlanError> {
        self.list().await?;
        let due: Vec<_> = self
            .servers
            .iter()
            .filter(|(_, at)| **at <= Instant::now())
            .map(|(it, _)| it.clone())
            .collect();
        for service in due {
            let wait = self.look(&service, room).await?;
            self.servers
                .insert(service, Instant::now() + wait.clamp(AT_THE_EARLIEST, AT_THE_LATEST));
        }
        let soonest = self.servers.values().min().copied();
        let wait = soonest.map_or(AT_THE_LATEST, |at| at.saturating_duration_since(Instant::now()));
        Ok(Next::After(wait))
    }

    /// A run has just found all servers, new ones among them.
    pub(super) fn list_again(&mut self) {
        self.listed = None;
    }

    /// Servers come and go slowly: their list is read again every so often.
    async fn list(&mut self) -> Result<(), PlanError> {
        if self.listed.is_some_and(|at| at.elapsed() < AT_THE_LATEST * 3) {
            return Ok(());
        }
        let known = std::mem::take(&mut self.servers);
        for service in self.parts.store.services(None, MOST_SERVERS).await? {
            let Ok(service) = service.parse::<ServiceUrl>() else { continue };
            let at = known.get(&service).copied().unwrap_or_else(Instant::now);
            self.servers.insert(service, at);
        }
        self.listed = Some(Instant::now());
        Ok(())
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
        let store = &self.parts.store;
        let mut due = store.due(service.as_str(), now, PAGE).await?;
        due.extend(store.astray(service.as_str(), now + ASTRAY, PAGE).await?);
        // A document that cannot be attempted would stay due for ever.
        let jobs: Vec<_> = due
            .iter()
            .filter(|document| !matches!(document.account, Err(Unusable::Malformed { .. })))
            .take(left)
            .map(|document| job(document, Trigger::Recovery, Lane::Due, &self.parts.routing))
            .collect();
        self.parts.queue.enqueue(&jobs).await?;
        room.give(service.as_str(), u64::try_from(jobs.len()).unwrap_or(u64::MAX));
        if jobs.len() == left {
            return Ok(AT_THE_EARLIEST);
        }
        let next = self.parts.store.next_due(service.as_str()).await?;
        Ok(next.and_then(|at| (at - now).to_std().ok()).unwrap_or(AT_THE_LATEST))
    }
}
