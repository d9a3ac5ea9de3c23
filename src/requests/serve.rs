//! What a job comes to: a refresh of one account, a run over all, or somebody else's business.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{PAUSE, Server};
use crate::bullmq::requests::Job;
use crate::domain::account::{Document, Status, StoredToken};
use crate::domain::identity::AccountId;
use crate::domain::outcome::{Outcome, Trigger};
use crate::domain::request::{Asked, Refusal};
use crate::queue::{JobId, JobStatus, Lane, NewJob, QueueError};
use crate::store::{Platform, StoreError};

/// The first and the longest time between two looks at a job of ours.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_LAST: Duration = Duration::from_secs(1);

/// For how long a refresh is waited for. The attempt fails then, and the refresh goes on.
const LONGEST: Duration = Duration::from_mins(10);

/// How long a request waits for its turn without having failed.
const SHORT: Duration = Duration::from_secs(30);

/// How long a run's request waits for Redis, which it does not need.
const NUDGE: Duration = Duration::from_secs(1);

/// What a job comes to.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is done, with this result.
    Done(Value),
    /// The same, and other platforms have their half of it yet to do.
    DoneHere(Value),
    /// It failed, as BullMQ had settled before.
    Doomed(String),
    /// It failed.
    Failed {
        /// In a word.
        code: Refusal,
        /// In a sentence.
        why: String,
        /// Whether another attempt may succeed.
        is_transient: bool,
    },
    /// It is its turn after this long: many ask at once. No attempt.
    NotYet(Duration, String),
    /// Somebody else has to do it.
    Others,
}

/// Why nothing can be said of a job yet. It is not the job's fault.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    /// MongoDB did not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Our own queue cannot be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Our job is gone: Redis was wiped, or restarted without its data.
    #[error("redis has lost the job of the refresh")]
    Wiped,
}

fn failed(code: Refusal, why: impl Into<String>) -> Verdict {
    Verdict::Failed { code, why: why.into(), is_transient: false }
}

impl Server {
    pub(super) async fn verdict(&self, job: &Job) -> Result<Verdict, ServeError> {
        if let Some(why) = &job.doomed {
            return Ok(Verdict::Doomed(why.clone()));
        }
        if job.is_in_flow {
            let why =
                "it is part of a flow, which refreshd does not serve: add it as a job of its own";
            return Ok(failed(Refusal::InvalidRequest, why));
        }
        match Asked::read(&job.kind, job.data.as_deref()) {
            Asked::All => self.all(job).await,
            Asked::One(account) => self.one(job, account).await,
            Asked::Others => Ok(Verdict::Others),
            Asked::Nobody => Ok(failed(
                Refusal::AccountNotFound,
                "its accountId is not an account's id (24 hexadecimal digits)",
            )),
            Asked::Nonsense(why) => Ok(failed(Refusal::InvalidRequest, why)),
        }
    }

    /// A run over all accounts; one that takes in all that happened before this was asked for will do. So schedules
    /// that piled up, and a job that is done twice, are one run.
    async fn all(&self, job: &Job) -> Result<Verdict, ServeError> {
        let parts = &self.parts;
        let _turn = self.turn.lock().await;
        let now = parts.clock.now();
        let id = format!("bullmq-{}", job.asked_at).parse().map_err(|_odd| QueueError::Answer)?;
        let times = (asked_at(job, now), now);
        let run = parts.store.request_run_once(id, Trigger::Bullmq, times).await?;
        // It stands in MongoDB: should Redis be away, the planner finds it without a nudge.
        let _woken = timeout(NUDGE, parts.queue.nudge()).await;
        Ok(Verdict::DoneHere(json!({
            "success": true,
            "message": "Token refresh job scheduled for all accounts",
            "jobId": run.id.as_str(),
            "platform": "bluesky",
        })))
    }

    async fn one(&self, job: &Job, account: AccountId) -> Result<Verdict, ServeError> {
        let Some(document) = self.parts.store.load(account).await? else {
            return Ok(match self.parts.store.platform(account).await? {
                Some(Platform::Another) => Verdict::Others,
                Some(Platform::Ours) | None => {
                    failed(Refusal::AccountNotFound, format!("There is no account {account}"))
                }
            });
        };
        if let Some(refused) = hopeless(&document) {
            return Ok(refused);
        }
        // Whoever had the job before, or the planner meanwhile, has done it.
        let asked_at = asked_at(job, self.parts.clock.now());
        let is_done = document.kept.refreshed_at.is_some_and(|at| at >= asked_at);
        if !job.is_first && is_done && document.status == Status::Active {
            return self.refreshed(account).await;
        }
        let job = NewJob::of(&document, Trigger::Bullmq, Lane::Manual);
        let added = self.parts.queue.enqueue(&[job]).await?;
        let id = added.into_iter().next().ok_or(QueueError::Answer)?.id;
        match self.end_of(&id).await? {
            Some((outcome, _)) if outcome.is_success() => self.refreshed(account).await,
            Some((outcome, detail)) => Ok(self.unsuccessful(account, outcome, &detail)),
            None => Ok(Verdict::Failed {
                code: Refusal::RefreshFailed,
                why: format!("the refresh of account {account} is not done yet, and goes on"),
                is_transient: true,
            }),
        }
    }

    /// Waits for a job of ours; `None`: it takes too long.
    async fn end_of(&self, id: &JobId) -> Result<Option<(Outcome, Value)>, ServeError> {
        let begun = Instant::now();
        let mut pause = LOOK_FIRST;
        while begun.elapsed() < LONGEST {
            sleep(pause).await;
            pause = (pause * 3 / 2).min(LOOK_LAST);
            match self.parts.queue.status(id).await? {
                Some(JobStatus::Done { outcome, detail, .. }) => {
                    return Ok(Some((outcome, detail)));
                }
                Some(JobStatus::Queued(_) | JobStatus::Running) => {}
                None => return Err(ServeError::Wiped),
            }
        }
        Ok(None)
    }

    fn unsuccessful(&self, account: AccountId, outcome: Outcome, detail: &Value) -> Verdict {
        let text = |name: &str| detail.get(name).and_then(Value::as_str);
        let again = text("nextAttemptAt").and_then(|at| DateTime::parse_from_rfc3339(at).ok());
        let wait =
            again.map(|at| (at.to_utc() - self.parts.clock.now()).to_std().unwrap_or_default());
        let why = text("error").map(|why| format!(": {why}")).unwrap_or_default();
        let why = format!("account {account}: {outcome}{why}");
        if let Some(wait) = wait.filter(|wait| outcome == Outcome::RateLimited && *wait <= SHORT) {
            return Verdict::NotYet(wait.max(PAUSE), why);
        }
        let code = match outcome {
            Outcome::NoRefreshToken => Refusal::NoRefreshToken,
            _ => Refusal::RefreshFailed,
        };
        Verdict::Failed { code, why, is_transient: outcome.is_transient() }
    }

    /// What the application is told, from the document as it stands now.
    async fn refreshed(&self, account: AccountId) -> Result<Verdict, ServeError> {
        let Some(row) = self.parts.store.account(account).await? else {
            return Ok(failed(
                Refusal::AccountNotFound,
                format!("account {account} is gone by now"),
            ));
        };
        Ok(Verdict::Done(json!({
            "success": true,
            "message": format!("Token refreshed for account {account}"),
            "accountId": account.to_string(),
            "platform": "bluesky",
            "username": row.handle,
            "status": row.status,
        })))
    }
}

/// When a job was asked for, which was not in the future.
fn asked_at(job: &Job, now: DateTime<Utc>) -> DateTime<Utc> {
    let at = i64::try_from(job.asked_at).ok().and_then(DateTime::from_timestamp_millis);
    at.map_or(now, |at| at.min(now))
}

/// Why an account is not even asked for.
fn hopeless(document: &Document) -> Option<Verdict> {
    let id = document.id;
    if document.status.is_ours() {
        return None;
    }
    let why = format!("account {id} was disconnected by its owner, who has to connect it again");
    let has_token = !matches!(document.token, StoredToken::Null);
    let code = if has_token { Refusal::RefreshFailed } else { Refusal::NoRefreshToken };
    Some(failed(code, why))
}
