//! Refreshes what is due straight from MongoDB while Redis is away (`REDIS_DOWN_EXIT_AFTER=off`).
//!
//! Nobody has a claim then, and every instance that can reach MongoDB does the same: each in an
//! order of its own, so that they seldom meet, and compare-and-set keeps it correct where they do.
//! Runs, and jobs that wait in Redis, go on when it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::budget::{AWAY, LONGEST_WAIT};
use crate::domain::account::{Document, Status};
use crate::domain::attempt::Report;
use crate::domain::identity::{AccountId, ServiceUrl};
use crate::domain::outcome::{Outcome, Trigger};
use crate::events::{self, Trouble};
use crate::link::Health;
use crate::planner::looks::{self, Looks};
use crate::refresh::{NO_SLOT, Refresher};
use crate::store::{StoreError, Whose};
use crate::worker;

/// Servers whose accounts are read at once.
const LOOKS_AT_ONCE: usize = 4;

/// What was just begun is still due until it has ended: a look finds it again.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// After this, what MongoDB did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// What came to its end.
enum Done {
    Listed(Result<Vec<ServiceUrl>, StoreError>),
    Looked(ServiceUrl, Result<(Vec<Due>, Duration), StoreError>),
    Attended(ServiceUrl, Report),
}

/// All that is under way, in one task.
type UnderWay = FuturesUnordered<BoxFuture<'static, Done>>;

/// An account that is due, and the token that it held then.
#[derive(Debug)]
struct Due {
    account: AccountId,
    generation: Option<String>,
    active: bool,
}

/// A server with something due or under way.
#[derive(Debug, Default)]
struct Server {
    due: Vec<Due>,
    under_way: usize,
    /// How many may be begun before the next look.
    left: usize,
}

/// The refreshes of one instance that do without Redis.
#[derive(Debug)]
pub struct Direct {
    refresher: Arc<Refresher>,
    health: watch::Receiver<Health>,
    /// Accounts that are attempted at once.
    slots: usize,
    looks: Looks,
    lists: bool,
    looking: usize,
    servers: BTreeMap<ServiceUrl, Server>,
    under_way: BTreeSet<AccountId>,
    refreshed: u64,
    failed: u64,
    held_up: Trouble,
}

impl Direct {
    /// For an instance with so many `workers`, half of which are enough for half of the rate.
    pub fn new(refresher: Arc<Refresher>, health: watch::Receiver<Health>, workers: usize) -> Self {
        let begun = "what is due cannot be read";
        Self {
            refresher,
            health,
            slots: (workers / 2).max(1),
            looks: Looks::default(),
            lists: false,
            looking: 0,
            servers: BTreeMap::new(),
            under_way: BTreeSet::new(),
            refreshed: 0,
            failed: 0,
            held_up: Trouble::new("direct.held_up", begun, "what is due can be read again"),
        }
    }

    /// Stands in for the queue whenever Redis is away, until `stop`; what is under way then comes
    /// to its end.
    pub async fn run(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(self.away()).await == Some(true) {
            let begun = Instant::now();
            (self.refreshed, self.failed) = (0, 0);
            events::direct_begun();
            self.serve(&stop).await;
            events::direct_ended(self.refreshed, self.failed, begun.elapsed());
        }
    }

    /// Waits until Redis has been away for a while; false: nobody looks after it any more.
    async fn away(&mut self) -> bool {
        loop {
            let Ok(down) = self.health.wait_for(|it| *it != Health::Up).await.map(|it| it.clone())
            else {
                return false;
            };
            let Health::Down { since, .. } = down else { continue };
            let up = self.health.wait_for(|it| *it == Health::Up);
            match timeout_at(since + AWAY, up).await {
                Err(_elapsed) => return true,
                Ok(Err(_closed)) => return false,
                Ok(Ok(_up)) => {}
            }
        }
    }

    async fn serve(&mut self, stop: &CancellationToken) {
        let mut health = self.health.clone();
        let mut under_way = UnderWay::new();
        self.looks = Looks::default();
        loop {
            self.look(&under_way);
            self.begin(&under_way);
            // Who is ready and waits for room is asked again when something ends.
            let wait = self.looks.wait().max(Duration::from_millis(100));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _up = health.wait_for(|it| *it == Health::Up) => break,
                Some(done) = under_way.next(), if !under_way.is_empty() => self.ended(done),
                () = sleep(wait) => {}
            }
        }
        while let Some(done) = under_way.next().await {
            self.ended(done);
        }
        self.servers.clear();
    }

    /// Reads what is due at the servers whose time has come.
    fn look(&mut self, under_way: &UnderWay) {
        if self.looks.is_stale() && !self.lists {
            self.lists = true;
            let refresher = Arc::clone(&self.refresher);
            under_way.push(Box::pin(async move {
                let servers = looks::servers(&refresher.parts().store).await;
                if servers.is_err() {
                    sleep(AGAIN).await;
                }
                Done::Listed(servers)
            }));
        }
        let mut ready = self.looks.ready();
        shuffle(&mut ready);
        for service in ready {
            if self.looking >= LOOKS_AT_ONCE {
                break;
            }
            // What was read the last time may have been served by another instance since.
            if let Some(server) = self.servers.get_mut(&service) {
                server.due.clear();
            }
            if let Some(wait) = self.shut(&service) {
                self.looks.again(&service, wait);
                continue;
            }
            self.looks.again(&service, BETWEEN_LOOKS);
            if self.room(&service) == 0 {
                continue;
            }
            // Not again before it is answered.
            self.looks.again(&service, Duration::MAX);
            self.looking += 1;
            let refresher = Arc::clone(&self.refresher);
            under_way.push(Box::pin(async move {
                let looked = look_at(&refresher, &service).await;
                Done::Looked(service, looked)
            }));
        }
    }

    /// Begins what there is room for, one of each server in turn.
    fn begin(&mut self, under_way: &UnderWay) {
        let mut services: Vec<_> = self.servers.keys().cloned().collect();
        shuffle(&mut services);
        while !services.is_empty() {
            services.retain(|service| {
                let Some(due) = self.next(service) else { return false };
                let (refresher, service) = (Arc::clone(&self.refresher), service.clone());
                under_way.push(Box::pin(async move {
                    let by = (Trigger::Recovery, format!("direct-{}", due.account));
                    let whose = (due.account, due.generation.as_deref());
                    let report = worker::attend(&refresher, whose, by, NO_SLOT).await;
                    Done::Attended(service, report)
                }));
                true
            });
        }
    }

    /// Takes the next account of a server, if it may be attempted now.
    fn next(&mut self, service: &ServiceUrl) -> Option<Due> {
        if self.room(service) == 0 || self.shut(service).is_some() {
            return None;
        }
        let server = self.servers.get_mut(service)?;
        if server.left == 0 {
            return None;
        }
        loop {
            let due = server.due.pop()?;
            let is_busy = self.refresher.is_busy(due.account);
            if !is_busy && self.under_way.insert(due.account) {
                server.left -= 1;
                server.under_way += 1;
                return Some(due);
            }
        }
    }

    /// How long a server is not to be called at all, as far as this instance knows.
    fn shut(&self, service: &ServiceUrl) -> Option<Duration> {
        let budget = &self.refresher.parts().budget;
        let open = budget.open_for(service).filter(|wait| !wait.is_zero());
        budget.closed_here(service).or(open)
    }

    /// How many accounts of `service` may be begun now: one that hangs leaves half of the slots to
    /// the others, one whose breaker is open gets a probe.
    fn room(&self, service: &ServiceUrl) -> usize {
        let under_way = self.servers.get(service).map_or(0, |server| server.under_way);
        let is_open = self.refresher.parts().budget.open_for(service).is_some();
        let share = match (is_open, self.looks.are_many()) {
            (true, _) => 1,
            (false, true) => (self.slots / 2).max(1),
            (false, false) => self.slots,
        };
        let free = self.slots.saturating_sub(self.under_way.len());
        share.saturating_sub(under_way).min(free)
    }

    /// How many accounts of a server may be begun between two looks: not more than will be granted
    /// their turn, for the others would only be put off.
    fn turns(&self, service: &ServiceUrl, under_way: usize) -> usize {
        let budget = &self.refresher.parts().budget;
        let Some(apart) = budget.apart(service) else { return usize::MAX };
        let turns = LONGEST_WAIT.as_millis() / apart.as_millis().max(1);
        match usize::try_from(turns).unwrap_or(usize::MAX) {
            0 => usize::from(under_way == 0),
            turns => turns,
        }
    }

    fn ended(&mut self, done: Done) {
        match done {
            Done::Listed(listed) => {
                self.lists = false;
                if let Some(servers) = self.known(listed) {
                    self.looks.list(servers);
                }
            }
            Done::Looked(service, looked) => {
                self.looking -= 1;
                let (mut due, wait) = self.known(looked).unwrap_or((Vec::new(), AGAIN));
                self.looks.again(&service, wait);
                shuffle(&mut due);
                // They are taken from the end.
                due.sort_by_key(|due| due.active);
                let under_way = self.servers.get(&service).map_or(0, |server| server.under_way);
                let left = self.turns(&service, under_way);
                if under_way > 0 || !due.is_empty() {
                    self.servers.insert(service, Server { due, under_way, left });
                }
            }
            Done::Attended(service, report) => {
                self.under_way.remove(&report.account);
                self.refreshed += u64::from(report.outcome == Outcome::Refreshed);
                self.failed += u64::from(!report.outcome.is_success());
                if let Some(server) = self.servers.get_mut(&service) {
                    server.under_way -= 1;
                }
            }
        }
        self.servers.retain(|_, server| server.under_way > 0 || !server.due.is_empty());
    }

    fn known<T>(&self, answer: Result<T, StoreError>) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.held_up.over();
                Some(answer)
            }
            Err(error) => {
                self.held_up.met(&error);
                None
            }
        }
    }
}

/// What is due at a server, and when to look again.
async fn look_at(
    refresher: &Refresher,
    service: &ServiceUrl,
) -> Result<(Vec<Due>, Duration), StoreError> {
    let (store, now) = (&refresher.parts().store, refresher.parts().clock.now());
    let failed = refresher.parts().policy.lead.is_none();
    let due = looks::due(store, service, failed, now).await?;
    if !due.is_empty() {
        return Ok((due.iter().map(Due::of).collect(), BETWEEN_LOOKS));
    }
    let whose = Whose { active: None, failed };
    let next = looks::next(store, service, whose, (DateTime::UNIX_EPOCH, now)).await?;
    Ok((Vec::new(), next.max(BETWEEN_LOOKS)))
}

impl Due {
    fn of(document: &Document) -> Self {
        let generation = document.token.jti().map(str::to_owned);
        Self { account: document.id, generation, active: document.status == Status::Active }
    }
}

/// Another order for every instance.
fn shuffle<T>(all: &mut [T]) {
    for last in (1..all.len()).rev() {
        all.swap(last, rand::random_range(0..=last));
    }
}
