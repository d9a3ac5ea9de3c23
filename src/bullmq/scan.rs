//! Which jobs a queue holds that are yet to be worked on, page by page.

use std::collections::BTreeSet;

use redis::FromRedisValue;

use super::{BullMq, BullMqError, QueueNumber};
use crate::domain::number::to_u64;

/// Ids of a list that one command reads at most: Redis serves nobody else meanwhile.
const PAGE: usize = 1_000;

/// The same of a sorted set, which takes it longer: its scores are written as text.
const SET_PAGE: usize = 200;

/// Jobs that leave a list between two pages shift the rest: pages overlap by so many.
const OVERLAP: usize = 200;

/// The lists that hold jobs whose time has come.
const LISTS: [&str; 3] = ["wait", "paused", "active"];

/// A delayed job's score is its due time in milliseconds times this, and a counter.
const SCORE: f64 = 4_096.0;

/// A job that was found, by its id as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The job's id, of any form.
    pub id: String,
    /// When it is due, in milliseconds since 1970; `None`: its time has come.
    pub due: Option<u64>,
}

impl BullMq {
    /// Shows all jobs of a queue that wait, are delayed, prioritised, paused or active, some of them
    /// perhaps twice. One that moves from one state to another meanwhile may be missed; the queue's
    /// events tell of it.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn scan(
        &self,
        queue: QueueNumber,
        mut show: impl FnMut(Vec<Found>),
    ) -> Result<(), BullMqError> {
        for list in LISTS {
            let key = self.key(queue, list);
            let (mut first, mut shown) = (0, BTreeSet::new());
            loop {
                let mut command = redis::cmd("LRANGE");
                command.arg(&key).arg(first).arg(first + PAGE - 1);
                let ids: Vec<String> = self.ask(&command).await?.unwrap_or_default();
                let is_last = ids.len() < PAGE;
                let tail = ids.iter().skip(PAGE - OVERLAP).cloned().collect();
                let news = ids.into_iter().filter(|id| !shown.contains(id));
                show(news.map(|id| Found { id, due: None }).collect());
                if is_last {
                    break;
                }
                first += PAGE - OVERLAP;
                shown = tail;
            }
        }
        for (set, is_delayed) in [("prioritized", false), ("delayed", true)] {
            let key = self.key(queue, set);
            let mut cursor = "0".to_owned();
            loop {
                let mut command = redis::cmd("ZSCAN");
                command.arg(&key).arg(&cursor).arg("COUNT").arg(SET_PAGE);
                let page: Option<(String, Vec<(String, f64)>)> = self.ask(&command).await?;
                let Some((next, ids)) = page else { break };
                let due = |score: f64| is_delayed.then_some(to_u64(score / SCORE));
                show(ids.into_iter().map(|(id, score)| Found { id, due: due(score) }).collect());
                if next == "0" {
                    break;
                }
                cursor = next;
            }
        }
        Ok(())
    }

    /// Whether BullMQ has ever used the queue.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn is_known(&self, queue: QueueNumber) -> Result<bool, BullMqError> {
        let mut command = redis::cmd("EXISTS");
        for name in ["meta", "id", "events"] {
            command.arg(self.key(queue, name));
        }
        Ok(self.ask::<u8>(&command).await?.unwrap_or(0) > 0)
    }

    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        command: &redis::Cmd,
    ) -> Result<Option<T>, BullMqError> {
        super::ask(&self.0.link, command).await
    }
}
