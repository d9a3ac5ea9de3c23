//! An instance of the daemon in the simulation: it does what its attempt asks for, a step at a time.

use std::time::Duration;

use rand::RngExt as _;

use super::claims::{self, Claim};
use super::world::{Fields, Sabotage, permanent};
use super::{Action, Attempt, Event, Expected, Instance, POLICY, Save, World, trouble};
use crate::domain::account::{Bookkeeping, Document, StoredToken};
use crate::domain::answer::Answer;
use crate::domain::outcome::Outcome;
use crate::domain::pending::{End, Intent, Pending};
use crate::domain::session::RefreshJwt;

/// By how much an entry outlasts the grace of its call, in seconds.
const SLACK: i64 = 3_600;

impl<'a> World<'a> {
    /// One step of one instance: it does what its attempt asks for, and no more.
    pub(super) fn step(&mut self, index: usize) -> Claim {
        let Some(mut instance) = self.instances[index].take() else {
            self.instances[index] = Some(self.begin(index));
            return Ok(());
        };
        self.steps += 1;
        if self.crash_at == Some(self.steps) || self.happens(trouble::CRASH, 0.03) {
            self.reply_lost |= instance.held.is_some() && !instance.kept;
            self.tell(|| format!("{index} crashes"));
            return Ok(());
        }
        let event = match &instance.action {
            Action::Finish(report) => {
                self.tell(|| format!("{index} ends: {}", report.outcome));
                let forgotten = instance.held.is_some();
                return if forgotten { Err("an answer was forgotten".to_owned()) } else { Ok(()) };
            }
            Action::Save(save) => {
                let save = (**save).clone();
                self.save(index, &save, &mut instance)?
            }
            _ => self.perform(index, &mut instance)?,
        };
        if let Some(event) = event {
            self.react(index, &mut instance, event)?;
        }
        self.instances[index] = Some(instance);
        Ok(())
    }

    /// What an instance does next with the account: what its journal holds comes first.
    fn begin(&mut self, index: usize) -> Instance<'a> {
        let pending = self.journals[index].clone();
        self.tell(|| match &pending {
            None => format!("{index} begins"),
            Some(Pending { answer: None, .. }) => format!("{index} begins, to ask again"),
            Some(_) => format!("{index} begins, to settle an answer"),
        });
        let seen = self.document.as_ref().and_then(Fields::token).cloned().into_iter().collect();
        let mut policy = POLICY;
        if self.sabotage == Sabotage::BelieveAtOnce {
            policy.confirm_after = Duration::ZERO;
        }
        let used = pending.as_ref().map(|pending| pending.intent.token.clone());
        let answer = pending.as_ref().and_then(|pending| pending.answer.as_ref());
        let held = answer.map(|session| session.pair.refresh.clone());
        let kept = held.is_some();
        let (attempt, action) = Attempt::begin(policy, self.routing, self.id, None, pending);
        Instance { attempt, action, missed: false, used, intended: self.now, held, kept, seen }
    }

    /// Carries out an action. `None`: it could not be done, and is tried again.
    fn perform(
        &mut self,
        index: usize,
        instance: &mut Instance<'a>,
    ) -> Result<Option<Event>, String> {
        let event = match &instance.action {
            Action::Load => Event::Loaded(self.load(index)),
            Action::Spend(_) if self.happens(trouble::NO_BUDGET, 0.2) => {
                Event::Denied(Duration::from_secs(5))
            }
            Action::Spend(_) if self.happens(trouble::OUT_OF_REACH, 0.2) => {
                Event::OutOfReach(Duration::from_secs(5))
            }
            Action::Spend(_) => Event::Granted,
            Action::Intend(_) if self.happens(trouble::NO_INTENT, 0.3) => return Ok(None),
            Action::Intend(intent) => {
                let mut intent = Intent { at: self.time(), ..(**intent).clone() };
                if let Some(earlier) = &self.journals[index]
                    && self.sabotage == Sabotage::NeverYounger
                {
                    intent.at = earlier.intent.at;
                }
                instance.intended = self.now;
                self.journals[index] = Some(Pending { intent, answer: None });
                Event::Intended
            }
            Action::Call(_, token) => {
                claims::call(token, &instance.seen)?;
                let token = token.clone();
                let answer = self.call(index, &token, instance.intended);
                if let Answer::Session(session) = &answer {
                    instance.held = Some(session.pair.refresh.clone());
                }
                instance.used = Some(token);
                Event::Answered(answer)
            }
            Action::Keep(_) if self.happens(trouble::NOT_KEPT, 0.3) => {
                self.tell(|| format!("{index} cannot keep the answer"));
                Event::Kept
            }
            Action::Keep(session) => {
                instance.kept = true;
                if let Some(pending) = &mut self.journals[index]
                    && self.sabotage != Sabotage::StoreFirst
                {
                    pending.answer = Some((**session).clone());
                }
                if self.sabotage == Sabotage::ReleaseEarly {
                    self.journals[index] = None;
                }
                Event::Kept
            }
            Action::Backdate(at) => {
                if let Some(pending) = &mut self.journals[index] {
                    pending.intent.at = *at;
                }
                Event::Backdated
            }
            Action::Hear(_) => Event::Heard { suspect: self.happens(trouble::SUSPECT, 0.5) },
            Action::Release(end) => {
                self.release(index, *end, instance.held.as_ref())?;
                Event::Released
            }
            Action::Absolve(_) => Event::Absolved,
            Action::Save(_) | Action::Finish(_) => return Ok(None),
        };
        Ok(Some(event))
    }

    /// An entry ends only when its answer is stored, or was dropped at the sight of a newer one.
    fn release(&mut self, index: usize, end: End, held: Option<&RefreshJwt>) -> Claim {
        self.tell(|| format!("{index} releases: {end}"));
        if let Some(Pending { intent, .. }) = self.journals[index].take()
            && end == End::PastGrace
        {
            let spent = self.spent[index].as_ref().filter(|(jti, _)| jti == intent.token.jti());
            claims::forgotten(spent.map(|(_, at)| self.now - at), self.grace)?;
        }
        claims::released(held)
    }

    fn load(&self, index: usize) -> Option<Document> {
        if self.sabotage == Sabotage::NoReread
            && let Some(Pending { intent, answer: None }) = &self.journals[index]
        {
            let token = StoredToken::Token(intent.token.clone());
            let kept = Bookkeeping::default();
            return Some(Fields { token, status: "active", kept }.read(self.id));
        }
        self.read()
    }

    /// Lets the attempt decide, and holds it to what it drops.
    fn react(&mut self, index: usize, instance: &mut Instance<'a>, event: Event) -> Claim {
        let settles = matches!(event, Event::Missed(_))
            || instance.held.is_some() && matches!(event, Event::Loaded(_));
        let draw = self.rng.random();
        instance.action = instance.attempt.step(event, self.time(), draw);
        let goes_on =
            matches!(&instance.action, Action::Save(save) if save.change.rotation.is_some());
        if settles
            && !goes_on
            && let Some(answered) = instance.held.take()
        {
            self.tell(|| format!("{index} drops {}", answered.jti()));
            let document = self.document.as_ref();
            return claims::dropped(&answered, document, &self.server, self.written_back);
        }
        Ok(())
    }

    fn read(&self) -> Option<Document> {
        self.document.as_ref().map(|fields| fields.read(self.id))
    }

    fn call(&mut self, index: usize, token: &RefreshJwt, intended: i64) -> Answer {
        if self.happens(trouble::NO_CONNECTION, 0.1) {
            self.tell(|| format!("{index} calls with {}: unreachable", token.jti()));
            let why = "connection refused".to_owned();
            return Answer::Unreachable { why, may_have_spent: false };
        }
        if self.now < self.amnesia {
            self.tell(|| format!("{index} calls with {}: forgotten", token.jti()));
            return permanent(Outcome::Revoked, self.now);
        }
        let may_have_spent = self.sabotage != Sabotage::ForgetCall;
        let lost = || Answer::Unreachable { why: "timed out".to_owned(), may_have_spent };
        if self.happens(trouble::REQUEST_LOST, 0.3) {
            self.tell(|| format!("{index} calls with {}: the request is lost", token.jti()));
            return lost();
        }
        let answer = self.server.refresh(token, self.now);
        // A machine that slept between the intent and its call makes the entry look old.
        let slept = self.now - intended > SLACK;
        self.spent[index] = matches!(answer, Answer::Session(_))
            .then(|| (token.jti().to_owned(), self.now))
            .filter(|_| !slept);
        if self.happens(trouble::REPLY_LOST, 0.3) {
            self.reply_lost |= matches!(answer, Answer::Session(_));
            self.tell(|| format!("{index} calls with {}: the reply is lost", token.jti()));
            return lost();
        }
        self.tell(|| match &answer {
            Answer::Session(session) => {
                format!("{index} calls with {}: {}", token.jti(), session.pair.refresh.jti())
            }
            other => format!("{index} calls with {}: {other:?}", token.jti()),
        });
        answer
    }

    /// A write, or the reading after its miss. `None`: the shell does not know yet how it went.
    fn save(
        &mut self,
        index: usize,
        save: &Save,
        instance: &mut Instance<'a>,
    ) -> Result<Option<Event>, String> {
        if std::mem::take(&mut instance.missed) {
            return self.reread(save, instance).map(Some);
        }
        let what = name(save);
        if self.happens(trouble::WRITE_LATE, 0.1) {
            self.tell(|| format!("{index} gives up waiting for its write of {what}"));
            self.on_their_way.push((save.clone(), instance.used.clone()));
            return Ok(None);
        }
        if !self.document.as_ref().is_some_and(|fields| fields.matches(save, self.sabotage)) {
            self.tell(|| format!("{index} writes {what}: misses"));
            if self.sabotage == Sabotage::IgnoreMisses {
                return Ok(Some(Event::Saved));
            }
            instance.missed = true;
            return Ok(None);
        }
        self.tell(|| format!("{index} writes {what}"));
        self.apply(save, instance)?;
        if self.happens(trouble::WRITE_UNSEEN, 0.2) {
            self.tell(|| format!("{index} does not hear of it"));
            return Ok(None);
        }
        if self.happens(trouble::COMPANION_MISSED, 0.2) {
            self.tell(|| format!("{index} hears that not all of its command's writes matched"));
            instance.missed = true;
            return Ok(None);
        }
        Ok(Some(Event::Saved))
    }

    /// A write that its writer has given up is carried out, or never will be.
    pub(super) fn arrive(&mut self) -> Claim {
        let one = self.rng.random_range(0..self.on_their_way.len());
        let (save, used) = self.on_their_way.swap_remove(one);
        let matches =
            self.document.as_ref().is_some_and(|fields| fields.matches(&save, self.sabotage));
        if !matches || self.rng.random_bool(0.2) {
            return Ok(());
        }
        self.tell(|| format!("a late write of {} arrives", name(&save)));
        self.write(&save, used.as_ref())
    }

    fn apply(&mut self, save: &Save, instance: &mut Instance<'a>) -> Claim {
        self.write(save, instance.used.as_ref())?;
        if save.change.rotation.is_some() {
            instance.held = None;
        }
        Ok(())
    }

    fn write(&mut self, save: &Save, used: Option<&RefreshJwt>) -> Claim {
        let Some(before) = self.document.clone() else { return Ok(()) };
        let mut after = before.clone();
        after.apply(save);
        let around = (&self.server, self.now, self.written_back);
        claims::write((&before, &after), save, used, around)?;
        if let Some(rotation) = &save.change.rotation {
            self.history.push(rotation.pair.refresh.clone());
        }
        self.hold(Some(after));
        Ok(())
    }

    /// Puts a document in place, which everybody may read from now on.
    pub(super) fn hold(&mut self, document: Option<Fields>) {
        if let Some(token) = document.as_ref().and_then(Fields::token) {
            for instance in self.instances.iter_mut().flatten() {
                instance.seen.push(token.clone());
            }
        }
        self.document = document;
    }

    fn reread(&mut self, save: &Save, instance: &mut Instance<'a>) -> Result<Event, String> {
        let document = self.read();
        if self.sabotage == Sabotage::GiveUp {
            return Ok(Event::Missed(None));
        }
        if self.sabotage == Sabotage::ByAnswersAge
            && let Some(rotation) = &save.change.rotation
            && let Some(stored) = self.document.as_ref().and_then(Fields::token)
            && stored.issued_at() < rotation.pair.refresh.issued_at()
            && let Some(expected) = document.as_ref().and_then(Expected::of)
        {
            self.apply(&Save { expected, ..save.clone() }, instance)?;
            return Ok(Event::Saved);
        }
        Ok(Event::Missed(document))
    }
}

/// What a write is about, for the story.
fn name(save: &Save) -> &str {
    save.change.rotation.as_ref().map_or("a note", |it| it.pair.refresh.jti())
}
