//! One fact, told once: every place that has something to report calls here.

use std::fmt::Display;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

use tokio::time::Instant;

use crate::domain::attempt::Report;
use crate::domain::forecast::Shortage;
use crate::domain::identity::{AccountId, ServiceUrl};
use crate::domain::outcome::{Named, Outcome, Trigger};
use crate::domain::queued::Synced;
use crate::domain::request::Served;
use crate::store::Run;

/// A job ended: the one line that its owner looks for.
pub fn refreshed(job: &str, trigger: Trigger, report: &Report, took: Duration) {
    let who =
        report.handle.as_deref().or(report.did.as_deref()).unwrap_or("account without a name");
    let message = sentence(report, who);
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                event = "refresh",
                account = %report.account,
                did = report.did.as_deref(),
                handle = report.handle.as_deref(),
                trigger = trigger.as_str(),
                outcome = report.outcome.as_str(),
                held = report.held.then_some(true),
                service = report.service.as_ref().map(tracing::field::display),
                attempt = report.attempt,
                duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                expires_at = report.expires_at.map(rfc3339),
                next_attempt_at = report.next_attempt_at.map(rfc3339),
                error = report.error.as_deref(),
                job,
                "{message}"
            )
        };
    }
    if report.outcome.is_success() { line!(info) } else { line!(warn) }
}

fn sentence(report: &Report, who: &str) -> String {
    match report.outcome {
        Outcome::Refreshed => format!("refreshed {who}"),
        Outcome::Superseded => format!("nothing to do for {who}"),
        _ if report.held => format!("{who}: {}, to be heard a second time", report.outcome),
        outcome => format!("{who}: {outcome}"),
    }
}

/// A refresh-all begins.
pub fn run_started(run: &Run) {
    tracing::info!(
        event = "run",
        run = %run.id,
        trigger = run.trigger.as_str(),
        state = "started",
        cut_off = rfc3339(run.cut_off),
        "refresh-all {} started",
        run.id
    );
}

/// A refresh-all is over.
pub fn run_ended(run: &Run, now: DateTime<Utc>) {
    let (good, failed) = (run.counts.succeeded(), run.counts.failed());
    let totals = run.counts.outcomes.iter().map(|(outcome, n)| format!("{outcome} {n}"));
    let took = now - run.started_at.unwrap_or(now);
    tracing::info!(
        event = "run",
        run = %run.id,
        trigger = run.trigger.as_str(),
        state = "done",
        accounts = good + failed,
        succeeded = good,
        failed,
        left_out = run.counts.fresh,
        totals = totals.collect::<Vec<_>>().join(", "),
        duration_ms = took.num_milliseconds(),
        "refresh-all {} done: {good} of {} accounts have a live session, {failed} failed",
        run.id,
        good + failed
    );
}

/// A server ends so many sessions that were kept alive that its word waits.
pub fn server_suspect(service: &ServiceUrl) {
    tracing::warn!(
        event = "server.suspect",
        %service,
        "{service} suddenly ends many sessions that were kept alive; nobody is marked as revoked or expired on its \
         word until one of them works again, for 24 hours at most"
    );
}

/// A server's limit falls faster than our calls explain.
pub fn address_shared(service: &ServiceUrl) {
    tracing::warn!(
        event = "budget",
        %service,
        "somebody else uses up the limit of {service} behind this address: another program, or an instance with \
         another EGRESS_ID. Give all instances behind one address the same EGRESS_ID, or lower PDS_RATE_LIMIT; \
         what is left is used evenly meanwhile"
    );
}

/// More calls are needed than the budget gives.
pub fn capacity_short(shortage: &Shortage) {
    tracing::warn!(
        event = "capacity",
        service = %shortage.fleet.service,
        active = shortage.fleet.active,
        needed_per_second = shortage.needed,
        allowed_per_second = shortage.allowed,
        lapsing = shortage.lapsing,
        within_s = shortage.within.as_secs(),
        "{}",
        shortage.sentence()
    );
}

/// That is over.
pub fn capacity_enough(service: &ServiceUrl) {
    tracing::info!(event = "capacity", %service, "the budget of {service} is enough for its accounts again");
}

/// One of these sessions works again.
pub fn server_absolved(service: &ServiceUrl) {
    tracing::info!(
        event = "server.absolved",
        %service,
        "{service} serves again a session that it had called dead; its word counts again"
    );
}

/// Redis is away, and what is due is refreshed without it.
pub fn direct_begun() {
    tracing::warn!(
        event = "direct",
        state = "begun",
        "Redis is away: what is due is refreshed straight from MongoDB, at the reduced rate, until it is back"
    );
}

/// Redis is back, or the daemon stops.
pub fn direct_ended(refreshed: u64, failed: u64, took: Duration) {
    tracing::info!(
        event = "direct",
        state = "ended",
        refreshed,
        failed,
        lasted_s = took.as_secs(),
        "no longer refreshing straight from MongoDB: {refreshed} accounts were refreshed so, {failed} failed"
    );
}

/// The journal holds what a former life left behind.
pub fn journal_found(answers: usize, intents: usize) {
    tracing::info!(
        event = "journal.found",
        answers,
        intents,
        "the journal holds {answers} answers that are not known to be stored and {intents} calls that may have \
         happened; the answers are stored first"
    );
}

/// How many things came to what, since the start. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Counts<T> {
    counts: Arc<[AtomicU64]>,
    what: PhantomData<T>,
}

/// How many looks at queued posts came to what.
pub type PostSyncs = Counts<Synced>;

/// How many jobs of the queue of refresh requests came to what.
pub type RequestCounts = Counts<Served>;

impl<T: Named> Default for Counts<T> {
    fn default() -> Self {
        Self { counts: T::NAMES.iter().map(|_| AtomicU64::new(0)).collect(), what: PhantomData }
    }
}

impl<T: Named> Counts<T> {
    /// So many more came to this.
    pub fn count(&self, what: T, more: u64) {
        let named = T::NAMES.iter().zip(self.counts.iter()).find(|(it, _)| **it == what);
        if let Some((_, count)) = named {
            count.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// All of them.
    pub fn totals(&self) -> impl Iterator<Item = (T, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        T::NAMES.iter().copied().zip(counts)
    }
}

/// Queued posts of an account carry its newest pair now.
pub fn posts_synced(account: AccountId, jobs: u64) {
    tracing::info!(
        event = "posts",
        %account,
        jobs,
        "{jobs} queued posts of account {account} carry its newest tokens"
    );
}

/// It is known which posts are queued.
pub fn posts_indexed(jobs: usize, unknown_ids: u64, left_out: u64, took: Duration) {
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    tracing::info!(
        event = "posts.indexed",
        jobs,
        unknown_ids,
        left_out,
        took_ms,
        "{jobs} queued posts are kept up to date; {unknown_ids} other jobs in their queues are left alone"
    );
    if left_out > 0 {
        posts_left_out();
    }
}

/// There are more queued posts than can be kept in mind.
pub fn posts_left_out() {
    tracing::warn!(
        event = "posts.left_out",
        "there are more than a million queued posts: those beyond keep the tokens that they were queued with"
    );
}

/// Something may have happened to queued posts that was not heard of.
pub fn posts_fell_off() {
    tracing::info!(
        event = "posts.fell_off",
        "the queues' events were cut off or wiped before they were read: looking at all queued posts again"
    );
}

/// A job of the application's queue of refresh requests was dealt with.
pub fn request_served(job: &str, served: Served, why: Option<&str>) {
    let because = why.map(|why| format!(": {why}")).unwrap_or_default();
    macro_rules! line {
        ($level:ident, $what:literal) => {
            tracing::$level!(
                event = "bullmq",
                job,
                outcome = served.as_str(),
                error = why,
                concat!("the application's job {} ", $what, "{}"),
                job,
                because
            )
        };
    }
    match served {
        Served::Completed => line!(info, "is done"),
        Served::Failed => line!(warn, "failed"),
        Served::Retried => line!(warn, "failed and is tried again"),
        Served::Moved => line!(info, "went to BULLMQ_OTHER_QUEUE"),
        Served::PutBack => line!(info, "went back to its queue"),
        Served::Stalled => line!(warn, "was left behind by a worker that is gone, and waits again"),
        Served::Lost => line!(warn, "was held for longer than its lock; it will be done once more"),
        Served::Gone => line!(info, "is gone"),
    }
}

/// Names stood in the queue of refresh requests without jobs.
pub fn requests_gone(jobs: u64) {
    tracing::info!(
        event = "bullmq",
        jobs,
        outcome = Served::Gone.as_str(),
        "{jobs} names of jobs in BULLMQ_REFRESH_QUEUE had no job any more and were taken out"
    );
}

/// Somebody else takes jobs out of the queue of refresh requests.
pub fn requests_shared(queue: &str, consumers: &[String]) {
    tracing::warn!(
        event = "bullmq",
        queue,
        others = consumers.len(),
        "{} other workers take jobs out of the queue {queue} (from {}): BullMQ splits the jobs between all workers at \
         random. Stop them, or point them at BULLMQ_OTHER_QUEUE",
        consumers.len(),
        consumers.join(", ")
    );
}

/// Nobody is there to serve the accounts of other platforms.
pub fn requests_orphaned(queue: &str, accounts: u64) {
    tracing::warn!(
        event = "bullmq",
        queue,
        accounts,
        "there are {accounts} accounts of other platforms, and BULLMQ_OTHER_QUEUE is not set: their jobs in the queue \
         {queue} fail with unsupported_platform. Name the queue that their worker serves"
    );
}

/// While a trouble lasts, it is told of this often.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// Something that does not work for a while: told when it begins, now and then, and when it is
/// over, however often and by however many it is met.
#[derive(Debug)]
pub struct Trouble {
    event: &'static str,
    begun: &'static str,
    over: &'static str,
    lasts: Mutex<Option<Lasts>>,
}

#[derive(Debug, Clone, Copy)]
struct Lasts {
    since: Instant,
    told: Instant,
}

impl Trouble {
    /// A trouble that has not begun: the name of its events, and what is said at both its ends.
    pub fn new(event: &'static str, begun: &'static str, over: &'static str) -> Self {
        Self { event, begun, over, lasts: Mutex::default() }
    }

    /// It was met.
    pub fn met(&self, error: &dyn Display) {
        let mut lasts = self.lasts.lock().unwrap_or_else(PoisonError::into_inner);
        if lasts.is_some_and(|lasts| lasts.told.elapsed() < TELL_EVERY) {
            return;
        }
        let now = Instant::now();
        let since = lasts.map_or(now, |lasts| lasts.since);
        *lasts = Some(Lasts { since, told: now });
        let (event, begun, lasts_s) = (self.event, self.begun, since.elapsed().as_secs());
        tracing::warn!(event, lasts_s, "{begun}: {error}");
    }

    /// What failed has worked.
    pub fn over(&self) {
        let ended = self.lasts.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(lasts) = ended {
            let (event, over, lasted_s) = (self.event, self.over, lasts.since.elapsed().as_secs());
            tracing::info!(event, lasted_s, "{over} after {lasted_s} s");
        }
    }
}

/// A time as logs and answers write it.
pub fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
