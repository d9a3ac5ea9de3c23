//! The job handler: refresh the account, tell everyone, hand the outcome back to the queue.

use std::sync::Arc;

use tokio::time::Instant;

use crate::domain::attempt::Report;
use crate::events::{self, rfc3339};
use crate::queue::{Finished, Job};
use crate::refresh::Refresher;
use crate::store::Failure;

/// Works one job to its end. Dropping it abandons the job, which is then delivered again.
pub async fn work(refresher: Arc<Refresher>, job: Job) -> Finished {
    let started = Instant::now();
    let report = refresher.refresh(job.account, job.generation.as_deref()).await;
    events::refreshed(job.id.as_str(), job.trigger, &report, started.elapsed());
    if let Some(run) = &job.run
        && !report.outcome.is_success()
    {
        let failure = failure(&report, refresher.clock.now());
        if let Err(error) = refresher.store.record_failures(run, &[failure]).await {
            tracing::warn!(event = "mongo", %error, %run, "an account that failed is missing from its run's list");
        }
    }
    Finished { outcome: report.outcome, detail: detail(&report) }
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
fn detail(report: &Report) -> serde_json::Value {
    serde_json::json!({
        "handle": report.handle,
        "held": report.held,
        "expiresAt": report.expires_at.map(rfc3339),
        "nextAttemptAt": report.next_attempt_at.map(rfc3339),
        "error": report.error,
    })
}
