//! The slots: how many calls this instance has in flight. A slot is taken before its job is, and
//! given back when the job's call is over; what is then left to be written needs none.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::lane::Lane;

/// How long a slot stays free for the sake of others that are about to be.
const LINGER: Duration = Duration::from_millis(2);

/// So many times as many jobs as slots are in hand at most: MongoDB may take its time.
const IN_HAND: usize = 4;

/// The slots of one instance, a few of which serve the manual lane alone.
#[derive(Debug)]
pub(super) struct Slots {
    total: usize,
    /// How many of them the lower lanes may use.
    low: usize,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default, Clone, Copy)]
struct Taken {
    all: usize,
    low: usize,
    /// Jobs that are not over yet, with or without a slot.
    jobs: usize,
}

/// Free slots: in all, and for the lower lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Free {
    pub(super) all: usize,
    pub(super) low: usize,
}

/// One job's slot. The job is over when its last clone is dropped.
#[derive(Debug, Clone)]
pub struct Slot(Arc<Place>);

#[derive(Debug)]
struct Place {
    slots: Arc<Slots>,
    low: bool,
    freed: AtomicBool,
}

impl Slots {
    pub(super) fn new(total: usize) -> Arc<Self> {
        let total = total.max(1);
        let low = total - (total / 8).min(4);
        Arc::new(Self { total, low, taken: Mutex::default(), freed: Notify::new() })
    }

    pub(super) fn free(&self) -> Free {
        let taken = *self.taken();
        let left = (self.total * IN_HAND).saturating_sub(taken.jobs);
        let all = self.total.saturating_sub(taken.all).min(left);
        Free { all, low: all.min(self.low.saturating_sub(taken.low)) }
    }

    /// Waits until a slot becomes free. One that did since the last wait counts.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// The same, and then until a quarter of the slots are free, or for two milliseconds: for one
    /// who knows that there is work for all of them, so that many are filled at once.
    pub(super) async fn freed_together(&self) {
        self.freed().await;
        let enough = async {
            while self.free().low < self.low / 4 {
                self.freed().await;
            }
        };
        let _enough_or_late = timeout(LINGER, enough).await;
    }

    pub(super) fn take(self: &Arc<Self>, lane: Lane) -> Slot {
        let low = lane != Lane::Manual;
        let mut taken = self.taken();
        taken.all += 1;
        taken.low += usize::from(low);
        taken.jobs += 1;
        Slot(Arc::new(Place { slots: Arc::clone(self), low, freed: AtomicBool::new(false) }))
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Gives the slot back before the job is over: it makes no call any more.
    pub fn free(&self) {
        self.0.free(&mut self.0.slots.taken());
        self.0.slots.freed.notify_one();
    }
}

impl Place {
    fn free(&self, taken: &mut Taken) {
        if !self.freed.swap(true, Ordering::Relaxed) {
            taken.all -= 1;
            taken.low -= usize::from(self.low);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.slots.taken();
        self.free(&mut taken);
        taken.jobs -= 1;
        drop(taken);
        self.slots.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_slots_are_the_manual_lanes_alone() {
        for (total, low) in [(0, 1), (1, 1), (7, 7), (8, 7), (16, 14), (64, 60), (500, 496)] {
            assert_eq!(Slots::new(total).free(), Free { all: total.max(1), low }, "{total}");
        }
    }

    #[test]
    fn slots_come_back() {
        let slots = Slots::new(8);
        let bulk: Vec<_> = (0..7).map(|_| slots.take(Lane::Bulk)).collect();
        assert_eq!(slots.free(), Free { all: 1, low: 0 });
        let manual = slots.take(Lane::Manual);
        assert_eq!(slots.free(), Free { all: 0, low: 0 });
        drop(manual);
        drop(bulk);
        assert_eq!(slots.free(), Free { all: 8, low: 7 });
    }

    #[test]
    fn a_job_without_a_call_to_come_needs_no_slot_but_is_in_hand() {
        let slots = Slots::new(8);
        let mut jobs = Vec::new();
        for _ in 0..IN_HAND {
            jobs.extend((0..8).map(|_| slots.take(Lane::Manual)));
            assert_eq!(slots.free().all, 0);
            for job in &jobs {
                job.free();
            }
        }
        assert_eq!(slots.free(), Free { all: 0, low: 0 }, "so many wait to be written");
        let waits = jobs.pop();
        drop(jobs);
        assert_eq!(slots.free(), Free { all: 8, low: 7 });
        drop(waits);
        assert_eq!(slots.taken().jobs, 0);
    }
}
