//! An instance at work, from its first sign of life to its drain.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use apalis_core::error::WorkerError;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::ext::parallelize::ParallelizeExt as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::acks::{self, Ack};
use super::backend::{Deliveries, Delivery};
use super::job::{Finished, Job};
use super::reader::{self, Reader};
use super::slots::{Slot, Slots};
use super::{Queue, QueueError, heartbeat};

/// How long the end of the drain may take once no job runs any more.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a drain left to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Jobs that had begun, did not end in time, and were put back, as those that had been taken
    /// and not begun always are. `None`: Redis was away, and they are put back by another
    /// instance when this one's sign of life is over.
    pub released: Option<u64>,
}

impl Queue {
    /// Works until `stop`: then takes no more jobs, gives those that run `grace` to end, puts
    /// back the rest, and signs off. A handler that is abandoned is dropped where it waits; one
    /// that panics ends its job as [`Finished::panicked`]. Waits for as long as Redis is away.
    ///
    /// # Errors
    /// [`QueueError::Ended`] if a part of it ended before `stop`.
    pub async fn run<H, F>(
        &self,
        handler: H,
        tracker: &TaskTracker,
        stop: CancellationToken,
        grace: Duration,
    ) -> Result<Drained, QueueError>
    where
        H: Fn(Job, Slot) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Finished> + Send + 'static,
    {
        let queue = &self.0;
        // Ends the parts when this future is dropped.
        let halt = CancellationToken::new();
        let _halted = halt.clone().drop_guard();
        let ending = stop.child_token();
        let (jobs, deliveries) = mpsc::channel(queue.slots);
        let (acks, acknowledged) = mpsc::channel(acks::WAITING);

        let beat = part(tracker, &halt, &ending, heartbeat::beat(Arc::clone(queue)));
        let ack = acks::acknowledge(Arc::clone(queue), acknowledged);
        let mut ack = part(tracker, &halt, &ending, ack);
        let reader = Reader {
            queue: Arc::clone(queue),
            slots: Slots::new(queue.slots),
            jobs,
            acks: acks.clone(),
            handful: 1,
        };
        let read = part(tracker, &ending, &ending, reader.run());

        let abandon = halt.child_token();
        let abandoned = Arc::new(AtomicU64::new(0));
        let steps =
            Steps { handler, acks, abandon: abandon.clone(), abandoned: Arc::clone(&abandoned) };
        let mut work = work(Deliveries(deliveries), steps, tracker.clone(), ending.clone());
        let clean = tokio::select! {
            result = &mut work => result.is_ok(),
            () = async { ending.cancelled().await; sleep(grace).await } => {
                abandon.cancel();
                work.await.is_ok()
            }
        };
        ending.cancel();

        // The last acknowledgements first, so that only what is unfinished is put back.
        let _flushed = timeout(LAST_WORDS, &mut ack).await;
        halt.cancel();
        let _stopped = (beat.await, read.await);
        let left = timeout(LAST_WORDS, reader::reclaim(queue, true)).await;
        self.0.leadership.send_replace(heartbeat::Leadership::default());
        if !clean || !stop.is_cancelled() {
            return Err(QueueError::Ended);
        }
        let released = left.ok().and_then(Result::ok).map(|_| abandoned.load(Ordering::Relaxed));
        Ok(Drained { released })
    }
}

/// Spawns a part of the instance, which ends with `until`. However it ends, by a panic too, the
/// whole ends with it.
fn part<F>(
    tracker: &TaskTracker,
    until: &CancellationToken,
    whole: &CancellationToken,
    part: F,
) -> JoinHandle<Option<()>>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (until, whole) = (until.clone(), whole.clone().drop_guard());
    tracker.spawn(async move {
        let _whole = whole;
        until.run_until_cancelled(part).await
    })
}

/// The apalis worker: spreads the jobs over the runtime's threads. Boxed, for the compiler cannot
/// see through its layers that it may be sent to another thread.
fn work<H, F>(
    deliveries: Deliveries,
    steps: Steps<H>,
    tracker: TaskTracker,
    stop: CancellationToken,
) -> BoxFuture<'static, Result<(), WorkerError>>
where
    H: Fn(Job, Slot) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Finished> + Send + 'static,
{
    WorkerBuilder::new("refresh")
        .backend(deliveries)
        .parallelize(move |job| tracker.spawn(job))
        .build(move |delivery: Delivery| steps.clone().take(delivery))
        .run_until(async move {
            stop.cancelled().await;
            Ok::<_, WorkerError>(())
        })
        .boxed()
}

/// From a delivery to its acknowledgement.
#[derive(Clone)]
struct Steps<H> {
    handler: H,
    acks: mpsc::Sender<Ack>,
    abandon: CancellationToken,
    /// How many handlers were.
    abandoned: Arc<AtomicU64>,
}

impl<H, F> Steps<H>
where
    H: Fn(Job, Slot) -> F,
    F: Future<Output = Finished>,
{
    async fn take(self, Delivery { job, entry, slot }: Delivery) {
        let (id, account) = (job.id.clone(), job.account);
        // A panic of the handler itself, too, is one of its future.
        let work =
            AssertUnwindSafe(async { (self.handler)(job, slot.clone()).await }).catch_unwind();
        let Some(finished) = self.abandon.run_until_cancelled(work).await else {
            self.abandoned.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let finished = finished.unwrap_or_else(|_panic| {
            tracing::error!(event = "job.panicked", job = %id, %account, "a job panicked and was ended");
            Finished::panicked()
        });
        let ack = Ack { entry, account: Some(account), finished };
        if let Err(TrySendError::Full(ack)) = self.acks.try_send(ack) {
            // Redis is slow or away; what cannot be acknowledged before the end is put back.
            let _sent = self.abandon.run_until_cancelled(self.acks.send(ack)).await;
        }
        drop(slot);
    }
}
