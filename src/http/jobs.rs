//! `GET /api/admin/jobs/{id}`: what became of what was asked for.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};

use super::Api;
use super::error::ApiError;
use super::params::{PathId, id};
use super::runs::describe;
use crate::domain::run::RunId;
use crate::events::rfc3339;
use crate::queue::{JobId, JobStatus};

/// A job of one account, or a run over all: whatever `POST /refresh-tokens` named.
pub(super) async fn get(State(api): State<Arc<Api>>, given: PathId) -> Result<Response, ApiError> {
    // Every job's id is also a possible run's.
    let run: RunId = id(given)?;
    let mut body = match run.as_str().parse::<JobId>() {
        Ok(job) => account_job(&api, &job).await?,
        Err(_not_a_job) => match api.store.run(&run).await? {
            Some(run) => describe(&run),
            None => return Err(unknown(&run)),
        },
    };
    body.insert("success".to_owned(), Value::Bool(true));
    body.insert("jobId".to_owned(), Value::String(run.to_string()));
    Ok(Json(body).into_response())
}

async fn account_job(api: &Api, job: &JobId) -> Result<Map<String, Value>, ApiError> {
    let status = api.queue.status(job).await?.ok_or_else(|| unknown(job))?;
    Ok(state(job, status))
}

fn state(job: &JobId, status: JobStatus) -> Map<String, Value> {
    let account = job.as_str().split_once('-').map(|(account, _)| account);
    let mut body = Map::new();
    let mut put = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
    put("account", json!(account));
    match status {
        JobStatus::Queued(lane) => {
            put("state", json!("queued"));
            put("lane", json!(lane.to_string()));
        }
        JobStatus::Running => put("state", json!("running")),
        JobStatus::Done { outcome, detail, at } => {
            // The worker's own words about the attempt; they hold no token.
            for (name, value) in detail.as_object().into_iter().flatten() {
                put(name, value.clone());
            }
            put("state", json!("done"));
            put("outcome", json!(outcome.as_str()));
            put("succeeded", json!(outcome.is_success()));
            put("endedAt", json!(rfc3339(at)));
        }
    }
    body
}

fn unknown(id: &impl std::fmt::Display) -> ApiError {
    ApiError::not_found(format!("There is no job {id}; one that has ended is remembered for a day"))
}
