//! An attempt's writes, and what becomes of one whose document has moved on.

use chrono::{DateTime, Utc};

use super::{Action, Attempt, Expected, Save};
use crate::domain::account::{Document, StoredToken};
use crate::domain::decide::{Change, Decision, Note};
use crate::domain::outcome::Outcome;
use crate::domain::pending::End;
use crate::domain::settle::{Settlement, settle};

impl Attempt<'_> {
    /// What a write expects to find when nobody else wrote since the document was read.
    pub(super) fn as_loaded(&self) -> Option<Expected> {
        let account = self.account.as_ref()?;
        let (id, token) = (account.id, Some(account.refresh.clone()));
        Some(Expected { id, token, ours: account.status.is_ours() })
    }

    /// Writes a decision, where there is a document to write to.
    pub(super) fn save(&mut self, decision: Decision, expected: Option<Expected>) -> Action {
        let change = self.tell(decision);
        match expected {
            Some(expected) => self.write(Save { expected, change, misses: 0 }),
            None => self.finish(),
        }
    }

    /// Takes a decision into the report; what is left of it is to be written.
    pub(super) fn tell(&mut self, decision: Decision) -> Change {
        let Decision { change, held, absolves } = decision;
        self.report.outcome = change.note.outcome;
        self.report.held = held;
        self.report.next_attempt_at = change.note.next_attempt_at;
        self.report.error.clone_from(&change.note.last_error);
        self.absolves = change.note.service.clone().filter(|_| absolves);
        if let Some(rotation) = &change.rotation {
            self.report.expires_at = Some(rotation.pair.access.expires_at());
            if let Some(handle) = &rotation.handle {
                self.report.handle = Some(handle.to_string());
            }
        }
        change
    }

    fn write(&mut self, save: Save) -> Action {
        self.saving = Some(save.clone());
        Action::Save(Box::new(save))
    }

    /// The write found another document than it expected: `document`, or none.
    pub(super) fn missed(&mut self, document: Option<Document>, now: DateTime<Utc>) -> Action {
        let Some(save) = self.saving.take() else { return self.finish() };
        match (&save.change.rotation, &self.account) {
            (Some(rotation), Some(account)) => {
                let answered = &rotation.pair.refresh;
                let stored = document.as_ref().map(|document| &document.token);
                match settle(&account.refresh, answered, stored) {
                    Settlement::Stored => self.ended(End::Stored),
                    Settlement::WriteAgain => {
                        self.report.outcome = Outcome::Refreshed;
                        self.write_again(save, document.as_ref())
                    }
                    Settlement::ReplaceCopy => {
                        self.report.outcome = Outcome::Superseded;
                        self.write_again(save, document.as_ref())
                    }
                    Settlement::Superseded => {
                        self.end = Some(match stored {
                            None | Some(StoredToken::Null) => End::Disconnected,
                            Some(_) => End::Superseded,
                        });
                        self.note_superseded(document.as_ref(), now)
                    }
                }
            }
            _ => self.missed_note(&save.change, document),
        }
    }

    fn write_again(&mut self, save: Save, document: Option<&Document>) -> Action {
        if let Some(expected) = document.and_then(Expected::of) {
            self.write(Save { expected, misses: save.misses.saturating_add(1), ..save })
        } else {
            self.end = Some(End::Disconnected);
            self.superseded("the account was disconnected by its owner")
        }
    }

    /// The write stands.
    pub(super) fn saved(&mut self) -> Action {
        match self.saving.take() {
            Some(save) if save.change.rotation.is_some() => self.ended(End::Stored),
            _ => self.finish(),
        }
    }

    /// A pair that the database refuses stays in the journal, and is written later; anything else
    /// is dropped, and leaves the account as due as it was.
    pub(super) fn refused(&mut self, why: &str) -> Action {
        self.saving = None;
        self.reset(why);
        self.report.outcome = Outcome::Unreachable;
        self.finish()
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
        let Some((document, StoredToken::Token(token))) = document
            .filter(|document| document.status.is_ours())
            .map(|document| (document, &document.token))
        else {
            return self.finish();
        };
        let Some(expected) = Expected::of(document) else { return self.finish() };
        let life = token.access_life(document.token_expiry);
        let due = self.policy.lead.map(|lead| lead.due(life, now, false, 0.0));
        let note = Note {
            at: now,
            service: Some(self.routing.service(token.audience())),
            outcome: Outcome::Superseded,
            failures: 0,
            next_attempt_at: due,
            judged_jti: Some(token.jti().to_owned()),
            heard: None,
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
}
