//! Knows which posts are queued: looks at all of the queues, then listens to their events.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::index::{Index, SOME_TIME};
use super::{Keeper, PAUSE, State, Sweep};
use crate::bullmq::{BullMqError, Event, Found, Happened, Heard, PostJob, QueueNumber};
use crate::domain::queued::{PostId, Synced};
use crate::events;

/// However short the streams are, looks at all of the queues take a small share of the time.
const SHARE: u32 = 10;

impl Keeper {
    /// Listens for ever.
    pub(super) async fn listen(&self) -> ! {
        loop {
            let begun = Instant::now();
            let looked = match self.listen_once(begun).await {
                Ok(looked) => {
                    events::posts_fell_off();
                    looked
                }
                Err(error) => {
                    self.deaf.met(&error);
                    Duration::ZERO
                }
            };
            sleep(PAUSE.max(looked * SHARE)).await;
            self.parts.bullmq.wait_up().await;
        }
    }

    /// Listens until something may have been missed; answers how long the look at all of the queues
    /// took.
    async fn listen_once(&self, begun: Instant) -> Result<Duration, BullMqError> {
        // Listen first, then look: so nothing falls in between.
        let mut events = self.parts.bullmq.listen().await?;
        let unknown_ids = self.look().await?;
        let looked = begun.elapsed();
        let (jobs, left_out) = {
            let state = self.shared.state();
            (state.index.len(), state.index.left_out())
        };
        self.parts.syncs.count(Synced::UnknownId, unknown_ids);
        self.parts.syncs.count(Synced::LeftOut, left_out);
        events::posts_indexed(jobs, unknown_ids, left_out, looked);
        self.deaf.over();
        loop {
            match events.next().await? {
                Heard::Events(events) => self.heard(&events),
                Heard::FellOff => return Ok(looked),
            }
        }
    }

    /// Makes the index anew; answers how many jobs have ids that are not those of posts.
    async fn look(&self) -> Result<u64, BullMqError> {
        let mut index = Index::default();
        let mut unknown_ids = 0;
        for (queue, _) in self.parts.bullmq.queues() {
            let show = |page: Vec<Found>| unknown_ids += self.found(&mut index, queue, page);
            self.parts.bullmq.scan(queue, show).await?;
        }
        let mut state = self.shared.state();
        state.index = index;
        state.sweep = Sweep::Begins;
        drop(state);
        self.shared.woken.notify_one();
        Ok(unknown_ids)
    }

    fn found(&self, index: &mut Index, queue: QueueNumber, page: Vec<Found>) -> u64 {
        let now = self.now();
        let state = self.shared.state();
        let mut unknown_ids = 0;
        for Found { id, due } in page {
            let Ok(id) = id.parse::<PostId>() else {
                unknown_ids += 1;
                continue;
            };
            let job = PostJob::new(queue, id);
            // Since when a post waits is remembered.
            let before = state.index.due(&job);
            index.add(job, |known| due.unwrap_or_else(|| waits(known.or(before), now)));
        }
        unknown_ids
    }

    fn heard(&self, all: &[Event]) {
        if all.is_empty() {
            return;
        }
        let now = self.now();
        let mut state = self.shared.state();
        let (mut unknown_ids, had_room) = (0, state.index.left_out() == 0);
        let before = state.index.left_out();
        for Event { queue, id, what } in all {
            match id.parse() {
                Ok(id) => state.heard(PostJob::new(*queue, id), *what, now),
                Err(_unknown) => unknown_ids += u64::from(*what == Happened::Added),
            }
        }
        let left_out = state.index.left_out();
        drop(state);
        self.shared.woken.notify_one();
        self.parts.syncs.count(Synced::UnknownId, unknown_ids);
        self.parts.syncs.count(Synced::LeftOut, left_out - before);
        if had_room && left_out > 0 {
            events::posts_left_out();
        }
    }
}

impl State {
    fn heard(&mut self, job: PostJob, what: Happened, now: u64) {
        let is_known = self.index.due(&job).is_some();
        let has_room = match what {
            Happened::Ended => return self.index.remove(&job),
            Happened::Active if is_known => return,
            Happened::Added => self.index.add(job, |known| known.unwrap_or(SOME_TIME)),
            Happened::Waits | Happened::Active => self.index.add(job, |known| waits(known, now)),
            Happened::Delayed(due) => self.index.add(job, |_known| due),
        };
        // Whoever queued it may have read the account's tokens just before they were replaced.
        if let Some(due) = self.index.due(&job).filter(|_| has_room) {
            self.todo.set_sooner(job.id.account, due);
        }
    }
}

/// When a post is due that waits for a worker: it has been since then.
fn waits(known: Option<u64>, now: u64) -> u64 {
    known.map_or(now, |due| due.min(now))
}
