//! Waiting for something new in the streams, without asking again and again.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use redis::RedisError;
use redis::aio::MultiplexedConnection;
use redis::streams::StreamReadReply;

use super::Inner;

/// After this long without news the reader looks for itself.
const BLOCK: Duration = Duration::from_secs(5);

type Reading =
    BoxFuture<'static, Result<(MultiplexedConnection, Option<StreamReadReply>), RedisError>>;

/// A plain, blocking read past what has been seen. It takes nothing, so it is harmless that all
/// instances wake for one job. It is never abandoned half-way, for on its connection the next
/// one would wait behind it.
pub(super) struct Watch {
    queue: Arc<Inner>,
    connection: Option<MultiplexedConnection>,
    reading: Option<Reading>,
    /// The last ids of the lanes and the nudges.
    seen: Vec<String>,
}

impl Watch {
    pub(super) fn new(queue: Arc<Inner>) -> Self {
        Self { queue, connection: None, reading: None, seen: Vec::new() }
    }

    /// What the reader has seen. A read that is under way began before, and so misses nothing.
    pub(super) fn saw(&mut self, seen: Vec<String>) {
        // A nudge that no read has reported; the first look only learns where they begin.
        if !self.seen.is_empty() && self.seen.last() != seen.last() {
            self.queue.nudged.notify_one();
        }
        self.seen = seen;
    }

    /// Waits for a job to be added, for at most five seconds. Cancel-safe.
    pub(super) async fn news(&mut self) -> Result<(), RedisError> {
        loop {
            let reading = self.reading.get_or_insert_with(|| {
                read(Arc::clone(&self.queue), self.connection.take(), self.seen.clone()).boxed()
            });
            let read = reading.await;
            self.reading = None;
            let (connection, reply) = read?;
            self.connection = Some(connection);
            let Some(reply) = reply else {
                return Ok(());
            };
            if !self.only_nudged(&reply) {
                return Ok(());
            }
        }
    }

    fn only_nudged(&mut self, reply: &StreamReadReply) -> bool {
        let nudge = self.queue.keys.nudge();
        let mut only = true;
        for stream in &reply.keys {
            if stream.key != nudge {
                only = false;
            } else if let (Some(last), Some(seen)) = (stream.ids.last(), self.seen.last_mut()) {
                self.queue.nudged.notify_one();
                seen.clone_from(&last.id);
            }
        }
        only
    }
}

async fn read(
    queue: Arc<Inner>,
    connection: Option<MultiplexedConnection>,
    seen: Vec<String>,
) -> Result<(MultiplexedConnection, Option<StreamReadReply>), RedisError> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => queue.link.dedicated(BLOCK).await?,
    };
    let mut command = redis::cmd("XREAD");
    command.arg("COUNT").arg(1).arg("BLOCK").arg(u64::try_from(BLOCK.as_millis()).unwrap_or(5_000));
    command.arg("STREAMS").arg(&queue.keys.watched()).arg(seen);
    let reply = command.query_async(&mut connection).await?;
    Ok((connection, reply))
}
