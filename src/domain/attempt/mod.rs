//! One attempt to refresh one account, as a state machine without I/O.
//!
//! [`Attempt::begin`] and [`Attempt::step`] say what to do next; the shell ([`crate::refresh`])
//! does it and reports back. So every interleaving, crash and lost reply is a test without a
//! network, and the order of effects can be read off in one place.

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::account::{Account, Document, StoredToken, Unusable};
use super::answer::Answer;
use super::decide::{self, Change, Decision, Policy};
use super::identity::{AccountId, ServiceUrl};
use super::outcome::Outcome;
use super::routing::Routing;
use super::session::RefreshJwt;
use super::settle::{Settlement, settle};

/// What the shell is to do next.
#[derive(Debug)]
pub enum Action {
    /// Read the account's document from the primary; answer with [`Event::Loaded`].
    Load,
    /// Take one request from the server's budget; answer with [`Event::Granted`] or
    /// [`Event::Denied`].
    Spend(ServiceUrl),
    /// Call `refreshSession`, once, with this token; answer with [`Event::Answered`].
    Call(ServiceUrl, RefreshJwt),
    /// Write by compare-and-set, for as long as it takes to learn how it went; answer with
    /// [`Event::Saved`] or [`Event::Missed`].
    Save(Box<Save>),
    /// The attempt is over.
    Finish(Box<Report>),
}

/// One compare-and-set.
#[derive(Debug, Clone)]
pub struct Save {
    /// What the document must still hold.
    pub expected: Expected,
    /// What is set if it does.
    pub change: Change,
    /// Writes of this pair or note that already found the document changed. From the second on,
    /// the shell waits a little first.
    pub misses: u32,
}

/// The filter of a write: what was last read.
#[derive(Debug, Clone)]
pub struct Expected {
    /// `_id`.
    pub id: AccountId,
    /// The `refreshToken` that was read; `None`: null or missing.
    pub token: Option<RefreshJwt>,
    /// Whether the `status` that was read is one of [`Status::OURS`](super::account::Status).
    pub ours: bool,
}

impl Expected {
    /// The filter for a document as it was read; `None` if its token cannot be named.
    pub fn of(document: &Document) -> Option<Self> {
        let token = match &document.token {
            StoredToken::Token(token) => Some(token.clone()),
            StoredToken::Null => None,
            StoredToken::Unreadable => return None,
        };
        Some(Self { id: document.id, token, ours: document.status.is_ours() })
    }
}

/// What the shell reports back.
#[derive(Debug)]
pub enum Event {
    /// The document; `None` if there is none (any more).
    Loaded(Option<Document>),
    /// The budget has room: call now.
    Granted,
    /// The budget has none before this long from now.
    Denied(Duration),
    /// The server's answer.
    Answered(Answer),
    /// The write matched and is acknowledged by a majority.
    Saved,
    /// The write matched nothing; this is the document now, read causally after the miss.
    Missed(Option<Document>),
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub struct Report {
    /// The account's document.
    pub account: AccountId,
    /// `platformAccountId`, if it was a text.
    pub did: Option<String>,
    /// The handle, the newest that is known.
    pub handle: Option<String>,
    /// The server that was, or would have been, asked.
    pub service: Option<ServiceUrl>,
    /// How it ended.
    pub outcome: Outcome,
    /// A permanent answer that waits for its second hearing.
    pub held: bool,
    /// Attempts in a row, this one included, since the last success.
    pub attempt: u32,
    /// When the access token that is now stored expires, after a success of ours.
    pub expires_at: Option<DateTime<Utc>>,
    /// When the account is tried again, if that was written.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// What went wrong.
    pub error: Option<String>,
}

/// The state of one attempt.
#[derive(Debug)]
pub struct Attempt<'a> {
    policy: Policy,
    routing: &'a Routing,
    generation: Option<&'a str>,
    report: Report,
    account: Option<Account>,
    /// The pair's or the verdict's write that is under way.
    saving: Option<Save>,
}

impl<'a> Attempt<'a> {
    /// An attempt on `account`. `generation` is the `jti` that its document held when the
    /// attempt was asked for: if it holds another now, there is nothing left to do.
    pub fn begin(
        policy: Policy,
        routing: &'a Routing,
        account: AccountId,
        generation: Option<&'a str>,
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
        let attempt = Self { policy, routing, generation, report, account: None, saving: None };
        (attempt, Action::Load)
    }

    /// The next action. `draw` is uniform in [0, 1).
    pub fn step(&mut self, event: Event, now: DateTime<Utc>, draw: f64) -> Action {
        match event {
            Event::Loaded(document) => self.loaded(document, now, draw),
            Event::Granted => self.call(),
            Event::Denied(wait) => self.answered(Answer::RateLimited(Some(wait)), now, draw),
            Event::Answered(answer) => self.answered(answer, now, draw),
            Event::Saved => self.finish(),
            Event::Missed(document) => self.missed(document, now),
        }
    }

    fn loaded(&mut self, document: Option<Document>, now: DateTime<Utc>, draw: f64) -> Action {
        let Some(document) = document else {
            return self.superseded("the account's document is gone");
        };
        self.report.did.clone_from(&document.did);
        self.report.handle.clone_from(&document.handle);
        self.report.attempt = document.kept.failures.saturating_add(1);
        if !document.status.is_ours() {
            let why = "the account is disconnected: its status is not the daemon's to change";
            return self.superseded(why);
        }
        let expected = Expected::of(&document);
        let account = match document.account {
            Ok(account) => account,
            Err(why) => return self.unusable(&why, expected, now),
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
        let decision = decide::wrong_subject(&account, &service, now, draw);
        self.account = Some(account);
        self.save(decision, expected)
    }

    fn unusable(
        &mut self,
        why: &Unusable,
        expected: Option<Expected>,
        now: DateTime<Utc>,
    ) -> Action {
        self.report.outcome = why.outcome();
        self.report.error = Some(why.to_string());
        match why {
            Unusable::NoRefreshToken => self.save(decide::no_refresh_token(now), expected),
            Unusable::Malformed { .. } => self.finish(),
        }
    }

    fn call(&mut self) -> Action {
        match (&self.report.service, &self.account) {
            (Some(service), Some(account)) => {
                Action::Call(service.clone(), account.refresh.clone())
            }
            _ => self.finish(),
        }
    }

    fn answered(&mut self, answer: Answer, now: DateTime<Utc>, draw: f64) -> Action {
        let (Some(service), Some(account)) = (&self.report.service, &self.account) else {
            return self.finish();
        };
        let decision = decide::decide(self.policy, account, service, answer, (now, draw));
        let expected = Expected {
            id: account.id,
            token: Some(account.refresh.clone()),
            ours: account.status.is_ours(),
        };
        self.save(decision, Some(expected))
    }

    fn save(&mut self, decision: Decision, expected: Option<Expected>) -> Action {
        let note = &decision.change.note;
        self.report.outcome = note.outcome;
        self.report.held = decision.held;
        self.report.next_attempt_at = note.next_attempt_at;
        self.report.error.clone_from(&note.last_error);
        if let Some(rotation) = &decision.change.rotation {
            self.report.expires_at = Some(rotation.pair.access.expires_at());
            if let Some(handle) = &rotation.handle {
                self.report.handle = Some(handle.to_string());
            }
        }
        match expected {
            Some(expected) => self.write(Save { expected, change: decision.change, misses: 0 }),
            None => self.finish(),
        }
    }

    fn write(&mut self, save: Save) -> Action {
        self.saving = Some(save.clone());
        Action::Save(Box::new(save))
    }

    fn missed(&mut self, document: Option<Document>, now: DateTime<Utc>) -> Action {
        let Some(save) = self.saving.take() else { return self.finish() };
        match (&save.change.rotation, &self.account) {
            (Some(rotation), Some(account)) => {
                let answered = &rotation.pair.refresh;
                let stored = document.as_ref().map(|document| &document.token);
                match settle(&account.refresh, answered, stored) {
                    Settlement::Stored => self.finish(),
                    Settlement::WriteAgain => {
                        self.report.outcome = Outcome::Refreshed;
                        self.write_again(save, document.as_ref())
                    }
                    Settlement::ReplaceCopy => {
                        self.report.outcome = Outcome::Superseded;
                        self.write_again(save, document.as_ref())
                    }
                    Settlement::Superseded => self.note_superseded(document.as_ref(), now),
                }
            }
            _ => self.missed_note(&save.change, document),
        }
    }

    fn write_again(&mut self, save: Save, document: Option<&Document>) -> Action {
        match document.and_then(Expected::of) {
            Some(expected) => {
                self.write(Save { expected, misses: save.misses.saturating_add(1), ..save })
            }
            None => self.superseded("the account was disconnected by its owner"),
        }
    }

    /// A verdict or bookkeeping is either already written, or about a token that has been
    /// replaced: then it is dropped, and the account stays as due as it was.
    fn missed_note(&mut self, change: &Change, document: Option<Document>) -> Action {
        let ours = document.is_some_and(|document| {
            document.kept.judged_jti == change.note.judged_jti
                && document.kept.attempted_at == Some(change.note.at)
                && document.kept.next_attempt_at == change.note.next_attempt_at
        });
        if ours || self.report.outcome == Outcome::Superseded {
            return self.finish();
        }
        self.superseded("the account changed while it was being refreshed")
    }

    /// Another writer's newer token stays; the bookkeeping starts over for it.
    fn note_superseded(&mut self, document: Option<&Document>, now: DateTime<Utc>) -> Action {
        self.reset("another writer stored a newer session");
        let Some((expected, Some(token))) = document
            .filter(|document| document.status.is_ours())
            .and_then(Expected::of)
            .map(|expected| (expected.clone(), expected.token))
        else {
            return self.finish();
        };
        let note = decide::Note {
            at: now,
            service: Some(self.routing.service(token.audience())),
            outcome: Outcome::Superseded,
            failures: 0,
            next_attempt_at: None,
            judged_jti: Some(token.jti().to_owned()),
            heard_at: None,
            last_error: None,
            refresh_expires_at: None,
            account_status: None,
        };
        self.write(Save {
            expected,
            change: Change { rotation: None, verdict: None, note },
            misses: 0,
        })
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

    fn finish(&mut self) -> Action {
        Action::Finish(Box::new(self.report.clone()))
    }
}
