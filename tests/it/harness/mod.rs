//! The services that the tests run against, and how they wait for things.

pub(crate) mod app;
pub(crate) mod daemon;
pub(crate) mod faketime;
pub(crate) mod fleet;
pub(crate) mod http;
pub(crate) mod mongo;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod reference_pds;
pub(crate) mod scripted_pds;
pub(crate) mod world;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long the tests wait for what must come, on a machine that may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Held by what loads the machine for long, and by what measures a rate on it: neither runs beside
/// another.
pub(crate) static LOUD: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Waits until `condition` holds, and panics if it does not within `limit`.
pub(crate) async fn eventually<F>(what: &str, limit: Duration, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let met = |is_met: bool| is_met.then_some(());
    arrival(what, limit, || {
        let condition = condition();
        async move { met(condition.await) }
    })
    .await;
}

/// Waits until `look` finds something, and panics if it does not within `limit`.
pub(crate) async fn arrival<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Whether this is the long form of the tests, `scripts/test --long`.
pub(crate) fn is_long() -> bool {
    #[expect(clippy::disallowed_methods, reason = "the tests' own setting, not the daemon's")]
    std::env::var("REFRESHD_LONG").is_ok_and(|it| it == "1")
}

/// The path of a part that `scripts/setup` installs, from the variable that it exports.
pub(crate) fn part(variable: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "the harness is told by scripts/setup where its parts are")]
    std::env::var(variable).unwrap_or_else(|_unset| {
        panic!("{variable} is not set: run the tests with scripts/test, or eval \"$(scripts/setup --env)\" first")
    })
}

/// A port that nobody listens on, and that stays this process's while a server on it is stopped
/// and started again: below those that the system gives to outgoing connections, from a stretch
/// that other processes of the tests do not begin in.
pub(crate) fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const STRETCH: u32 = 100;
    const STRETCHES: u32 = 200;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = FIRST + std::process::id() % STRETCHES * STRETCH;
    for _ in 0..STRETCH {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) % STRETCH;
        let port = u16::try_from(own + step).unwrap_or(u16::MAX);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {own} to {} is free", own + STRETCH)
}

/// Sends a signal by name to a process that a test has started.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = std::process::Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status()
        .expect("kill runs");
    assert!(status.success(), "kill -s {name}");
}
