//! The application's own BullMQ queues: the queued posts, and in [`requests`] the queue in which it asks
//! for refreshes. The only place that names a key of BullMQ's.
//!
//! Of posts: which jobs wait, what they carry, and what happens to them. Nothing is taken from their queues
//! and nothing added: a job's `data` is read and, by compare-and-set, written; a job that is gone stays
//! gone. No command holds Redis up for long: ids come in pages, data in portions, and what is too large is
//! never fetched.

mod data;
mod events;
mod keys;
pub mod requests;
mod scan;

use std::sync::Arc;

use redis::{FromRedisValue, RedisError, Script};

use crate::config::Posts as Settings;
use crate::domain::queued::PostId;
use crate::link::Link;

pub use data::{Data, LARGEST, Swapped};
pub use events::{Event, Events, Happened, Heard};
pub use scan::Found;

/// Why a queue cannot be used: Redis is away, or refuses us. Says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BullMqError(String);

/// A queue, by its place in the settings.
pub type QueueNumber = u8;

/// A job of one of the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PostJob {
    /// Its name in that queue.
    pub id: PostId,
    /// Which queue.
    pub queue: QueueNumber,
}

impl PostJob {
    /// The job of that name in a queue.
    pub fn new(queue: QueueNumber, id: PostId) -> Self {
        Self { id, queue }
    }
}

/// The queues that carry posts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BullMq(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Link,
    settings: Settings,
    swap: Script,
}

impl BullMq {
    /// The queues behind `link`, on the same Redis as our own.
    pub fn new(link: Link, settings: Settings) -> Self {
        let swap = Script::new(include_str!("lua/swap.lua"));
        Self(Arc::new(Inner { link, settings, swap }))
    }

    /// The queues, by number and name.
    pub fn queues(&self) -> impl Iterator<Item = (QueueNumber, &str)> {
        (0..).zip(self.0.settings.queues.iter().map(String::as_str))
    }

    /// Waits until Redis is there.
    pub async fn wait_up(&self) {
        self.0.link.wait_up().await;
    }

    fn failed(&self, error: &RedisError) -> BullMqError {
        BullMqError::of(&self.0.link, error)
    }
}

impl BullMqError {
    fn of(link: &Link, error: &RedisError) -> Self {
        Self(link.explain(error))
    }
}

/// An answer; `None` where the key is of another type: then it is not BullMQ's.
async fn ask<T: FromRedisValue>(
    link: &Link,
    command: &redis::Cmd,
) -> Result<Option<T>, BullMqError> {
    match link.query(command).await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_of_another_type(&error) => Ok(None),
        Err(error) => Err(BullMqError::of(link, &error)),
    }
}

/// Whether a key is not of the type that BullMQ gives it.
fn is_of_another_type(error: &RedisError) -> bool {
    error.code() == Some("WRONGTYPE")
}
