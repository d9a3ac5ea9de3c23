//! The breakers of all servers, as this instance's own calls have found them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::breaker::{Breaker, Pass, Sign, Turn};
use crate::domain::identity::ServiceUrl;

/// Servers in trouble that are remembered; what is beyond has no breaker.
const MOST: usize = 100_000;

/// Servers without trouble are not in here.
#[derive(Debug)]
pub(super) struct Breakers {
    begun: Instant,
    known: Mutex<BTreeMap<ServiceUrl, Breaker>>,
}

impl Breakers {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), known: Mutex::default() }
    }

    /// How long not to call; `None`: call, and report how it went, or that it was not made.
    pub(super) fn ask(&self, service: &ServiceUrl) -> Option<Duration> {
        match self.lock().get_mut(service)?.ask(self.begun.elapsed()) {
            Pass::Go => None,
            Pass::Wait(wait) => Some(wait),
        }
    }

    pub(super) fn unused(&self, service: &ServiceUrl) {
        if let Some(breaker) = self.lock().get_mut(service) {
            breaker.unused(self.begun.elapsed());
        }
    }

    pub(super) fn heard(&self, service: &ServiceUrl, sign: Sign, draw: f64) {
        let now = self.begun.elapsed();
        let mut known = self.lock();
        if !known.contains_key(service) {
            if sign == Sign::Usable || known.len() >= MOST {
                return;
            }
            known.insert(service.clone(), Breaker::default());
        }
        let Some(breaker) = known.get_mut(service) else { return };
        let turn = breaker.heard(sign, now, draw);
        if breaker.is_at_rest() {
            known.remove(service);
        }
        drop(known);
        tell(service, turn);
    }

    /// How long until a call is let through; zero when it would be the probe.
    pub(super) fn wait(&self, service: &ServiceUrl) -> Option<Duration> {
        self.lock().get(service)?.wait(self.begun.elapsed())
    }

    pub(super) fn open(&self) -> BTreeSet<String> {
        let now = self.begun.elapsed();
        let known = self.lock();
        let open = known.iter().filter(|(_, breaker)| breaker.wait(now).is_some());
        open.map(|(service, _)| service.to_string()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceUrl, Breaker>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(service: &ServiceUrl, turn: Option<Turn>) {
    match turn {
        Some(Turn::Opened(failures, wait)) => tracing::warn!(
            event = "breaker",
            %service,
            failures,
            "{service} gave no usable answer {failures} times in a row: from now on it is asked once \
             in a while, first in {} ms, and its accounts are tried again when it is back",
            wait.as_millis()
        ),
        Some(Turn::StaysOpen(wait)) => tracing::debug!(
            %service,
            "{service} still gives no usable answer; it is asked again in {} ms",
            wait.as_millis()
        ),
        Some(Turn::Closed) => {
            tracing::info!(event = "breaker", %service, "{service} answers again; its accounts are refreshed as before");
        }
        None => {}
    }
}
