//! What jobs carry: read in portions, written by compare-and-set.

use std::fmt;

use futures::StreamExt as _;
use futures::stream;

use super::{BullMq, BullMqError, PostJob, is_of_another_type};

/// The largest data that is read, in bytes.
pub const LARGEST: usize = 1_024 * 1_024;

/// Data that is read with one pipeline at most, in bytes, unless it is one job's.
const PORTION: usize = 1_024 * 1_024;

/// Jobs that are asked for with one pipeline at most.
const MOST: usize = 256;

/// Writes that are under way at once.
const AT_ONCE: usize = 16;

/// A job's `data`, which holds tokens.
#[derive(Clone, PartialEq, Eq)]
pub enum Data {
    /// As it stands.
    Raw(Vec<u8>),
    /// More than [`LARGEST`], and not read.
    TooLarge,
    /// The job is gone, or what stands under its name is no job.
    Gone,
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw(data) => write!(f, "Raw({} bytes)", data.len()),
            Self::TooLarge => f.write_str("TooLarge"),
            Self::Gone => f.write_str("Gone"),
        }
    }
}

/// What came of a compare-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swapped {
    /// It is written.
    Done,
    /// The data is another by now.
    Missed,
    /// The job is gone.
    Gone,
}

impl BullMq {
    /// The data of the first of these jobs, in their order: at least of one, and of no more than go
    /// into a portion.
    ///
    /// # Errors
    /// If Redis cannot be used.
    pub async fn read(&self, jobs: &[PostJob]) -> Result<Vec<Data>, BullMqError> {
        let jobs = jobs.get(..MOST).unwrap_or(jobs);
        let sizes: Vec<Option<usize>> = self.each(jobs, "HSTRLEN").await?;
        let (mut fitting, mut count, mut total) = (Vec::new(), 0, 0);
        for (job, size) in jobs.iter().zip(&sizes) {
            let size = size.filter(|size| (1..=LARGEST).contains(size)).unwrap_or(0);
            total += size;
            if total > PORTION && count > 0 {
                break;
            }
            count += 1;
            fitting.extend((size > 0).then_some(*job));
        }
        let mut texts = self.each::<Option<Vec<u8>>>(&fitting, "HGET").await?.into_iter();
        let data = |size: &Option<usize>| match size {
            Some(size) if *size > LARGEST => Data::TooLarge,
            Some(1..) => texts.next().flatten().flatten().map_or(Data::Gone, Data::Raw),
            Some(_) | None => Data::Gone,
        };
        Ok(sizes.iter().take(count).map(data).collect())
    }

    /// Asks for the `data` of each job; `None`: what stands under its name is no hash.
    async fn each<T: redis::FromRedisValue>(
        &self,
        jobs: &[PostJob],
        command: &str,
    ) -> Result<Vec<Option<T>>, BullMqError> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        // One that cannot be read hides none of the others.
        pipeline.ignore_errors();
        for job in jobs {
            pipeline.cmd(command).arg(self.job_key(*job)).arg("data");
        }
        let answers: Result<Vec<redis::RedisResult<T>>, _> = self.0.link.pipe(&pipeline).await;
        let answers = answers.map_err(|error| self.failed(&error))?;
        let read = |answer: redis::RedisResult<T>| match answer {
            Ok(data) => Ok(Some(data)),
            Err(error) if is_of_another_type(&error) => Ok(None),
            Err(error) => Err(self.failed(&error)),
        };
        answers.into_iter().map(read).collect()
    }

    /// Gives jobs new data where it is still what was read: (job, as read, new). Answers in their
    /// order.
    ///
    /// # Errors
    /// If Redis cannot be used; some may be written then.
    pub async fn swap(
        &self,
        changes: Vec<(PostJob, Vec<u8>, String)>,
    ) -> Result<Vec<Swapped>, BullMqError> {
        let swaps = changes.into_iter().map(|(job, before, after)| async move {
            let mut call = self.0.swap.prepare_invoke();
            call.key(self.job_key(job)).arg(before).arg(after);
            let done: Result<i8, _> = self.0.link.invoke(&call).await;
            match done.map_err(|error| self.failed(&error))? {
                1 => Ok(Swapped::Done),
                0 => Ok(Swapped::Missed),
                _ => Ok(Swapped::Gone),
            }
        });
        let mut swaps = stream::iter(swaps).buffered(AT_ONCE);
        let mut done = Vec::new();
        while let Some(swapped) = swaps.next().await {
            done.push(swapped?);
        }
        Ok(done)
    }
}
