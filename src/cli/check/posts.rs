//! The application's queued posts: which queues there are, how much is in them, and what of it is
//! not understood.

use std::io;

use super::findings::{Findings, good};
use crate::bullmq::{BullMq, BullMqError, Found, QueueNumber};
use crate::cli::output::counted;
use crate::daemon::Services;
use crate::domain::queued::PostId;

const WHAT: &str = "queued posts";

/// What a queue holds.
#[derive(Debug, Default)]
struct Content {
    posts: u64,
    /// Jobs whose ids are not those of posts.
    others: u64,
}

/// Checks the queues, if they are looked after.
pub(super) async fn check(services: &Services, found: &mut Findings) -> io::Result<()> {
    let Some(bullmq) = &services.bullmq else {
        return good(
            WHAT,
            "BULLMQ_POST_QUEUES is off: posts keep the tokens they were queued with",
        );
    };
    for (queue, name) in bullmq.queues() {
        match content(bullmq, queue).await {
            Ok(None) => good(WHAT, format_args!("{name}: BullMQ has not used this queue yet"))?,
            Ok(Some(Content { posts, others: 0 })) => {
                good(WHAT, format_args!("{name}: {} queued", counted(posts, "post")))?;
            }
            Ok(Some(Content { posts, others })) => {
                let (posts, others) = (counted(posts, "post"), counted(others, "other job"));
                let hint = "ids that are not post-<userId>-<accountId>-<ms> are left alone";
                found.odd(WHAT, format_args!("{name}: {posts} queued, and {others}: {hint}"))?;
            }
            // Everything else works without them.
            Err(error) => found.odd(WHAT, format_args!("{name}: {error}"))?,
        }
    }
    Ok(())
}

/// `None`: nobody has ever used it.
async fn content(bullmq: &BullMq, queue: QueueNumber) -> Result<Option<Content>, BullMqError> {
    if !bullmq.is_known(queue).await? {
        return Ok(None);
    }
    let mut content = Content::default();
    let show = |page: Vec<Found>| {
        for found in page {
            let is_post = found.id.parse::<PostId>().is_ok();
            content.posts += u64::from(is_post);
            content.others += u64::from(!is_post);
        }
    };
    bullmq.scan(queue, show).await?;
    Ok(Some(content))
}
