//! How many more jobs a server has room for: metered at the source, so that one slow or dead
//! server never fills the slots that the others need (queue.md).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How far ahead of its budget a server is given jobs, in seconds. A worker waits at most a second
/// for its turn, and the burst is spent when it counts: so no job made here is turned away, even
/// if somebody asks for an account or two by name meanwhile.
const AHEAD: f64 = 0.9;

/// Without a budget: this many seconds of the rate that the server has lately reached.
const AHEAD_UNLIMITED: f64 = 2.0;

/// Room for jobs, per server, over one pass of the planner and from pass to pass.
#[derive(Debug)]
pub(super) struct Room {
    per_second: Option<f64>,
    slots: u64,
    held: BTreeMap<String, u64>,
    made: BTreeMap<String, u64>,
    rate: BTreeMap<String, f64>,
    waiting: BTreeSet<String>,
    /// Servers whose breaker is open.
    open: BTreeSet<String>,
}

impl Room {
    /// `per_second` is `PDS_RATE_LIMIT`, `None` when it is off.
    pub(super) fn new(per_second: Option<f64>) -> Self {
        Self {
            per_second,
            slots: 0,
            held: BTreeMap::new(),
            made: BTreeMap::new(),
            rate: BTreeMap::new(),
            waiting: BTreeSet::new(),
            open: BTreeSet::new(),
        }
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
        self.made.clear();
        self.waiting.clear();
        self.held = held;
        self.slots = slots;
    }

    /// Says which servers have an open breaker, in this pass.
    pub(super) fn trip(&mut self, open: BTreeSet<String>) {
        self.open = open;
    }

    /// How many jobs `service` may be given now.
    pub(super) fn left(&self, service: &str) -> usize {
        let taken = self.held.get(service).copied().unwrap_or(0)
            + self.made.get(service).copied().unwrap_or(0);
        usize::try_from(self.capacity(service).saturating_sub(taken)).unwrap_or(usize::MAX)
    }

    /// Says that `service` was given `jobs`.
    pub(super) fn give(&mut self, service: &str, jobs: u64) {
        *self.made.entry(service.to_owned()).or_default() += jobs;
        self.held.entry(service.to_owned()).or_default();
    }

    /// Says whether accounts of `service` wait for room, in this pass.
    pub(super) fn wants(&mut self, service: &str, more: bool) {
        if more {
            self.waiting.insert(service.to_owned());
        } else {
            self.waiting.remove(service);
        }
    }

    fn capacity(&self, service: &str) -> u64 {
        if self.open.contains(service) {
            return 1;
        }
        let by_rate = match self.per_second {
            Some(rate) => to_u64(rate * AHEAD),
            None => to_u64(self.rate.get(service).copied().unwrap_or(0.0) * AHEAD_UNLIMITED)
                .max(2 * self.slots),
        };
        // One with an open breaker needs no share of the slots.
        let alone = self.waiting.iter().all(|other| other == service || self.open.contains(other));
        let by_share = if alone { u64::MAX } else { self.slots / 2 };
        by_rate.min(by_share).max(1)
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "counts of jobs, far below 2^52"
)]
fn to_f64(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates of jobs: small and not negative; a float cast saturates"
)]
fn to_u64(count: f64) -> u64 {
    count as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(service: &str, jobs: u64) -> BTreeMap<String, u64> {
        BTreeMap::from([(service.to_owned(), jobs)])
    }

    #[test]
    fn a_budget_bounds_what_is_made() {
        let mut room = Room::new(Some(10.0));
        room.measure(BTreeMap::new(), 64, Duration::from_secs(1));
        assert_eq!(room.left("a"), 9);
        room.give("a", 9);
        assert_eq!(room.left("a"), 0);
        room.measure(held("a", 5), 64, Duration::from_secs(1));
        assert_eq!(room.left("a"), 4);
    }

    #[test]
    fn a_slow_budget_still_lets_one_through() {
        let mut room = Room::new(Some(0.1));
        room.measure(BTreeMap::new(), 64, Duration::from_secs(1));
        assert_eq!(room.left("a"), 1);
    }

    #[test]
    fn others_that_wait_are_left_half_of_the_slots() {
        let mut room = Room::new(None);
        room.measure(BTreeMap::new(), 64, Duration::from_secs(1));
        room.wants("a", true);
        assert_eq!(room.left("a"), 128);
        room.wants("b", true);
        assert_eq!((room.left("a"), room.left("b")), (32, 32));
        room.wants("b", false);
        assert_eq!(room.left("a"), 128);
    }

    #[test]
    fn an_open_breaker_leaves_room_for_one_job_in_all() {
        let mut room = Room::new(Some(100.0));
        room.measure(BTreeMap::new(), 64, Duration::from_secs(1));
        room.wants("a", true);
        room.wants("b", true);
        assert_eq!((room.left("a"), room.left("b")), (32, 32));
        room.trip(BTreeSet::from(["b".to_owned()]));
        assert_eq!((room.left("a"), room.left("b")), (90, 1));
        room.give("b", 1);
        assert_eq!(room.left("b"), 0);
        room.measure(held("b", 1), 64, Duration::from_secs(1));
        assert_eq!(room.left("b"), 0);
        room.measure(BTreeMap::new(), 64, Duration::from_secs(1));
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
