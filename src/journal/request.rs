//! What the writer is asked for, and how it answers.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::JournalError;
use crate::domain::identity::AccountId;
use crate::domain::pending::Intent;

/// Tells a caller how it went. After that its place among those that may wait is free again.
pub(super) struct Done {
    pub(super) reply: oneshot::Sender<Reply>,
    pub(super) _place: OwnedSemaphorePermit,
}

/// How it went, and what others are yet to be told.
pub(super) type Reply = (Result<(), JournalError>, Replies);

/// What is told to callers when it is dropped. To wake one from the writer's thread takes a system
/// call, so that thread [wakes a single one](Self::send), which drops what the others are told.
#[derive(Default)]
pub(super) struct Replies(Vec<(Done, Result<(), JournalError>)>);

impl Replies {
    pub(super) fn add(&mut self, done: Done, result: Result<(), JournalError>) {
        self.0.push((done, result));
    }

    pub(super) fn send(mut self) {
        if let Some((first, result)) = self.0.pop() {
            // If the caller went away, this is dropped here.
            drop(first.reply.send((result, self)));
        }
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        for (done, result) in self.0.drain(..) {
            // A caller that went away does not mind.
            drop(done.reply.send((result, Self::default())));
        }
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
