//! Writes down where accounts belong and when they are due, after others have changed them.

use super::{Parts, PlanError};
use crate::domain::account::Document;
use crate::domain::appraisal::{self, Rules};
use crate::domain::attempt::Expected;
use crate::store::Appraised;

/// Appraises documents that were read with their access tokens, and wakes their servers' planner.
/// Says how many had something to be corrected.
pub(super) async fn appraise(parts: &Parts, documents: &[Document]) -> Result<u64, PlanError> {
    let now = parts.clock.now();
    let rules = Rules { lead: parts.lead, routing: &parts.routing };
    let appraised: Vec<_> = documents
        .iter()
        .filter_map(|document| {
            Some(Appraised {
                expected: Expected::of(document)?,
                attempted_at: document.kept.attempted_at,
                appraisal: appraisal::appraise(&rules, document, now)?,
            })
        })
        .collect();
    if appraised.is_empty() {
        return Ok(0);
    }
    let written = parts.store.appraise(&appraised).await?;
    for Appraised { expected, appraisal, .. } in &appraised {
        if appraisal.new_token.is_some() {
            parts.posts.rotated(expected.id);
        }
        if let Some(at) = appraisal.next_attempt_at {
            parts.wakes.wake(&appraisal.service, at);
        }
    }
    Ok(written)
}
