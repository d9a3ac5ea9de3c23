//! Waiting for a job to come, without asking again and again.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use redis::aio::MultiplexedConnection;

use super::Requests;
use crate::bullmq::BullMqError;

/// After this long without a sign, the queue is looked at all the same.
const LONGEST: Duration = Duration::from_secs(10);

/// However soon a delayed job is due, the wait is no shorter: a clock that runs behind makes no busy loop.
const SHORTEST: Duration = Duration::from_millis(5);

type Waiting = BoxFuture<'static, Result<MultiplexedConnection, BullMqError>>;

/// What BullMQ wakes its idle workers with. A wait that was begun is never abandoned half-way: the sign that it
/// takes would be lost.
pub struct Bell {
    requests: Requests,
    /// Of its own, for a read that blocks.
    connection: Option<MultiplexedConnection>,
    waiting: Option<Waiting>,
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bell({:?})", self.requests)
    }
}

impl Requests {
    /// A bell that nobody waits at yet.
    pub fn bell(&self) -> Bell {
        Bell { requests: self.clone(), connection: None, waiting: None }
    }

    /// How BullMQ tells the connections of a queue's workers from others.
    pub(super) fn client_name(&self) -> String {
        format!("{}:{}", self.0.prefix, STANDARD.encode(&self.0.queue))
    }
}

impl Bell {
    /// Waits for a sign that there is something to do, for `limit` or ten seconds at most. Cancel-safe: the next
    /// call goes on with the same wait, whatever its `limit`.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn rings(&mut self, limit: Option<Duration>) -> Result<(), BullMqError> {
        let waiting = self.waiting.get_or_insert_with(|| {
            let limit = limit.map_or(LONGEST, |limit| limit.clamp(SHORTEST, LONGEST));
            wait(self.requests.clone(), self.connection.take(), limit).boxed()
        });
        let waited = waiting.await;
        self.waiting = None;
        self.connection = Some(waited?);
        Ok(())
    }
}

async fn wait(
    requests: Requests,
    connection: Option<MultiplexedConnection>,
    limit: Duration,
) -> Result<MultiplexedConnection, BullMqError> {
    let failed = |error| requests.failed(&error);
    let mut connection = match connection {
        Some(connection) => connection,
        None => open(&requests).await.map_err(failed)?,
    };
    let mut command = redis::cmd("BZPOPMIN");
    command.arg(requests.key("marker")).arg(limit.as_secs_f64());
    let _sign: redis::Value = command.query_async(&mut connection).await.map_err(failed)?;
    Ok(connection)
}

/// A connection that BullMQ's own tools list among the queue's workers.
async fn open(requests: &Requests) -> redis::RedisResult<MultiplexedConnection> {
    let mut connection = requests.0.link.dedicated(LONGEST).await?;
    let mut name = redis::cmd("CLIENT");
    name.arg("SETNAME").arg(format!("{}:w:{}", requests.client_name(), super::look::OURS));
    // Where that is not allowed, it is served all the same.
    let _named: redis::RedisResult<redis::Value> = name.query_async(&mut connection).await;
    Ok(connection)
}
