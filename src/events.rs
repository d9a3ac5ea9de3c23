//! One fact, told once: every place that has something to report calls here.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::domain::attempt::Report;
use crate::domain::outcome::{Outcome, Trigger};
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
    let count = |which: fn(Outcome) -> bool| -> u64 {
        run.counts.outcomes.iter().filter(|(outcome, _)| which(**outcome)).map(|(_, n)| n).sum()
    };
    let (good, failed) = (count(Outcome::is_success), count(|outcome| !outcome.is_success()));
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

/// A time as logs and answers write it.
pub fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
