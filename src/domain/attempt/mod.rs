//! One attempt to refresh one account, as a state machine without I/O.
//!
//! [`Attempt::begin`] and [`Attempt::step`] say what to do next; the shell ([`crate::refresh`])
//! does it and reports back. So every interleaving, crash and lost reply is a test without a
//! network, and the order of effects can be read off in one place.

mod effects;
mod saving;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::account::{Account, Bookkeeping, Document, Status, StoredToken, Unusable};
use super::answer::{Answer, Session};
use super::decide::{self, Change, Decision, Policy};
use super::identity::{AccountId, Did, ServiceUrl};
use super::outcome::Outcome;
use super::pending::{End, Intent, Pending};
use super::routing::Routing;
use super::session::RefreshJwt;

pub use effects::{Action, Event, Expected, Hearing, Report, Save};

/// The state of one attempt.
#[derive(Debug)]
pub struct Attempt<'a> {
    policy: Policy,
    routing: &'a Routing,
    generation: Option<&'a str>,
    report: Report,
    account: Option<Account>,
    /// The account's entry in the journal, as the attempt found it.
    pending: Option<Pending>,
    /// When the call was made, by our own clock.
    asked: Option<DateTime<Utc>>,
    /// The answer, while it is kept or noted.
    answer: Option<Answer>,
    /// The pair's or the verdict's write that is under way.
    saving: Option<Save>,
    /// How the account's entry ends with this attempt; `None`: it has none, or it stays.
    end: Option<End>,
    /// The server whose brake is to come off.
    absolves: Option<ServiceUrl>,
}

impl<'a> Attempt<'a> {
    /// An attempt on `account`. `generation` is the `jti` that its document held when the
    /// attempt was asked for: if it holds another now, there is nothing left to do.
    ///
    /// `pending` is the account's entry in the journal. An answer in it is settled, and that is
    /// the whole attempt. A call in it may have happened: the attempt asks again, with the same
    /// token, unless the document has moved on.
    pub fn begin(
        policy: Policy,
        routing: &'a Routing,
        account: AccountId,
        generation: Option<&'a str>,
        pending: Option<Pending>,
    ) -> (Self, Action) {
        let report = Report {
            account,
            did: None,
            handle: None,
            service: None,
            outcome: Outcome::Superseded,
            held: false,
            attempt: 1,
            expires_at: None,
            next_attempt_at: None,
            error: None,
        };
        let attempt = Self {
            policy,
            routing,
            generation,
            report,
            account: None,
            pending,
            asked: None,
            answer: None,
            saving: None,
            end: None,
            absolves: None,
        };
        (attempt, Action::Load)
    }

    /// Whether it is about an account that the daemon has kept alive.
    pub fn is_kept_alive(&self) -> bool {
        self.account.as_ref().is_some_and(decide::is_kept_alive)
    }

    /// The next action. `draw` is uniform in [0, 1).
    pub fn step(&mut self, event: Event, now: DateTime<Utc>, draw: f64) -> Action {
        match event {
            Event::Loaded(document) => self.loaded(document, (now, draw)),
            Event::Granted => self.intend(now),
            Event::Denied(wait) => {
                self.past_grace(now);
                self.decide(Answer::RateLimited(wait), (now, draw))
            }
            Event::OutOfReach(wait) => {
                self.past_grace(now);
                self.out_of_reach(wait, (now, draw))
            }
            Event::Intended => {
                self.asked = Some(now);
                self.call()
            }
            Event::Answered(answer) => self.answered(answer, (now, draw)),
            Event::Kept | Event::Backdated => self.go_on((now, draw)),
            Event::Heard { suspect } => {
                self.policy.suspect = suspect;
                self.go_on((now, draw))
            }
            Event::Saved => self.saved(),
            Event::Missed(document) => self.missed(document, now),
            Event::Refused(why) => self.refused(&why),
            Event::Released | Event::Absolved => self.finish(),
        }
    }

    fn loaded(&mut self, document: Option<Document>, at: (DateTime<Utc>, f64)) -> Action {
        if let Some(document) = &document {
            self.report.did.clone_from(&document.did);
            self.report.handle.clone_from(&document.handle);
            self.report.attempt = document.kept.failures.saturating_add(1);
        }
        match self.pending.take() {
            Some(Pending { intent, answer: Some(session) }) => {
                return self.resume(intent, session, document, at);
            }
            Some(pending) if holds(document.as_ref(), &pending.intent.token) => {
                self.pending = Some(pending);
            }
            Some(_) => self.end = Some(End::MovedOn),
            None => {}
        }
        let Some(document) = document else {
            return self.superseded("the account's document is gone");
        };
        if !document.status.is_ours() {
            self.give_up(End::Disconnected);
            let why = "the account is disconnected: its status is not the daemon's to change";
            return self.superseded(why);
        }
        let expected = Expected::of(&document);
        let account = match document.account {
            Ok(account) => account,
            Err(why) => return self.unusable(&why, expected, at.0),
        };
        if self.generation.is_some_and(|jti| jti != account.refresh.jti()) {
            return self.superseded("the account's tokens were replaced since the job was made");
        }
        let service = self.routing.service(account.refresh.audience());
        self.report.service = Some(service.clone());
        if account.refresh.subject() == account.did.as_str() {
            self.account = Some(account);
            return Action::Spend(service);
        }
        self.give_up(End::Mismatch);
        let decision = decide::wrong_subject(&account, &service, at.0, at.1);
        self.account = Some(account);
        self.save(decision, expected)
    }

    /// Goes on with an answer that a former attempt left in the journal, as if its write had just
    /// missed: what the document holds now decides.
    fn resume(
        &mut self,
        intent: Intent,
        session: Session,
        document: Option<Document>,
        at: (DateTime<Utc>, f64),
    ) -> Action {
        let Intent { account: id, service, token: refresh, at: asked } = intent;
        self.asked = Some(asked);
        self.report.service = Some(service.clone());
        // The token's subject was compared with the account's DID before the call.
        let Ok(did) = refresh.subject().parse::<Did>() else {
            self.end = Some(End::Mismatch);
            return self.superseded("the journal's token belongs to nobody");
        };
        let (handle, status, kept) = document.as_ref().map_or_else(
            || (None, Status::Foreign, Bookkeeping::default()),
            |document| (document.handle.clone(), document.status, document.kept.clone()),
        );
        let token_expiry = document.as_ref().and_then(|document| document.token_expiry);
        let is_unmoved = holds(document.as_ref(), &refresh);
        let account = Account { id, did, handle, refresh, status, token_expiry, kept };
        let answer = Answer::Session(Box::new(session));
        let decision = self.aged(decide::decide(self.policy, &account, &service, answer, at), at.0);
        let expected = document.as_ref().and_then(Expected::of).filter(|_| is_unmoved);
        self.account = Some(account);
        if decision.change.rotation.is_none() {
            self.end = Some(End::Mismatch);
            return match expected {
                Some(expected) => self.save(decision, Some(expected)),
                None => self.superseded("the answer in the journal is another account's"),
            };
        }
        let change = self.tell(decision);
        let id = self.report.account;
        let expected = expected.unwrap_or(Expected { id, token: None, ours: false });
        self.saving = Some(Save { expected, change, misses: 0 });
        self.missed(document, at.0)
    }

    fn unusable(
        &mut self,
        why: &Unusable,
        expected: Option<Expected>,
        now: DateTime<Utc>,
    ) -> Action {
        self.report.outcome = why.outcome();
        self.report.error = Some(why.to_string());
        self.give_up(End::MovedOn);
        match why {
            Unusable::NoRefreshToken => self.save(decide::no_refresh_token(now), expected),
            Unusable::Malformed { .. } => self.finish(),
        }
    }

    fn intend(&mut self, now: DateTime<Utc>) -> Action {
        let (Some(service), Some(account)) = (&self.report.service, &self.account) else {
            return self.finish();
        };
        // It takes the place of an entry that the document has moved on from.
        self.end = None;
        Action::Intend(Box::new(Intent {
            account: account.id,
            service: service.clone(),
            token: account.refresh.clone(),
            at: now,
        }))
    }

    fn call(&mut self) -> Action {
        match (&self.report.service, &self.account) {
            (Some(service), Some(account)) => {
                Action::Call(service.clone(), account.refresh.clone())
            }
            _ => self.finish(),
        }
    }

    /// Keeps or notes what must be, before it is decided what the answer leads to.
    fn answered(&mut self, answer: Answer, at: (DateTime<Utc>, f64)) -> Action {
        match &answer {
            Answer::Session(session) => {
                let keep = Action::Keep(session.clone());
                self.answer = Some(answer);
                return keep;
            }
            Answer::Permanent { .. } | Answer::TakenDown => self.end = Some(End::Refused),
            Answer::Unreachable { may_have_spent: true, .. } => {}
            Answer::RateLimited(_) => return self.spent_nothing(End::Refused, answer, at),
            Answer::Unreachable { .. } => return self.spent_nothing(End::Unsent, answer, at),
        }
        if let Answer::Permanent { said_at, .. } = &answer
            && let Some(service) = &self.report.service
            && let Some(account) = self.account.as_ref().filter(|it| decide::is_kept_alive(it))
        {
            let first = decide::first_heard(account).is_none();
            let hearing = Hearing { service: service.clone(), said_at: *said_at, first };
            self.answer = Some(answer);
            return Action::Hear(hearing);
        }
        self.decide(answer, at)
    }

    /// What this call did not do, an earlier one may have done: its entry stays, as old as it was,
    /// until the grace is over.
    fn spent_nothing(&mut self, end: End, answer: Answer, at: (DateTime<Utc>, f64)) -> Action {
        let answer = match answer {
            // Said of the two of them. A clock that jumped ahead makes no haste needless.
            Answer::Unreachable { why, may_have_spent } => {
                let may_have_spent = may_have_spent || self.pending.is_some();
                Answer::Unreachable { why, may_have_spent }
            }
            answer => answer,
        };
        self.past_grace(at.0);
        if let Some(earlier) = &self.pending {
            self.answer = Some(answer);
            return Action::Backdate(earlier.intent.at);
        }
        self.end = self.end.or(Some(end));
        self.decide(answer, at)
    }

    fn go_on(&mut self, at: (DateTime<Utc>, f64)) -> Action {
        match self.answer.take() {
            Some(answer) => self.decide(answer, at),
            None => self.finish(),
        }
    }

    fn decide(&mut self, answer: Answer, at: (DateTime<Utc>, f64)) -> Action {
        let is_session = matches!(answer, Answer::Session(_));
        let (Some(service), Some(account)) = (&self.report.service, &self.account) else {
            return self.finish();
        };
        let decision = self.aged(decide::decide(self.policy, account, service, answer, at), at.0);
        if is_session && decision.change.rotation.is_none() {
            self.end = Some(End::Mismatch);
        }
        let expected = self.as_loaded();
        self.save(decision, expected)
    }

    /// A pair is as old as its call. Where this machine slept in between, or the pair was found after a
    /// crash, less is left of its life.
    fn aged(&self, mut decision: Decision, now: DateTime<Utc>) -> Decision {
        let Change { rotation, note, .. } = &mut decision.change;
        if let (Some(asked), Some(_pair), Some(next)) =
            (self.asked, rotation, &mut note.next_attempt_at)
        {
            // To the millisecond, as all times are that MongoDB keeps.
            *next -= TimeDelta::milliseconds((now - asked).num_milliseconds().max(0));
        }
        decision
    }

    fn out_of_reach(&mut self, wait: Duration, at: (DateTime<Utc>, f64)) -> Action {
        let (Some(service), Some(account)) = (&self.report.service, &self.account) else {
            return self.finish();
        };
        let decision = decide::out_of_reach(account, service, wait, at);
        let expected = self.as_loaded();
        self.save(decision, expected)
    }

    /// Nothing was asked, and whatever an earlier call may have spent is forgotten by now. What is
    /// written next keeps the account due.
    fn past_grace(&mut self, now: DateTime<Utc>) {
        if self.pending.as_ref().is_some_and(|pending| pending.intent.is_past_grace(now)) {
            self.give_up(End::PastGrace);
        }
    }

    /// The account's entry, if it has one, comes to nothing.
    fn give_up(&mut self, end: End) {
        if self.pending.take().is_some() {
            self.end = Some(end);
        }
    }

    fn ended(&mut self, end: End) -> Action {
        self.end = Some(end);
        self.finish()
    }

    fn superseded(&mut self, why: &str) -> Action {
        self.reset(why);
        self.finish()
    }

    fn reset(&mut self, why: &str) {
        self.report.outcome = Outcome::Superseded;
        self.report.held = false;
        self.report.expires_at = None;
        self.report.next_attempt_at = None;
        self.report.error = Some(why.to_owned());
    }

    /// What is left to do before the end, one thing at a time.
    fn finish(&mut self) -> Action {
        if let Some(end) = self.end.take() {
            Action::Release(end)
        } else if let Some(service) = self.absolves.take() {
            Action::Absolve(service)
        } else {
            Action::Finish(Box::new(self.report.clone()))
        }
    }
}

/// Whether a document still holds this very token.
fn holds(document: Option<&Document>, token: &RefreshJwt) -> bool {
    let stored = document.map(|document| &document.token);
    matches!(stored, Some(StoredToken::Token(stored)) if stored.is(token))
}
