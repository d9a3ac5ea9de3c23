//! Whether the daemon is alive, and whether it can do its work.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};

use super::Api;
use crate::domain::forecast::Shortage;
use crate::events::{PostSyncs, RequestCounts};
use crate::journal::Journal;
use crate::link::Health;
use crate::queue::Leadership;
use crate::store::Store;

/// How long MongoDB may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long its answer is good for, however often somebody asks.
const FRESH: Duration = Duration::from_secs(1);

const UP: &str = "up";

/// Finds out whether the daemon's parts can be used.
#[derive(Debug)]
pub(super) struct Probe {
    store: Store,
    redis: watch::Receiver<Health>,
    workers: watch::Receiver<Leadership>,
    pub(super) journal: Journal,
    journal_health: watch::Receiver<Result<(), String>>,
    pub(super) shortages: watch::Receiver<Vec<Shortage>>,
    pub(super) syncs: PostSyncs,
    pub(super) served: RequestCounts,
    mongo: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Probe {
    pub(super) fn of(api: &Api) -> Self {
        Self {
            store: api.store.clone(),
            redis: api.link.health(),
            workers: api.queue.leadership(),
            journal: api.journal.clone(),
            journal_health: api.journal_health.clone(),
            shortages: api.shortages.clone(),
            syncs: api.syncs.clone(),
            served: api.served.clone(),
            mongo: Mutex::default(),
        }
    }

    /// One question at a time goes to MongoDB: whoever asks meanwhile shares its answer.
    async fn mongo(&self) -> Result<(), String> {
        let mut last = self.mongo.lock().await;
        if let Some((_, answer)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return answer.clone();
        }
        let answer = match timeout(PATIENCE, self.store.ping()).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_elapsed) => Err("MongoDB did not answer within a second".to_owned()),
        };
        *last = Some((Instant::now(), answer.clone()));
        answer
    }

    fn redis(&self) -> Result<(), String> {
        match &*self.redis.borrow() {
            Health::Up => Ok(()),
            Health::Down { why, .. } => Err(why.clone()),
        }
    }

    fn workers(&self) -> Result<(), String> {
        // The first heartbeat of the workers makes their slots known.
        let slots = self.workers.borrow().slots;
        if slots > 0 { Ok(()) } else { Err("the workers have not started yet".to_owned()) }
    }
}

/// `GET /healthz`: the process is alive.
pub(super) async fn alive() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// `GET /readyz`: Redis, MongoDB, the journal and the workers are usable; else 503 with what is
/// wrong. A budget that is too small for its accounts is told, too, and makes nothing unready.
pub(super) async fn ready(State(probe): State<Arc<Probe>>) -> Response {
    let journal = probe.journal_health.borrow().clone();
    let parts = [probe.redis(), probe.mongo().await, journal, probe.workers()];
    let ready = parts.iter().all(Result::is_ok);
    let [redis, mongo, journal, workers] =
        parts.map(|part| part.err().unwrap_or_else(|| UP.to_owned()));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let short: Vec<_> = probe.shortages.borrow().iter().map(Shortage::sentence).collect();
    let capacity = if short.is_empty() { "enough".to_owned() } else { short.join("; ") };
    let body = json!({
        "ready": ready, "redis": redis, "mongo": mongo, "journal": journal, "workers": workers,
        "capacity": capacity,
    });
    (status, Json(body)).into_response()
}
