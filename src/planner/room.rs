//! How many more jobs a server has room for: metered at the source, so that one slow or dead
//! server never fills the slots that the others need (queue.md).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::domain::number::{to_f64, to_u64};

/// How far ahead of its budget a server is given jobs, in seconds. A worker waits at least a second
/// for its turn, and the burst is spent when it counts: so behind one address no job made here is
/// turned away, even if somebody asks for an account or two by name meanwhile. Of several addresses
/// one may get more than its share of the jobs for a moment, and its workers wait for longer.
const AHEAD: f64 = 0.9;

/// Without a budget: this many seconds of the rate that the server has lately reached.
const AHEAD_UNLIMITED: f64 = 2.0;

/// A slot that is free again within so many seconds is soon enough for another server's job.
const SOON: f64 = 2.0;

/// What a server may be sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Allowed {
    /// Calls per second; `None`: no limit of ours.
    pub(super) per_second: Option<f64>,
    /// How long a call takes: so many are under way at a time.
    pub(super) latency: Duration,
}

/// Room for jobs, per server, over one pass of the planner and from pass to pass.
#[derive(Debug)]
pub(super) struct Room {
    /// What holds for a server that nothing is known of.
    usual: Allowed,
    slots: u64,
    held: BTreeMap<String, u64>,
    made: BTreeMap<String, u64>,
    rate: BTreeMap<String, f64>,
    /// Calls of its budget that a server's jobs may still be made for, where that is not all.
    tokens: BTreeMap<String, f64>,
    allowed: BTreeMap<String, Allowed>,
    waiting: BTreeSet<String>,
    /// Servers whose breaker is open.
    open: BTreeSet<String>,
    /// Whether there is more than one server.
    shared: bool,
}

impl Room {
    /// `per_second` is what a server may be sent that nothing is known of; `None`: no limit.
    pub(super) fn new(per_second: Option<f64>) -> Self {
        Self {
            usual: Allowed { per_second, latency: Duration::ZERO },
            slots: 0,
            held: BTreeMap::new(),
            made: BTreeMap::new(),
            rate: BTreeMap::new(),
            tokens: BTreeMap::new(),
            allowed: BTreeMap::new(),
            waiting: BTreeSet::new(),
            open: BTreeSet::new(),
            shared: false,
        }
    }

    /// Says what a server may be sent that nothing is known of.
    pub(super) fn usually(&mut self, per_second: Option<f64>) {
        self.usual.per_second = per_second;
    }

    /// Begins a pass: `held` is what the queue holds per server now, `slots` the slots of all
    /// living instances, `since` the time since the last pass.
    pub(super) fn measure(&mut self, held: BTreeMap<String, u64>, slots: u64, since: Duration) {
        let seconds = since.as_secs_f64().max(0.001);
        for service in self.held.keys() {
            self.rate.entry(service.clone()).or_default();
        }
        for (service, rate) in &mut self.rate {
            let count = |jobs: &BTreeMap<String, u64>| jobs.get(service).copied().unwrap_or(0);
            let done = (count(&self.held) + count(&self.made)).saturating_sub(count(&held));
            // A moving average over about a second.
            *rate += seconds.min(1.0) * (to_f64(done) / seconds - *rate);
        }
        self.rate.retain(|_, rate| *rate > 0.01);
        let (allowed, usual) = (&self.allowed, self.usual);
        self.tokens.retain(|service, tokens| {
            let allowed = allowed.get(service).copied().unwrap_or(usual);
            let Some(per_second) = allowed.per_second else { return false };
            *tokens += per_second * seconds;
            *tokens < ahead(per_second)
        });
        self.allowed.clear();
        self.made.clear();
        self.waiting.clear();
        self.held = held;
        self.slots = slots;
    }

    /// The servers that something is known of.
    pub(super) fn known(&self) -> BTreeSet<String> {
        let known = self.held.keys().chain(self.tokens.keys()).chain(self.rate.keys());
        known.cloned().collect()
    }

    /// Says what a server may be sent, in this pass.
    pub(super) fn allow(&mut self, service: String, allowed: Allowed) {
        self.allowed.insert(service, allowed);
    }

    /// Says which servers have an open breaker, in this pass.
    pub(super) fn trip(&mut self, open: BTreeSet<String>) {
        self.open = open;
    }

    /// Says whether there is more than one server, in this pass.
    pub(super) fn share(&mut self, shared: bool) {
        self.shared = shared;
    }

    /// How many jobs `service` may be given now: none, if that were hardly worth the questions.
    pub(super) fn left(&self, service: &str) -> usize {
        let taken = self.taken(service);
        if self.open.contains(service) {
            return usize::from(taken == 0);
        }
        let (most, left) = self.by_budget(service, taken);
        let left = left.min(self.by_share(service, taken)).min(self.by_latency(service, taken));
        if taken > 0 && left < most / 4 { 0 } else { usize::try_from(left).unwrap_or(usize::MAX) }
    }

    /// Says that `service` was given `jobs`.
    pub(super) fn give(&mut self, service: &str, jobs: u64) {
        *self.made.entry(service.to_owned()).or_default() += jobs;
        self.held.entry(service.to_owned()).or_default();
        if let Some(per_second) = self.allowed(service).per_second {
            let tokens = self.tokens.entry(service.to_owned()).or_insert(ahead(per_second));
            *tokens -= to_f64(jobs);
        }
    }

    /// How many jobs were given in this pass.
    pub(super) fn given(&self) -> u64 {
        self.made.values().sum()
    }

    /// Says whether accounts of `service` wait for room, in this pass.
    pub(super) fn wants(&mut self, service: &str, more: bool) {
        if more {
            self.waiting.insert(service.to_owned());
        } else {
            self.waiting.remove(service);
        }
    }

    fn allowed(&self, service: &str) -> Allowed {
        self.allowed.get(service).copied().unwrap_or(self.usual)
    }

    fn taken(&self, service: &str) -> u64 {
        let count = |jobs: &BTreeMap<String, u64>| jobs.get(service).copied().unwrap_or(0);
        count(&self.held) + count(&self.made)
    }

    /// The most jobs that `service` may have, and how many more that is.
    fn by_budget(&self, service: &str, taken: u64) -> (u64, u64) {
        let Allowed { per_second, latency } = self.allowed(service);
        let Some(per_second) = per_second else {
            let rate = self.rate.get(service).copied().unwrap_or(0.0);
            let most = to_u64(rate * AHEAD_UNLIMITED).max(2 * self.slots).max(1);
            return (most, most.saturating_sub(taken));
        };
        let tokens = self.tokens.get(service).copied().unwrap_or_else(|| ahead(per_second));
        let running = per_second * latency.as_secs_f64();
        let most = to_u64(ahead(per_second) + running);
        (to_u64(ahead(per_second)), most.saturating_sub(taken).min(to_u64(tokens)))
    }

    /// While others wait, a server leaves as many slots free as it has jobs, so that there are
    /// always some for the next one.
    fn by_share(&self, service: &str, taken: u64) -> u64 {
        // One with an open breaker needs no share of the slots.
        let alone = self.waiting.iter().all(|other| other == service || self.open.contains(other));
        if alone {
            return u64::MAX;
        }
        let all: u64 = self.held.values().chain(self.made.values()).sum();
        let free = self.slots.saturating_sub(all);
        (free.saturating_sub(taken) / 2).max(u64::from(taken == 0))
    }

    /// Others may need slots before a slow server's calls have ended, also if none of them waits
    /// now: it has as many as end soon, or else half of the slots.
    fn by_latency(&self, service: &str, taken: u64) -> u64 {
        if !self.shared {
            return u64::MAX;
        }
        let latency = self.allowed(service).latency.as_secs_f64();
        let turns = if latency > 0.0 { (SOON / latency).max(0.5) } else { 0.5 };
        to_u64(to_f64(self.slots) * turns).max(1).saturating_sub(taken)
    }
}

/// At least one: the slowest budget lets one through.
fn ahead(per_second: f64) -> f64 {
    (per_second * AHEAD).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn held(service: &str, jobs: u64) -> BTreeMap<String, u64> {
        BTreeMap::from([(service.to_owned(), jobs)])
    }

    fn room(per_second: Option<f64>) -> Room {
        let mut room = Room::new(per_second);
        room.measure(BTreeMap::new(), 64, SECOND);
        room
    }

    #[test]
    fn a_budget_bounds_what_is_made() {
        let mut room = room(Some(10.0));
        assert_eq!(room.left("a"), 9);
        room.give("a", 9);
        assert_eq!(room.left("a"), 0);
        room.measure(held("a", 5), 64, SECOND);
        assert_eq!(room.left("a"), 4);
    }

    #[test]
    fn what_is_made_keeps_to_the_budget_however_fast_it_ends() {
        let mut room = room(Some(10.0));
        let mut made = 0;
        for _ in 0..100 {
            let left = room.left("a");
            made += left;
            room.give("a", u64::try_from(left).unwrap());
            room.measure(BTreeMap::new(), 64, Duration::from_millis(100));
        }
        assert!((100..=110).contains(&made), "{made} in 10 s");
    }

    #[test]
    fn a_slow_server_has_as_many_under_way_as_its_budget_asks_for() {
        let mut room = room(Some(4.0));
        let slow = Allowed { per_second: Some(4.0), latency: Duration::from_secs(10) };
        let mut running = 0;
        for _ in 0..100 {
            room.measure(held("a", running), 64, SECOND / 10);
            assert_eq!(room.known().len(), 1);
            room.allow("a".to_owned(), slow);
            let left = u64::try_from(room.left("a")).unwrap();
            assert!(left <= 3, "no more than may wait for its turn");
            room.give("a", left);
            running += left;
        }
        assert!((36..=43).contains(&running), "{running}");
    }

    #[test]
    fn a_slow_budget_still_lets_one_through() {
        let mut room = room(Some(0.1));
        assert_eq!(room.left("a"), 1);
        room.give("a", 1);
        room.measure(BTreeMap::new(), 64, SECOND);
        assert_eq!(room.left("a"), 0);
        room.measure(BTreeMap::new(), 64, SECOND * 9);
        assert_eq!(room.left("a"), 1);
    }

    #[test]
    fn a_few_jobs_are_not_worth_the_questions() {
        let mut room = room(Some(10.0));
        room.measure(held("a", 8), 64, SECOND);
        assert_eq!(room.left("a"), 0);
        room.measure(held("a", 7), 64, SECOND);
        assert_eq!(room.left("a"), 2);
    }

    #[test]
    fn others_that_wait_are_left_a_share_of_the_slots() {
        let mut room = room(None);
        room.wants("a", true);
        assert_eq!(room.left("a"), 128);
        room.wants("b", true);
        assert_eq!((room.left("a"), room.left("b")), (32, 32));
        room.give("a", 32);
        assert_eq!((room.left("a"), room.left("b")), (0, 16));
        room.give("b", 16);
        room.wants("c", true);
        assert_eq!(room.left("c"), 8);
        room.give("c", 16);
        room.wants("d", true);
        assert_eq!(room.left("d"), 1, "nobody is left out");
        room.wants("b", false);
        room.wants("c", false);
        room.wants("d", false);
        assert_eq!(room.left("a"), 96);
    }

    #[test]
    fn among_others_a_slow_server_has_half_of_the_slots() {
        let mut room = room(Some(40.0));
        for (shared, seconds, most) in
            [(false, 10.0, 36), (true, 10.0, 32), (true, 0.0, 32), (true, 0.1, 36), (true, 3.0, 36)]
        {
            let latency = Duration::from_secs_f64(seconds);
            room.share(shared);
            room.allow("a".to_owned(), Allowed { per_second: Some(40.0), latency });
            assert_eq!(room.left("a"), most, "{shared} {seconds}");
        }
        let latency = SECOND * 10;
        room.measure(held("a", 20), 64, SECOND);
        room.allow("a".to_owned(), Allowed { per_second: Some(40.0), latency });
        assert_eq!(room.left("a"), 12);
        room.share(false);
        assert_eq!(room.left("a"), 36, "alone it may take all that its budget asks for");
    }

    #[test]
    fn an_open_breaker_leaves_room_for_one_job_in_all() {
        let mut room = room(Some(100.0));
        room.wants("a", true);
        room.wants("b", true);
        assert_eq!((room.left("a"), room.left("b")), (32, 32));
        room.trip(BTreeSet::from(["b".to_owned()]));
        assert_eq!((room.left("a"), room.left("b")), (90, 1));
        room.give("b", 1);
        assert_eq!(room.left("b"), 0);
        room.measure(held("b", 1), 64, SECOND);
        assert_eq!(room.left("b"), 0);
        room.measure(BTreeMap::new(), 64, SECOND);
        assert_eq!(room.left("b"), 1);
        room.trip(BTreeSet::new());
        assert_eq!(room.left("b"), 90);
    }

    #[test]
    fn without_a_budget_room_follows_the_rate_that_is_reached() {
        let mut room = Room::new(None);
        room.measure(BTreeMap::new(), 64, Duration::from_secs(1));
        for _ in 0..20 {
            room.give("a", 5_000);
            room.measure(BTreeMap::new(), 64, Duration::from_secs(1));
        }
        assert_eq!(room.left("a"), 10_000);
        for _ in 0..20 {
            room.measure(BTreeMap::new(), 64, Duration::from_secs(1));
        }
        assert_eq!(room.left("a"), 128);
    }
}
