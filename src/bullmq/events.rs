//! What happens to jobs, as BullMQ's capped streams tell it; and when something may have been missed.

use std::fmt;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamId, StreamRangeReply, StreamReadReply};

use super::{BullMq, BullMqError, QueueNumber};

/// How long a read waits for something to happen: an idle daemon asks no more often.
const BLOCK: Duration = Duration::from_secs(20);

/// Events that one read takes, of each queue.
const MOST: usize = 500;

/// Something happened to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// In which queue.
    pub queue: QueueNumber,
    /// The job's id, of any form.
    pub id: String,
    /// What.
    pub what: Happened,
}

/// What happened to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// It was added; when it is due comes next.
    Added,
    /// Its time has come.
    Waits,
    /// It is to wait until then, in milliseconds since 1970.
    Delayed(u64),
    /// A worker has it.
    Active,
    /// It is over, and was taken out of the queue.
    Ended,
}

/// What came of listening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// This happened, in its order; nothing, if nothing did for a while.
    Events(Vec<Event>),
    /// Something may have been missed: only a look at all jobs helps.
    FellOff,
}

/// The place of an entry in a stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place(u64, u64);

impl Place {
    fn read(id: &str) -> Option<Self> {
        let (ms, number) = id.split_once('-')?;
        Some(Self(ms.parse().ok()?, number.parse().ok()?))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

/// The events of all queues from some moment on.
pub struct Events {
    bullmq: BullMq,
    /// Of its own, for a read that blocks.
    connection: MultiplexedConnection,
    /// How far each queue's stream was read.
    places: Vec<Place>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Events({} queues)", self.places.len())
    }
}

impl BullMq {
    /// Listens from now on.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn listen(&self) -> Result<Events, BullMqError> {
        let connection = self.0.link.dedicated(BLOCK).await.map_err(|error| self.failed(&error))?;
        let mut places = Vec::new();
        for (queue, _) in self.queues() {
            places.push(self.end("XREVRANGE", queue).await?.unwrap_or(Place(0, 0)));
        }
        Ok(Events { bullmq: self.clone(), connection, places })
    }

    /// The place of a stream's first (`XRANGE`) or last (`XREVRANGE`) entry.
    async fn end(&self, command: &str, queue: QueueNumber) -> Result<Option<Place>, BullMqError> {
        let (from, to) = if command == "XRANGE" { ("-", "+") } else { ("+", "-") };
        let mut range = redis::cmd(command);
        range.arg(self.key(queue, "events")).arg(from).arg(to).arg("COUNT").arg(1);
        let reply: Option<StreamRangeReply> = self.ask(&range).await?;
        Ok(reply.and_then(|reply| Place::read(&reply.ids.first()?.id)))
    }
}

impl Events {
    /// Waits for something to happen, for twenty seconds at most. After an error, or having fallen
    /// off, this is of no use any more. Not cancel-safe: when dropped half-way, neither.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn next(&mut self) -> Result<Heard, BullMqError> {
        let reply = self.read().await?;
        let Some(reply) = reply.filter(|reply| !reply.keys.is_empty()) else {
            return self.nothing().await;
        };
        let queues: Vec<_> = self.bullmq.queues().map(|(queue, _)| queue).collect();
        let mut events = Vec::new();
        for stream in reply.keys {
            let named = |queue: &&QueueNumber| self.bullmq.key(**queue, "events") == stream.key;
            let Some(queue) = queues.iter().find(named).copied() else { continue };
            let Some(place) = self.places.get_mut(usize::from(queue)) else { continue };
            // Its oldest entry is younger than what was read last: some in between may be gone.
            let oldest = self.bullmq.end("XRANGE", queue).await?;
            if *place > Place(0, 0) && oldest.is_none_or(|oldest| oldest > *place) {
                return Ok(Heard::FellOff);
            }
            for entry in stream.ids {
                *place = Place::read(&entry.id).unwrap_or(*place);
                events.extend(event(queue, &entry));
            }
        }
        Ok(Heard::Events(events))
    }

    async fn read(&mut self) -> Result<Option<StreamReadReply>, BullMqError> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(MOST);
        command.arg("BLOCK").arg(u64::try_from(BLOCK.as_millis()).unwrap_or(20_000));
        command.arg("STREAMS");
        for (queue, _) in self.bullmq.queues() {
            command.arg(self.bullmq.key(queue, "events"));
        }
        for place in &self.places {
            command.arg(place.to_string());
        }
        let reply = command.query_async(&mut self.connection).await;
        reply.map_err(|error| self.bullmq.failed(&error))
    }

    /// Nothing happened; unless the streams were wiped, and are told of under older ids, or not at
    /// all.
    async fn nothing(&self) -> Result<Heard, BullMqError> {
        for ((queue, _), place) in self.bullmq.queues().zip(&self.places) {
            let last = self.bullmq.end("XREVRANGE", queue).await?.unwrap_or(Place(0, 0));
            if last < *place {
                return Ok(Heard::FellOff);
            }
        }
        Ok(Heard::Events(Vec::new()))
    }
}

/// What an entry tells of a job, if it does.
fn event(queue: QueueNumber, entry: &StreamId) -> Option<Event> {
    let what = match entry.get::<String>("event")?.as_str() {
        "added" => Happened::Added,
        "waiting" => Happened::Waits,
        "delayed" => Happened::Delayed(entry.get("delay")?),
        "active" => Happened::Active,
        "completed" | "failed" | "removed" => Happened::Ended,
        _ => return None,
    };
    Some(Event { queue, id: entry.get("jobId")?, what })
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    #[test]
    fn places_are_ordered_by_number() {
        let place = |id| Place::read(id).unwrap();
        assert!(place("9-10") < place("10-9") && place("10-9") < place("10-10"));
        assert_eq!(place("10-9").to_string(), "10-9");
        assert!(Place::read("10").is_none() && Place::read("x-1").is_none());
    }

    #[test]
    fn only_what_matters_is_told() {
        let told = |fields: &[(&str, &str)]| {
            let map = fields
                .iter()
                .map(|(key, value)| ((*key).to_owned(), Value::BulkString(value.as_bytes().into())))
                .collect();
            let entry = StreamId { id: "1-0".to_owned(), map, ..StreamId::default() };
            event(3, &entry).map(|event| (event.queue, event.id, event.what))
        };
        let job = ("jobId", "post-1");
        let of = |what| Some((3, "post-1".to_owned(), what));
        assert_eq!(told(&[("event", "added"), job, ("name", "x")]), of(Happened::Added));
        assert_eq!(told(&[("event", "delayed"), job, ("delay", "77")]), of(Happened::Delayed(77)));
        for ended in ["completed", "failed", "removed"] {
            assert_eq!(told(&[("event", ended), job]), of(Happened::Ended));
        }
        for other in [&[("event", "drained")][..], &[("event", "delayed"), job], &[job], &[]] {
            assert_eq!(told(other), None);
        }
    }
}
