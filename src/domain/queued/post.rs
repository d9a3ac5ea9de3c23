//! A queued post's name: `post-<userId>-<accountId>-<ms>`.

use std::fmt;
use std::str::FromStr;

use crate::domain::identity::AccountId;

/// Not the name of a queued post.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a queued post's id (expected post-<userId>-<accountId>-<milliseconds>)")]
pub struct PostIdError;

/// A queued post's name, small enough to keep very many. Written back, it is the text that it was
/// read from, to the byte. Ordered by account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PostId {
    /// Whose tokens the post carries.
    pub account: AccountId,
    /// The `_id` of the user, of the same form.
    pub user: AccountId,
    /// The number at its end, in milliseconds.
    pub ms: u64,
}

impl PostId {
    /// The first name that an account's post can have.
    pub fn first(account: AccountId) -> Self {
        Self { account, user: AccountId::from_bytes([0; 12]), ms: 0 }
    }

    /// The last one.
    pub fn last(account: AccountId) -> Self {
        Self { account, user: AccountId::from_bytes([u8::MAX; 12]), ms: u64::MAX }
    }
}

impl FromStr for PostId {
    type Err = PostIdError;

    fn from_str(text: &str) -> Result<Self, PostIdError> {
        let mut parts = text.strip_prefix("post-").ok_or(PostIdError)?.split('-');
        let (Some(user), Some(account), Some(ms), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(PostIdError);
        };
        let hex = |id: &str| {
            let is_lower = !id.bytes().any(|b| b.is_ascii_uppercase());
            id.parse().ok().filter(|_| is_lower).ok_or(PostIdError)
        };
        let is_canonical =
            ms.bytes().all(|b| b.is_ascii_digit()) && (ms == "0" || !ms.starts_with('0'));
        let ms = ms.parse().ok().filter(|_| is_canonical).ok_or(PostIdError)?;
        Ok(Self { account: hex(account)?, user: hex(user)?, ms })
    }
}

impl fmt::Display for PostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "post-{}-{}-{}", self.user, self.account, self.ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const USER: &str = "6806a8c4302c4281518c95b1";
    const ACCOUNT: &str = "6806a8c4302c4281518c95b2";

    #[test]
    fn a_name_is_read_and_small() {
        let text = format!("post-{USER}-{ACCOUNT}-1763935300123");
        let id: PostId = text.parse().unwrap();
        assert_eq!((id.user.to_string(), id.account.to_string()), (USER.into(), ACCOUNT.into()));
        assert_eq!((id.ms, id.to_string()), (1_763_935_300_123, text));
        assert!(size_of::<PostId>() <= 32, "{}", size_of::<PostId>());
        assert!(PostId::first(id.account) <= id && id <= PostId::last(id.account));
    }

    #[test]
    fn what_would_not_be_written_back_as_it_was_is_refused() {
        let upper = ACCOUNT.to_uppercase();
        for bad in [
            String::new(),
            "post".to_owned(),
            "1".to_owned(),
            format!("post-{USER}-{ACCOUNT}"),
            format!("post-{USER}-{ACCOUNT}-"),
            format!("post-{USER}-{ACCOUNT}-01"),
            format!("post-{USER}-{ACCOUNT}-+1"),
            format!("post-{USER}-{ACCOUNT}--1"),
            format!("post-{USER}-{ACCOUNT}-1-2"),
            format!("post-{USER}-{ACCOUNT}-1 "),
            format!("post-{USER}-{ACCOUNT}-1.5"),
            format!("post-{USER}-{ACCOUNT}-18446744073709551616"),
            format!("post-{USER}-{upper}-1"),
            format!("post-{upper}-{ACCOUNT}-1"),
            format!("Post-{USER}-{ACCOUNT}-1"),
            format!("post-{USER}-{}-1", ACCOUNT.trim_start_matches('6')),
        ] {
            assert_eq!(bad.parse::<PostId>(), Err(PostIdError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_back(
            text in "post-[0-9a-fA]{23,25}-[0-9a-f]{24}-0?[0-9]{1,21}",
        ) {
            if let Ok(id) = text.parse::<PostId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
