//! A Bluesky server to script: real token shapes, the reference server's rotation, and faults.
//!
//! For load and for trouble; the reference server is for truth.

mod accounts;
mod fault;
mod server;
mod tokens;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chrono::{DateTime, Utc};
use hyper::header::HeaderValue;
use refreshd::clock::Clock;
use refreshd::domain::identity::ServiceUrl;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use accounts::{Accounts, Terms};

pub(crate) use fault::Fault;

/// How a server behaves from the start.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// 0: any free one.
    pub(crate) port: u16,
    /// How long a spent token can be asked again.
    pub(crate) grace: Duration,
    pub(crate) access_life: Duration,
    pub(crate) refresh_life: Duration,
    /// The tokens' `aud`, in which `{port}` is replaced: `did:web:127.0.0.1%3A{port}` for a server
    /// that is found by its tokens. As it is, they lead to `BLUESKY_SERVICE_URL`.
    pub(crate) audience: &'static str,
    /// Requests in a window, enforced and told in headers.
    pub(crate) limit: Option<(u64, Duration)>,
    /// Other DIDs for another seed.
    pub(crate) seed: u64,
    pub(crate) clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            grace: Duration::from_hours(2),
            access_life: Duration::from_hours(2),
            refresh_life: Duration::from_hours(90 * 24),
            audience: "did:web:127.0.0.1",
            limit: None,
            seed: 0,
            clock: Clock::system(),
        }
    }
}

/// What logging in gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) did: String,
    pub(crate) handle: String,
    pub(crate) access: String,
    pub(crate) refresh: String,
}

/// A running server; it ends when this is dropped.
pub(crate) struct ScriptedPds {
    inner: Arc<Inner>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_at_drop: DropGuard,
}

struct Inner {
    options: Options,
    address: SocketAddr,
    audience: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    accounts: Accounts,
    /// How far this server's clock is ahead, in milliseconds.
    ahead: i64,
    /// The header `date`, and the second that it is of.
    date: Option<(i64, HeaderValue)>,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// In milliseconds since 1970.
    fn now(&self, state: &State) -> i64 {
        self.options.clock.now().timestamp_millis() + state.ahead
    }

    fn terms(&self, state: &State) -> Terms<'_> {
        Terms { options: &self.options, audience: &self.audience, now: self.now(state) }
    }
}

impl ScriptedPds {
    pub(crate) async fn start(options: Options) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", options.port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let audience = options.audience.replace("{port}", &address.port().to_string());
        let inner = Arc::new(Inner { options, address, audience, state: Mutex::default() });
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(server::run(Arc::clone(&inner), listener, tasks.clone(), stop.clone()));
        Self { inner, tasks, _stop_at_drop: stop.clone().drop_guard(), stop }
    }

    /// Ends the server, its connections, and waits until its port is free.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(crate) fn url(&self) -> ServiceUrl {
        format!("http://{}", self.inner.address).parse().unwrap()
    }

    /// The server's own time.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.inner.now(&self.inner.state())).unwrap()
    }

    /// Moves the server's clock, and nobody else's.
    pub(crate) fn advance(&self, by: Duration) {
        self.inner.state().ahead += accounts::millis(by);
    }

    // ---- accounts ----

    /// So many new accounts, logged in.
    pub(crate) fn create(&self, count: usize) -> Vec<Session> {
        let mut state = self.inner.state();
        let terms = self.inner.terms(&state);
        (0..count).map(|_| state.accounts.create(terms)).collect()
    }

    /// Another session of an account, beside those that it has.
    pub(crate) fn login(&self, did: &str) -> Session {
        let mut state = self.inner.state();
        let terms = self.inner.terms(&state);
        state.accounts.login(did, terms)
    }

    /// Ends all sessions of an account.
    pub(crate) fn revoke(&self, did: &str) {
        self.inner.state().accounts.account(did).revoke();
    }

    /// Ends the grace of all tokens of an account that were spent.
    pub(crate) fn end_grace(&self, did: &str) {
        self.inner.state().accounts.account(did).end_grace();
    }

    /// The same token, as it would be had its own life ended a minute ago.
    pub(crate) fn expire(&self, token: &str) -> String {
        Self::until(token, self.now() - Duration::from_mins(1))
    }

    /// The same token, as it would be had it been issued to live until then.
    pub(crate) fn until(token: &str, end: DateTime<Utc>) -> String {
        tokens::with_expiry(token, end.timestamp())
    }

    pub(crate) fn take_down(&self, did: &str) {
        self.inner.state().accounts.account(did).taken_down = true;
    }

    pub(crate) fn reinstate(&self, did: &str) {
        self.inner.state().accounts.account(did).taken_down = false;
    }

    pub(crate) fn deactivate(&self, did: &str) {
        self.inner.state().accounts.account(did).deactivated = true;
    }

    pub(crate) fn delete(&self, did: &str) {
        self.inner.state().accounts.account(did).deleted = true;
    }

    // ---- trouble ----

    /// The next calls go wrong like this, one each, whoever makes them.
    pub(crate) fn fail_next(&self, count: usize, fault: &Fault) {
        let mut state = self.inner.state();
        state.accounts.faults.extend(std::iter::repeat_n(fault.clone(), count));
    }

    /// The account's next calls go wrong like this, before any fault that is for everybody.
    pub(crate) fn fail_next_of(&self, did: &str, count: usize, fault: &Fault) {
        let mut state = self.inner.state();
        let faults = std::iter::repeat_n(fault.clone(), count);
        state.accounts.account(did).faults.extend(faults);
    }

    /// Forgets the faults for everybody that are still to come.
    pub(crate) fn recover(&self) {
        self.inner.state().accounts.faults.clear();
    }

    /// Every call takes this much longer, before it does anything.
    pub(crate) fn set_latency(&self, latency: Duration) {
        self.inner.state().accounts.latency = latency;
    }

    /// Calls that begin from now on wait, before they do anything, until what this answers is
    /// dropped. Those that are held already stay with what holds them.
    pub(crate) fn hold(&self) -> DropGuard {
        let gate = CancellationToken::new();
        self.inner.state().accounts.gate = Some(gate.clone());
        gate.drop_guard()
    }

    /// Calls that begin from now on are not held; those that are held stay so.
    pub(crate) fn pass(&self) {
        self.inner.state().accounts.gate = None;
    }

    // ---- what was seen ----

    /// Calls of `refreshSession` that arrived, for one account.
    pub(crate) fn calls(&self, did: &str) -> u64 {
        self.inner.state().accounts.account(did).calls
    }

    /// When the last of them did, by the machine's clock.
    pub(crate) fn called_at(&self, did: &str) -> Option<DateTime<Utc>> {
        self.inner.state().accounts.account(did).called_at
    }

    /// Calls of `refreshSession` that arrived with this token, or with a copy of it.
    pub(crate) fn uses(&self, refresh: &str) -> u64 {
        self.inner.state().accounts.uses(refresh)
    }

    /// Calls of `refreshSession` that arrived.
    pub(crate) fn total_calls(&self) -> u64 {
        self.inner.state().accounts.calls
    }

    /// Answers to `refreshSession` with this status; 0: those that were never sent.
    pub(crate) fn answers(&self, status: u16) -> u64 {
        self.inner.state().accounts.answers.get(&status).copied().unwrap_or(0)
    }

    /// The most calls that were under way at once.
    pub(crate) fn most_in_flight(&self) -> u64 {
        self.inner.state().accounts.most_in_flight
    }

    /// Connections that were accepted.
    pub(crate) fn connections(&self) -> u64 {
        self.inner.state().accounts.connections
    }

    /// Whether this token could be refreshed now: never spent, or within its grace.
    pub(crate) fn is_live(&self, refresh: &str) -> bool {
        let state = self.inner.state();
        state.accounts.holds(refresh, self.inner.now(&state), false)
    }

    /// Whether this token is the end of its chain: live, and never spent.
    pub(crate) fn is_current(&self, refresh: &str) -> bool {
        let state = self.inner.state();
        state.accounts.holds(refresh, self.inner.now(&state), true)
    }

    /// The place of this token's link in the order in which the account's links came to be: an
    /// older link never has a higher one. Nothing for a token of another server.
    pub(crate) fn place(&self, refresh: &str) -> Option<usize> {
        self.inner.state().accounts.place(refresh)
    }
}
