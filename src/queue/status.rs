//! What can be asked of the queue: one job, its depth, a run's tally.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::job::JobId;
use super::lane::Lane;
use super::{Queue, QueueError};
use crate::domain::outcome::Outcome;
use crate::domain::run::RunId;

/// Where a job is.
#[derive(Debug, Clone, PartialEq)]
pub enum JobStatus {
    /// It waits in this lane.
    Queued(Lane),
    /// An instance has it.
    Running,
    /// It is over. Known for a day, of the last 10,000 watched jobs.
    Done {
        /// In a word.
        outcome: Outcome,
        /// What its handler told its watchers.
        detail: serde_json::Value,
        /// When it ended, by Redis's clock.
        at: DateTime<Utc>,
    },
}

/// How much there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Depth {
    /// By lane.
    pub lanes: BTreeMap<Lane, LaneDepth>,
    /// Live instances.
    pub instances: u64,
    /// Their slots together.
    pub slots: u64,
    /// Behind how many egress addresses they are.
    pub addresses: u64,
}

/// How much there is to do in one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneDepth {
    /// Jobs that wait.
    pub waiting: u64,
    /// Jobs that an instance has.
    pub running: u64,
    /// For how long the oldest of both has been there.
    pub oldest: Duration,
}

/// What has become of a run's jobs so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunTally {
    /// Jobs that wait or run.
    pub open: u64,
    /// Jobs that ended, by how.
    pub outcomes: BTreeMap<Outcome, u64>,
}

impl Queue {
    /// Where a job is; `None`: never heard of it, or not any more.
    pub async fn status(&self, id: &JobId) -> Result<Option<JobStatus>, QueueError> {
        let mut call = self.0.scripts.status.prepare_invoke();
        call.key(self.0.keys.prefix()).arg(id.account_digits()).arg(id.as_str());
        let answer: Vec<String> = self.0.invoke(&call).await?;
        let mut words = answer.iter().map(String::as_str);
        match (words.next(), words.next()) {
            (Some("queued"), Some(lane)) => {
                Ok(lane.parse().ok().and_then(Lane::from_number).map(JobStatus::Queued))
            }
            (Some("running"), _) => Ok(Some(JobStatus::Running)),
            (Some("done"), Some(kept)) => Ok(read_done(kept)),
            _ => Ok(None),
        }
    }

    /// How much there is to do.
    pub async fn depth(&self) -> Result<Depth, QueueError> {
        let mut call = self.0.scripts.depth.prepare_invoke();
        let numbers: Vec<u64> = self.0.invoke(call.key(self.0.keys.prefix())).await?;
        let (lanes, rest) = numbers
            .split_at_checked(3 * Lane::ALL.len())
            .map(|(lanes, rest)| (lanes.as_chunks::<3>().0, rest))
            .ok_or(QueueError::Answer)?;
        let lane = |&[waiting, running, oldest]: &[u64; 3]| LaneDepth {
            waiting,
            running,
            oldest: Duration::from_millis(oldest),
        };
        let &[instances, slots, addresses] = rest else {
            return Err(QueueError::Answer);
        };
        let lanes = Lane::ALL.into_iter().zip(lanes.iter().map(lane)).collect();
        Ok(Depth { lanes, instances, slots, addresses })
    }

    /// Scheduled jobs (all but the manual lane's) that wait or run, by server.
    pub async fn metered(&self) -> Result<BTreeMap<String, u64>, QueueError> {
        self.0.query(redis::cmd("HGETALL").arg(self.0.keys.named("meter"))).await
    }

    /// Begins to count a run; one that is counted already goes on.
    pub async fn begin_run(&self, run: &RunId) -> Result<(), QueueError> {
        let key = self.run_key(run);
        let mut pipeline = redis::pipe();
        pipeline.cmd("HSETNX").arg(&key).arg("open").arg(0).ignore();
        // A run that nobody ends is forgotten after a month.
        pipeline.cmd("EXPIRE").arg(&key).arg(30 * 24 * 3_600).ignore();
        let link = &self.0.link;
        link.pipe(&pipeline).await.map_err(|error| self.0.failed(&error))
    }

    /// What has become of a run; `None`: it never began, or Redis has lost it.
    pub async fn run_tally(&self, run: &RunId) -> Result<Option<RunTally>, QueueError> {
        let counts: BTreeMap<String, i64> =
            self.0.query(redis::cmd("HGETALL").arg(self.run_key(run))).await?;
        let count = |it: &i64| u64::try_from(*it).unwrap_or(0);
        let Some(open) = counts.get("open").map(count) else {
            return Ok(None);
        };
        let outcomes = counts
            .iter()
            .filter_map(|(name, number)| Some((name.parse().ok()?, count(number))))
            .collect();
        Ok(Some(RunTally { open, outcomes }))
    }

    /// Forgets a run.
    pub async fn end_run(&self, run: &RunId) -> Result<(), QueueError> {
        self.0.query(redis::cmd("UNLINK").arg(self.run_key(run))).await
    }

    fn run_key(&self, run: &RunId) -> String {
        self.0.keys.named(&format!("run:{run}"))
    }
}

fn read_done(kept: &str) -> Option<JobStatus> {
    let mut parts = kept.splitn(3, '|');
    let at = DateTime::from_timestamp_millis(parts.next()?.parse().ok()?)?;
    let outcome = parts.next()?.parse().ok()?;
    let detail = serde_json::from_str(parts.next()?).ok()?;
    Some(JobStatus::Done { outcome, detail, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_of_a_job_is_read_or_unknown() {
        let status = read_done(r#"1763935300123|refreshed|{"a":"x|y"}"#).unwrap();
        let JobStatus::Done { outcome, detail, at } = status else { panic!("{status:?}") };
        assert_eq!((outcome, at.timestamp_millis()), (Outcome::Refreshed, 1_763_935_300_123));
        assert_eq!(detail, serde_json::json!({ "a": "x|y" }));
        for bad in ["", "1|refreshed", "1|never|{}", "x|refreshed|{}", "1|refreshed|{"] {
            assert_eq!(read_done(bad), None, "{bad}");
        }
    }
}
