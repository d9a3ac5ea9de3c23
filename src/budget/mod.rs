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
use crate::domain::breaker::Sign;
use crate::domain::identity::ServiceUrl;
use crate::domain::number::to_f64;
use crate::link::{Health, Link};
use breakers::Breakers;
use latencies::Latencies;
use neighbours::{Neighbours, Notice};
use pace::Pace;
use told::Told;

/// The longest that a worker waits for its turn (queue.md, "metered at the source"), unless turns
/// are further apart than that, or several addresses share the work.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How much of the budget may be spent at one moment after a pause, in time.
const BURST: Duration = Duration::from_millis(250);

/// While Redis is away nobody knows what the others send: this instance sends half of it all, or
/// its even share where more were there.
const APART: u32 = 2;

/// The longest waits that a worker waits for its turn, where there are several addresses.
const MOST_TURNS: u32 = 4;

/// Egress addresses that are told apart.
const MOST_ADDRESSES: usize = 64;

/// Redis is not asked, and so not waited for, once it has been away for this long.
pub const AWAY: Duration = Duration::from_secs(3);

/// The answer to a request for one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Call after this wait, which is already reserved: about [`LONGEST_WAIT`] at most, and up to
    /// four times that where several addresses share the work.
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
    /// What the keys of all egress addresses begin with.
    key_prefix: String,
    egress_id: String,
    /// Live instances behind each egress address, as far as is known.
    egresses: Mutex<BTreeMap<String, u32>>,
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
            key_prefix: format!("{key_prefix}budget:"),
            egress_id: egress_id.to_owned(),
            egresses: Mutex::default(),
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

    /// Learns how a call went. One that asks for time (429) is not reported: it is neither a
    /// failure nor a success.
    pub fn heard(&self, service: &ServiceUrl, sign: Sign) {
        self.breakers.heard(service, sign, rand::random());
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
            let interval = interval * self.share();
            self.neighbours.uncounted(service);
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
            .arg(millis(interval.max(LONGEST_WAIT * self.turns())));
        let (granted, wait, count): (u8, u64, u64) = self.link.invoke(&call).await?;
        if granted == 1 {
            self.neighbours.granted(service, count);
        }
        Ok((granted == 1, Duration::from_millis(wait)))
    }

    /// Closes a server's budget: it answered 429, or said that nothing is left. Answers whether
    /// that is news, of which the other instances are to be [told](Self::tell_closed).
    #[must_use = "other instances are to be told"]
    pub fn close(&self, service: &ServiceUrl, wait: Duration) -> bool {
        let until = Instant::now() + wait.min(LONGEST_RETRY_AFTER);
        let mut closed = self.closures();
        closed.retain(|_, until| *until > Instant::now());
        let entry = closed.entry(service.clone()).or_insert_with(Instant::now);
        let is_news = *entry < until;
        *entry = until.max(*entry);
        is_news
    }

    /// Closes it for the other instances, too, as far as Redis can be reached.
    pub async fn tell_closed(&self, service: &ServiceUrl, wait: Duration) {
        if self.is_alone() {
            return;
        }
        let wait = wait.min(LONGEST_RETRY_AFTER);
        let mut call = self.close.key(self.closed_key(service));
        call.arg(wait.as_millis().max(1).to_string());
        if let Err(error) = self.link.invoke::<u8>(&call).await {
            tracing::debug!(%error, %service, "a server's closure is known to this instance only");
        }
    }

    /// How long `service` stays closed to any live instance's address; `None` when it is open to
    /// all. A job goes to whoever is free, so one that may not call would put off the others' jobs.
    pub async fn closed_for(&self, service: &ServiceUrl) -> Option<Duration> {
        if let Some(wait) = self.closed_here(service) {
            return Some(wait);
        }
        let mut pipeline = redis::pipe();
        for egress_id in self.addresses() {
            pipeline.pttl(self.closed_key_of(&egress_id, service));
        }
        let left: Vec<i64> = self.link.pipe(&pipeline).await.ok()?;
        let left = u64::try_from(left.into_iter().max()?).ok().map(Duration::from_millis)?;
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

    /// Learns of the live instances: how many are behind each egress address.
    pub fn shared_by(&self, instances: BTreeMap<String, u32>) {
        *self.egresses() = instances;
    }

    /// Calls per second that one address may make in the long run: `PDS_RATE_LIMIT`, or the server's
    /// own limit where that is known and lower; `None`: neither is known.
    pub fn allowed(&self, service: &ServiceUrl) -> Option<f64> {
        let known = [self.limit(), self.told.limit(service)].into_iter().flatten();
        known.min_by(f64::total_cmp)
    }

    /// Learns how long a call took.
    pub fn took(&self, service: &ServiceUrl, duration: Duration) {
        self.latencies.hear(service, duration);
    }

    /// How long this instance's calls to a server lately took, on average.
    pub fn latency(&self, service: &ServiceUrl) -> Duration {
        self.latencies.of(service)
    }

    /// `PDS_RATE_LIMIT` in calls per second and address; `None`: it is off.
    pub fn limit(&self) -> Option<f64> {
        Some(1.0 / self.interval?.as_secs_f64())
    }

    /// Calls per second that a server's budget allows all addresses together; what the server says
    /// to this one is taken for what it says to each. `None`: there is no limit.
    pub fn rate(&self, service: &ServiceUrl) -> Option<f64> {
        Some(to_f64(self.count()) / self.interval_of(service)?.as_secs_f64())
    }

    /// The same of a server that has said nothing yet.
    pub fn usual_rate(&self) -> Option<f64> {
        Some(self.limit()? * to_f64(self.count()))
    }

    fn interval_of(&self, service: &ServiceUrl) -> Option<Duration> {
        let limit = self.told.limit(service).map(|rate| Duration::from_secs_f64(1.0 / rate));
        self.interval.max(self.told.interval(service)).max(limit)
    }

    /// How far apart this instance's calls to a server are while Redis is away; `None`: there is no
    /// limit.
    pub fn apart(&self, service: &ServiceUrl) -> Option<Duration> {
        Some(self.interval_of(service)? * self.share())
    }

    /// Of how many instances behind this address this is one.
    fn share(&self) -> u32 {
        self.egresses().get(&self.egress_id).copied().unwrap_or_default().max(APART)
    }

    /// How many times longer a turn is waited for: jobs are made for all addresses, and one may get
    /// more of them than the others for a moment.
    fn turns(&self) -> u32 {
        u32::try_from(self.addresses().len()).map_or(MOST_TURNS, |count| count.min(MOST_TURNS))
    }

    /// The egress addresses of live instances, of which this one's is one.
    fn addresses(&self) -> BTreeSet<String> {
        let own = std::iter::once(self.egress_id.clone());
        own.chain(self.egresses().keys().take(MOST_ADDRESSES).cloned()).collect()
    }

    /// How many egress addresses there are.
    pub fn count(&self) -> u64 {
        u64::try_from(self.addresses().len()).unwrap_or(u64::MAX)
    }

    fn egresses(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.egresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closures(&self) -> MutexGuard<'_, BTreeMap<ServiceUrl, Instant>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, service: &ServiceUrl) -> String {
        format!("{}{}:{service}", self.key_prefix, self.egress_id)
    }

    fn closed_key(&self, service: &ServiceUrl) -> String {
        self.closed_key_of(&self.egress_id, service)
    }

    fn closed_key_of(&self, egress_id: &str, service: &ServiceUrl) -> String {
        format!("{}{egress_id}:{service}:closed", self.key_prefix)
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
