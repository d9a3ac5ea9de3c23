//! The HTTP side of a scripted server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accounts::{Accounts, Refusal, Terms, millis};
use super::fault::{Answer, Fault};
use super::{Inner, Session, tokens};

/// The connection is to be closed without an answer.
#[derive(Debug)]
struct HangUp;

impl fmt::Display for HangUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("scripted hang-up")
    }
}

impl std::error::Error for HangUp {}

pub(super) async fn run(
    inner: Arc<Inner>,
    listener: TcpListener,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
        inner.state().accounts.connections += 1;
        let (inner, stop) = (Arc::clone(&inner), stop.clone());
        tasks.spawn(async move {
            let service = service_fn(|request| serve(Arc::clone(&inner), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            // How a connection ended is the client's business.
            drop(stop.run_until_cancelled(connection).await);
        });
    }
}

async fn serve(inner: Arc<Inner>, request: Request<Incoming>) -> Result<Response<Answer>, HangUp> {
    let answer = match (request.method(), request.uri().path()) {
        (&Method::GET, "/xrpc/com.atproto.server.describeServer") => {
            let body = json!({"did": inner.audience, "availableUserDomains": [".test"]});
            response(200, Answer::text(body.to_string()))
        }
        (&Method::POST, "/xrpc/com.atproto.server.refreshSession") => {
            let claims = authorization(&request);
            let (mut under_way, fault) = UnderWay::begin(&inner, claims.as_ref());
            let (gate, latency) = (under_way.gate.take(), under_way.latency);
            if let Some(gate) = gate {
                gate.cancelled().await;
            }
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            let answer = refresh(&inner, &request, claims, fault).await;
            under_way.status = Some(answer.as_ref().map_or(0, |answer| answer.status().as_u16()));
            answer?
        }
        (_, "/xrpc/com.atproto.server.refreshSession") => {
            let message = format!("Incorrect HTTP method ({}) expected POST", request.method());
            refusal((400, "InvalidRequest", message))
        }
        // A posting application's: it is not counted, and no fault meets it.
        (&Method::GET, "/xrpc/com.atproto.server.getSession") => session(&inner, &request),
        _ => refusal((501, "MethodNotImplemented", "Method Not Implemented".to_owned())),
    };
    Ok(with_date(&inner, answer))
}

/// One call in flight.
struct UnderWay<'a> {
    inner: &'a Inner,
    /// What it waits for before it does anything.
    gate: Option<CancellationToken>,
    /// How much longer it takes.
    latency: Duration,
    /// Of its answer; 0: none is sent.
    status: Option<u16>,
}

impl<'a> UnderWay<'a> {
    /// Counts it, and answers what goes wrong.
    fn begin(inner: &'a Inner, claims: Option<&tokens::Claims>) -> (Self, Option<Fault>) {
        #[expect(clippy::disallowed_methods, reason = "to the microsecond, which a Clock is not")]
        let now = Utc::now();
        let mut state = inner.state();
        let accounts = &mut state.accounts;
        accounts.calls += 1;
        accounts.in_flight += 1;
        accounts.most_in_flight = accounts.most_in_flight.max(accounts.in_flight);
        if let Some(claims) = claims {
            *accounts.uses.entry(claims.jti.clone()).or_default() += 1;
        }
        let own = claims.and_then(|claims| accounts.find(&claims.subject)).and_then(|account| {
            account.calls += 1;
            account.called_at = Some(now);
            account.faults.pop_front()
        });
        let fault = own.or_else(|| accounts.faults.pop_front());
        let (gate, latency) = (accounts.gate.clone(), accounts.latency);
        (Self { inner, gate, latency, status: None }, fault)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        state.accounts.in_flight -= 1;
        if let Some(status) = self.status {
            *state.accounts.answers.entry(status).or_default() += 1;
        }
    }
}

async fn refresh(
    inner: &Inner,
    request: &Request<Incoming>,
    claims: Option<tokens::Claims>,
    fault: Option<Fault>,
) -> Result<Response<Answer>, HangUp> {
    match fault {
        None => {}
        Some(Fault::Answer { status, body, headers }) => {
            return Ok(custom(status, body, &headers));
        }
        Some(Fault::DropBefore) => return Err(HangUp),
        Some(Fault::Hang) => return std::future::pending().await,
        Some(Fault::SlowLoris) => return Ok(response(200, Answer::drip())),
        Some(Fault::Chunked(length)) => return Ok(response(200, Answer::chunked(length))),
        Some(Fault::Huge) => return Ok(response(200, Answer::text(" ".repeat(10_000_000)))),
        Some(Fault::WrongDid) => {
            return Ok(process(inner, request, claims, |session| {
                session.did = tokens::did("somebody else");
            }));
        }
        Some(Fault::DropAfter) => {
            drop(process(inner, request, claims, |_| {}));
            return Err(HangUp);
        }
        Some(Fault::HangAfter) => {
            drop(process(inner, request, claims, |_| {}));
            return std::future::pending().await;
        }
    }
    Ok(process(inner, request, claims, |_| {}))
}

/// The refresh token that came with the request, if this server signed it.
fn authorization(request: &Request<Incoming>) -> Option<tokens::Claims> {
    bearer(request).filter(|claims| claims.is_refresh)
}

fn bearer(request: &Request<Incoming>) -> Option<tokens::Claims> {
    let bearer = request.headers().get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    tokens::verify(bearer)
}

fn session(inner: &Inner, request: &Request<Incoming>) -> Response<Answer> {
    let claims = bearer(request).filter(|claims| !claims.is_refresh);
    metered(inner, |accounts, terms| {
        let claims = well_formed(request, claims)?;
        accounts.session(&claims, terms.now)
    })
}

fn process(
    inner: &Inner,
    request: &Request<Incoming>,
    claims: Option<tokens::Claims>,
    tamper: impl FnOnce(&mut Session),
) -> Response<Answer> {
    metered(inner, |accounts, terms| {
        let claims = well_formed(request, claims)?;
        let mut session = accounts.rotate(&claims, terms)?;
        tamper(&mut session);
        Ok(match accounts.find(&session.did) {
            Some(account) => account.answer(&session),
            None => json!({
                "accessJwt": session.access, "refreshJwt": session.refresh,
                "did": session.did, "handle": session.handle, "active": true,
            })
            .to_string(),
        })
    })
}

/// One request's share of the limit, and what is answered within it.
fn metered(
    inner: &Inner,
    answer: impl FnOnce(&mut Accounts, Terms<'_>) -> Result<String, Refusal>,
) -> Response<Answer> {
    let mut state = inner.state();
    let terms = inner.terms(&state);
    let (limited, limits) = spend(inner, &mut state.accounts.window, terms.now);
    let verdict = if limited {
        Err((429, "RateLimitExceeded", "Rate Limit Exceeded".to_owned()))
    } else {
        answer(&mut state.accounts, terms)
    };
    let mut answer = match verdict {
        Ok(body) => response(200, Answer::text(body)),
        Err(refused) => refusal(refused),
    };
    for (name, value) in limits {
        answer.headers_mut().insert(name, value.parse().unwrap());
    }
    answer
}

/// Takes one request from the window: whether it is over the limit, and what the headers say.
fn spend(inner: &Inner, window: &mut (i64, u64), now: i64) -> (bool, Vec<(&'static str, String)>) {
    let Some((limit, length)) = inner.options.limit else { return (false, Vec::new()) };
    if now >= window.0 + millis(length) {
        *window = (now, 0);
    }
    window.1 += 1;
    let ends = (window.0 + millis(length)).div_euclid(1_000);
    let mut headers = vec![
        ("ratelimit-limit", limit.to_string()),
        ("ratelimit-remaining", limit.saturating_sub(window.1).to_string()),
        ("ratelimit-reset", ends.to_string()),
        ("ratelimit-policy", format!("{limit};w={}", length.as_secs())),
    ];
    let limited = window.1 > limit;
    if limited {
        headers.push(("retry-after", (ends - now / 1_000).max(0).to_string()));
    }
    (limited, headers)
}

fn well_formed(
    request: &Request<Incoming>,
    claims: Option<tokens::Claims>,
) -> Result<tokens::Claims, Refusal> {
    let headers = request.headers();
    if headers.get(AUTHORIZATION).is_none() {
        return Err((401, "AuthMissing", "Authentication Required".to_owned()));
    }
    let empty = headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0");
    if !empty || headers.contains_key(TRANSFER_ENCODING) {
        let message = "A request body was provided when none was expected".to_owned();
        return Err((400, "InvalidRequest", message));
    }
    claims.ok_or_else(|| (400, "InvalidToken", "Token could not be verified".to_owned()))
}

fn refusal((status, error, message): Refusal) -> Response<Answer> {
    response(status, Answer::text(json!({"error": error, "message": message}).to_string()))
}

fn response(status: u16, answer: Answer) -> Response<Answer> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json; charset=utf-8")
        .body(answer)
        .unwrap()
}

fn custom(status: u16, body: String, headers: &[(&'static str, String)]) -> Response<Answer> {
    let mut answer = response(status, Answer::text(body));
    for (name, value) in headers {
        answer.headers_mut().insert(*name, value.parse().unwrap());
    }
    answer
}

/// The scripted time, not the machine's.
fn with_date(inner: &Inner, mut answer: Response<Answer>) -> Response<Answer> {
    let mut state = inner.state();
    let now = inner.now(&state).div_euclid(1_000);
    if state.date.as_ref().is_none_or(|(second, _)| *second != now) {
        let date = DateTime::from_timestamp(now, 0).unwrap();
        let text = date.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        state.date = Some((now, text.parse().unwrap()));
    }
    let date = state.date.as_ref().map(|(_, text)| text.clone()).unwrap();
    drop(state);
    answer.headers_mut().insert(DATE, date);
    answer
}
