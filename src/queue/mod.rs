//! The job queue: one job per account, in lanes, on Redis Streams; the only place that names
//! apalis or a key of the queue.
//!
//! A job is an entry in its lane's stream from the script that adds it to the one that
//! acknowledges it. Its account's *claim* names that entry, and is valid for as long as the
//! entry stands: so there is one job per account, the claim is the account's lease, and a wipe
//! frees all claims. Every step is one script, so nothing is ever half-done in between.
//!
//! [`Queue::run`] puts an instance to work: a reader takes jobs when it has slots for them, an
//! apalis worker runs the handler, an acknowledger ends jobs in batches, a heartbeat keeps the
//! instance alive and, on the leader, puts the jobs of dead instances back. [`Queue::lease`] takes
//! one account's claim without them. Trouble with Redis
//! stays in here: everybody waits until it is back, and goes on.

mod acks;
mod backend;
mod heartbeat;
mod held;
mod job;
mod keys;
mod lane;
mod lease;
mod reader;
mod run;
mod scripts;
mod slots;
mod status;
mod watch;

use std::sync::Arc;

use redis::{Cmd, FromRedisValue, RedisError, ScriptInvocation};
use tokio::sync::{Notify, RwLock};

use crate::domain::identity::ServiceUrl;
use crate::domain::run::RunId;
use crate::link::Link;

pub use heartbeat::Leadership;
pub use job::{Added, Enqueued, Finished, Job, JobId, JobIdError, NewJob};
pub use keys::Keys;
pub use lane::Lane;
pub use lease::Lease;
pub use run::Drained;
pub use slots::Slot;
pub use status::{Depth, JobStatus, LaneDepth, RunTally};

/// Jobs that one script adds: Redis serves nobody else meanwhile (a few milliseconds).
const BATCH: usize = 500;

/// Why the queue cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// Redis is away, full, or refuses us. Says what to do.
    #[error("{0}")]
    Redis(String),
    /// Redis answered something that our scripts never say.
    #[error("the queue in redis is not as this version of refreshd left it")]
    Answer,
    /// A part of the worker ended without being asked to.
    #[error("the queue's worker ended unexpectedly")]
    Ended,
}

/// A process among all that share a queue.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Its own name.
    pub name: String,
    /// `EGRESS_ID`: what the address behind which it calls is known by.
    pub egress_id: String,
}

/// The queue of one deployment, as seen by one instance. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Link,
    keys: Keys,
    instance: String,
    /// What its sign of life says.
    sign: String,
    slots: usize,
    scripts: scripts::Scripts,
    held: held::Held,
    /// Leases go on side by side, but not beside a reclaim.
    leasing: RwLock<()>,
    nudged: Notify,
    acked: Notify,
    leadership: tokio::sync::watch::Sender<Leadership>,
}

impl Queue {
    /// The queue behind `link`, as `instance` sees it. `slots` is how many jobs that works on at
    /// once, if it [runs](Queue::run).
    pub fn new(link: Link, keys: Keys, instance: Instance, slots: usize) -> Self {
        let Instance { name, egress_id } = instance;
        let slots = slots.max(1);
        Self(Arc::new(Inner {
            link,
            keys,
            instance: name,
            sign: format!("{slots} {egress_id}"),
            slots,
            scripts: scripts::Scripts::new(),
            held: held::Held::default(),
            leasing: RwLock::default(),
            nudged: Notify::new(),
            acked: Notify::new(),
            leadership: tokio::sync::watch::Sender::default(),
        }))
    }

    /// Adds jobs; an account that already has one keeps it. Answers in the same order.
    ///
    /// # Errors
    /// If Redis cannot be used. Batches of 500 are added in order: those before the failure are
    /// in, and asking again is harmless.
    pub async fn enqueue(&self, jobs: &[NewJob]) -> Result<Vec<Enqueued>, QueueError> {
        let mut enqueued = Vec::with_capacity(jobs.len());
        for batch in jobs.chunks(BATCH) {
            let mut call = self.0.scripts.enqueue.prepare_invoke();
            call.key(self.0.keys.prefix());
            for job in batch {
                call.arg(job.account.to_string()).arg(job.lane.number());
                call.arg(job.service.as_ref().map_or("", ServiceUrl::as_str));
                call.arg(job.run.as_ref().map_or("", RunId::as_str));
                call.arg(u8::from(job.watched)).arg(job.payload());
            }
            let answers: Vec<(String, u8)> = self.0.invoke(&call).await?;
            if answers.len() != batch.len() {
                return Err(QueueError::Answer);
            }
            for (id, how) in answers {
                let id = id.parse().map_err(|_not_ours| QueueError::Answer)?;
                let how = match how {
                    0 => Added::New,
                    1 => Added::Joined,
                    _ => Added::Moved,
                };
                enqueued.push(Enqueued { id, how });
            }
        }
        Ok(enqueued)
    }

    /// Wakes the planners of all instances.
    pub async fn nudge(&self) -> Result<(), QueueError> {
        let mut add = redis::cmd("XADD");
        add.arg(self.0.keys.nudge()).arg("MAXLEN").arg(1).arg("*").arg("n").arg(1);
        self.0.query(&add).await
    }

    /// Waits for a nudge; one since the last wait counts. For one waiter, in an instance that
    /// [runs](Queue::run).
    pub async fn nudged(&self) {
        self.0.nudged.notified().await;
    }

    /// Waits until jobs of this instance were acknowledged, so that there is room for more; since
    /// the last wait counts. For one waiter.
    pub async fn acked(&self) {
        self.0.acked.notified().await;
    }

    /// This process's own name.
    pub fn instance(&self) -> &str {
        &self.0.instance
    }

    /// Puts back what an instance had in hand that is certainly gone, before its sign of life is
    /// over. Answers how many jobs that were.
    ///
    /// # Errors
    /// If Redis cannot be used; the leader puts them back then, in ten seconds.
    pub async fn bury(&self, instance: &str) -> Result<u64, QueueError> {
        if instance.is_empty() || instance == self.0.instance {
            return Ok(0);
        }
        reader::put_back(&self.0, instance, true, &[]).await
    }

    /// Whether this instance leads, and the slots of all live ones.
    pub fn leadership(&self) -> tokio::sync::watch::Receiver<Leadership> {
        self.0.leadership.subscribe()
    }
}

impl Inner {
    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, QueueError> {
        self.link.query(command).await.map_err(|error| self.failed(&error))
    }

    async fn invoke<T: FromRedisValue>(
        &self,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, QueueError> {
        self.link.invoke(call).await.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &RedisError) -> QueueError {
        QueueError::Redis(self.link.explain(error))
    }
}
