//! `POST /api/admin/refresh-tokens`: everything, or one account, now.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::Api;
use super::error::ApiError;
use super::params::cut;
use super::serve::Remote;
use crate::domain::identity::AccountId;
use crate::domain::outcome::Trigger;
use crate::queue::{Lane, NewJob};

const EXPECTED: &str =
    "send {} to refresh all accounts, or {\"accountId\":\"<24 hexadecimal digits>\"} for one";

/// How long a run's request waits for Redis, which it does not need.
const NUDGE: Duration = Duration::from_secs(2);

/// What somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    All,
    One(AccountId),
}

/// Asks for a refresh; answers with an id that `GET /api/admin/jobs/{id}` knows.
pub(super) async fn post(
    State(api): State<Arc<Api>>,
    ConnectInfo(Remote(who)): ConnectInfo<Remote>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let wish = read(&headers, body)?;
    let (job, whom) = match wish {
        Wish::All => (refresh_all(&api).await?, "all accounts".to_owned()),
        Wish::One(account) => (refresh_one(&api, account).await?, format!("account {account}")),
    };
    tracing::info!(event = "admin", what = "refresh-tokens", %who, job, "{who} asked to refresh {whom}");
    let message = format!("Token refresh job scheduled for {whom}");
    Ok(Json(json!({ "success": true, "message": message, "jobId": job })).into_response())
}

async fn refresh_all(api: &Api) -> Result<String, ApiError> {
    let run = api.store.request_run(Trigger::Manual, api.clock.now()).await?;
    // The run stands in MongoDB: should Redis be away, the planner finds it without a nudge.
    match timeout(NUDGE, api.queue.nudge()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::debug!(event = "admin", %error, "the planner could not be woken");
        }
        Err(_elapsed) => tracing::debug!(event = "admin", "Redis does not take the nudge"),
    }
    Ok(run.id.to_string())
}

async fn refresh_one(api: &Api, account: AccountId) -> Result<String, ApiError> {
    let document = api.store.load(account).await?;
    let document = document.ok_or_else(|| {
        ApiError::not_found(format!("There is no Bluesky account with the id {account}"))
    })?;
    if !document.status.is_ours() {
        let message =
            format!("Account {account} was disconnected by its owner, who has to connect it again");
        return Err(ApiError::conflict("ACCOUNT_DISCONNECTED", message));
    }
    let added = api.queue.enqueue(&[NewJob::of(&document, Trigger::Manual, Lane::Manual)]).await?;
    let added = added.into_iter().next();
    added
        .map(|added| added.id.to_string())
        .ok_or_else(|| ApiError::internal("the queue gave no job id"))
}

fn read(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Wish, ApiError> {
    if !is_json(headers) {
        return Err(ApiError::bad_request(
            "The body must be JSON, with the header Content-Type: application/json",
        ));
    }
    let body = body.map_err(|refused| match refused.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::body_too_large(),
        _ => ApiError::bad_request("The body could not be read to its end"),
    })?;
    wish(&body)
}

/// A client that names no type at all is taken at its word, too.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return true };
    let kind = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

fn wish(body: &[u8]) -> Result<Wish, ApiError> {
    if body.trim_ascii().is_empty() {
        return Err(ApiError::bad_request(format!("The body is empty; {EXPECTED}")));
    }
    let fields: Map<String, Value> = match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => fields,
        Ok(_other) => {
            return Err(ApiError::bad_request(format!(
                "The body is not a JSON object; {EXPECTED}"
            )));
        }
        Err(_syntax) => {
            return Err(ApiError::bad_request(format!("The body is not JSON; {EXPECTED}")));
        }
    };
    if let Some(unknown) = fields.keys().find(|name| *name != "accountId") {
        let message = format!("The body has an unknown field {:?}; {EXPECTED}", cut(unknown));
        return Err(ApiError::bad_request(message));
    }
    match fields.get("accountId") {
        None => Ok(Wish::All),
        Some(Value::String(id)) => {
            let id = id
                .parse()
                .map_err(|error| ApiError::bad_request(format!("accountId is {error}")))?;
            Ok(Wish::One(id))
        }
        Some(_other) => Err(ApiError::bad_request(format!("accountId is not a text; {EXPECTED}"))),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn bodies_are_understood_or_refused_with_a_reason() {
        let id = "6806a8c4302c4281518c95b2";
        assert_eq!(wish(b"{}"), Ok(Wish::All));
        assert_eq!(wish(b" {\n} "), Ok(Wish::All));
        let one = Ok(Wish::One(id.parse().unwrap()));
        assert_eq!(wish(format!(r#"{{"accountId":"{id}"}}"#).as_bytes()), one);
        for (body, says) in [
            ("", "empty"),
            (" \n", "empty"),
            ("{", "not JSON"),
            ("accountId=1", "not JSON"),
            ("{} {}", "not JSON"),
            ("\u{feff}{}", "not JSON"),
            ("[]", "not a JSON object"),
            ("null", "not a JSON object"),
            ("\"{}\"", "not a JSON object"),
            (r#"{"accountid":"6806a8c4302c4281518c95b2"}"#, "unknown field \"accountid\""),
            (r#"{"accountId":"6806a8c4302c4281518c95b2","force":true}"#, "unknown field \"force\""),
            (r#"{"accountId":null}"#, "not a text"),
            (r#"{"accountId":7}"#, "not a text"),
            (r#"{"accountId":["6806a8c4302c4281518c95b2"]}"#, "not a text"),
            (r#"{"accountId":""}"#, "not an account id"),
            (r#"{"accountId":"6806a8c4302c4281518c95b"}"#, "not an account id"),
            (r#"{"accountId":"alice.bsky.social"}"#, "not an account id"),
            (r#"{"accountId":{"$ne":null}}"#, "not a text"),
        ] {
            let error = format!("{:?}", wish(body.as_bytes()).expect_err(body));
            let says = says.replace('"', "\\\"");
            assert!(error.contains(&says) && error.contains("400"), "{body}: {error}");
        }
        assert!(wish(&[b'{', 0xff, b'}']).is_err());
        assert!(wish("[".repeat(60_000).as_bytes()).is_err());
    }

    #[test]
    fn only_json_is_read() {
        let given = |kind: &'static str| {
            HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))])
        };
        assert!(is_json(&HeaderMap::new()));
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/json;"] {
            assert!(is_json(&given(good)), "{good}");
        }
        for bad in ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"] {
            assert!(!is_json(&given(bad)), "{bad}");
        }
    }
}
