//! The use case that all else serves: refresh one account.
//!
//! [`Attempt`] decides, this shell does: load the document, take from the server's budget, put the
//! call on stable storage, call, put the answer there, write by compare-and-set until it is known
//! how that went.

mod tally;
#[cfg(test)]
mod tests;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::budget::{Budget, Grant};
use crate::clock::Clock;
use crate::domain::account::Document;
use crate::domain::answer::Answer;
use crate::domain::attempt::{Action, Attempt, Event, Hearing, Report, Save};
use crate::domain::backoff;
use crate::domain::brake::{self, Brake};
use crate::domain::breaker::Sign;
use crate::domain::decide::Policy;
use crate::domain::identity::{AccountId, ServiceUrl};
use crate::domain::moment::Moment;
use crate::domain::outcome::Outcome;
use crate::domain::pending::{Intent, Pending};
use crate::domain::routing::Routing;
use crate::domain::session::RefreshJwt;
use crate::events::{self, Trouble};
use crate::journal::Journal;
use crate::pds::{Client, Reply};
use crate::posts::Posts;
use crate::store::{Cas, Store, StoreError};

use tally::Tally;
use turns::Turns;

/// The longest wait between two tries of something that MongoDB cannot do while it is away.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How often MongoDB may refuse one and the same write before it is left at that.
const MOST_REFUSALS: u32 = 4;

/// Told when an attempt has no call to make any more.
pub type Answered<'a> = &'a (dyn Fn() + Sync);

/// For an attempt whose call takes nobody's place.
pub const NO_SLOT: Answered<'static> = &|| {};

/// What a refresher works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The truth.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// What must survive a crash.
    pub journal: Journal,
    /// The servers.
    pub pds: Client,
    /// How often they may be asked.
    pub budget: Arc<Budget>,
    /// Which server an account belongs to.
    pub routing: Routing,
    /// When a permanent answer is believed.
    pub policy: Policy,
    /// Who is told that an account has another pair.
    pub posts: Posts,
}

/// Refreshes accounts, one at a time each, many at once.
#[derive(Debug)]
pub struct Refresher {
    parts: Parts,
    turns: Turns,
    tally: Tally,
    /// How many answers wait for MongoDB to take them: while there are any, no call is made
    /// whose answer could only join them.
    unsaved: watch::Sender<usize>,
    outage: Trouble,
}

impl Refresher {
    /// A refresher over the given parts.
    pub fn new(parts: Parts) -> Self {
        let unsaved = watch::Sender::new(0);
        let away = "MongoDB is not usable; no account is refreshed until it is";
        let outage = Trouble::new("mongo", away, "MongoDB is back");
        Self { parts, turns: Turns::default(), tally: Tally::default(), unsaved, outage }
    }

    /// What it works with.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Refreshes `account`, unless its document holds another token than the one of `generation`.
    /// What the journal still holds of the account is settled first.
    ///
    /// `answered` is told when its call is over: what is left is to write down what came of it, and
    /// whoever bounds calls may begin another one.
    ///
    /// It ends when its outcome is written. While MongoDB is away or the journal cannot be
    /// written it waits, so whoever must not wait drops it: what is half done then stands in the
    /// journal.
    pub async fn refresh(
        &self,
        account: AccountId,
        generation: Option<&str>,
        answered: Answered<'_>,
    ) -> Report {
        let _turn = self.turns.take(account).await;
        let mut pending = self.parts.journal.pending(account);
        let mut settles = pending.as_ref().is_some_and(|pending| pending.answer.is_some());
        // One place that attempts: each would make the future of every job larger by another attempt.
        loop {
            let (generation, answered) =
                if settles { (None, NO_SLOT) } else { (generation, answered) };
            let report = self.attempt(account, (generation, pending.take()), answered).await;
            let is_still_pending = || self.parts.journal.pending(account).is_some();
            if !settles || report.outcome == Outcome::Refreshed || is_still_pending() {
                return report;
            }
            settles = false;
        }
    }

    /// Settles an answer that the journal holds. What MongoDB refuses stays there.
    pub async fn settle(&self, account: AccountId) -> Option<Report> {
        let _turn = self.turns.take(account).await;
        let pending = self.parts.journal.pending(account).filter(|it| it.answer.is_some())?;
        Some(self.attempt(account, (None, Some(pending)), NO_SLOT).await)
    }

    /// Whether an attempt on the account is under way in this process.
    pub fn is_busy(&self, account: AccountId) -> bool {
        self.turns.is_taken(account)
    }

    async fn attempt(
        &self,
        account: AccountId,
        (generation, pending): (Option<&str>, Option<Pending>),
        answered: Answered<'_>,
    ) -> Report {
        let Parts { clock, journal, routing, policy, .. } = &self.parts;
        // A closure of its server's budget that other instances do not know of yet.
        let mut untold = None;
        let (mut attempt, mut action) =
            Attempt::begin(*policy, routing, account, generation, pending);
        loop {
            let event = match action {
                Action::Load => Event::Loaded(self.load(account).await),
                Action::Spend(service) => self.spend(&service).await,
                Action::Intend(intent) => self.intend(&intent).await,
                Action::Call(service, token) => {
                    let (answer, closed) = self.call(account, &service, &token).await;
                    answered();
                    if attempt.is_kept_alive() && !matches!(answer, Answer::Unreachable { .. }) {
                        self.tally.answered(&service, brake::minute(clock.now()));
                    }
                    untold = closed.map(|wait| (service, wait));
                    Event::Answered(answer)
                }
                Action::Keep(session) => {
                    // If it cannot be kept, it goes straight to MongoDB; the journal tells why.
                    let _kept = journal.answer(account, &session).await.is_ok();
                    Event::Kept
                }
                Action::Backdate(at) => {
                    journal.backdate(account, at);
                    Event::Backdated
                }
                Action::Hear(hearing) => self.hear(account, &hearing).await,
                Action::Save(save) => self.save(&save).await,
                Action::Release(end) => {
                    journal.end(account, end);
                    Event::Released
                }
                Action::Absolve(service) => self.absolve(account, &service).await,
                Action::Finish(report) => {
                    // Ours, or somebody's that took its place.
                    if report.outcome.is_success() {
                        self.parts.posts.rotated(account);
                    }
                    return *report;
                }
            };
            action = attempt.step(event, clock.now(), rand::random());
            self.tell_closed(&mut untold, &action).await;
        }
    }

    /// Tells the other instances of a closure. A pair does not wait for Redis before it is in the
    /// journal.
    async fn tell_closed(&self, untold: &mut Option<(ServiceUrl, Duration)>, next: &Action) {
        if !matches!(next, Action::Keep(_))
            && let Some((service, wait)) = untold.take()
        {
            self.parts.budget.tell_closed(&service, wait).await;
        }
    }

    async fn load(&self, account: AccountId) -> Option<Document> {
        let mut failures = 0;
        loop {
            match self.parts.store.load(account).await {
                Ok(document) => {
                    self.outage.over();
                    return document;
                }
                Err(error) => self.wait_out(account, &error, &mut failures).await,
            }
        }
    }

    async fn spend(&self, service: &ServiceUrl) -> Event {
        match self.parts.budget.take(service).await {
            Grant::Denied(wait) => Event::Denied(wait),
            Grant::Open(wait) => Event::OutOfReach(wait),
            Grant::After(wait) => {
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                Event::Granted
            }
        }
    }

    /// Waits until the intent is on stable storage and an answer could be stored.
    async fn intend(&self, intent: &Intent) -> Event {
        let Parts { journal, clock, .. } = &self.parts;
        let mut unsaved = self.unsaved.subscribe();
        let mut health = journal.health();
        // One that takes the place of an entry takes no more room: were it to wait for some, a
        // journal that is full of calls would stay so.
        let is_new = journal.pending(intent.account).is_none();
        loop {
            // Without a sender the journal is closed, and says so below.
            let _none = unsaved.wait_for(|unsaved| *unsaved == 0).await.map(drop);
            if is_new {
                let _usable = health.wait_for(Result::is_ok).await.map(drop);
            }
            // That may have taken hours, and an entry ends by its age.
            let intent = Intent { at: clock.now(), ..intent.clone() };
            match journal.intend(&intent).await {
                Ok(()) => return Event::Intended,
                Err(error) => {
                    tracing::debug!(event = "journal", account = %intent.account, "no call is made: {error}");
                    tokio::time::sleep(backoff::transient(1, rand::random())).await;
                }
            }
        }
    }

    /// The answer, and for how long it closed the server's budget, if that is news.
    async fn call(
        &self,
        account: AccountId,
        service: &ServiceUrl,
        token: &RefreshJwt,
    ) -> (Answer, Option<Duration>) {
        let Parts { pds, budget, .. } = &self.parts;
        let begun = Instant::now();
        let reply = pds.refresh_session(service, token).await;
        budget.took(service, begun.elapsed());
        if let Some((remaining, until_reset)) = reply.limits.left()
            && budget.told(service, remaining, until_reset)
        {
            events::address_shared(service);
        }
        if let (Some(requests), Some(window)) = (reply.limits.limit, reply.limits.window) {
            budget.told_limit(service, requests, window);
        }
        match &reply.answer {
            // Neither a sign of life nor of trouble.
            Answer::RateLimited(_) => {}
            Answer::Unreachable { .. } if reply.alive => {
                budget.heard(service, Sign::Useless(account));
            }
            Answer::Unreachable { .. } => budget.heard(service, Sign::Silent),
            _ => budget.heard(service, Sign::Usable),
        }
        let closed = closure(&reply).filter(|wait| budget.close(service, *wait));
        (reply.answer, closed)
    }

    /// Notes a permanent answer, and learns whether the server is suspect.
    async fn hear(&self, account: AccountId, hearing: &Hearing) -> Event {
        let Hearing { service, said_at, first } = hearing;
        let now = Moment { ours: self.parts.clock.now(), theirs: *said_at };
        let minutes = self.tally.take(service, brake::minute(now.ours), *first);
        let mut failures = 0;
        let record = loop {
            match self.parts.store.hear(service, &minutes, now.ours).await {
                Ok(record) => break record,
                // Without its record nothing is known against the server, nor for it.
                Err(StoreError::Refused(_)) => return Event::Heard { suspect: true },
                Err(error) => self.wait_out(account, &error, &mut failures).await,
            }
        };
        let brake = brake::judge(&record, now);
        if brake == Brake::Trips {
            match self.parts.store.suspect(service, record.suspect_since, now).await {
                Ok(true) => events::server_suspect(service),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(event = "server.suspect", %error, %service, "not written down yet");
                }
            }
        }
        Event::Heard { suspect: brake != Brake::Off }
    }

    async fn absolve(&self, account: AccountId, service: &ServiceUrl) -> Event {
        let mut failures = 0;
        loop {
            match self.parts.store.absolve(service).await {
                Ok(was_on) => {
                    if was_on {
                        events::server_absolved(service);
                    }
                    return Event::Absolved;
                }
                Err(StoreError::Refused(_)) => return Event::Absolved,
                Err(error) => self.wait_out(account, &error, &mut failures).await,
            }
        }
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
            let event = match self.parts.store.save(save).await {
                Ok(Cas::Stored) => Event::Saved,
                Ok(Cas::Missed(document)) => Event::Missed(document),
                Err(error) => {
                    // A refusal is about this document alone and holds up nobody else.
                    if !matches!(error, StoreError::Refused(_)) {
                        held.get_or_insert_with(|| Held::new(&self.unsaved));
                    } else if failures >= MOST_REFUSALS {
                        return Event::Refused(error.to_string());
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
                "MongoDB refuses what account {account} needs ({error}): see to its document and to the \
                 collection's rules; a new pair stays in the journal and is written when that is mended"
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
        Answer::RateLimited(wait) => Some(wait),
        _ if reply.limits.remaining == Some(0) => reply.limits.wait(),
        _ => None,
    }
}
