//! The admin API and the health checks, for people, scripts and supervisors.
//!
//! Nothing here refreshes anything: requests become runs in MongoDB and jobs in Redis, which
//! whatever instance is alive takes up.

mod auth;
mod error;
mod health;
mod jobs;
mod metrics;
mod params;
mod refresh_tokens;
mod runs;
mod serve;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::domain::forecast::Shortage;
use crate::events::{PostSyncs, RequestCounts};
use crate::journal::Journal;
use crate::link::Link;
use crate::queue::Queue;
use crate::store::Store;
use error::ApiError;
use health::Probe;
pub use serve::serve;

/// The largest body, and the largest set of headers, that is read, in bytes.
const LARGEST: usize = 64 * 1_024;

/// How long one request may take.
const LONGEST: Duration = Duration::from_secs(10);

/// What requests are answered with.
#[derive(Debug)]
pub struct Api {
    /// Accounts and runs.
    pub store: Store,
    /// The jobs.
    pub queue: Queue,
    /// Whether Redis is there.
    pub link: Link,
    /// The servers whose accounts need more calls than the budget gives.
    pub shortages: watch::Receiver<Vec<Shortage>>,
    /// What this instance has pending.
    pub journal: Journal,
    /// What came of looks at queued posts.
    pub syncs: PostSyncs,
    /// What became of the application's own requests.
    pub served: RequestCounts,
    /// Whether the journal can be written, or why not.
    pub journal_health: watch::Receiver<Result<(), String>>,
    /// The time.
    pub clock: Clock,
    /// `ADMIN_TOKEN`; without it only the health checks work.
    pub token: Option<SecretString>,
}

/// All paths of the API.
pub fn router(api: Api) -> Router {
    let probe = Arc::new(Probe::of(&api));
    let api = Arc::new(api);
    let health = Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::get))
        .with_state(probe);
    let admin = Router::new()
        .route("/refresh-tokens", post(refresh_tokens::post))
        .route("/jobs/{id}", get(jobs::get))
        .route("/runs", get(runs::list))
        .route("/runs/{id}", get(runs::get))
        .route_layer(from_fn_with_state(Arc::clone(&api), auth::require))
        .layer(from_fn(log))
        .with_state(api);
    Router::new()
        .nest("/api/admin", admin)
        .merge(health)
        .fallback(unknown_path)
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(DefaultBodyLimit::max(LARGEST))
        .layer(from_fn(bound))
}

async fn unknown_path() -> ApiError {
    ApiError::not_found("There is no such path; the paths are in the README under \"Admin API\"")
}

/// No request is larger or longer than it may be.
async fn bound(request: Request, next: Next) -> Response {
    if size(request.headers()) > LARGEST {
        return ApiError::headers_too_large().into_response();
    }
    match tokio::time::timeout(LONGEST, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => ApiError::timed_out().into_response(),
    }
}

fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

async fn log(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    tracing::debug!(
        event = "admin",
        %method,
        path,
        status = response.status().as_u16(),
        duration_ms = started.elapsed().as_millis(),
        "{method} {path} answered with {}",
        response.status().as_u16()
    );
    response
}
