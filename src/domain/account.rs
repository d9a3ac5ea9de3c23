//! An account as its document shows it: what is needed to refresh it, and why some cannot be.

use std::fmt;

use chrono::{DateTime, Utc};

use super::identity::{AccountId, Did, ServiceUrl};
use super::moment::Moment;
use super::outcome::Outcome;
use super::session::{AccessJwt, RefreshJwt, TokenError};

/// The value of `status`. The application has others of its own, which are never overruled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// Posts can be made.
    Active,
    /// Something needs a look; heals by itself.
    Error,
    /// The refresh token's life is over.
    Expired,
    /// The server no longer knows the session.
    Revoked,
    /// `inactive` (disconnected by its owner), or anything else: left alone.
    Foreign,
}

impl Status {
    /// The four that the daemon may turn into `active`, by name.
    pub const OURS: [&'static str; 4] = ["active", "error", "expired", "revoked"];

    /// From a document's `status`; a missing or non-text one is [`Status::Foreign`].
    pub fn read(name: Option<&str>) -> Self {
        match name {
            Some("active") => Self::Active,
            Some("error") => Self::Error,
            Some("expired") => Self::Expired,
            Some("revoked") => Self::Revoked,
            _ => Self::Foreign,
        }
    }

    /// The name that is written. A foreign status is never written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Error => "error",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Foreign => "foreign",
        }
    }

    /// Whether the daemon may change it: the class that every write's filter holds.
    pub fn is_ours(self) -> bool {
        self != Self::Foreign
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The daemon's own bookkeeping: the subdocument `tokenRefresh`. Whatever is missing or of the
/// wrong type there reads as never having been.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bookkeeping {
    /// When the daemon last stored a pair of its own.
    pub refreshed_at: Option<DateTime<Utc>>,
    /// When the account was last attempted, however it ended.
    pub attempted_at: Option<DateTime<Utc>>,
    /// The server the account was last routed to.
    pub service: Option<ServiceUrl>,
    /// How the last attempt ended.
    pub outcome: Option<Outcome>,
    /// Attempts in a row that did not succeed.
    pub failures: u32,
    /// When the account is due again; `None`: not before someone asks.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// The `jti` of the token that `outcome` is about.
    pub judged_jti: Option<String>,
    /// When a permanent answer about that token was first heard.
    pub heard: Option<Moment>,
}

/// An account that can be refreshed.
#[derive(Debug, Clone)]
pub struct Account {
    /// The document's `_id`.
    pub id: AccountId,
    /// `platformAccountId`.
    pub did: Did,
    /// `platformUsername`, as it stands.
    pub handle: Option<String>,
    /// The stored refresh token.
    pub refresh: RefreshJwt,
    /// `status`.
    pub status: Status,
    /// `tokenExpiry`, as it stands.
    pub token_expiry: Option<DateTime<Utc>>,
    /// `tokenRefresh`.
    pub kept: Bookkeeping,
}

/// Why a document cannot be refreshed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The token is null, missing or empty: disconnected, or never connected.
    #[error("the account has no refresh token; its owner has to log in again")]
    NoRefreshToken,
    /// A field has the wrong type or no possible value.
    #[error("{field} {why}")]
    Malformed {
        /// The field's name.
        field: &'static str,
        /// What is wrong with it, without its value.
        why: String,
    },
}

impl Unusable {
    /// A document whose `field` is not what it must be.
    pub fn malformed(field: &'static str, why: impl Into<String>) -> Self {
        Self::Malformed { field, why: why.into() }
    }

    /// The same, for a token.
    pub fn token(error: TokenError) -> Self {
        Self::malformed("refreshToken", error.to_string())
    }

    /// The outcome that it is counted as.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NoRefreshToken => Outcome::NoRefreshToken,
            Self::Malformed { .. } => Outcome::Malformed,
        }
    }
}

/// One document of the collection, understood as far as it can be.
#[derive(Debug, Clone)]
pub struct Document {
    /// `_id`.
    pub id: AccountId,
    /// `platformAccountId`, if it is a text (cut to a sane length), for logs.
    pub did: Option<String>,
    /// `platformUsername`, if it is a text (cut to a sane length), for logs.
    pub handle: Option<String>,
    /// `status`.
    pub status: Status,
    /// `tokenExpiry`, as it stands: null right after a login.
    pub token_expiry: Option<DateTime<Utc>>,
    /// What `accessToken` holds; `None` where it cannot be read, or was not.
    pub access: Option<AccessJwt>,
    /// `tokenRefresh`.
    pub kept: Bookkeeping,
    /// What `refreshToken` holds.
    pub token: StoredToken,
    /// The account, or why there is none.
    pub account: Result<Account, Unusable>,
}

/// What a document's `refreshToken` holds.
#[derive(Debug, Clone)]
pub enum StoredToken {
    /// Null, missing or empty.
    Null,
    /// Something that is not a refresh token.
    Unreadable,
    /// A refresh token.
    Token(RefreshJwt),
}

impl StoredToken {
    /// The token's name, by which it is told apart from those before and after it.
    pub fn jti(&self) -> Option<&str> {
        match self {
            Self::Token(token) => Some(token.jti()),
            Self::Null | Self::Unreadable => None,
        }
    }
}
