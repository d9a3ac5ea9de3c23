//! What the writer is asked for, and how it answers.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::JournalError;
use crate::domain::identity::AccountId;
use crate::domain::pending::Intent;

/// Tells a caller how it went. After that its place among those that may wait is free again.
pub(super) struct Done {
    pub(super) reply: oneshot::Sender<Result<(), JournalError>>,
    pub(super) _place: OwnedSemaphorePermit,
}

impl Done {
    pub(super) fn tell(self, result: Result<(), JournalError>) {
        // A caller that went away does not mind.
        drop(self.reply.send(result));
    }
}

/// What the writer is asked for.
pub(super) enum Request {
    /// A call is about to be made.
    Intent(Box<Intent>, Done),
    /// The answer is in memory.
    Answer(AccountId, Done),
    /// Ends are waiting in memory.
    Ends,
    /// It is over; the other side is told when the lock is free.
    Close(oneshot::Sender<()>),
}
