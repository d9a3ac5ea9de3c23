//! The queue in which the application asks for refreshes: taking its jobs as a BullMQ worker does, and ending
//! them so that whoever waits hears of it.
//!
//! Every step is one script, so that a job is never in two places or in none. What is written is what BullMQ 5.56
//! and 6.7 write and read; the scripts are our own, for the few of its features that the application uses.

mod bell;
mod job;
mod look;
mod options;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{FromRedisValue, Script, ScriptInvocation};

use super::BullMqError;
use crate::link::Link;

pub use bell::Bell;
pub use job::{Job, JobName};
pub use look::{Depth, Schedule};
pub use options::Options;

/// For how long a job is held, unless the lock is renewed.
pub const LOCK: Duration = Duration::from_secs(30);

/// Between two looks for jobs whose workers are gone, over all workers of the queue.
pub const STALLED_EVERY: Duration = Duration::from_secs(30);

/// How often a job may be left behind by workers before it fails. What is asked for does no harm when it is
/// done again; a job that kills whoever takes it has to end all the same.
const MOST_STALLS: u32 = 3;

/// The largest data and options of a job that are read, in bytes. Real ones have some hundred.
const LARGEST: usize = 64 * 1_024;

/// A script of these files, after what all have in common.
macro_rules! script {
    ($file:literal) => {
        Script::new(concat!(
            include_str!("../lua/requests/queue.lua"),
            "\n",
            include_str!(concat!("../lua/requests/", $file, ".lua"))
        ))
    };
}

/// The queue. Cheap to clone.
#[derive(Clone)]
pub struct Requests(Arc<Inner>);

struct Inner {
    link: Link,
    prefix: String,
    queue: String,
    other: Option<String>,
    scripts: Scripts,
}

struct Scripts {
    take: Script,
    renew: Script,
    finish: Script,
    again: Script,
    hand_over: Script,
    recover: Script,
    unschedule: Script,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Requests({}:{})", self.0.prefix, self.0.queue)
    }
}

/// What was taken.
#[derive(Debug)]
pub struct Taken {
    /// The jobs, which are held for [`LOCK`].
    pub jobs: Vec<Job>,
    /// Names that stood in line without a job; they do not any more.
    pub gone: u64,
    /// When the next delayed job is due, in milliseconds since 1970.
    pub next: Option<u64>,
}

/// How a held job's next step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// As it was meant.
    Done,
    /// It was not held any more: somebody else does it, or will.
    Lost,
    /// There is no such job any more.
    Gone,
    /// The other queue has a job of that name already; nothing was done.
    Duplicate,
}

/// How a job ended.
#[derive(Debug, Clone, Copy)]
pub enum End<'a> {
    /// With this result (JSON); with a copy for the queue for other platforms, or without.
    Completed(&'a str, bool),
    /// For this reason, in a word, and the sentence for people.
    Failed(&'a str, &'a str),
}

impl Requests {
    /// The queue `queue` behind `link`, whose keys begin with `prefix`; `other` is the one for other platforms.
    pub fn new(link: Link, prefix: &str, queue: &str, other: Option<&str>) -> Self {
        let scripts = Scripts {
            take: script!("take"),
            renew: script!("renew"),
            finish: script!("finish"),
            again: script!("again"),
            hand_over: script!("hand_over"),
            recover: script!("recover"),
            unschedule: script!("unschedule"),
        };
        let (prefix, queue) = (prefix.to_owned(), queue.to_owned());
        Self(Arc::new(Inner { link, prefix, queue, other: other.map(str::to_owned), scripts }))
    }

    /// The queue's name.
    pub fn queue(&self) -> &str {
        &self.0.queue
    }

    /// The name of the queue for other platforms.
    pub fn other(&self) -> Option<&str> {
        self.0.other.as_deref()
    }

    /// Takes up to `most` jobs under `token`, at `now` (milliseconds since 1970). Delayed ones whose time has come
    /// wait from then on. A paused queue gives none.
    ///
    /// # Errors
    /// If Redis cannot be used. What it gave without our hearing of it stalls, and comes again.
    pub async fn take(&self, token: &str, now: u64, most: usize) -> Result<Taken, BullMqError> {
        let mut call = self.call(&self.0.scripts.take);
        call.arg(now).arg(token).arg(millis(LOCK)).arg(most).arg(LARGEST).arg(LARGEST);
        let (next, gone, jobs): (i64, u64, Vec<job::Raw>) = self.invoke(&call).await?;
        let jobs = jobs.into_iter().map(|raw| Job::read(raw, token)).collect();
        Ok(Taken { jobs, gone, next: u64::try_from(next).ok() })
    }

    /// Holds jobs for another [`LOCK`]. Answers those that are not held any more.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn renew(
        &self,
        held: impl IntoIterator<Item = (JobName, String)>,
    ) -> Result<Vec<JobName>, BullMqError> {
        let mut call = self.call(&self.0.scripts.renew);
        call.arg(millis(LOCK));
        for (name, token) in held {
            call.arg(name.bytes()).arg(token);
        }
        let lost: Vec<Vec<u8>> = self.invoke(&call).await?;
        Ok(lost.into_iter().map(JobName::from).collect())
    }

    /// Ends a held job.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn finish(&self, job: &Job, now: u64, end: End<'_>) -> Result<Step, BullMqError> {
        let (how, word, why, keep) = match end {
            End::Completed(result, _) => ("completed", result, "", job.options.on_complete),
            End::Failed(reason, why) => ("failed", reason, why, job.options.on_fail),
        };
        let mut call = self.call(&self.0.scripts.finish);
        if let (End::Completed(_, true), Some(other)) = (end, self.other()) {
            call.key(self.base(other));
        }
        call.arg(job.name.bytes()).arg(&job.token).arg(now).arg(how).arg(word);
        call.arg(stacktrace(why)).arg(job.options.attempts);
        match (keep.count, keep.seconds) {
            (Some(count), _) => call.arg(count),
            (None, Some(_)) => call.arg(""),
            (None, None) => call.arg(-1),
        };
        call.arg(keep.seconds.map(|it| it.to_string()).unwrap_or_default());
        self.step(&call).await
    }

    /// Lets a held job come again after `wait`: as another attempt, for a reason in a word and in a sentence, or
    /// as if this had been none.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn again(
        &self,
        job: &Job,
        now: u64,
        wait: Duration,
        failed: Option<(&str, &str)>,
    ) -> Result<Step, BullMqError> {
        let (reason, why) = failed.unwrap_or_default();
        let mut call = self.call(&self.0.scripts.again);
        call.arg(job.name.bytes()).arg(&job.token).arg(now).arg(millis(wait));
        call.arg(reason).arg(stacktrace(why));
        self.step(&call).await
    }

    /// Moves a held job to the queue for other platforms, unchanged; `None`: there is no such queue.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn hand_over(&self, job: &Job) -> Result<Option<Step>, BullMqError> {
        let Some(other) = self.other() else { return Ok(None) };
        let mut call = self.call(&self.0.scripts.hand_over);
        call.key(self.base(other)).arg(job.name.bytes()).arg(&job.token);
        self.step(&call).await.map(Some)
    }

    /// Lets jobs wait again whose workers are gone, whosever they were, if it is time to look for them.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn recover(&self, now: u64) -> Result<Vec<JobName>, BullMqError> {
        let mut call = self.call(&self.0.scripts.recover);
        call.arg(now).arg(millis(STALLED_EVERY)).arg(MOST_STALLS);
        let again: Vec<Vec<u8>> = self.invoke(&call).await?;
        Ok(again.into_iter().map(JobName::from).collect())
    }

    /// Waits until Redis is there.
    pub async fn wait_up(&self) {
        self.0.link.wait_up().await;
    }

    fn call<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        let mut call = script.prepare_invoke();
        call.key(self.base(&self.0.queue));
        call
    }

    async fn step(&self, call: &ScriptInvocation<'_>) -> Result<Step, BullMqError> {
        Ok(match self.invoke::<i64>(call).await? {
            0 => Step::Done,
            -1 => Step::Gone,
            -4 => Step::Duplicate,
            _ => Step::Lost,
        })
    }

    async fn invoke<T: FromRedisValue>(
        &self,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, BullMqError> {
        self.0.link.invoke(call).await.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &redis::RedisError) -> BullMqError {
        BullMqError::of(&self.0.link, error)
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// As BullMQ keeps it: a list of texts.
fn stacktrace(why: &str) -> String {
    serde_json::json!([why]).to_string()
}
