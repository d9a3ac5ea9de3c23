//! The XRPC client: one call, once, and what it meant. The only place that names the HTTP library.
//!
//! **A call is never repeated silently.** Refreshing spends a token, so a request that a server
//! may have seen is repeated by the use case alone, which knows what it is doing. The library
//! below would repeat HTTP/2 requests that a server refused, up to twice: that is switched off
//! here. What is left, in `hyper-util`, is a request that found its pooled connection closed
//! before a single byte was written: it goes to another connection, which is one request still.

mod answer;
mod limits;
mod resolve;

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderValue};
use reqwest::{Request, Response, StatusCode};
use rustls::crypto::{CryptoProvider, ring};
use serde::Deserialize;
use thiserror::Error;

use crate::domain::answer::Answer;
use crate::domain::identity::ServiceUrl;
use crate::domain::session::RefreshJwt;

pub use limits::Limits;

/// The longest answer that is read, in bytes. Real ones have two to three thousand.
pub const MAX_ANSWER_BYTES: usize = 256 * 1_024;
/// A connection is made within this, or within the whole call's time if that is shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the five seconds after which Node's servers, the reference PDS's kind, hang up by
/// default: a request that meets the hang-up half-way is an answer lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// An HTTP/2 connection carries all calls to a server: one that went dead is noticed by this.
const HTTP2_PING: Duration = Duration::from_secs(10);

/// How servers are called.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `PDS_TIMEOUT`: for one call, from resolving the name to the answer's last byte.
    pub timeout: Duration,
    /// `BLUESKY_SERVICE_URL`, which is trusted as given.
    pub routing_home: ServiceUrl,
    /// `PDS_ALLOW_PRIVATE`: whether other servers may be private, and without TLS.
    pub allow_private: bool,
    /// Connections kept open to one server while nothing is under way.
    pub max_idle_per_host: usize,
}

/// Why there is no client, or no server at the other end.
#[derive(Debug, Error)]
pub enum PdsError {
    /// TLS could not be set up.
    #[error("cannot set up the HTTPS client (are the system's CA certificates installed?)")]
    Setup(#[source] reqwest::Error),
    /// No AT Protocol server answers there; the reason names it.
    #[error("{0}")]
    Unreachable(String),
}

/// What came back of one call.
#[derive(Debug, Clone)]
pub struct Reply {
    /// What it means.
    pub answer: Answer,
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
    /// The server's word on its rate limit.
    pub limits: Limits,
    /// Whether a whole answer came from the server itself: 502, 503 and 504 are what stands before
    /// a dead one.
    pub alive: bool,
}

/// Calls servers. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    home: ServiceUrl,
    allow_private: bool,
    /// For servers that the configuration vouches for.
    trusted: reqwest::Client,
    /// For servers that only a token names.
    guarded: reqwest::Client,
}

impl Client {
    /// A client without connections yet.
    ///
    /// # Errors
    /// [`PdsError::Setup`], as when the system has no trusted root certificates.
    pub fn new(config: &ClientConfig) -> Result<Self, PdsError> {
        if CryptoProvider::get_default().is_none() {
            // Losing the race against another thread leaves its provider installed: as good.
            drop(ring::default_provider().install_default());
        }
        let guarded = builder(config).https_only(true).dns_resolver(resolve::PublicOnly);
        Ok(Self {
            home: config.routing_home.clone(),
            allow_private: config.allow_private,
            trusted: builder(config).build().map_err(PdsError::Setup)?,
            guarded: guarded.build().map_err(PdsError::Setup)?,
        })
    }

    /// Asks `service` for the session's next pair, once. This spends `token`.
    ///
    /// A reply with [`Answer::Unreachable`] says whether the server may have seen the request.
    pub async fn refresh_session(&self, service: &ServiceUrl, token: &RefreshJwt) -> Reply {
        let mut limits = Limits::default();
        let mut alive = false;
        let (status, answer) = match self.ask(service, token).await {
            Ok(response) => {
                limits = Limits::read(response.headers());
                let status = response.status().as_u16();
                let answer = match read(response).await {
                    Ok(body) => {
                        alive = !(502..=504).contains(&status);
                        answer::meaning(service, status, &limits, &body)
                    }
                    Err(lost) => lost.answer(service),
                };
                (Some(status), answer)
            }
            Err(lost) => (None, lost.answer(service)),
        };
        Reply { answer, status, limits, alive }
    }

    /// Whether an AT Protocol server answers at `service`.
    ///
    /// # Errors
    /// [`PdsError::Unreachable`], with what is wrong.
    pub async fn reachable(&self, service: &ServiceUrl) -> Result<(), PdsError> {
        let failed = |what: &str| PdsError::Unreachable(answer::reason(service, what));
        let response = self
            .get(service, "com.atproto.server.describeServer")
            .await
            .map_err(|lost| failed(&lost.what))?;
        let status = response.status();
        let body = read(response).await.map_err(|lost| failed(&lost.what))?;
        if status != StatusCode::OK {
            return Err(failed(&format!("answered describeServer with {}", status.as_u16())));
        }
        match serde_json::from_slice::<Description>(&body) {
            Ok(Description { did }) if did.starts_with("did:") => Ok(()),
            _ => Err(failed("is not an AT Protocol server")),
        }
    }

    async fn ask(&self, service: &ServiceUrl, token: &RefreshJwt) -> Result<Response, Lost> {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
            .map_err(|_invalid| Lost::unsent("was not asked: the refresh token cannot be sent"))?;
        bearer.set_sensitive(true);
        let client = self.client(service)?;
        // No body and no content type: the reference server refuses even `{}`. The length is said
        // nevertheless (RFC 9110, section 8.6): some proxies refuse a POST without one.
        let request = client
            .post(method(service, "com.atproto.server.refreshSession"))
            .header(AUTHORIZATION, bearer)
            .header(CONTENT_LENGTH, 0);
        send(client, request.build()).await
    }

    async fn get(&self, service: &ServiceUrl, nsid: &str) -> Result<Response, Lost> {
        let client = self.client(service)?;
        send(client, client.get(method(service, nsid)).build()).await
    }

    fn client(&self, service: &ServiceUrl) -> Result<&reqwest::Client, Lost> {
        if self.allow_private || *service == self.home {
            return Ok(&self.trusted);
        }
        resolve::check(service).map_err(|refused| Lost::unsent(&refused.to_string()))?;
        Ok(&self.guarded)
    }
}

/// An exchange that came to nothing.
struct Lost {
    /// What happened, to follow the server's name.
    what: String,
    /// Whether the request may have reached the server.
    sent: bool,
}

impl Lost {
    fn unsent(what: &str) -> Self {
        Self { what: what.to_owned(), sent: false }
    }

    fn answer(&self, service: &ServiceUrl) -> Answer {
        answer::unreachable(service, &self.what, self.sent)
    }
}

impl From<reqwest::Error> for Lost {
    fn from(error: reqwest::Error) -> Self {
        let sent = !(error.is_connect() || error.is_builder());
        Self { what: what_failed(&error), sent }
    }
}

#[derive(Deserialize)]
struct Description {
    did: String,
}

fn builder(config: &ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("refreshd/", env!("CARGO_PKG_VERSION")))
        .timeout(config.timeout)
        .connect_timeout(CONNECT_TIMEOUT.min(config.timeout))
        .pool_max_idle_per_host(config.max_idle_per_host)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .http2_keep_alive_interval(HTTP2_PING)
        .http2_keep_alive_timeout(HTTP2_PING)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
}

fn method(service: &ServiceUrl, nsid: &str) -> String {
    format!("{service}/xrpc/{nsid}")
}

async fn send(
    client: &reqwest::Client,
    request: Result<Request, reqwest::Error>,
) -> Result<Response, Lost> {
    Ok(client.execute(request?).await?)
}

/// The body, as long as it stays within [`MAX_ANSWER_BYTES`].
async fn read(mut response: Response) -> Result<Vec<u8>, Lost> {
    let too_large = || Lost {
        what: format!("sent an answer that is too large (over {MAX_ANSWER_BYTES} bytes)"),
        sent: true,
    };
    let declared = response.content_length().unwrap_or(0);
    if usize::try_from(declared).is_ok_and(|bytes| bytes > MAX_ANSWER_BYTES) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// One line about a failed exchange, to follow the server's name.
fn what_failed(error: &reqwest::Error) -> String {
    let mut root: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = root.source() {
        root = source;
    }
    if let Some(refused) = root.downcast_ref::<resolve::Refused>() {
        return refused.to_string();
    }
    match (error.is_connect(), error.is_timeout()) {
        (true, true) => "cannot be connected to in time".to_owned(),
        (true, false) => format!("cannot be connected to: {root}"),
        (false, true) => "did not answer in time".to_owned(),
        (false, false) => format!("broke off: {root}"),
    }
}
