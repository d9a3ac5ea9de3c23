//! How an attempt to refresh an account ended, in the words that logs, documents and the admin
//! API use.

/// A name that no outcome or trigger has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown name")]
pub struct UnknownName;

/// A set of names that things are counted under.
pub trait Named: Copy + PartialEq + 'static {
    /// All of them.
    const NAMES: &'static [Self];

    /// The name used in logs, metrics, documents and answers.
    fn name(self) -> &'static str;
}

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$vdoc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $type { $($(#[$vdoc])* $variant,)* }

        impl $type {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name used in logs, documents and answers.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        impl $crate::domain::outcome::Named for $type {
            const NAMES: &'static [Self] = Self::ALL;

            fn name(self) -> &'static str {
                self.as_str()
            }
        }

        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl ::std::str::FromStr for $type {
            type Err = $crate::domain::outcome::UnknownName;

            fn from_str(name: &str) -> Result<Self, $crate::domain::outcome::UnknownName> {
                Self::ALL.iter().copied().find(|it| it.as_str() == name).ok_or($crate::domain::outcome::UnknownName)
            }
        }
    };
}

pub(super) use names;

names! {
    /// How an attempt ended.
    Outcome {
        /// The new pair is stored.
        Refreshed = "refreshed",
        /// Another writer stored a newer pair, or the person disconnected; ours was dropped.
        Superseded = "superseded",
        /// The server no longer knows the session.
        Revoked = "revoked",
        /// The server says that the refresh token's own life is over.
        Expired = "expired",
        /// The account was taken down; its session may or may not outlive that.
        TakenDown = "taken_down",
        /// The account was deleted.
        AccountGone = "account_gone",
        /// The server cannot verify the token.
        InvalidToken = "invalid_token",
        /// The token, or the answer, belongs to another account.
        IdentityMismatch = "identity_mismatch",
        /// The document holds no refresh token.
        NoRefreshToken = "no_refresh_token",
        /// The document cannot be understood.
        Malformed = "malformed",
        /// The server, or our own budget for it, has no room now.
        RateLimited = "rate_limited",
        /// No usable answer: DNS, TLS, connection, time-out, 5xx, not JSON, too large.
        Unreachable = "unreachable",
    }
}

impl Outcome {
    /// The account holds a live pair: ours, or somebody's newer one.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Refreshed | Self::Superseded)
    }

    /// Nothing was learnt about the account: it is simply tried again.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::RateLimited | Self::Unreachable)
    }

    /// An answer that would end a session, and is therefore believed with care.
    pub fn is_permanent(self) -> bool {
        matches!(self, Self::Revoked | Self::Expired | Self::InvalidToken | Self::AccountGone)
    }
}

names! {
    /// Who asked for a refresh.
    Trigger {
        /// The cron pattern's tick.
        Cron = "cron",
        /// The admin API.
        Manual = "manual",
        /// `refreshd refresh`.
        Cli = "cli",
        /// Its access token ends soon.
        KeepFresh = "keep_fresh",
        /// A retry of an earlier failure.
        Recovery = "recovery",
        /// Somebody else stored a token, or changed the status.
        External = "external",
        /// The application, over its BullMQ queue.
        Bullmq = "bullmq",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for outcome in Outcome::ALL {
            assert_eq!(outcome.as_str().parse::<Outcome>(), Ok(*outcome));
        }
        for trigger in Trigger::ALL {
            assert_eq!(trigger.as_str().parse::<Trigger>(), Ok(*trigger));
        }
        assert_eq!("refreshing".parse::<Outcome>(), Err(UnknownName));
    }
}
