//! What an attempt asks its shell to do, what it is told of it, and what it reports at its end.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::domain::account::{Document, StoredToken};
use crate::domain::answer::{Answer, Session};
use crate::domain::decide::Change;
use crate::domain::identity::{AccountId, ServiceUrl};
use crate::domain::outcome::Outcome;
use crate::domain::pending::{End, Intent};
use crate::domain::session::RefreshJwt;

/// What the shell is to do next.
#[derive(Debug)]
pub enum Action {
    /// Read the account's document from the primary; answer with [`Event::Loaded`].
    Load,
    /// Take one request from the server's budget; answer with [`Event::Granted`],
    /// [`Event::Denied`] or [`Event::OutOfReach`].
    Spend(ServiceUrl),
    /// Put the call on stable storage, in place of the account's entry if it has one; answer with
    /// [`Event::Intended`]. Until that can be done, no call is made.
    Intend(Box<Intent>),
    /// Call `refreshSession`, once, with this token; answer with [`Event::Answered`].
    Call(ServiceUrl, RefreshJwt),
    /// Put the answer on stable storage before anything else happens to it; answer with
    /// [`Event::Kept`], also when that failed: then it goes straight on.
    Keep(Box<Session>),
    /// The call that was just put there certainly spent nothing: the account's entry is as old as
    /// the one whose place it took; answer with [`Event::Backdated`].
    Backdate(DateTime<Utc>),
    /// Note that a permanent answer about an account that was kept alive was heard; answer with
    /// [`Event::Heard`].
    Hear(Hearing),
    /// Write by compare-and-set, for as long as it takes to learn how it went; answer with
    /// [`Event::Saved`], [`Event::Missed`] or [`Event::Refused`].
    Save(Box<Save>),
    /// End the account's entry in the journal; answer with [`Event::Released`].
    Release(End),
    /// Take the server's brake off, if it is on; answer with [`Event::Absolved`].
    Absolve(ServiceUrl),
    /// The attempt is over.
    Finish(Box<Report>),
}

/// A permanent answer about an account that was kept alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hearing {
    /// Who said it.
    pub service: ServiceUrl,
    /// When, by the server's own clock.
    pub said_at: Option<DateTime<Utc>>,
    /// Whether it is the first about this token: these count towards the brake.
    pub first: bool,
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
    /// Whether the `status` that was read is one of [`Status::OURS`](crate::domain::account::Status).
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
    /// The server answers nobody, and is not asked for this long.
    OutOfReach(Duration),
    /// The call is on stable storage.
    Intended,
    /// The server's answer.
    Answered(Answer),
    /// The answer is on stable storage, or that was tried.
    Kept,
    /// The entry has its earlier time.
    Backdated,
    /// Whether the server's brake is on.
    Heard {
        /// Its verdicts wait.
        suspect: bool,
    },
    /// The write matched and is acknowledged by a majority.
    Saved,
    /// The write matched nothing; this is the document now, read causally after the miss.
    Missed(Option<Document>),
    /// The database refuses this very write, again and again, for this reason.
    Refused(String),
    /// The entry is ended.
    Released,
    /// The brake is off.
    Absolved,
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
