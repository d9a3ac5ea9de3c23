//! What the admin API answers when it cannot do what it was asked.

use axum::Json;
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::queue::QueueError;
use crate::store::StoreError;

/// An error as a client sees it: a status, a code for programs and one sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    /// The request makes no sense; `message` says which part.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    /// Without a valid token. Never says whether it was missing or wrong.
    pub(super) fn unauthorized() -> Self {
        let message = "This needs the header `Authorization: Bearer <ADMIN_TOKEN>` with the daemon's admin token";
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
    }

    /// `ADMIN_TOKEN` is not set.
    pub(super) fn disabled() -> Self {
        let message =
            "The admin API is off: set ADMIN_TOKEN (at least 32 characters) and restart refreshd";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ADMIN_DISABLED", message)
    }

    /// There is no such thing.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    /// The path exists, with another method.
    pub(super) fn method_not_allowed() -> Self {
        let message = "This path does not take this method; the header Allow says which it takes";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message)
    }

    /// It cannot be done in the state in which the account is.
    pub(super) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    /// The body is larger than any real one.
    pub(super) fn body_too_large() -> Self {
        let message = "The body is larger than 64 KiB";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE", message)
    }

    /// The headers are larger than any real ones.
    pub(super) fn headers_too_large() -> Self {
        let message = "The headers are larger than 64 KiB";
        Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "TOO_LARGE", message)
    }

    /// A fault of the daemon's own.
    pub(super) fn internal(what: &'static str) -> Self {
        tracing::error!(event = "admin", "the admin API failed: {what}");
        let message = "The daemon made a mistake; its log says which";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", message)
    }

    /// The request was given up.
    pub(super) fn timed_out() -> Self {
        let message =
            "The request could not be answered within 10 seconds; /readyz says what is wrong";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "TIMEOUT", message)
    }

    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::warn!(event = "admin", %error, "the admin API could not use MongoDB");
        let message =
            "MongoDB cannot be used at the moment; try again, /readyz says when it is back";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "MONGO_UNAVAILABLE", message)
    }
}

impl From<QueueError> for ApiError {
    fn from(error: QueueError) -> Self {
        tracing::warn!(event = "admin", %error, "the admin API could not use Redis");
        let message = "Redis cannot be used at the moment; try again, /readyz says when it is back";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "REDIS_UNAVAILABLE", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({ "success": false, "error": self.code, "message": self.message });
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
