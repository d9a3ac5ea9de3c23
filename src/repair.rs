//! Takes up what a crash or a lost reply left in this instance's journal: answers are stored before
//! any new work, calls that may have happened are asked again, soon, until it is known.
//!
//! A repair is an attempt like any other, straight from the journal: under the account's claim
//! where Redis is there, and its server's breaker and budget. It blocks its own account and nothing
//! else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, FuturesUnordered};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::domain::attempt::Report;
use crate::domain::identity::{AccountId, ServiceUrl};
use crate::domain::outcome::Trigger;
use crate::domain::pending::Pending;
use crate::events;
use crate::queue::{Lane, Lease, NewJob, Queue};
use crate::refresh::{NO_SLOT, Parts, Refresher};
use crate::worker;

/// The journal is looked through this often while it holds anything.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Accounts that are repaired at once.
const AT_ONCE: usize = 16;

/// And of one server: one that hangs leaves room for the others.
const AT_ONCE_OF_ONE: usize = 4;

/// Whose claim somebody else holds is looked at again after this.
const CLAIMED: Duration = Duration::from_secs(1);

/// Whose write the database refuses is tried again after this.
const REFUSED: Duration = Duration::from_mins(1);

/// Stores the answers that a former life left behind. What MongoDB refuses, document by document,
/// stays in the journal and is tried again later; while MongoDB is away, this waits.
pub async fn settle(refresher: &Refresher) {
    let pending = refresher.parts().journal.all();
    let (answers, calls): (Vec<_>, Vec<_>) =
        pending.into_iter().partition(|pending| pending.answer.is_some());
    if answers.is_empty() && calls.is_empty() {
        return;
    }
    events::journal_found(answers.len(), calls.len());
    stream::iter(answers)
        .for_each_concurrent(AT_ONCE, |pending| async move {
            let (account, begun) = (pending.intent.account, Instant::now());
            if let Some(report) = refresher.settle(account).await {
                events::refreshed(&name(account), Trigger::Recovery, &report, begun.elapsed());
            }
        })
        .await;
}

/// Asks again, once, for one account: by the token that the journal names and no other.
pub async fn ask_again(refresher: &Refresher, pending: &Pending) -> Report {
    let Pending { intent, .. } = pending;
    let by = (Trigger::Recovery, name(intent.account));
    worker::attend(refresher, (intent.account, Some(intent.token.jti())), by, NO_SLOT).await
}

/// What stands for a job's name where no job is.
fn name(account: AccountId) -> String {
    format!("journal-{account}")
}

/// The repairs of one instance.
#[derive(Debug)]
pub struct Repairer {
    refresher: Arc<Refresher>,
    queue: Queue,
    /// When an account is looked at again; at once if it is not in here.
    due: BTreeMap<AccountId, Instant>,
    under_way: BTreeSet<AccountId>,
    servers: BTreeMap<ServiceUrl, usize>,
}

impl Repairer {
    /// A repairer of what `refresher`'s journal holds.
    pub fn new(refresher: Arc<Refresher>, queue: Queue) -> Self {
        let (due, under_way, servers) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { refresher, queue, due, under_way, servers }
    }

    /// Repairs until `stop`; what is under way then comes to its end.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut repairs: FuturesUnordered<BoxFuture<'static, (Pending, Duration)>> =
            FuturesUnordered::new();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some((pending, wait)) = repairs.next(), if !repairs.is_empty() => {
                    self.ended(&pending, wait);
                }
                _tick = look.tick() => {
                    for pending in self.next() {
                        let (refresher, queue) = (Arc::clone(&self.refresher), self.queue.clone());
                        repairs.push(Box::pin(async move {
                            let wait = repair(refresher, &queue, &pending).await;
                            (pending, wait)
                        }));
                    }
                }
            }
        }
        while repairs.next().await.is_some() {}
    }

    /// What is to be repaired now.
    fn next(&mut self) -> Vec<Pending> {
        let journal = &self.refresher.parts().journal;
        if journal.is_empty() {
            self.due.clear();
            return Vec::new();
        }
        let now = Instant::now();
        let all = journal.all();
        let pending: BTreeSet<_> = all.iter().map(|pending| pending.intent.account).collect();
        self.due.retain(|account, _| pending.contains(account));
        let mut next = Vec::new();
        for pending in all {
            let (account, service) = (pending.intent.account, &pending.intent.service);
            let waits = self.due.get(&account).is_some_and(|due| *due > now);
            let is_busy = self.under_way.contains(&account) || self.refresher.is_busy(account);
            if waits || is_busy || !self.has_room(&pending) {
                continue;
            }
            if self.under_way.len() >= AT_ONCE {
                break;
            }
            self.under_way.insert(account);
            *self.servers.entry(service.clone()).or_default() += 1;
            next.push(pending);
        }
        next
    }

    /// Whether one more repair may go to its server. One that answers nobody, or wants to be left
    /// alone, is not tried in vain: that would write a note and a line of the log each time. What
    /// it has forgotten by now comes to its end without it, and an answer needs no server.
    fn has_room(&self, pending: &Pending) -> bool {
        let Parts { budget, clock, .. } = self.refresher.parts();
        let service = &pending.intent.service;
        let under_way = self.servers.get(service).copied().unwrap_or_default();
        let needs_none = pending.answer.is_some() || pending.intent.is_past_grace(clock.now());
        if needs_none {
            return under_way < AT_ONCE_OF_ONE;
        }
        if budget.closed_here(service).is_some() {
            return false;
        }
        match budget.open_for(service) {
            None => under_way < AT_ONCE_OF_ONE,
            Some(wait) => wait.is_zero() && under_way == 0,
        }
    }

    fn ended(&mut self, pending: &Pending, wait: Duration) {
        let (account, service) = (pending.intent.account, &pending.intent.service);
        self.under_way.remove(&account);
        self.due.insert(account, Instant::now() + wait);
        if let Some(n) = self.servers.get_mut(service) {
            *n -= 1;
            if *n == 0 {
                self.servers.remove(service);
            }
        }
    }
}

/// One repair; answers when the account is to be looked at again, should its entry stay.
async fn repair(refresher: Arc<Refresher>, queue: &Queue, pending: &Pending) -> Duration {
    let intent = &pending.intent;
    let job = NewJob {
        account: intent.account,
        lane: Lane::Manual,
        service: Some(intent.service.clone()),
        generation: Some(intent.token.jti().to_owned()),
        trigger: Trigger::Recovery,
        run: None,
        watched: false,
    };
    let report = match queue.lease(&job).await {
        Ok(None) => return CLAIMED,
        Ok(Some(lease)) => under(lease, &refresher).await,
        // Without Redis nobody has a claim, and compare-and-set keeps it correct.
        Err(_away) => ask_again(&refresher, pending).await,
    };
    let now = refresher.parts().clock.now();
    report.next_attempt_at.map_or(REFUSED, |at| (at - now).to_std().unwrap_or_default())
}

/// The job that the lease stands for, which may be one that waited and is somebody's.
async fn under(lease: Lease, refresher: &Refresher) -> Report {
    let (report, finished) = worker::carry_out(refresher, &lease.job, NO_SLOT).await;
    if let Err(error) = lease.end(finished).await {
        tracing::debug!(event = "lease", %error, "a repair's claim is put back as a job");
    }
    report
}
