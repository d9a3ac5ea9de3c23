//! A lease: an account's claim, taken by name and past all lanes, for work that is not a job of the
//! reader's.

use std::fmt;
use std::sync::Arc;

use super::acks::{self, Ack};
use super::job::{Entry, Finished, Job, NewJob};
use super::lane::Lane;
use super::{Inner, Queue, QueueError};
use crate::domain::run::RunId;

/// An account's claim, in this instance's hand: nobody else works on the account meanwhile.
///
/// Dropped without its [`end`](Self::end), it is put back as a job of the manual lane by the next
/// reclaim, as the leases of an instance that is gone are.
pub struct Lease {
    /// What is leased: a job of its own, or the account's job that waited.
    pub job: Job,
    entry: Entry,
    queue: Arc<Inner>,
}

impl Queue {
    /// Takes the account's claim at once, for this instance, which [runs](Queue::run). A job of
    /// the account's that waits is taken over, under its name and for all who asked for it.
    /// `None`: an instance has the account's job in hand.
    ///
    /// # Errors
    /// If Redis cannot be used. If it took the claim and its answer was lost, the next reclaim
    /// puts it back.
    pub async fn lease(&self, new: &NewJob) -> Result<Option<Lease>, QueueError> {
        let queue = &self.0;
        // No reclaim in between may take the new entry for one that nobody has in hand.
        let _no_reclaim = queue.leasing.read().await;
        let mut call = queue.scripts.lease.prepare_invoke();
        call.key(queue.keys.prefix()).arg(&queue.instance).arg(&queue.sign);
        call.arg(new.account.to_string());
        call.arg(new.run.as_ref().map_or("", RunId::as_str));
        call.arg(u8::from(new.watched)).arg(new.payload());
        let answer: Vec<String> = queue.invoke(&call).await?;
        let (entry, id, payload) = match answer.as_slice() {
            [] => return Ok(None),
            [entry, id, payload] => (entry, id, payload),
            _ => return Err(QueueError::Answer),
        };
        let entry = Entry { lane: Lane::Manual, id: entry.clone(), leased: true };
        let job = Job::read(&entry, id, payload).ok_or(QueueError::Answer)?;
        queue.held.add(entry.clone());
        Ok(Some(Lease { job, entry, queue: Arc::clone(queue) }))
    }
}

impl Lease {
    /// Ends it as the acknowledger ends a job: counted for its runs, kept if it is watched.
    ///
    /// # Errors
    /// If Redis cannot be used. The lease is then put back as a job once it can.
    pub async fn end(self, finished: Finished) -> Result<(), QueueError> {
        let account = Some(self.job.account);
        let ack = Ack { entry: self.entry.clone(), account, finished };
        acks::end(&self.queue, &[ack]).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.queue.held.remove([&self.entry].into_iter());
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("job", &self.job)
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}
