//! Looks ahead: are there servers whose accounts need more calls than the budget gives? Told in the
//! log, in `/readyz`, as a metric, by `refreshd check` and `refreshd status`, before anybody lapses.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::domain::forecast::{Fleet, Shortage, needed, shortage};
use crate::domain::identity::ServiceUrl;
use crate::domain::renewal::Lead;
use crate::domain::session::USUAL_LIFE;
use crate::events;
use crate::store::{Store, StoreError};

/// How often the accounts are counted, but for a small share of the time.
const EVERY: Duration = Duration::from_mins(1);
const SHARE: u32 = 500;

/// Servers whose tokens' life is looked up: those with the most accounts.
const LOOKED_UP: usize = 20;

/// The active accounts of every server, the most first. Those that were never looked at are
/// counted for `home`.
pub async fn fleets(store: &Store, home: &ServiceUrl) -> Result<Vec<Fleet>, StoreError> {
    let mut fleets: Vec<Fleet> = Vec::new();
    for (service, active) in store.count_active_by_service().await? {
        let service = service.parse().unwrap_or_else(|_none| home.clone());
        match fleets.iter_mut().find(|fleet| fleet.service == service) {
            Some(fleet) => fleet.active += active,
            None => fleets.push(Fleet { service, active, life: USUAL_LIFE }),
        }
    }
    fleets.sort_by_key(|fleet| std::cmp::Reverse(fleet.active));
    for fleet in fleets.iter_mut().take(LOOKED_UP) {
        if let Some(life) = store.access_life(&fleet.service).await? {
            fleet.life = life.length();
        }
    }
    Ok(fleets)
}

/// What is short of the calls a second that `each` of so many egress addresses may make to a server.
pub fn shortages(
    fleets: &[Fleet],
    lead: Lead,
    each: impl Fn(&ServiceUrl) -> Option<f64>,
    addresses: u64,
) -> Vec<Shortage> {
    let short = |fleet| shortage(fleet, lead, each(&fleet.service)?, addresses);
    fleets.iter().filter_map(short).collect()
}

/// The fleet that needs the most calls, and how many a second.
pub fn hungriest(fleets: &[Fleet], lead: Lead) -> Option<(&Fleet, f64)> {
    let needs = fleets.iter().map(|fleet| (fleet, needed(fleet, lead)));
    needs.max_by(|(_, one), (_, other)| one.total_cmp(other))
}

/// The look-out of one instance.
#[derive(Debug)]
pub struct Lookout {
    /// The accounts.
    pub store: Store,
    /// What may be called.
    pub budget: Arc<Budget>,
    /// Where accounts belong that were never looked at.
    pub home: ServiceUrl,
    /// `REFRESH_LEAD`.
    pub lead: Lead,
    /// What is short now.
    pub found: watch::Sender<Vec<Shortage>>,
}

impl Lookout {
    /// Looks out until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let begun = Instant::now();
            match fleets(&self.store, &self.home).await {
                Ok(fleets) => self.tell(&fleets),
                Err(error) => tracing::debug!(event = "capacity", %error, "not counted"),
            }
            let rest = EVERY.max(begun.elapsed() * SHARE);
            if stop.run_until_cancelled(sleep(rest)).await.is_none() {
                return;
            }
        }
    }

    fn tell(&self, fleets: &[Fleet]) {
        let budget = &self.budget;
        let each = |service: &ServiceUrl| budget.allowed(service);
        let now = shortages(fleets, self.lead, each, budget.count());
        let before = self.found.send_replace(now.clone());
        let servers = |all: &[Shortage]| -> BTreeSet<ServiceUrl> {
            all.iter().map(|it| it.fleet.service.clone()).collect()
        };
        let (was, is) = (servers(&before), servers(&now));
        for shortage in now.iter().filter(|it| !was.contains(&it.fleet.service)) {
            events::capacity_short(shortage);
        }
        for service in was.difference(&is) {
            events::capacity_enough(service);
        }
    }
}
