//! The use case that all else serves: refresh one account.
//!
//! [`Attempt`] decides, this shell does: load the document, take from the server's budget, call,
//! write by compare-and-set until it is known how that went.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::budget::{Budget, Grant};
use crate::clock::Clock;
use crate::domain::account::Document;
use crate::domain::answer::Answer;
use crate::domain::attempt::{Action, Attempt, Event, Report, Save};
use crate::domain::backoff;
use crate::domain::decide::Policy;
use crate::domain::identity::{AccountId, ServiceUrl};
use crate::domain::routing::Routing;
use crate::domain::session::RefreshJwt;
use crate::events::Trouble;
use crate::pds::{Client, Reply};
use crate::store::{Cas, Store, StoreError};

/// The longest wait between two tries of something that MongoDB cannot do while it is away.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How often MongoDB may refuse a verdict or bookkeeping before it is dropped.
const MOST_REFUSALS: u32 = 4;

/// Refreshes accounts, one at a time each, many at once.
#[derive(Debug)]
pub struct Refresher {
    /// The truth.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    pds: Client,
    budget: Arc<Budget>,
    routing: Routing,
    policy: Policy,
    /// How many answers wait for MongoDB to take them: while there are any, no call is made
    /// whose answer could only join them.
    unsaved: watch::Sender<usize>,
    outage: Trouble,
}

impl Refresher {
    /// A refresher over the given parts.
    pub fn new(
        store: Store,
        pds: Client,
        budget: Arc<Budget>,
        (routing, policy): (Routing, Policy),
        clock: Clock,
    ) -> Self {
        let unsaved = watch::Sender::new(0);
        let away = "MongoDB is not usable; no account is refreshed until it is";
        let outage = Trouble::new("mongo", away, "MongoDB is back");
        Self { store, clock, pds, budget, routing, policy, unsaved, outage }
    }

    /// Refreshes `account`, unless its document holds another token than the one of `generation`.
    ///
    /// It ends when its outcome is written. While MongoDB is away it waits, so whoever must not
    /// wait drops it: nothing is half done but, at worst, an answer that is not yet stored.
    pub async fn refresh(&self, account: AccountId, generation: Option<&str>) -> Report {
        let (mut attempt, mut action) =
            Attempt::begin(self.policy, &self.routing, account, generation);
        loop {
            let event = match action {
                Action::Load => Event::Loaded(self.load(account).await),
                Action::Spend(service) => self.spend(&service).await,
                Action::Call(service, token) => Event::Answered(self.call(&service, &token).await),
                Action::Save(save) => self.save(&save).await,
                Action::Finish(report) => return *report,
            };
            action = attempt.step(event, self.clock.now(), rand::random());
        }
    }

    async fn load(&self, account: AccountId) -> Option<Document> {
        let mut failures = 0;
        loop {
            match self.store.load(account).await {
                Ok(document) => {
                    self.outage.over();
                    return document;
                }
                Err(error) => self.wait_out(account, &error, &mut failures).await,
            }
        }
    }

    async fn spend(&self, service: &ServiceUrl) -> Event {
        match self.budget.take(service).await {
            Grant::Denied(wait) | Grant::Open(wait) => Event::Denied(wait),
            Grant::After(wait) => {
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                Event::Granted
            }
        }
    }

    async fn call(&self, service: &ServiceUrl, token: &RefreshJwt) -> Answer {
        let mut unsaved = self.unsaved.subscribe();
        // The sender lives as long as this shell: waiting cannot fail.
        let _none = unsaved.wait_for(|unsaved| *unsaved == 0).await.map(drop);
        let reply = self.pds.refresh_session(service, token).await;
        if let Some(wait) = closure(&reply) {
            self.budget.close(service, wait).await;
        }
        reply.answer
    }

    /// Repeats one write until it is known whether it matched: what was received is never given
    /// up. A write that had arrived unseen shows as a miss with our own pair in the document.
    async fn save(&self, save: &Save) -> Event {
        if save.misses > 1 {
            tokio::time::sleep(backoff::transient(save.misses, rand::random())).await;
        }
        let mut held: Option<Held<'_>> = None;
        let mut failures = 0;
        loop {
            let event = match self.store.save(save).await {
                Ok(Cas::Stored) => Event::Saved,
                Ok(Cas::Missed(document)) => Event::Missed(document),
                Err(error) => {
                    // A refusal is about this document alone and holds up nobody else.
                    if !matches!(error, StoreError::Refused(_)) {
                        held.get_or_insert_with(|| Held::new(&self.unsaved));
                    } else if save.change.rotation.is_none() && failures >= MOST_REFUSALS {
                        // Without a pair nothing is lost: the account stays as due as it was.
                        return Event::Missed(None);
                    }
                    self.wait_out(save.expected.id, &error, &mut failures).await;
                    continue;
                }
            };
            self.outage.over();
            return event;
        }
    }

    async fn wait_out(&self, account: AccountId, error: &StoreError, failures: &mut u32) {
        *failures += 1;
        let mut wait = backoff::transient(*failures, rand::random());
        if matches!(error, StoreError::Refused(_)) {
            tracing::error!(
                event = "mongo.refused",
                %account,
                attempt = *failures,
                "MongoDB refuses what account {account} needs: {error}"
            );
        } else {
            tracing::debug!(event = "mongo.retry", %account, attempt = *failures, "trying again");
            self.outage.met(error);
            wait = wait.min(LONGEST_WAIT);
        }
        tokio::time::sleep(wait).await;
    }
}

/// One answer that waits for MongoDB.
struct Held<'a>(&'a watch::Sender<usize>);

impl<'a> Held<'a> {
    fn new(unsaved: &'a watch::Sender<usize>) -> Self {
        unsaved.send_modify(|unsaved| *unsaved += 1);
        Self(unsaved)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|unsaved| *unsaved -= 1);
    }
}

/// How long a server wants to be left alone, by its own word.
fn closure(reply: &Reply) -> Option<Duration> {
    match reply.answer {
        Answer::RateLimited(wait) => wait,
        _ if reply.limits.remaining == Some(0) => reply.limits.wait(),
        _ => None,
    }
}
