//! What there is to see of the queue: how much is in it, who else serves it, which schedules fill it.

use std::collections::BTreeMap;

use redis::FromRedisValue;

use super::{Requests, Step};
use crate::bullmq::{BullMqError, ask};
use crate::domain::number::to_u64;

/// Our own workers' name among all workers of a queue.
pub(super) const OURS: &str = "refreshd";

/// Schedules that are looked at.
const MOST_SCHEDULES: usize = 1_000;

/// How many jobs are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Jobs that wait, in line, by priority, or because the queue is paused.
    pub waiting: u64,
    /// Jobs that a worker has.
    pub active: u64,
    /// Jobs whose time is yet to come.
    pub delayed: u64,
    /// Jobs that failed and are kept.
    pub failed: u64,
    /// Whether the queue is paused.
    pub is_paused: bool,
}

/// A repeatable schedule: a job is made at each of its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Its key in the queue.
    pub key: String,
    /// The name of its jobs.
    pub kind: String,
    /// Its crontab pattern, or a time span in milliseconds.
    pub pattern: String,
    /// When the next of its jobs is due, in milliseconds since 1970.
    pub next: u64,
    /// Whether that job is in store. A schedule without one is at its end, or its worker is gone.
    pub is_live: bool,
}

impl Requests {
    pub(super) fn base(&self, queue: &str) -> String {
        format!("{}:{queue}:", self.0.prefix)
    }

    pub(super) fn key(&self, name: &str) -> String {
        self.base(&self.0.queue) + name
    }

    /// Whether BullMQ has ever used the queue.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn is_known(&self) -> Result<bool, BullMqError> {
        let mut command = redis::cmd("EXISTS");
        for name in ["meta", "id", "events", "wait", "repeat"] {
            command.arg(self.key(name));
        }
        Ok(self.ask::<u64>(&command).await?.unwrap_or(0) > 0)
    }

    /// How many jobs are in which state.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn depth(&self) -> Result<Depth, BullMqError> {
        let count = async |command: &str, name: &str| {
            let counted = self.ask::<u64>(redis::cmd(command).arg(self.key(name))).await;
            counted.map(Option::unwrap_or_default)
        };
        let mut waiting = count("ZCARD", "prioritized").await?;
        for name in ["wait", "paused"] {
            waiting += count("LLEN", name).await?;
        }
        let paused = redis::cmd("HEXISTS").arg(self.key("meta")).arg("paused").to_owned();
        Ok(Depth {
            waiting,
            active: count("LLEN", "active").await?,
            delayed: count("ZCARD", "delayed").await?,
            failed: count("ZCARD", "failed").await?,
            is_paused: self.ask::<bool>(&paused).await?.unwrap_or(false),
        })
    }

    /// The addresses of other workers that take jobs out of the queue, as they are connected now; `None` where this
    /// user may not ask who is.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn consumers(&self) -> Result<Option<Vec<String>>, BullMqError> {
        let listed: redis::RedisResult<String> =
            self.0.link.query(redis::cmd("CLIENT").arg("LIST")).await;
        let list = match listed {
            Err(error) if error.code() == Some("NOPERM") => return Ok(None),
            listed => listed.map_err(|error| self.failed(&error))?,
        };
        Ok(Some(others(&list, &self.client_name())))
    }

    /// The queue's repeatable schedules, the first thousand.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn schedules(&self) -> Result<Vec<Schedule>, BullMqError> {
        self.schedules_of(&self.0.queue).await
    }

    /// The same of the queue for other platforms; none where there is no such queue.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn other_schedules(&self) -> Result<Vec<Schedule>, BullMqError> {
        match self.other() {
            Some(other) => self.schedules_of(other).await,
            None => Ok(Vec::new()),
        }
    }

    async fn schedules_of(&self, queue: &str) -> Result<Vec<Schedule>, BullMqError> {
        let key = |name: &str| self.base(queue) + name;
        let mut range = redis::cmd("ZRANGE");
        range.arg(key("repeat")).arg(0).arg(MOST_SCHEDULES - 1).arg("WITHSCORES");
        let listed: Vec<(String, f64)> = self.ask(&range).await?.unwrap_or_default();
        let mut schedules = Vec::new();
        for (name, next) in listed {
            let description = redis::cmd("HGETALL").arg(key(&format!("repeat:{name}"))).to_owned();
            let known: BTreeMap<String, String> = self.ask(&description).await?.unwrap_or_default();
            let next = to_u64(next);
            let id = format!("repeat:{name}:{next}");
            let stored = redis::cmd("ZSCORE").arg(key("delayed")).arg(id).to_owned();
            let is_live = self.ask::<Option<f64>>(&stored).await?.flatten().is_some();
            schedules.push(Schedule { is_live, ..schedule(name, next, &known) });
        }
        Ok(schedules)
    }

    /// Removes a schedule and the job that it has in store.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn unschedule(&self, schedule: &Schedule) -> Result<Step, BullMqError> {
        self.drop_schedule(schedule, None).await
    }

    /// Moves a schedule to the queue for other platforms, whose worker keeps it going.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn move_schedule(&self, schedule: &Schedule) -> Result<Step, BullMqError> {
        self.drop_schedule(schedule, self.other()).await
    }

    async fn drop_schedule(
        &self,
        schedule: &Schedule,
        other: Option<&str>,
    ) -> Result<Step, BullMqError> {
        let mut call = self.call(&self.0.scripts.unschedule);
        if let Some(other) = other {
            call.key(self.base(other));
        }
        call.arg(&schedule.key);
        Ok(match self.invoke::<i64>(&call).await? {
            1 => Step::Done,
            -4 => Step::Duplicate,
            _ => Step::Gone,
        })
    }

    async fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<Option<T>, BullMqError> {
        ask(&self.0.link, command).await
    }
}

/// The addresses in a list of clients that carry the name of a queue's workers, but for our own.
fn others(list: &str, name: &str) -> Vec<String> {
    let mut found: Vec<String> = list
        .lines()
        .filter_map(|line| {
            let field = |field: &str| line.split(' ').find_map(|it| it.strip_prefix(field));
            let given = field("name=")?;
            let worker = given.strip_prefix(name)?;
            let is_worker = worker.is_empty() || worker.starts_with(":w:");
            let is_ours = worker.strip_prefix(":w:") == Some(OURS);
            (is_worker && !is_ours).then(|| field("addr=").unwrap_or("unknown").to_owned())
        })
        .collect();
    found.sort();
    found
}

/// What is known of a schedule. Before version 4, its key said it all: name, id, end, zone, pattern.
fn schedule(key: String, next: u64, known: &BTreeMap<String, String>) -> Schedule {
    let old: Vec<&str> = key.splitn(5, ':').collect();
    let field = |name: &str, place: usize| {
        known
            .get(name)
            .map(String::as_str)
            .or_else(|| old.get(place).copied().filter(|_| old.len() == 5))
    };
    let kind = field("name", 0).unwrap_or_default().to_owned();
    let pattern = field("pattern", 4).or_else(|| field("every", 4)).unwrap_or_default().to_owned();
    Schedule { key, kind, pattern, next, is_live: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_workers_are_told_from_ours_and_from_listeners() {
        let name = "bull:dG9rZW4tcmVmcmVzaGVz";
        let list = format!(
            "id=1 addr=10.0.0.1:1 laddr=x name={name} age=1\n\
             id=2 addr=10.0.0.2:2 laddr=x name={name}:w:old age=1\n\
             id=3 addr=10.0.0.3:3 laddr=x name={name}:w:refreshd age=1\n\
             id=4 addr=10.0.0.4:4 laddr=x name={name}:qe age=1\n\
             id=5 addr=10.0.0.5:5 laddr=x name={name}2 age=1\n\
             id=6 addr=10.0.0.6:6 laddr=x name= age=1\n"
        );
        assert_eq!(others(&list, name), ["10.0.0.1:1", "10.0.0.2:2"]);
        assert!(others("", name).is_empty());
    }

    #[test]
    fn schedules_of_all_versions_are_understood() {
        let known = [("name", "refresh-all-tokens"), ("pattern", "0 0 * * 0")];
        let known = known.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let new = schedule("0123abcd".to_owned(), 7, &known);
        assert_eq!((new.kind.as_str(), new.pattern.as_str()), ("refresh-all-tokens", "0 0 * * 0"));
        let key = "refresh-all-tokens:id-7::Europe/Berlin:0 0 * * 0";
        let old = schedule(key.to_owned(), 7, &BTreeMap::new());
        assert_eq!((old.kind.as_str(), old.pattern.as_str()), ("refresh-all-tokens", "0 0 * * 0"));
        let unknown = schedule("0123abcd".to_owned(), 7, &BTreeMap::new());
        assert_eq!((unknown.kind.as_str(), unknown.pattern.as_str()), ("", ""));
    }
}
