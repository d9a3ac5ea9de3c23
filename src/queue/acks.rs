//! The acknowledger: ends jobs, all that gathered while the last batch was on its way at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::job::{Entry, Finished};
use super::lane::Lane;
use super::{Inner, QueueError};
use crate::domain::identity::AccountId;

/// Jobs that one script ends.
const BATCH: usize = 512;

/// Finished jobs that may wait; beyond it handlers wait with their slots taken.
pub(super) const WAITING: usize = 1_024;

/// How long the first of a batch waits for others.
const LINGER: Duration = Duration::from_millis(2);

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(2);

/// A job that is over.
#[derive(Debug)]
pub(super) struct Ack {
    pub(super) entry: Entry,
    pub(super) account: Option<AccountId>,
    pub(super) finished: Finished,
}

/// Ends jobs until all senders are gone and the last one has ended; for as long as Redis is
/// away, it waits and tries again.
pub(super) async fn acknowledge(queue: Arc<Inner>, mut jobs: mpsc::Receiver<Ack>) {
    let mut batch = Vec::with_capacity(BATCH);
    while jobs.recv_many(&mut batch, BATCH).await > 0 {
        gather(&mut jobs, &mut batch).await;
        let mut wait = RETRY_FIRST;
        while let Err(error) = end(&queue, &batch).await {
            tracing::debug!(jobs = batch.len(), "finished jobs wait for redis: {error}");
            sleep(wait).await;
            queue.link.wait_up().await;
            wait = (wait * 2).min(RETRY_LAST);
        }
        queue.held.remove(batch.iter().map(|ack| &ack.entry));
        batch.clear();
        queue.acked.notify_one();
    }
}

/// Lets others join, unless the batch is full or somebody may be waiting for one of its jobs.
async fn gather(jobs: &mut mpsc::Receiver<Ack>, batch: &mut Vec<Ack>) {
    let until = Instant::now() + LINGER;
    let is_urgent = |ack: &Ack| ack.entry.lane == Lane::Manual;
    while batch.len() < BATCH && !batch.iter().any(is_urgent) {
        let left = BATCH - batch.len();
        // None came: it is late, or all senders are gone.
        if !matches!(timeout_at(until, jobs.recv_many(batch, left)).await, Ok(1..)) {
            return;
        }
    }
}

pub(super) async fn end(queue: &Inner, batch: &[Ack]) -> Result<(), QueueError> {
    let mut call = queue.scripts.ack.prepare_invoke();
    call.key(queue.keys.prefix());
    for Ack { entry, account, finished } in batch {
        call.arg(entry.stream()).arg(&entry.id);
        call.arg(account.map(|it| it.to_string()).unwrap_or_default());
        call.arg(finished.outcome.as_str()).arg(&finished.detail);
    }
    let _ended: u64 = queue.invoke(&call).await?;
    Ok(())
}
