//! Serves the queue in which the application asks for refreshes, as a BullMQ worker would.
//!
//! Nothing is refreshed here: one account becomes a job in the manual lane, all of them a run, and the
//! application's job ends with what came of it. What is not ours goes on to the queue for other platforms.
//!
//! Every instance serves; BullMQ's own lock keeps two from doing one job. What is done twice all the same, after a
//! lock ran out or a crash, does no harm: it joins the job or the run of the first time, or refreshes once more.

mod outlook;
mod serve;
mod settle;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::bullmq::BullMqError;
use crate::bullmq::requests::{Bell, Job, JobName, LOCK, Requests, STALLED_EVERY, Taken};
use crate::clock::Clock;
use crate::domain::request::Served;
use crate::events::{self, RequestCounts, Trouble};
use crate::queue::Queue;
use crate::store::Store;

pub use outlook::{Outlook, piled_up};

/// Jobs in hand at most. Each waits for a job of our own, of which there are as many at work as there are slots.
const AT_ONCE: usize = 32;

/// Locks are renewed after this share of their life.
const RENEWALS: u32 = 3;

/// After an error.
const PAUSE: Duration = Duration::from_secs(1);

/// How long giving back what is not done may take after the drain.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What a server works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The application's queue.
    pub requests: Requests,
    /// The accounts and the runs.
    pub store: Store,
    /// Where refreshes are asked for.
    pub queue: Queue,
    /// The time.
    pub clock: Clock,
    /// What became of the jobs.
    pub counts: RequestCounts,
}

/// Serves the queue.
#[derive(Debug)]
pub struct Server {
    parts: Parts,
    /// What is held, and under which token.
    held: Mutex<BTreeMap<JobName, Job>>,
    /// Requests for all accounts are dealt with one after the other, so that they find each other's run.
    turn: tokio::sync::Mutex<()>,
    deaf: Trouble,
    held_up: Trouble,
}

impl Server {
    /// A server that has not begun.
    pub fn new(parts: Parts) -> Self {
        let (begun, over) = (
            "the application's requests for refreshes cannot be read",
            "the application's requests for refreshes are read again",
        );
        let deaf = Trouble::new("bullmq.deaf", begun, over);
        let (begun, over) = (
            "the application's requests for refreshes are held up",
            "the application's requests for refreshes go on",
        );
        let held_up = Trouble::new("bullmq.held_up", begun, over);
        Self { parts, held: Mutex::default(), turn: tokio::sync::Mutex::default(), deaf, held_up }
    }

    /// Serves until `stop`: then takes nothing more and waits for what is in hand, until `end`, when that goes
    /// back to its queue.
    pub async fn run(self, stop: CancellationToken, end: CancellationToken) {
        tokio::select! {
            () = self.work(&stop) => {}
            never = self.keep_locks() => never,
            never = self.look_after_others(&stop) => never,
            () = self.tell_of_others() => {}
            () = end.cancelled() => {}
        }
        let _late = timeout(LAST_WORDS, self.give_back()).await;
    }

    async fn work(&self, stop: &CancellationToken) {
        let mut bell = self.parts.requests.bell();
        let mut jobs = FuturesUnordered::new();
        let (mut is_time, mut next) = (true, None);
        loop {
            let is_stopping = stop.is_cancelled();
            if is_stopping && jobs.is_empty() {
                return;
            }
            let room = if is_stopping { 0 } else { AT_ONCE.saturating_sub(jobs.len()) };
            if is_time && room > 0 {
                match self.take(room).await {
                    Ok((taken, due)) => {
                        next = due;
                        // As many as there was room for: there may be more.
                        is_time = taken.len() >= room;
                        jobs.extend(taken.into_iter().map(|job| self.serve(job)));
                        continue;
                    }
                    Err(error) => self.deaf.met(&error),
                }
            }
            tokio::select! {
                Some(()) = jobs.next() => {}
                rung = rings(&mut bell, self.until(next)), if room > 0 && !is_time => {
                    is_time = true;
                    if let Err(error) = rung {
                        self.deaf.met(&error);
                    }
                }
                () = sleep(PAUSE), if room > 0 && is_time => {}
                () = stop.cancelled(), if !is_stopping => {}
            }
        }
    }

    /// Takes up to `room` jobs; answers them, and when the next delayed one is due.
    async fn take(&self, room: usize) -> Result<(Vec<Job>, Option<u64>), BullMqError> {
        let token = format!("{}:{:016x}", self.parts.queue.instance(), rand::random::<u64>());
        let Taken { jobs, gone, next } = self.parts.requests.take(&token, self.now(), room).await?;
        self.deaf.over();
        if gone > 0 {
            self.parts.counts.count(Served::Gone, gone);
            events::requests_gone(gone);
        }
        self.held().extend(jobs.iter().map(|job| (job.name.clone(), job.clone())));
        Ok((jobs, next))
    }

    /// How long until then.
    fn until(&self, due: Option<u64>) -> Option<Duration> {
        due.map(|due| Duration::from_millis(due.saturating_sub(self.now())))
    }

    /// Holds for as long as it takes what is in hand.
    async fn keep_locks(&self) -> ! {
        loop {
            sleep(LOCK / RENEWALS).await;
            let mine: BTreeMap<_, _> = self.held().values().map(Job::hold).collect();
            if mine.is_empty() {
                continue;
            }
            match self.parts.requests.renew(mine.clone()).await {
                // It is told of when its end cannot be written. One that was taken once more meanwhile stays.
                Ok(lost) => self.held().retain(|name, job| {
                    !lost.contains(name) || mine.get(name) != Some(&job.hold().1)
                }),
                Err(error) => self.deaf.met(&error),
            }
        }
    }

    /// Says who else serves the queue. Counting accounts may take its time; nobody waits for it.
    async fn tell_of_others(&self) {
        if let Err(error) = self.look_around().await {
            tracing::warn!(
                event = "bullmq",
                "the queue of refresh requests could not be looked at: {error}"
            );
        }
        std::future::pending::<()>().await;
    }

    /// Lets the jobs of workers that are gone wait again.
    async fn look_after_others(&self, stop: &CancellationToken) -> ! {
        loop {
            if !stop.is_cancelled() {
                self.recover().await;
            }
            // A moment later, so that the last look's mark is gone.
            sleep(STALLED_EVERY + PAUSE).await;
        }
    }

    async fn recover(&self) {
        match self.parts.requests.recover(self.now()).await {
            Ok(again) => {
                for name in again {
                    self.told(&name, Served::Stalled, None);
                }
            }
            Err(error) => self.deaf.met(&error),
        }
    }

    async fn give_back(&self) {
        let left: Vec<Job> = self.held().values().cloned().collect();
        for job in left {
            let again = self.parts.requests.again(&job, self.now(), Duration::ZERO, None);
            if again.await.is_ok() {
                self.told(&job.name, Served::PutBack, Some("refreshd stops"));
            }
        }
    }

    fn told(&self, name: &JobName, served: Served, why: Option<&str>) {
        self.parts.counts.count(served, 1);
        events::request_served(&name.to_string(), served, why);
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<JobName, Job>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.parts.clock.now().timestamp_millis()).unwrap_or(0)
    }
}

/// Waits at the bell; at one that is broken, for a moment.
async fn rings(bell: &mut Bell, limit: Option<Duration>) -> Result<(), BullMqError> {
    let rung = bell.rings(limit).await;
    if rung.is_err() {
        sleep(PAUSE).await;
    }
    rung
}
