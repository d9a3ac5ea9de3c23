//! The failure policy, in one place: what an answer about an account makes us write, and when
//! the account is tried again (contract.md, "MongoDB document").

#[cfg(test)]
mod tests;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::account::{Account, Status, Unusable};
use super::answer::{Answer, Session};
use super::backoff::{self, LONGEST_WAIT};
use super::identity::{Handle, ServiceUrl};
use super::outcome::Outcome;
use super::session::Pair;

/// The settings that the policy depends on.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// `VERDICT_CONFIRM_AFTER`: how long after a permanent answer it must be heard again before
    /// it is believed of an account that the daemon has kept alive. Zero: at once.
    pub confirm_after: Duration,
}

/// What one write sets. It changes nothing else.
#[derive(Debug, Clone)]
pub struct Change {
    /// The new pair, which also makes an account of ours `active`.
    pub rotation: Option<Rotation>,
    /// The new status, when it is to change without a pair.
    pub verdict: Option<Verdict>,
    /// The bookkeeping.
    pub note: Note,
}

/// A new pair and what came with it.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// The tokens.
    pub pair: Pair,
    /// The account's handle, where the server said a valid one that differs from the stored one.
    pub handle: Option<Handle>,
}

/// A status, and the sentence that its owner reads in `errorMessage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// `revoked`, `expired` or `error`.
    pub status: Status,
    /// One sentence with what to do.
    pub message: &'static str,
}

/// The bookkeeping that goes with every write: the subdocument `tokenRefresh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The moment of the attempt (`attemptedAt`, and `refreshedAt` if it succeeded).
    pub at: DateTime<Utc>,
    /// The server that was, or would have been, asked.
    pub service: Option<ServiceUrl>,
    /// How the attempt ended.
    pub outcome: Outcome,
    /// Attempts in a row that did not succeed.
    pub failures: u32,
    /// When the account is due again.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// The `jti` of the token that the outcome is about: the stored one, once this is written.
    pub judged_jti: Option<String>,
    /// When a permanent answer about that token was first heard.
    pub heard_at: Option<DateTime<Utc>>,
    /// What went wrong, for whoever looks after the daemon.
    pub last_error: Option<String>,
    /// The new refresh token's `exp`, after a success.
    pub refresh_expires_at: Option<DateTime<Utc>>,
    /// The account's own state as its server says it (`deactivated`), after a success.
    pub account_status: Option<String>,
}

/// What an answer leads to.
#[derive(Debug, Clone)]
pub struct Decision {
    /// What to write.
    pub change: Change,
    /// A permanent answer that is not believed before it is heard again.
    pub held: bool,
}

impl Decision {
    fn note(note: Note) -> Self {
        Self { change: Change { rotation: None, verdict: None, note }, held: false }
    }

    fn verdict(note: Note, verdict: Verdict) -> Self {
        Self { change: Change { rotation: None, verdict: Some(verdict), note }, held: false }
    }
}

/// Decides on an answer about `account` from `service`. `draw` is uniform in [0, 1).
pub fn decide(
    policy: Policy,
    account: &Account,
    service: &ServiceUrl,
    answer: Answer,
    (now, draw): (DateTime<Utc>, f64),
) -> Decision {
    let case = Case { policy, account, service, now, draw };
    match answer {
        Answer::Session(session) if session.did != account.did.as_str() => case.trouble(
            Outcome::IdentityMismatch,
            "the server answered for another account".to_owned(),
        ),
        Answer::Session(session) => case.rotated(*session),
        Answer::Permanent(outcome) => case.permanent(outcome),
        Answer::TakenDown => {
            case.trouble(Outcome::TakenDown, message(Outcome::TakenDown).to_owned())
        }
        Answer::RateLimited(wait) => case.rate_limited(wait),
        Answer::Unreachable(why) => case.silence(Outcome::Unreachable, why),
    }
}

/// The decision on an account whose token names another one, before anything is spent.
pub fn wrong_subject(
    account: &Account,
    service: &ServiceUrl,
    now: DateTime<Utc>,
    draw: f64,
) -> Decision {
    let policy = Policy { confirm_after: Duration::ZERO };
    Case { policy, account, service, now, draw }.trouble(
        Outcome::IdentityMismatch,
        "the stored refresh token belongs to another account".to_owned(),
    )
}

/// The decision on a document without a refresh token: there is nothing to try until a new one
/// is stored.
pub fn no_refresh_token(now: DateTime<Utc>) -> Decision {
    let note = Note {
        at: now,
        service: None,
        outcome: Outcome::NoRefreshToken,
        failures: 1,
        next_attempt_at: None,
        judged_jti: None,
        heard_at: None,
        last_error: Some(Unusable::NoRefreshToken.to_string()),
        refresh_expires_at: None,
        account_status: None,
    };
    Decision::verdict(
        note,
        Verdict { status: Status::Error, message: message(Outcome::NoRefreshToken) },
    )
}

struct Case<'a> {
    policy: Policy,
    account: &'a Account,
    service: &'a ServiceUrl,
    now: DateTime<Utc>,
    draw: f64,
}

impl Case<'_> {
    /// Bookkeeping about the stored token, which stays.
    fn stays(
        &self,
        outcome: Outcome,
        failures: u32,
        wait: Option<Duration>,
        error: String,
    ) -> Note {
        let jti = self.account.refresh.jti();
        Note {
            at: self.now,
            service: Some(self.service.clone()),
            outcome,
            failures,
            next_attempt_at: wait.map(|wait| self.after(wait)),
            judged_jti: Some(jti.to_owned()),
            heard_at: self.heard_at(),
            last_error: Some(error),
            refresh_expires_at: None,
            account_status: None,
        }
    }

    /// When a permanent answer about the stored token was first heard. A moment that is still to
    /// come was written by a clock that was wrong, and counts as now.
    fn heard_at(&self) -> Option<DateTime<Utc>> {
        self.account.kept.heard_at.filter(|_| self.is_same_token()).map(|at| at.min(self.now))
    }

    /// Whether the bookkeeping is about the token that is stored now.
    fn is_same_token(&self) -> bool {
        self.account.kept.judged_jti.as_deref() == Some(self.account.refresh.jti())
    }

    /// How many attempts the ladder of the account's status has seen, before this one.
    ///
    /// An account in `error` whose last attempt met silence stands at the foot of its ladder: the
    /// count may be of quick retries from before the application marked it, and a day's pause
    /// after a short outage would cost the session.
    fn count(&self) -> u32 {
        let kept = &self.account.kept;
        let quick =
            self.account.status == Status::Error && kept.outcome == Some(Outcome::Unreachable);
        if self.is_same_token() && !quick { kept.failures } else { 0 }
    }

    /// The moment `wait` from now, a day away at most, and to the millisecond: what MongoDB keeps,
    /// so that a note that is read back is known for ours.
    fn after(&self, wait: Duration) -> DateTime<Utc> {
        let millis = wait.min(LONGEST_WAIT).as_millis();
        let wait = i64::try_from(millis).ok().and_then(TimeDelta::try_milliseconds);
        wait.and_then(|wait| self.now.checked_add_signed(wait)).unwrap_or(self.now)
    }

    fn rotated(&self, session: Session) -> Decision {
        let refresh = &session.pair.refresh;
        let note = Note {
            at: self.now,
            service: Some(self.service.clone()),
            outcome: Outcome::Refreshed,
            failures: 0,
            next_attempt_at: None,
            judged_jti: Some(refresh.jti().to_owned()),
            heard_at: None,
            last_error: None,
            refresh_expires_at: Some(refresh.expires_at()),
            account_status: session.account_status,
        };
        let handle = Handle::parse(&session.handle)
            .filter(|handle| self.account.handle.as_deref() != Some(handle.as_str()));
        let rotation = Rotation { pair: session.pair, handle };
        Decision { change: Change { rotation: Some(rotation), verdict: None, note }, held: false }
    }

    fn permanent(&self, outcome: Outcome) -> Decision {
        let kept_alive = self.account.kept.refreshed_at.is_some();
        // Where the document says so already, believing changes no status.
        let marked = matches!(self.account.status, Status::Revoked | Status::Expired)
            && matches!(outcome, Outcome::Revoked | Outcome::Expired);
        let first = self.heard_at();
        let since = first.and_then(|at| (self.now - at).to_std().ok()).unwrap_or_default();
        let left = self.policy.confirm_after.saturating_sub(since);
        if !kept_alive || marked || left.is_zero() {
            return self.believed(outcome);
        }
        let failures = self.count().saturating_add(1);
        let mut note = self.stays(outcome, failures, Some(left), message(outcome).to_owned());
        note.heard_at = Some(first.unwrap_or(self.now));
        Decision { held: true, ..Decision::note(note) }
    }

    fn believed(&self, outcome: Outcome) -> Decision {
        let status = match outcome {
            Outcome::Revoked => Status::Revoked,
            Outcome::Expired => Status::Expired,
            _ => return self.trouble(outcome, message(outcome).to_owned()),
        };
        let marked = matches!(self.account.status, Status::Revoked | Status::Expired);
        let hearings =
            if marked && self.heard_at().is_some() { self.count().saturating_add(1) } else { 1 };
        let mut note =
            self.stays(outcome, hearings, backoff::probe(hearings), message(outcome).to_owned());
        note.heard_at = note.heard_at.or(Some(self.now));
        Decision::verdict(note, Verdict { status, message: message(outcome) })
    }

    /// Marks the account `error`: it is tried again on the slow ladder and heals by itself.
    fn trouble(&self, outcome: Outcome, error: String) -> Decision {
        let failures = match self.account.status {
            Status::Error => self.count().saturating_add(1),
            _ => 1,
        };
        let wait = backoff::error_ladder(failures, self.draw);
        let mut note = self.stays(outcome, failures, Some(wait), error);
        if outcome.is_permanent() {
            note.heard_at = note.heard_at.or(Some(self.now));
        }
        Decision::verdict(note, Verdict { status: Status::Error, message: message(outcome) })
    }

    /// Nothing was learnt. Only an active account's count is climbed by that: a lost reply has to
    /// be asked for again well within the server's grace, so no ladder of hours or days applies.
    fn silence(&self, outcome: Outcome, why: String) -> Decision {
        let (failures, wait) = match self.account.status {
            // The count is the place on the probes' ladder.
            Status::Revoked | Status::Expired => (self.count(), self.slow()),
            Status::Error => (self.count().saturating_add(1), self.slow()),
            Status::Active | Status::Foreign => {
                let failures = self.count().saturating_add(1);
                (failures, backoff::transient(failures, self.draw))
            }
        };
        // By our clock the token's life is over. That condemns nothing, but is no cause for haste.
        let over = self.account.refresh.expires_at() <= self.now;
        let wait = if over { LONGEST_WAIT } else { wait };
        Decision::note(self.stays(outcome, failures, Some(wait), why))
    }

    fn slow(&self) -> Duration {
        backoff::error_ladder(1, self.draw)
    }

    /// A time that was asked for costs no attempt: the server, or our budget for it, is busy with
    /// others.
    fn rate_limited(&self, wait: Option<Duration>) -> Decision {
        let Some(asked) = wait else {
            let error = "the server refuses more calls for now, and does not say for how long";
            return self.silence(Outcome::RateLimited, error.to_owned());
        };
        let wait = asked.min(backoff::LONGEST_RETRY_AFTER);
        let error =
            format!("the server has no room for this account before {} s from now", wait.as_secs());
        Decision::note(self.stays(Outcome::RateLimited, self.count(), Some(wait), error))
    }
}

/// What an account's owner reads.
fn message(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Revoked => "Bluesky ended this session. Log in again to keep posting.",
        Outcome::Expired => "This Bluesky session has expired. Log in again to keep posting.",
        Outcome::TakenDown => {
            "Bluesky has taken this account down. Once it is reinstated, posting may go on by itself; if it does not, log in again."
        }
        Outcome::AccountGone => "This account no longer exists on its Bluesky server.",
        Outcome::InvalidToken => {
            "Bluesky does not accept this session's token. Log in again to keep posting."
        }
        Outcome::IdentityMismatch => {
            "The stored session belongs to another Bluesky account. Log in again to keep posting."
        }
        Outcome::NoRefreshToken => {
            "This account has no Bluesky session. Log in again to keep posting."
        }
        Outcome::Refreshed
        | Outcome::Superseded
        | Outcome::Malformed
        | Outcome::RateLimited
        | Outcome::Unreachable => "",
    }
}
