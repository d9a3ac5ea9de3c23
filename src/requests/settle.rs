//! Writes down what a job came to, so that whoever waits for it hears of it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::serve::Verdict;
use super::{PAUSE, Server};
use crate::bullmq::BullMqError;
use crate::bullmq::requests::{End, Job, LOCK, Step};
use crate::domain::request::{Refusal, Served};

/// When a job is tried again that a service of ours was not there for.
const LATER: Duration = Duration::from_secs(5);

/// What was done about a job, and why.
type Settled = (Step, Served, Option<String>);

impl Server {
    /// Does one job, to its end.
    pub(super) async fn serve(&self, job: Job) {
        let verdict = self.verdict(&job).await;
        match &verdict {
            Ok(_) => self.held_up.over(),
            Err(error) => self.held_up.met(error),
        }
        let begun = Instant::now();
        loop {
            let settled = match &verdict {
                Ok(verdict) => self.settle(&job, verdict).await,
                Err(error) => self.put_back(&job, LATER, &error.to_string()).await,
            };
            match settled {
                Ok((step, served, why)) => {
                    self.ended(&job, step, served, why.as_deref());
                    break;
                }
                Err(error) => self.deaf.met(&error),
            }
            // Later than that it stalls, and somebody does it once more.
            if begun.elapsed() > LOCK {
                break;
            }
            sleep(PAUSE).await;
        }
        let mut held = self.held();
        if held.get(&job.name).is_some_and(|now| *now == job) {
            held.remove(&job.name);
        }
    }

    async fn settle(&self, job: &Job, verdict: &Verdict) -> Result<Settled, BullMqError> {
        match verdict {
            Verdict::Done(result) => self.complete(job, &result.to_string(), false).await,
            Verdict::DoneHere(result) => self.complete(job, &result.to_string(), true).await,
            Verdict::NotYet(wait, why) => self.put_back(job, *wait, why).await,
            Verdict::Doomed(why) => self.fail(job, why, why).await,
            Verdict::Failed { code, why, is_transient } => {
                let why = format!("{code}: {why}");
                let made = job.attempts_made + 1;
                match job.options.wait(made, rand::random()).filter(|_| *is_transient) {
                    Some(wait) => self.retry(job, wait, code.as_str(), why).await,
                    None => self.fail(job, code.as_str(), &why).await,
                }
            }
            Verdict::Others => match self.parts.requests.hand_over(job).await? {
                Some(Step::Duplicate) => {
                    let why = "BULLMQ_OTHER_QUEUE holds a job of that id already".to_owned();
                    self.unsupported(job, &why).await
                }
                Some(step) => Ok((step, Served::Moved, None)),
                None => {
                    let why = "refreshd serves Bluesky's accounts; set BULLMQ_OTHER_QUEUE to the queue of the worker \
                               that serves the others";
                    self.unsupported(job, why).await
                }
            },
        }
    }

    async fn complete(
        &self,
        job: &Job,
        result: &str,
        others: bool,
    ) -> Result<Settled, BullMqError> {
        let end = End::Completed(result, others);
        let step = self.parts.requests.finish(job, self.now(), end).await?;
        Ok((step, Served::Completed, None))
    }

    async fn unsupported(&self, job: &Job, why: &str) -> Result<Settled, BullMqError> {
        let code = Refusal::UnsupportedPlatform;
        self.fail(job, code.as_str(), &format!("{code}: {why}")).await
    }

    async fn fail(&self, job: &Job, reason: &str, why: &str) -> Result<Settled, BullMqError> {
        let step = self.parts.requests.finish(job, self.now(), End::Failed(reason, why)).await?;
        Ok((step, Served::Failed, Some(why.to_owned())))
    }

    async fn retry(
        &self,
        job: &Job,
        wait: Duration,
        code: &str,
        why: String,
    ) -> Result<Settled, BullMqError> {
        let failed = Some((code, why.as_str()));
        let step = self.parts.requests.again(job, self.now(), wait, failed).await?;
        Ok((step, Served::Retried, Some(why)))
    }

    async fn put_back(&self, job: &Job, wait: Duration, why: &str) -> Result<Settled, BullMqError> {
        let step = self.parts.requests.again(job, self.now(), wait, None).await?;
        Ok((step, Served::PutBack, Some(why.to_owned())))
    }

    fn ended(&self, job: &Job, step: Step, served: Served, why: Option<&str>) {
        match step {
            Step::Done => self.told(&job.name, served, why),
            Step::Gone => self.told(&job.name, Served::Gone, None),
            Step::Lost | Step::Duplicate => self.told(&job.name, Served::Lost, None),
        }
    }
}
