//! The job handler: refresh the account, tell everyone, hand the outcome back to the queue.

use serde::Serialize;
use tokio::time::Instant;

use crate::domain::attempt::Report;
use crate::domain::identity::AccountId;
use crate::domain::outcome::Trigger;
use crate::events::{self, rfc3339};
use crate::queue::{Finished, Job};
use crate::refresh::{Answered, Refresher};
use crate::store::Failure;

/// Works one job to its end, and says what it came to. Dropping it abandons the job, which is then
/// delivered again. `answered` is told when its call is over.
pub async fn carry_out(
    refresher: &Refresher,
    job: &Job,
    answered: Answered<'_>,
) -> (Report, Finished) {
    let (whose, by) = ((job.account, job.generation.as_deref()), (job.trigger, job.id.to_string()));
    let report = attend(refresher, whose, by, answered).await;
    if let Some(run) = &job.run
        && !report.outcome.is_success()
    {
        let parts = refresher.parts();
        let failure = failure(&report, parts.clock.now());
        if let Err(error) = parts.store.record_failures(run, &[failure]).await {
            tracing::warn!(event = "mongo", %error, %run, "an account that failed is missing from its run's list");
        }
    }
    let finished = Finished { outcome: report.outcome, detail: detail(&report) };
    (report, finished)
}

/// Refreshes one account and tells everyone: under the name of a job, or of what stands for one.
pub async fn attend(
    refresher: &Refresher,
    (account, generation): (AccountId, Option<&str>),
    (trigger, name): (Trigger, String),
    answered: Answered<'_>,
) -> Report {
    let started = Instant::now();
    let report = refresher.refresh(account, generation, answered).await;
    events::refreshed(&name, trigger, &report, started.elapsed());
    report
}

fn failure(report: &Report, at: chrono::DateTime<chrono::Utc>) -> Failure {
    Failure {
        account: report.account,
        did: report.did.clone(),
        handle: report.handle.clone(),
        outcome: report.outcome,
        error: report.error.clone(),
        at,
    }
}

/// What whoever waits for the job is told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Detail<'a> {
    handle: Option<&'a str>,
    held: bool,
    expires_at: Option<String>,
    next_attempt_at: Option<String>,
    error: Option<&'a str>,
}

fn detail(report: &Report) -> String {
    let detail = Detail {
        handle: report.handle.as_deref(),
        held: report.held,
        expires_at: report.expires_at.map(rfc3339),
        next_attempt_at: report.next_attempt_at.map(rfc3339),
        error: report.error.as_deref(),
    };
    serde_json::to_string(&detail).unwrap_or_default()
}
