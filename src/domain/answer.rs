//! What a server's answer to `refreshSession` means, once HTTP is taken off it.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::outcome::Outcome;
use super::session::Pair;

/// The meaning of one answer, or of having got none.
#[derive(Debug, Clone)]
pub enum Answer {
    /// 200: the token was spent, and this is what it bought.
    Session(Box<Session>),
    /// The server will never refresh this token.
    Permanent {
        /// `Revoked`, `Expired`, `InvalidToken` or `AccountGone`.
        outcome: Outcome,
        /// When it said so, by its own clock, if it told the time.
        said_at: Option<DateTime<Utc>>,
    },
    /// The account was taken down. This call spent nothing, but the server may have deleted the
    /// account's sessions with the takedown.
    TakenDown,
    /// 429, with the time that the server is to be left alone.
    RateLimited(Duration),
    /// No usable answer.
    Unreachable {
        /// The reason: one line for the log, without anything of the token's.
        why: String,
        /// Whether the server may have seen the request, and have spent the token.
        may_have_spent: bool,
    },
}

/// The body of a 200.
#[derive(Debug, Clone)]
pub struct Session {
    /// The new tokens.
    pub pair: Pair,
    /// Whose session it is, as the server says.
    pub did: String,
    /// The account's handle, as the server says; empty if it says none.
    pub handle: String,
    /// `status` of an account that is not active, such as `deactivated`.
    pub account_status: Option<String>,
}
