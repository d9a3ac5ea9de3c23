//! Which server's accounts are looked at when, and what is found: shared by whoever serves due
//! times.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::MOST_SERVERS;
use crate::domain::account::{Document, Unusable};
use crate::domain::identity::ServiceUrl;
use crate::store::{Store, StoreError, Whose};

/// A server's accounts are looked at this often at the latest, so a retry that another instance
/// wrote starts this much late at most.
pub const AT_THE_LATEST: Duration = Duration::from_secs(10);

/// And not more often than this: what has become due meanwhile is begun together.
pub const AT_THE_EARLIEST: Duration = Duration::from_millis(200);

/// Accounts read at once for one server.
pub const PAGE: u32 = 500;

/// The longest wait that any rule yields, and an hour more: clocks differ.
const ASTRAY: TimeDelta = TimeDelta::hours(25);

/// The servers, and when each is looked at next.
#[derive(Debug, Default)]
pub struct Looks {
    servers: BTreeMap<ServiceUrl, Instant>,
    listed: Option<Instant>,
}

impl Looks {
    /// Servers come and go slowly: their list is read again every so often.
    pub fn is_stale(&self) -> bool {
        self.listed.is_none_or(|at| at.elapsed() >= AT_THE_LATEST * 3)
    }

    /// Has the list read again at the next opportunity.
    pub fn list_again(&mut self) {
        self.listed = None;
    }

    /// Takes over a list as [`servers`] reads it; new ones are looked at at once.
    pub fn list(&mut self, servers: Vec<ServiceUrl>) {
        let known = std::mem::take(&mut self.servers);
        for service in servers {
            let at = known.get(&service).copied().unwrap_or_else(Instant::now);
            self.servers.insert(service, at);
        }
        self.listed = Some(Instant::now());
    }

    /// Whether there is more than one server.
    pub fn are_many(&self) -> bool {
        self.servers.len() > 1
    }

    /// The servers whose time has come, the one that has waited longest first.
    pub fn ready(&self) -> Vec<ServiceUrl> {
        let now = Instant::now();
        let mut ready: Vec<_> = self.servers.iter().filter(|(_, at)| **at <= now).collect();
        ready.sort_by_key(|(_, at)| **at);
        ready.into_iter().map(|(service, _)| service.clone()).collect()
    }

    /// Says when `service` is looked at again, as far as that is neither too soon nor too late.
    pub fn again(&mut self, service: &ServiceUrl, wait: Duration) {
        if let Some(at) = self.servers.get_mut(service) {
            *at = Instant::now() + wait.clamp(AT_THE_EARLIEST, AT_THE_LATEST);
        }
    }

    /// Has `service`, which stays ready, looked at after all others that are.
    pub fn behind(&mut self, service: &ServiceUrl) {
        if let Some(at) = self.servers.get_mut(service) {
            *at = Instant::now();
        }
    }

    /// Has `service`, which may be new, looked at within `wait`.
    pub fn within(&mut self, service: ServiceUrl, wait: Duration) {
        let soon = Instant::now() + wait.min(AT_THE_LATEST);
        let at = self.servers.entry(service).or_insert(soon);
        *at = soon.min(*at);
    }

    /// How long until a server's time comes.
    pub fn wait(&self) -> Duration {
        let soonest = self.servers.values().min().copied();
        soonest.map_or(AT_THE_LATEST, |at| at.saturating_duration_since(Instant::now()))
    }
}

/// The servers of all accounts.
pub async fn servers(store: &Store) -> Result<Vec<ServiceUrl>, StoreError> {
    let services = store.services(None, MOST_SERVERS).await?;
    Ok(services.iter().filter_map(|service| service.parse().ok()).collect())
}

/// The next accounts of a server that are due, active ones first.
/// A document that cannot be attempted is left out: it would stay due for ever.
pub async fn due(
    store: &Store,
    service: &ServiceUrl,
    failed: bool,
    now: DateTime<Utc>,
) -> Result<Vec<Document>, StoreError> {
    let times = (DateTime::UNIX_EPOCH, Some(now));
    let active = Whose { active: Some(true), failed };
    let mut due = store.due(service.as_str(), active, times, PAGE).await?;
    let troubled = Whose { active: Some(false), failed };
    due.extend(store.due(service.as_str(), troubled, times, PAGE).await?);
    due.extend(astray(store, service, failed, now).await?);
    due.retain(can_be_attempted);
    Ok(due)
}

/// Accounts whose time lies further away than any rule could have put it: it was written under a
/// clock that was wrong, and they are due now (contract.md).
pub async fn astray(
    store: &Store,
    service: &ServiceUrl,
    failed: bool,
    now: DateTime<Utc>,
) -> Result<Vec<Document>, StoreError> {
    let whose = Whose { active: None, failed };
    store.due(service.as_str(), whose, (now + ASTRAY, None), PAGE).await
}

/// Whether there is anything to attempt about a document.
pub fn can_be_attempted(document: &Document) -> bool {
    !matches!(document.account, Err(Unusable::Malformed { .. }))
}

/// How long until the next account of a server is due after `from`, if that is known.
pub async fn next(
    store: &Store,
    service: &ServiceUrl,
    whose: Whose,
    (from, now): (DateTime<Utc>, DateTime<Utc>),
) -> Result<Duration, StoreError> {
    let next = store.next_due(service.as_str(), whose, from).await?;
    Ok(next.map_or(AT_THE_LATEST, |at| (at - now).to_std().unwrap_or_default()))
}
