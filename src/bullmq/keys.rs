//! The names of BullMQ's keys: `bull:posts:…`, as measured with its versions 5.56 and 6.7.

use super::{BullMq, PostJob, QueueNumber};

impl BullMq {
    /// A key of a queue's own, such as `wait`.
    pub(super) fn key(&self, queue: QueueNumber, name: &str) -> String {
        let settings = &self.0.settings;
        let queue = settings.queues.get(usize::from(queue)).map_or("", String::as_str);
        format!("{}:{queue}:{name}", settings.prefix)
    }

    /// The hash of a job.
    pub(super) fn job_key(&self, job: PostJob) -> String {
        self.key(job.queue, &job.id.to_string())
    }
}
