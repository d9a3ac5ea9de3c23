//! The reader: takes jobs from the lanes when it has slots for them, and waits when there are
//! none, without asking again and again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::acks::Ack;
use super::backend::Delivery;
use super::job::{Entry, Finished, Job, JobId};
use super::lane::Lane;
use super::slots::{Free, Slots};
use super::watch::Watch;
use super::{Inner, QueueError};
use crate::domain::outcome::Outcome;

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(2);

/// How often it makes sure that nothing was delivered to it that it does not know of.
const RECLAIM_EVERY: Duration = Duration::from_mins(1);

/// Takes jobs for one instance.
pub(super) struct Reader {
    pub(super) queue: Arc<Inner>,
    pub(super) slots: Arc<Slots>,
    /// Has room for as many as there are slots.
    pub(super) jobs: mpsc::Sender<Delivery>,
    pub(super) acks: mpsc::Sender<Ack>,
    /// Jobs of the lower lanes that are taken at once, where several addresses share the work: each
    /// has a budget of its own, so that none is to have all of what was just made. It grows while
    /// there are more.
    pub(super) handful: usize,
}

/// What one look into the lanes found: (lane, entry, job id, payload), and the last ids.
type Fetched = (Vec<(u8, String, String, String)>, Vec<String>);

impl Reader {
    /// Takes jobs until it is dropped, or nobody wants them any more.
    pub(super) async fn run(mut self) {
        let mut watch = Watch::new(Arc::clone(&self.queue));
        let mut wait = RETRY_FIRST;
        // The process that had our name before us may have left jobs behind.
        let mut reclaimed: Option<Instant> = None;
        while !self.jobs.is_closed() {
            let turn = self.turn(&mut watch, &mut reclaimed).await;
            let Err(error) = turn else {
                wait = RETRY_FIRST;
                continue;
            };
            tracing::debug!("no jobs can be taken: {error}");
            // The answer may be lost, and with it jobs that were taken.
            reclaimed = None;
            sleep(wait).await;
            self.queue.link.wait_up().await;
            wait = (wait * 2).min(RETRY_LAST);
        }
    }

    async fn turn(
        &mut self,
        watch: &mut Watch,
        reclaimed: &mut Option<Instant>,
    ) -> Result<(), QueueError> {
        if reclaimed.is_none_or(|at| at.elapsed() > RECLAIM_EVERY) {
            reclaim(&self.queue, false).await?;
            *reclaimed = Some(Instant::now());
        }
        let mut free = self.slots.free();
        if free.all == 0 {
            self.slots.freed().await;
            return Ok(());
        }
        let is_shared = self.queue.leadership.borrow().egresses.len() > 1;
        let is_handful = is_shared && self.handful < free.low;
        if is_handful {
            free.low = self.handful;
        }
        let (jobs, seen) = self.fetch(free).await?;
        let low = jobs.iter().filter(|(lane, ..)| *lane != Lane::Manual.number()).count();
        for (lane, entry, id, payload) in jobs {
            self.deliver(lane, entry, &id, &payload).await;
        }
        if seen.is_empty() {
            return Ok(());
        }
        watch.saw(seen);
        if is_handful && low == free.low {
            self.handful *= 2;
            return Ok(());
        }
        self.handful = 1;
        if low < free.low {
            return watch.news().await.map_err(|error| self.queue.failed(&error));
        }
        // The lower lanes may have more for the next slot.
        tokio::select! {
            news = watch.news() => news.map_err(|error| self.queue.failed(&error)),
            () = self.slots.freed_together() => Ok(()),
        }
    }

    async fn fetch(&self, free: Free) -> Result<Fetched, QueueError> {
        let mut call = self.queue.scripts.fetch.prepare_invoke();
        call.key(self.queue.keys.prefix()).arg(&self.queue.instance);
        call.arg(&self.queue.sign).arg(free.all).arg(free.low);
        self.queue.invoke(&call).await
    }

    async fn deliver(&self, lane: u8, entry: String, id: &str, payload: &str) {
        let Some(lane) = Lane::from_number(lane) else {
            return;
        };
        let entry = Entry { lane, id: entry, leased: false };
        self.queue.held.add(entry.clone());
        let Some(job) = Job::read(&entry, id, payload) else {
            return self.discard(entry, id).await;
        };
        let slot = self.slots.take(lane);
        // Without a receiver the drain has begun, and puts the job back.
        let _delivered = self.jobs.send(Delivery { job, entry, slot }).await;
    }

    /// An entry that is not a job would be delivered for ever.
    async fn discard(&self, entry: Entry, id: &str) {
        tracing::error!(entry = entry.id, lane = %entry.lane, "an entry of the queue is not a job and is removed");
        let account = id.parse::<JobId>().ok().and_then(|it| it.account_digits().parse().ok());
        let finished = Finished { outcome: Outcome::Malformed, detail: "null".to_owned() };
        let _acknowledged = self.acks.send(Ack { entry, account, finished }).await;
    }
}

/// Puts back what was delivered to this instance and that it does not have in hand. With
/// `leave` nothing is in hand any more, and the instance signs off. Returns how many jobs were put back.
pub(super) async fn reclaim(queue: &Inner, leave: bool) -> Result<u64, QueueError> {
    let _no_lease = queue.leasing.write().await;
    if leave {
        queue.held.clear();
    }
    put_back(queue, &queue.instance, leave, &queue.held.names()).await
}

/// Puts back what was delivered to `instance`, but what it has in hand.
pub(super) async fn put_back(
    queue: &Inner,
    instance: &str,
    leave: bool,
    in_hand: &[String],
) -> Result<u64, QueueError> {
    let how = if leave { "leave" } else { "stay" };
    let mut total = 0;
    loop {
        let mut call = queue.scripts.reclaim.prepare_invoke();
        call.key(queue.keys.prefix()).arg(instance).arg(how).arg(in_hand);
        let (back, more): (u64, u8) = queue.invoke(&call).await?;
        total += back;
        if more == 0 {
            return Ok(total);
        }
    }
}
