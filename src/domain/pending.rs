//! What the journal keeps of an account: a call that may have happened, or an answer that is not
//! yet known to be stored.

use chrono::{DateTime, TimeDelta, Utc};

use super::answer::Session;
use super::identity::{AccountId, ServiceUrl};
use super::outcome::names;
use super::session::RefreshJwt;

/// A spent token is certainly forgotten after this: the reference server's grace is two hours.
const LONGEST_GRACE: TimeDelta = TimeDelta::hours(3);

/// A call that is about to be made. It spends `token`.
#[derive(Debug, Clone)]
pub struct Intent {
    /// The account's document.
    pub account: AccountId,
    /// The server that is asked.
    pub service: ServiceUrl,
    /// The token that is used.
    pub token: RefreshJwt,
    /// When, by this machine's clock; of a call that took the place of others: of the last one that
    /// may have spent the token.
    pub at: DateTime<Utc>,
}

impl Intent {
    /// Whether the server has certainly forgotten the token, if this call spent it.
    ///
    /// A call that lies in the future was made by a clock that has been set back since: nothing
    /// spends a token whose own life is over, so its age counts from that moment. Else `exp` has no
    /// say, for by a clock that is far ahead it is over before the call.
    pub fn is_past_grace(&self, now: DateTime<Utc>) -> bool {
        let at = if self.at > now { self.token.expires_at() } else { self.at };
        now - at > LONGEST_GRACE
    }
}

/// An account's entry in the journal; it has one at the most.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The call.
    pub intent: Intent,
    /// What it bought; `None`: nobody knows whether the server saw the request.
    pub answer: Option<Session>,
}

names! {
    /// How an entry ends. Each ends in exactly one of these ways, and none stays for ever.
    End {
        /// MongoDB holds the pair, acknowledged by a majority.
        Stored = "stored",
        /// MongoDB holds a newer one.
        Superseded = "superseded",
        /// The person disconnected, or the document is gone.
        Disconnected = "disconnected",
        /// The token or the answer is another account's.
        Mismatch = "mismatch",
        /// The server said no: it spent nothing.
        Refused = "refused",
        /// The request certainly never reached the server.
        Unsent = "unsent",
        /// The document holds another token than the call would have used.
        MovedOn = "moved_on",
        /// Nobody answered until the server's grace was over.
        PastGrace = "past_grace",
    }
}
