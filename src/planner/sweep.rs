//! The full sweep: looks at every account, in the background, for what no word came of.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::looks::PAGE;
use super::walk::is_last;
use super::{MOST_SERVERS, Parts, PlanError, appraiser};

/// The longest rest between two pages.
const LONGEST_REST: Duration = Duration::from_millis(500);

/// One pass over all accounts. It rests as long as it works, page by page.
pub(super) async fn sweep(parts: &Parts) -> Result<(), PlanError> {
    let begun = Instant::now();
    // Those that belong nowhere yet first: afterwards they are among the others.
    let mut corrected = sweep_one(parts, None).await?;
    for service in parts.store.services(None, MOST_SERVERS).await? {
        corrected += sweep_one(parts, Some(&service)).await?;
    }
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(event = "sweep", corrected, took_ms, "looked at every account");
    Ok(())
}

/// The accounts of one server, or those of none.
async fn sweep_one(parts: &Parts, service: Option<&str>) -> Result<u64, PlanError> {
    let (mut corrected, mut after) = (0, None);
    loop {
        let begun = Instant::now();
        let page = match service {
            None => parts.store.unstamped(after, PAGE).await?,
            Some(service) => parts.store.page_with_access(service, after, PAGE).await?,
        };
        corrected += appraiser::appraise(parts, &page).await?;
        if is_last(&page, PAGE) {
            return Ok(corrected);
        }
        after = page.last().map(|document| document.id);
        sleep(begun.elapsed().min(LONGEST_REST)).await;
    }
}
