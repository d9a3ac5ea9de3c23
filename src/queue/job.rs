//! A job, on its way into the queue, through it, and out of it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::lane::Lane;
use crate::domain::account::Document;
use crate::domain::identity::{AccountId, ServiceUrl};
use crate::domain::outcome::{Outcome, Trigger};
use crate::domain::run::RunId;

/// Not the name of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a job id (expected an account id, a hyphen and 14 hexadecimal digits)")]
pub struct JobIdError;

/// A job's name: its account's id and the microsecond at which it was made, in hexadecimal. It
/// stays the same when the job moves to another lane or another instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(String);

impl JobId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn account_digits(&self) -> &str {
        self.0.split_once('-').map_or("", |(account, _)| account)
    }
}

impl FromStr for JobId {
    type Err = JobIdError;

    fn from_str(text: &str) -> Result<Self, JobIdError> {
        let (account, made) = text.split_once('-').ok_or(JobIdError)?;
        let good = account.parse::<AccountId>().is_ok()
            && (14..=16).contains(&made.len())
            && made.bytes().all(|b| b.is_ascii_hexdigit());
        if good { Ok(Self(text.to_ascii_lowercase())) } else { Err(JobIdError) }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A job to be added.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Whom it refreshes.
    pub account: AccountId,
    /// Where it queues.
    pub lane: Lane,
    /// The server that it will ask, and that it is metered under.
    pub service: Option<ServiceUrl>,
    /// The `jti` of the token that was seen: with another in the document, the job is over.
    pub generation: Option<String>,
    /// Who asked.
    pub trigger: Trigger,
    /// The run that counts it.
    pub run: Option<RunId>,
    /// Whether somebody will ask how it ended: kept for a day, for the last 10,000 jobs.
    pub watched: bool,
}

impl NewJob {
    /// A job for the account of a document, about the token that it holds. Whoever asks by name
    /// (the manual lane) will ask how it ended, too.
    pub fn of(document: &Document, trigger: Trigger, lane: Lane) -> Self {
        let generation = document.token.jti().map(str::to_owned);
        Self {
            account: document.id,
            lane,
            service: document.kept.service.clone(),
            generation,
            trigger,
            run: None,
            watched: lane == Lane::Manual,
        }
    }
}

/// What became of a [`NewJob`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enqueued {
    /// The job that serves the request.
    pub id: JobId,
    /// Whether it is a new one.
    pub how: Added,
}

/// How a request was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// By a job of its own.
    New,
    /// By the account's job that already waited or ran.
    Joined,
    /// By the account's job that waited in a lower lane, and now waits in this one.
    Moved,
}

/// A job, delivered.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// Whom it refreshes.
    pub account: AccountId,
    /// Where it queued.
    pub lane: Lane,
    /// The server that it was metered under.
    pub service: Option<ServiceUrl>,
    /// The `jti` that its account's token had when it was asked for.
    pub generation: Option<String>,
    /// Who asked first, or from the highest lane.
    pub trigger: Trigger,
    /// The run that asked, if one did; others may have joined.
    pub run: Option<RunId>,
    /// When it came to its lane, by Redis's clock.
    pub queued_at: DateTime<Utc>,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// In a word.
    pub outcome: Outcome,
    /// JSON for those who watch it: never a token.
    pub detail: String,
}

impl Finished {
    /// The end of a job whose handler panicked: nothing was learnt about the account.
    pub fn panicked() -> Self {
        let detail = r#"{"error":"internal error: the job panicked"}"#.to_owned();
        Self { outcome: Outcome::Unreachable, detail }
    }
}

/// Where a delivered job stands in Redis.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) lane: Lane,
    pub(super) id: String,
    /// Not in its lane's stream, but in the one of what this instance leased.
    pub(super) leased: bool,
}

impl Entry {
    /// The number under which the scripts know its stream.
    pub(super) fn stream(&self) -> u8 {
        if self.leased { 0 } else { self.lane.number() }
    }

    fn time(&self) -> Option<DateTime<Utc>> {
        let (millis, _) = self.id.split_once('-')?;
        DateTime::from_timestamp_millis(millis.parse().ok()?)
    }
}

/// What an entry carries beside the job's id.
#[derive(Debug, Serialize, Deserialize)]
struct Payload<'a> {
    #[serde(rename = "t", borrow)]
    trigger: Cow<'a, str>,
    #[serde(rename = "s", default, borrow, skip_serializing_if = "Option::is_none")]
    service: Option<Cow<'a, str>>,
    #[serde(rename = "g", default, borrow, skip_serializing_if = "Option::is_none")]
    generation: Option<Cow<'a, str>>,
    #[serde(rename = "r", default, borrow, skip_serializing_if = "Option::is_none")]
    run: Option<Cow<'a, str>>,
}

impl NewJob {
    pub(super) fn payload(&self) -> String {
        let payload = Payload {
            trigger: self.trigger.as_str().into(),
            service: self.service.as_ref().map(|it| it.as_str().into()),
            generation: self.generation.as_deref().map(Cow::Borrowed),
            run: self.run.as_ref().map(|it| it.as_str().into()),
        };
        serde_json::to_string(&payload).unwrap_or_default()
    }
}

impl Job {
    /// Reads a delivered entry; `None` if it is not one that any version of ours has written.
    pub(super) fn read(entry: &Entry, id: &str, payload: &str) -> Option<Self> {
        let id: JobId = id.parse().ok()?;
        let payload: Payload<'_> = serde_json::from_str(payload).ok()?;
        Some(Self {
            account: id.account_digits().parse().ok()?,
            lane: entry.lane,
            service: payload.service.map(|it| it.parse()).transpose().ok()?,
            generation: payload.generation.map(Cow::into_owned),
            trigger: payload.trigger.parse().ok()?,
            run: payload.run.map(|it| it.parse()).transpose().ok()?,
            queued_at: entry.time()?,
            id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6806a8c4302c4281518c95b2-064448e1ce5c40";

    fn entry() -> Entry {
        Entry { lane: Lane::Bulk, id: "1763935300123-7".to_owned(), leased: false }
    }

    #[test]
    fn a_job_survives_the_way_through_redis() {
        let new = NewJob {
            account: "6806a8c4302c4281518c95b2".parse().unwrap(),
            lane: Lane::Bulk,
            service: Some("https://pds.example".parse().unwrap()),
            generation: Some("a|\"b\",c".to_owned()),
            trigger: Trigger::Cron,
            run: Some("r1".parse().unwrap()),
            watched: false,
        };
        let job = Job::read(&entry(), ID, &new.payload()).unwrap();
        assert_eq!((job.account, job.lane, job.service), (new.account, new.lane, new.service));
        assert_eq!((job.generation, job.trigger, job.run), (new.generation, new.trigger, new.run));
        assert_eq!(job.queued_at.timestamp_millis(), 1_763_935_300_123);
    }

    #[test]
    fn what_is_not_a_job_is_none() {
        let good = r#"{"t":"cron"}"#;
        assert!(Job::read(&entry(), ID, good).is_some());
        for (id, payload) in [("", good), ("x-1", good), (ID, ""), (ID, r#"{"t":"never"}"#)] {
            assert!(Job::read(&entry(), id, payload).is_none(), "{id} {payload}");
        }
    }

    #[test]
    fn job_ids_are_parsed() {
        assert!(ID.parse::<JobId>().is_ok());
        for bad in
            ["", "-", "6806a8c4302c4281518c95b2", "6806a8c4302c4281518c95b2-1", "x-064448e1ce5c40"]
        {
            assert_eq!(bad.parse::<JobId>(), Err(JobIdError), "{bad}");
        }
    }
}
