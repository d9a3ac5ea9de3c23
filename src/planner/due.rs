//! Accounts whose time has come: those whose access token ends soon, and retries.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::choice::job;
use super::looks::{self, AT_THE_EARLIEST, AT_THE_LATEST, Looks, PAGE};
use super::room::Room;
use super::walk::Walk;
use super::{Next, Parts, PlanError};
use crate::domain::account::{Document, Status};
use crate::domain::identity::{AccountId, ServiceUrl};
use crate::domain::outcome::{Outcome, Trigger};
use crate::queue::{Added, Lane};
use crate::store::Whose;

/// Servers that are looked at in one pass: none waits long for the others' looks.
const MOST_LOOKS: usize = 32;

/// While a run goes first, there may be room for those in trouble after this.
const AFTER_THE_RUN: Duration = Duration::from_secs(1);

/// Accounts due at one moment that are remembered.
const MOST_SEEN: u32 = 4 * PAGE;

/// The planner's part for what is due.
#[derive(Debug)]
pub(super) struct Due {
    parts: Parts,
    looks: Looks,
    rounds: BTreeMap<ServiceUrl, Round>,
    /// Servers with more due than there was room for.
    full: BTreeSet<ServiceUrl>,
}

/// One pass over what is due at a server, a few seconds and many looks long. What has been made a
/// job stays due until that has ended, so a look goes on where the last one stopped; every round
/// begins with the soonest again, for those whose job was lost and those that have become due
/// before the rest.
#[derive(Debug)]
struct Round {
    began: Instant,
    active: Place,
    troubled: Place,
}

/// How far a round has come among accounts of one kind.
#[derive(Debug)]
struct Place {
    at: DateTime<Utc>,
    /// Those due at that very moment that were read already.
    seen: BTreeSet<AccountId>,
}

/// What a look at a server came to.
enum Looked {
    /// All that is due has a job: look again after this.
    All(Duration),
    /// There was no room for more.
    Full,
}

impl Due {
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts, looks: Looks::default(), rounds: BTreeMap::new(), full: BTreeSet::new() }
    }

    /// Makes jobs of what is due. The accounts that `walk` has yet to come to, if it follows, come
    /// before those that are in trouble.
    pub(super) async fn step(
        &mut self,
        room: &mut Room,
        walk: Option<&Walk>,
    ) -> Result<Next, PlanError> {
        if self.looks.is_stale() {
            self.looks.list(looks::servers(&self.parts.store).await?);
        }
        let now = self.parts.clock.now();
        for (service, at) in self.parts.wakes.take() {
            // Where a round has passed that moment by, the next one begins.
            if self.rounds.get(&service).is_some_and(|round| round.has_passed(at)) {
                self.rounds.remove(&service);
            }
            self.looks.within(service, (at - now).to_std().unwrap_or_default());
        }
        for service in &self.full {
            room.wants(service.as_str(), true);
        }
        let mut next = Next::After(AT_THE_LATEST);
        let mut ready = self.looks.ready();
        let all = ready.len();
        // Those that wait for room keep nobody else from a look.
        ready.retain(|it| !self.full.contains(it) || room.left(it.as_str()) > 0);
        if ready.len() < all {
            next = Next::Room;
        }
        if ready.len() > MOST_LOOKS {
            ready.truncate(MOST_LOOKS);
            next = Next::Now;
        }
        for service in ready {
            let run_follows = walk.is_some_and(|walk| walk.is_at(&service));
            match self.look(&service, room, run_follows).await? {
                Looked::All(wait) => {
                    self.full.remove(&service);
                    room.wants(service.as_str(), false);
                    self.looks.again(&service, wait);
                }
                Looked::Full => {
                    room.wants(service.as_str(), true);
                    self.looks.behind(&service);
                    self.full.insert(service);
                    next = next.min(Next::Room);
                }
            }
        }
        // One that waits for room stays ready.
        Ok(next.min(Next::After(self.looks.wait())))
    }

    /// A run has just found all servers, new ones among them.
    pub(super) fn list_again(&mut self) {
        self.looks.list_again();
    }

    /// Whether there is more than one server.
    pub(super) fn knows_many(&self) -> bool {
        self.looks.are_many()
    }

    /// Forgets where it is: another instance goes on.
    pub(super) fn forget(&mut self) {
        self.rounds.clear();
        self.full.clear();
    }

    /// Makes jobs of what is due at one server, as far as there is room.
    async fn look(
        &mut self,
        service: &ServiceUrl,
        room: &mut Room,
        run_follows: bool,
    ) -> Result<Looked, PlanError> {
        let round = self.rounds.remove(service).filter(|round| !round.is_over());
        if let Some(closed) = self.parts.budget.closed_for(service).await {
            return Ok(Looked::All(closed));
        }
        if let Some(wait) = self.parts.budget.open_for(service).filter(|wait| !wait.is_zero()) {
            return Ok(Looked::All(wait));
        }
        let now = self.parts.clock.now();
        let failed = self.parts.lead.is_none();
        if round.is_none() {
            let (whose, times) = (Whose { active: None, failed }, (DateTime::UNIX_EPOCH, now));
            let wait = looks::next(&self.parts.store, service, whose, times).await?;
            self.call_back(service, now, room).await?;
            if !wait.is_zero() {
                return Ok(Looked::All(wait));
            }
        }
        let mut round = round.unwrap_or_else(Round::new);
        let mut all = true;
        let mut wait = AT_THE_LATEST.saturating_sub(round.began.elapsed());
        for (active, place) in [(true, &mut round.active), (false, &mut round.troubled)] {
            if run_follows && !active {
                wait = wait.min(AFTER_THE_RUN);
                continue;
            }
            let whose = Whose { active: Some(active), failed };
            if self.make_jobs(service, whose, (place, now), room).await? {
                let times = (place.at, now);
                wait = wait.min(looks::next(&self.parts.store, service, whose, times).await?);
            } else {
                all = false;
            }
        }
        self.rounds.insert(service.clone(), round);
        Ok(if all { Looked::All(wait.max(AT_THE_EARLIEST)) } else { Looked::Full })
    }

    /// Makes jobs of those whose time lies impossibly far ahead.
    async fn call_back(
        &self,
        service: &ServiceUrl,
        now: DateTime<Utc>,
        room: &mut Room,
    ) -> Result<(), PlanError> {
        let failed = self.parts.lead.is_none();
        let astray = looks::astray(&self.parts.store, service, failed, now).await?;
        let some = astray.get(..room.left(service.as_str())).unwrap_or(&astray);
        self.enqueue(service, some, room).await
    }

    /// Whether that were all of those.
    async fn make_jobs(
        &self,
        service: &ServiceUrl,
        whose: Whose,
        (place, now): (&mut Place, DateTime<Utc>),
        room: &mut Room,
    ) -> Result<bool, PlanError> {
        let left = room.left(service.as_str());
        if left == 0 {
            return Ok(false);
        }
        let seen = place.seen();
        let limit = u32::try_from(left).unwrap_or(PAGE).min(PAGE).saturating_add(seen);
        let times = (place.at, Some(now));
        let page = self.parts.store.due(service.as_str(), whose, times, limit).await?;
        let all = u32::try_from(page.len()).is_ok_and(|read| read < limit);
        let news: Vec<_> = page.into_iter().filter(|it| place.is_news(it)).collect();
        self.enqueue(service, &news, room).await?;
        Ok(all)
    }

    async fn enqueue(
        &self,
        service: &ServiceUrl,
        documents: &[Document],
        room: &mut Room,
    ) -> Result<(), PlanError> {
        let jobs: Vec<_> = documents
            .iter()
            .filter(|document| looks::can_be_attempted(document))
            .map(|document| job(document, trigger(document), Lane::Due, &self.parts.routing))
            .collect();
        let made = self.parts.queue.enqueue(&jobs).await?;
        let new = made.iter().filter(|job| job.how == Added::New).count();
        room.give(service.as_str(), u64::try_from(new).unwrap_or(u64::MAX));
        Ok(())
    }
}

impl Round {
    fn new() -> Self {
        let place = || Place { at: DateTime::UNIX_EPOCH, seen: BTreeSet::new() };
        Self { began: Instant::now(), active: place(), troubled: place() }
    }

    fn has_passed(&self, at: DateTime<Utc>) -> bool {
        at < self.active.at || at < self.troubled.at
    }

    fn is_over(&self) -> bool {
        self.began.elapsed() >= AT_THE_LATEST
    }
}

impl Place {
    /// How many of those that are read next were read already. Where very many are due at one
    /// moment, the rest of them is for the next round.
    fn seen(&mut self) -> u32 {
        let seen = u32::try_from(self.seen.len()).unwrap_or(u32::MAX);
        if seen < MOST_SEEN {
            return seen;
        }
        self.at += TimeDelta::milliseconds(1);
        self.seen.clear();
        0
    }

    /// Moves on to a document; false: it was read before.
    fn is_news(&mut self, document: &Document) -> bool {
        let Some(at) = document.kept.next_attempt_at else { return false };
        if at > self.at {
            self.at = at;
            self.seen.clear();
        }
        self.seen.insert(document.id)
    }
}

/// Who asks for an account that is due.
fn trigger(document: &Document) -> Trigger {
    let failed = document.kept.outcome.is_some_and(|outcome| !Outcome::is_success(outcome));
    match document.status {
        _ if failed => Trigger::Recovery,
        Status::Active => Trigger::KeepFresh,
        // Somebody stored a token, or called it broken.
        _ => Trigger::External,
    }
}
