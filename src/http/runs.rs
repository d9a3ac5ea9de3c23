//! `GET /api/admin/runs` and `/runs/{id}`: the refresh-alls, with their totals.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::Api;
use super::error::ApiError;
use super::params::{Params, PathId, id, limit, named};
use crate::domain::run::RunId;
use crate::events::rfc3339;
use crate::store::{Failure, Run};

/// Runs in one answer, unless `limit` says otherwise.
const PAGE: u32 = 20;

/// Runs in one answer at most.
const LARGEST_PAGE: u32 = 100;

/// Accounts that are listed of those that failed in a run.
const MOST_FAILURES: usize = 1_000;

/// The newest runs first; `next` is the `before` of the next page.
pub(super) async fn list(State(api): State<Arc<Api>>, given: Params) -> Result<Response, ApiError> {
    let params = named(given, &["limit", "before"])?;
    let limit = limit(&params, PAGE, LARGEST_PAGE)?;
    let before: Option<RunId> = match params.get("before") {
        Some(text) => Some(
            text.parse().map_err(|error| ApiError::bad_request(format!("before is {error}")))?,
        ),
        None => None,
    };
    // One more than asked for tells whether there is another page.
    let mut runs = api.store.runs(limit + 1, before.as_ref()).await?;
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = runs.len() > page;
    runs.truncate(page);
    let next = runs.last().filter(|_| more).map(|run| run.id.to_string());
    let runs: Vec<_> = runs.iter().map(describe).collect();
    Ok(Json(json!({ "success": true, "runs": runs, "next": next })).into_response())
}

/// One run, with the accounts that failed in it, the newest first.
pub(super) async fn get(State(api): State<Arc<Api>>, given: PathId) -> Result<Response, ApiError> {
    let id: RunId = id(given)?;
    let run = api.store.run(&id).await?;
    let run = run.ok_or_else(|| ApiError::not_found(format!("There is no run {id}")))?;
    let failures = api.store.failures(&id, MOST_FAILURES).await?;
    let mut body = describe(&run);
    body.insert("success".to_owned(), Value::Bool(true));
    body.insert("failures".to_owned(), failures.iter().map(failure).collect());
    Ok(Json(body).into_response())
}

/// A run as answers show it.
pub(super) fn describe(run: &Run) -> Map<String, Value> {
    let outcomes = run.counts.outcomes.iter();
    let fields = [
        ("id", json!(run.id.as_str())),
        ("state", json!(run.state.as_str())),
        ("trigger", json!(run.trigger.as_str())),
        ("requestedAt", json!(rfc3339(run.created_at))),
        ("cutOff", json!(rfc3339(run.cut_off))),
        ("startedAt", time(run.started_at)),
        ("endedAt", time(run.ended_at)),
        ("jobs", json!(run.counts.jobs)),
        ("succeeded", json!(run.counts.succeeded())),
        ("failed", json!(run.counts.failed())),
        ("leftOut", json!(run.counts.fresh)),
        (
            "outcomes",
            outcomes.map(|(outcome, n)| (outcome.as_str().to_owned(), json!(n))).collect(),
        ),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn failure(failure: &Failure) -> Value {
    json!({
        "account": failure.account.to_string(),
        "did": failure.did,
        "handle": failure.handle,
        "outcome": failure.outcome.as_str(),
        "error": failure.error,
        "at": rfc3339(failure.at),
    })
}

fn time(at: Option<DateTime<Utc>>) -> Value {
    at.map_or(Value::Null, |at| Value::String(rfc3339(at)))
}
