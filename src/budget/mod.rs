//! How many requests a server may be sent: one budget per server and egress address, shared by
//! all instances through Redis. What a server says of its own limits always wins.
//!
//! A server that gives no usable answers is asked for signs of life only: its breaker is this
//! instance's own.

mod breakers;
mod latencies;
mod neighbours;
mod pace;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{RedisResult, Script};
use tokio::time::Instant;

use crate::domain::backoff::LONGEST_RETRY_AFTER;
use crate::domain::identity::ServiceUrl;
use crate::link::{Health, Link};
use breakers::Breakers;
use latencies::Latencies;
use neighbours::{Neighbours, Notice};
use pace::Pace;
use told::Told;

/// The longest that a worker waits for its turn (queue.md, "metered at the source"), unless turns
/// are further apart than that.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How much of the budget may be spent at one moment after a pause, in time.
const BURST: Duration = Duration::from_millis(250);

/// While Redis is away nobody knows what the others send: this instance sends half of it all.
const APART: u32 = 2;

/// Redis is not asked, and so not waited for, once it has been away for this long.
pub const AWAY: Duration = Duration::from_secs(3);

/// The answer to a request for one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Call after this wait, which is shorter than [`LONGEST_WAIT`] and already reserved.
    After(Duration),
    /// There is no room before this long from now.
    Denied(Duration),
    /// The server's breaker is open: no call before this long from now.
    Open(Duration),
}

/// The budgets of all servers, as seen from one egress address.
#[derive(Debug)]
pub struct Budget {
    link: Link,
    key_prefix: String,
    interval: Option<Duration>,
    take: Script,
    close: Script,
    /// Closures that this instance knows of: with the rate off they are all there is to ask.
    closed: Mutex<BTreeMap<ServiceUrl, Instant>>,
    breakers: Breakers,
    pace: Pace,
    told: Told,
    neighbours: Neighbours,
    latencies: Latencies,
}

impl Budget {
    /// `key_prefix` is the product's own, with its hash tag; `per_second` is `PDS_RATE_LIMIT`,
    /// `None` when it is off.
    pub fn new(link: Link, key_prefix: &str, egress_id: &str, per_second: Option<f64>) -> Self {
        Self {
            link,
            key_prefix: format!("{key_prefix}budget:{egress_id}:"),
            interval: per_second.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            take: Script::new(include_str!("take.lua")),
            close: Script::new(include_str!("close.lua")),
            closed: Mutex::default(),
            breakers: Breakers::new(),
            pace: Pace::default(),
            told: Told::default(),
            neighbours: Neighbours::default(),
            latencies: Latencies::default(),
        }
    }

    /// Takes one call to `service`, to be reported to [`heard`](Self::heard).
    pub async fn take(&self, service: &ServiceUrl) -> Grant {
        if let Some(wait) = self.breakers.ask(service) {
            return Grant::Open(wait);
        }
        let grant = self.take_turn(service).await;
        if matches!(grant, Grant::Denied(_)) {
            self.breakers.unused(service);
        }
        grant
    }

    /// Learns how a call went: whether the server gave a usable answer. One that asks for time
    /// (429) is not reported: it is neither a failure nor a success.
    pub fn heard(&self, service: &ServiceUrl, reached: bool) {
        self.breakers.heard(service, reached, rand::random());
    }

    /// How long until `service`, whose breaker is open, is called again: zero when that is now, as
    /// a probe. `None` when its breaker is closed.
    pub fn open_for(&self, service: &ServiceUrl) -> Option<Duration> {
        self.breakers.wait(service)
    }

    /// The servers whose breaker is open.
    pub fn open(&self) -> BTreeSet<String> {
        self.breakers.open()
    }

    async fn take_turn(&self, service: &ServiceUrl) -> Grant {
        if let Some(wait) = self.closed_here(service) {
            return Grant::Denied(wait);
        }
        let Some(interval) = self.interval_of(service) else {
            return Grant::After(Duration::ZERO);
        };
        let shared =
            if self.is_alone() { None } else { self.take_shared(service, interval).await.ok() };
        let (granted, wait) = shared.unwrap_or_else(|| {
            let interval = interval * APART;
            self.pace.take(service, interval, interval.max(LONGEST_WAIT))
        });
        if granted { Grant::After(wait) } else { Grant::Denied(wait) }
    }

    fn is_alone(&self) -> bool {
        match &*self.link.health().borrow() {
            Health::Up => false,
            Health::Down { since, .. } => since.elapsed() >= AWAY,
        }
    }

    async fn take_shared(
        &self,
        service: &ServiceUrl,
        interval: Duration,
    ) -> RedisResult<(bool, Duration)> {
        let mut call = self.take.key(self.key(service));
        call.key(self.closed_key(service))
            .arg(millis(interval))
            .arg(millis(BURST))
            .arg(millis(interval.max(LONGEST_WAIT)));
        let (granted, wait, count): (u8, u64, u64) = self.link.invoke(&call).await?;
        if granted == 1 {
            self.neighbours.granted(service, count);
        }
        Ok((granted == 1, Duration::from_millis(wait)))
    }

    /// Closes a server's budget for all instances: it answered 429, or said that nothing is left.
    pub async fn close(&self, service: &ServiceUrl, wait: Duration) {
        let wait = wait.min(LONGEST_RETRY_AFTER);
        if !self.close_here(service, Instant::now() + wait) {
            return;
        }
        if self.is_alone() {
            return;
        }
        let mut call = self.close.key(self.closed_key(service));
        call.arg(wait.as_millis().max(1).to_string());
        if let Err(error) = self.link.invoke::<u8>(&call).await {
            tracing::debug!(%error, %service, "a server's closure is known to this instance only");
        }
    }

    /// How long `service` stays closed, as far as any instance knows; `None` when it is open.
    pub async fn closed_for(&self, service: &ServiceUrl) -> Option<Duration> {
        if let Some(wait) = self.closed_here(service) {
            return Some(wait);
        }
        let left: i64 =
            self.link.query(redis::cmd("PTTL").arg(self.closed_key(service))).await.ok()?;
        let left = Duration::from_millis(u64::try_from(left).ok()?);
        (!left.is_zero()).then_some(left)
    }

    /// The same, as far as this instance knows: Redis is not asked.
    pub fn closed_here(&self, service: &ServiceUrl) -> Option<Duration> {
        let until = *self.closures().get(service)?;
        until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Learns what a server says of its limit: so many requests are left for so long. Where that is
    /// less than our own budget, as when another program shares our address, it is spread evenly.
    /// Answers whether it shows such a program, for the first time.
    pub fn told(&self, service: &ServiceUrl, remaining: u64, until_reset: Duration) -> bool {
        let Notice { others, is_news } = self.neighbours.notice(service, remaining, until_reset);
        self.told.hear(service, (remaining, others), until_reset);
        is_news
    }

    /// Learns a server's limit: so many requests in a window of that length.
    pub fn told_limit(&self, service: &ServiceUrl, requests: u64, window: Duration) {
        self.told.hear_limit(service, requests, window);
    }

    /// Calls per second that may be made in the long run: `PDS_RATE_LIMIT`, or the server's own
    /// limit where that is known and lower; `None`: neither is known.
    pub fn allowed(&self, service: &ServiceUrl) -> Option<f64> {
        [self.limit(), self.told.limit(service)].into_iter().flatten().min_by(f64::total_cmp)
    }

    /// Learns how long a call took.
    pub fn took(&self, service: &ServiceUrl, duration: Duration) {
        self.latencies.hear(service, duration);
    }

    /// How long this instance's calls to a server lately took, on average.
    pub fn latency(&self, service: &ServiceUrl) -> Duration {
        self.latencies.of(service)
    }

    /// `PDS_RATE_LIMIT` in calls per second; `None`: it is off.
    pub fn limit(&self) -> Option<f64> {
        Some(1.0 / self.interval?.as_secs_f64())
    }

    /// Calls per second that a server's budget allows, as far as this instance knows; `None`: it
    /// is off.
    pub fn rate(&self, service: &ServiceUrl) -> Option<f64> {
        Some(1.0 / self.interval_of(service)?.as_secs_f64())
    }

    fn interval_of(&self, service: &ServiceUrl) -> Option<Duration> {
        let told = self.told.interval(service).unwrap_or_default();
        Some(self.interval?.max(told))
    }

    /// How far apart this instance's calls to one server are while Redis is away; `None`: the rate
    /// is off.
    pub fn apart(&self) -> Option<Duration> {
        self.interval.map(|interval| interval * APART)
    }

    /// Whether that told this instance anything new.
    fn close_here(&self, service: &ServiceUrl, until: Instant) -> bool {
        let mut closed = self.closures();
        closed.retain(|_, until| *until > Instant::now());
        let entry = closed.entry(service.clone()).or_insert_with(Instant::now);
        let news = *entry < until;
        *entry = until.max(*entry);
        news
    }

    fn closures(&self) -> MutexGuard<'_, BTreeMap<ServiceUrl, Instant>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, service: &ServiceUrl) -> String {
        format!("{}{service}", self.key_prefix)
    }

    fn closed_key(&self, service: &ServiceUrl) -> String {
        format!("{}{service}:closed", self.key_prefix)
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

#[cfg(test)]
impl Budget {
    /// Without a limit, and so without asking Redis, which is not there.
    pub(crate) fn off() -> Self {
        let nowhere = crate::link::RedisTarget::server("127.0.0.1", 1);
        Self::new(Link::new(nowhere).unwrap(), "refreshd:", "here", None)
    }
}
