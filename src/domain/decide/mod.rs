//! The failure policy, in one place: what an answer about an account makes us write, and when
//! the account is tried again (contract.md, "MongoDB document").

#[cfg(test)]
mod tests;

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::account::{Account, Status, Unusable};
use super::answer::{Answer, Session};
use super::backoff::{self, LONGEST_WAIT};
use super::identity::{Handle, ServiceUrl};
use super::moment::Moment;
use super::outcome::Outcome;
use super::renewal::{self, Lead};
use super::session::Pair;

/// What the policy depends on, beside the account and the answer.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// `VERDICT_CONFIRM_AFTER`: how long after a permanent answer it must be heard again before
    /// it is believed of an account that the daemon has kept alive. Zero: at once.
    pub confirm_after: Duration,
    /// Whether the server's brake is on: its permanent answers about such accounts wait.
    pub suspect: bool,
    /// `REFRESH_LEAD`; `None` with `KEEP_FRESH=false`: what went well is not due again.
    pub lead: Option<Lead>,
}

impl Policy {
    /// The policy on what nobody has asked a server.
    const UNASKED: Self = Self { confirm_after: Duration::ZERO, suspect: false, lead: None };
}

/// While a server is suspect, an account that it told off is tried again this often at the least:
/// the first one that gets a session after all takes the brake off.
const LONGEST_SUSPENSE: Duration = Duration::from_hours(1);

/// A server that does not answer is asked again by one account at a time. The others come up to
/// this share of the wait later, so that they do not come back at one moment.
const SPREAD: f64 = 0.25;

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
    pub heard: Option<Moment>,
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
    /// The account had been told off and got a session after all: the server's permanent answers
    /// of late were wrong.
    pub absolves: bool,
}

impl Decision {
    fn note(note: Note) -> Self {
        let change = Change { rotation: None, verdict: None, note };
        Self { change, held: false, absolves: false }
    }

    fn verdict(note: Note, verdict: Verdict) -> Self {
        let change = Change { rotation: None, verdict: Some(verdict), note };
        Self { change, held: false, absolves: false }
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
        Answer::Session(session) if session.did != account.did.as_str() => {
            let why = "the server answered for another account".to_owned();
            case.trouble(Outcome::IdentityMismatch, why, None)
        }
        Answer::Session(session) => case.rotated(*session),
        Answer::Permanent { outcome, said_at } => {
            case.permanent(outcome, Moment { ours: now, theirs: said_at })
        }
        Answer::TakenDown => {
            case.trouble(Outcome::TakenDown, message(Outcome::TakenDown).to_owned(), None)
        }
        Answer::RateLimited(wait) => case.rate_limited(wait),
        Answer::Unreachable { why, may_have_spent } => case.silence(why, may_have_spent),
    }
}

/// Whether a permanent answer about `account` is one that may have to be heard twice: only what
/// such an account is told counts towards its server's brake.
pub fn is_kept_alive(account: &Account) -> bool {
    account.kept.refreshed_at.is_some()
}

/// When a permanent answer about the stored token was first heard; `None`: it never was.
pub fn first_heard(account: &Account) -> Option<Moment> {
    let same = account.kept.judged_jti.as_deref() == Some(account.refresh.jti());
    account.kept.heard.filter(|_| same)
}

/// The decision on an account whose server does not answer anybody: it is not asked, for `wait`.
pub fn out_of_reach(
    account: &Account,
    service: &ServiceUrl,
    wait: Duration,
    (now, draw): (DateTime<Utc>, f64),
) -> Decision {
    let policy = Policy::UNASKED;
    Case { policy, account, service, now, draw }.out_of_reach(wait)
}

/// The decision on an account whose token names another one, before anything is spent.
pub fn wrong_subject(
    account: &Account,
    service: &ServiceUrl,
    now: DateTime<Utc>,
    draw: f64,
) -> Decision {
    let policy = Policy::UNASKED;
    let why = "the stored refresh token belongs to another account".to_owned();
    Case { policy, account, service, now, draw }.trouble(Outcome::IdentityMismatch, why, None)
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
        heard: None,
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
            heard: first_heard(self.account)
                .map(|first| first.at_latest(Moment { ours: self.now, theirs: None })),
            last_error: Some(error),
            refresh_expires_at: None,
            account_status: None,
        }
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
        renewal::later(self.now, wait.min(LONGEST_WAIT))
    }

    fn rotated(&self, session: Session) -> Decision {
        let refresh = &session.pair.refresh;
        let note = Note {
            at: self.now,
            service: Some(self.service.clone()),
            outcome: Outcome::Refreshed,
            failures: 0,
            next_attempt_at: self.next(session.pair.access.life().length()),
            judged_jti: Some(refresh.jti().to_owned()),
            heard: None,
            last_error: None,
            refresh_expires_at: Some(refresh.expires_at()),
            account_status: session.account_status,
        };
        let handle = Handle::parse(&session.handle)
            .filter(|handle| self.account.handle.as_deref() != Some(handle.as_str()));
        let rotation = Rotation { pair: session.pair, handle };
        let change = Change { rotation: Some(rotation), verdict: None, note };
        let absolves = is_kept_alive(self.account) && first_heard(self.account).is_some();
        Decision { change, held: false, absolves }
    }

    /// When an account is due whose new access token lives so long.
    fn next(&self, life: Duration) -> Option<DateTime<Utc>> {
        let lead = self.policy.lead?;
        let is_first = self.account.kept.refreshed_at.is_none();
        let is_late = self.account.token_expiry.is_none_or(|at| at <= self.now);
        let wait = if is_first && is_late {
            lead.spread(life, self.draw)
        } else {
            lead.wait(life, self.draw)
        };
        Some(self.after(wait))
    }

    fn permanent(&self, outcome: Outcome, now: Moment) -> Decision {
        // Where the document says so already, believing changes no status.
        let marked = matches!(self.account.status, Status::Revoked | Status::Expired)
            && matches!(outcome, Outcome::Revoked | Outcome::Expired);
        let first = first_heard(self.account).map_or(now, |first| first.at_latest(now));
        let left = self.policy.confirm_after.saturating_sub(now.since(first));
        let waits = self.policy.suspect || !left.is_zero();
        if !is_kept_alive(self.account) || marked || !waits {
            return self.believed(outcome, first);
        }
        let failures = self.count().saturating_add(1);
        let suspense = backoff::error_ladder(failures, self.draw).min(LONGEST_SUSPENSE);
        let wait = if self.policy.suspect { left.max(suspense) } else { left };
        let mut note = self.stays(outcome, failures, Some(wait), message(outcome).to_owned());
        note.heard = Some(first);
        Decision { held: true, ..Decision::note(note) }
    }

    fn believed(&self, outcome: Outcome, first: Moment) -> Decision {
        let status = match outcome {
            Outcome::Revoked => Status::Revoked,
            Outcome::Expired => Status::Expired,
            _ => return self.trouble(outcome, message(outcome).to_owned(), Some(first)),
        };
        let marked = matches!(self.account.status, Status::Revoked | Status::Expired);
        let heard_before = first_heard(self.account).is_some();
        let hearings = if marked && heard_before { self.count().saturating_add(1) } else { 1 };
        let mut note =
            self.stays(outcome, hearings, backoff::probe(hearings), message(outcome).to_owned());
        note.heard = Some(first);
        Decision::verdict(note, Verdict { status, message: message(outcome) })
    }

    /// Marks the account `error`: it is tried again on the slow ladder and heals by itself.
    fn trouble(&self, outcome: Outcome, error: String, first: Option<Moment>) -> Decision {
        let failures = match self.account.status {
            Status::Error => self.count().saturating_add(1),
            _ => 1,
        };
        let wait = backoff::error_ladder(failures, self.draw);
        let mut note = self.stays(outcome, failures, Some(wait), error);
        note.heard = first.or(note.heard);
        Decision::verdict(note, Verdict { status: Status::Error, message: message(outcome) })
    }

    /// Nobody was asked, so no attempt is counted.
    fn out_of_reach(&self, wait: Duration) -> Decision {
        let wait = match self.account.status {
            Status::Active | Status::Foreign => wait.mul_f64(1.0 + SPREAD * self.draw),
            Status::Error | Status::Expired | Status::Revoked => self.slow(),
        };
        let why = "the server has not answered of late; it is asked again by one account at a time";
        Decision::note(self.stays(Outcome::Unreachable, self.count(), Some(wait), why.to_owned()))
    }

    /// Nothing was learnt. Only an active account's count is climbed by that: a lost reply has to
    /// be asked for again well within the server's grace, so no ladder of hours or days applies.
    fn silence(&self, why: String, may_have_spent: bool) -> Decision {
        let (failures, wait) = match self.account.status {
            // The count is the place on the probes' ladder.
            Status::Revoked | Status::Expired => (self.count(), self.slow()),
            Status::Error => (self.count().saturating_add(1), self.slow()),
            Status::Active | Status::Foreign => {
                let failures = self.count().saturating_add(1);
                (failures, backoff::transient(failures, self.draw))
            }
        };
        // By our clock the token's life is over. That condemns nothing, but is no cause for haste,
        // unless a call has to be repaired and it is the clock that is wrong.
        let over = self.account.refresh.expires_at() <= self.now && !may_have_spent;
        let wait = if over { LONGEST_WAIT } else { wait };
        Decision::note(self.stays(Outcome::Unreachable, failures, Some(wait), why))
    }

    fn slow(&self) -> Duration {
        backoff::error_ladder(1, self.draw)
    }

    /// A time that was asked for costs no attempt: the server, or our budget for it, is busy with
    /// others.
    fn rate_limited(&self, asked: Duration) -> Decision {
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
