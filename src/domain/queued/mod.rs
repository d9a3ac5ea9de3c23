//! A post that waits in a queue of the application's and carries a copy of its account's tokens. Pure.

mod copy;
mod margin;
mod post;

pub use copy::{Copied, Current, Left, bring_up};
pub use margin::{LONGEST_MARGIN, margin, refresh_at};
pub use post::{PostId, PostIdError};

super::outcome::names! {
    /// What came of a look at a queued post.
    Synced {
        /// It carried an older pair, and carries the document's now.
        Done = "synced",
        /// It carried the document's pair.
        Current = "current",
        /// It carries a pair that is younger than the document's.
        Newer = "newer",
        /// It carries tokens of another DID than its account's.
        OtherAccount = "other_account",
        /// Its data is not as the application writes it.
        Unreadable = "unreadable",
        /// Its data is larger than a post can be.
        TooLarge = "too_large",
        /// It was over by then.
        Gone = "gone",
        /// Somebody else changed it again and again meanwhile.
        Contended = "contended",
        /// A job of the queue whose id is not that of a post.
        UnknownId = "unknown_id",
        /// One too many to be kept in mind.
        LeftOut = "left_out",
    }
}

impl From<Left> for Synced {
    fn from(why: Left) -> Self {
        match why {
            Left::Current => Self::Current,
            Left::Newer => Self::Newer,
            Left::OtherAccount => Self::OtherAccount,
            Left::Shape => Self::Unreadable,
        }
    }
}
