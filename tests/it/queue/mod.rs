//! The queue against a real Redis.

mod faults;
mod flow;
mod lease;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use refreshd::domain::identity::AccountId;
use refreshd::domain::outcome::{Outcome, Trigger};
use refreshd::queue::{Added, Drained, Enqueued, Finished, Job, JobStatus, Keys, Lane, NewJob};
use refreshd::queue::{Instance, Queue, QueueError, Slot};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::harness::eventually;
use crate::harness::redis::RedisServer;

const SOON: Duration = Duration::from_secs(20);
const SERVICE: &str = "https://pds.example";

fn queue(server: &RedisServer, name: &str, slots: usize) -> Queue {
    Queue::new(server.link(), Keys::new("t", "db", "accounts"), instance(name, "here"), slots)
}

fn instance(name: &str, egress_id: &str) -> Instance {
    Instance { name: name.to_owned(), egress_id: egress_id.to_owned() }
}

fn account(number: u32) -> AccountId {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    AccountId::from_bytes(bytes)
}

fn number(account: AccountId) -> usize {
    u32::from_be_bytes(account.bytes()[..4].try_into().unwrap()).try_into().unwrap()
}

fn job(number: u32, lane: Lane) -> NewJob {
    NewJob {
        account: account(number),
        lane,
        service: Some(SERVICE.parse().unwrap()),
        generation: None,
        trigger: Trigger::Cron,
        run: None,
        watched: false,
    }
}

fn jobs(numbers: std::ops::Range<u32>, lane: Lane) -> Vec<NewJob> {
    numbers.map(|it| job(it, lane)).collect()
}

fn watched(numbers: std::ops::Range<u32>) -> Vec<NewJob> {
    numbers.map(|it| NewJob { watched: true, ..job(it, Lane::Bulk) }).collect()
}

fn done() -> Finished {
    Finished { outcome: Outcome::Refreshed, detail: r#"{"ok":true}"#.to_owned() }
}

/// An instance at work.
struct Worker {
    stop: CancellationToken,
    handle: JoinHandle<Result<Drained, QueueError>>,
}

impl Worker {
    fn start<H, F>(queue: &Queue, handler: H) -> Self
    where
        H: Fn(Job) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Finished> + Send + 'static,
    {
        Self::start_with_slots(queue, move |job, _slot| handler(job))
    }

    fn start_with_slots<H, F>(queue: &Queue, handler: H) -> Self
    where
        H: Fn(Job, Slot) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Finished> + Send + 'static,
    {
        let (queue, tracker, stop) = (queue.clone(), TaskTracker::new(), CancellationToken::new());
        let until = stop.clone();
        let handle = tracker.clone().spawn(async move {
            queue.run(handler, &tracker, until, Duration::from_millis(300)).await
        });
        Self { stop, handle }
    }

    async fn drain(self) -> Drained {
        self.stop.cancel();
        self.handle.await.unwrap().unwrap()
    }
}

/// A handler that reports each job, and ends it when it is given a permit.
#[derive(Clone)]
struct Gate {
    started: mpsc::UnboundedSender<Job>,
    permits: Arc<Semaphore>,
}

impl Gate {
    fn new() -> (Self, mpsc::UnboundedReceiver<Job>) {
        let (started, jobs) = mpsc::unbounded_channel();
        (Self { started, permits: Arc::new(Semaphore::new(0)) }, jobs)
    }

    fn handler(
        &self,
    ) -> impl Fn(Job) -> futures::future::BoxFuture<'static, Finished> + Clone + use<> {
        let gate = self.clone();
        move |job| {
            let gate = gate.clone();
            Box::pin(async move {
                gate.started.send(job).unwrap();
                gate.permits.acquire().await.unwrap().forget();
                done()
            })
        }
    }
}

async fn next(jobs: &mut mpsc::UnboundedReceiver<Job>) -> Job {
    tokio::time::timeout(SOON, jobs.recv()).await.expect("a job starts").unwrap()
}

async fn is_empty(queue: &Queue) -> bool {
    let depth = queue.depth().await.unwrap();
    depth.lanes.values().all(|lane| lane.waiting + lane.running == 0)
}

async fn emptied(queue: &Queue) {
    eventually("the queue is empty", SOON, || is_empty(queue)).await;
}

async fn one(queue: &Queue, job: NewJob) -> Enqueued {
    queue.enqueue(&[job]).await.unwrap().remove(0)
}

/// Every key, with how much it holds.
async fn contents(server: &RedisServer) -> BTreeMap<String, u64> {
    let script = redis::Script::new(
        "local sizes = {}
         for _, key in ipairs(redis.call('KEYS', '*')) do
           local size = 1
           local kind = redis.call('TYPE', key).ok
           if kind == 'hash' then size = redis.call('HLEN', key) end
           if kind == 'zset' then size = redis.call('ZCARD', key) end
           if kind == 'stream' then size = redis.call('XLEN', key) end
           sizes[#sizes + 1] = key
           sizes[#sizes + 1] = size
         end
         return sizes",
    );
    server.link().invoke(&script.prepare_invoke()).await.unwrap()
}
