//! Writing down which server accounts belong to and when they are due, many at a time, so that
//! runs can walk them server by server and the planner finds them.

use chrono::{DateTime, Utc};
use mongodb::bson::raw::cstr;
use mongodb::bson::{RawBsonRef, RawDocumentBuf, rawdoc};

use super::Store;
use super::bound::{LONGEST_CALL, bounded};
use super::error::{PATH_NOT_VIABLE, StoreError};
use super::field::date;
use super::updates::{Failed, statement};
use super::write::{Fields, guard, without_bookkeeping};
use crate::domain::appraisal::Appraisal;
use crate::domain::attempt::Expected;
use crate::domain::outcome::Outcome;

/// An appraisal, and what was read when it was made.
#[derive(Debug, Clone)]
pub struct Appraised {
    /// What the document must still hold.
    pub expected: Expected,
    /// `tokenRefresh.attemptedAt`, which every attempt changes: its word is newer than ours.
    pub attempted_at: Option<DateTime<Utc>>,
    /// What is written.
    pub appraisal: Appraisal,
}

impl Store {
    /// Writes appraisals where the document still is what was expected. Says how many still were.
    /// At most 1,000 at a time are sent.
    pub async fn appraise(&self, appraised: &[Appraised]) -> Result<u64, StoreError> {
        let mut matched = 0;
        for some in appraised.chunks(1_000) {
            let (count, failed) = self.note(some.iter().map(inside)).await?;
            matched += count;
            // Where `tokenRefresh` is no document, it becomes one.
            let (broken, refused): (Vec<_>, Vec<_>) =
                failed.into_iter().partition(|failed| failed.code == PATH_NOT_VIABLE);
            refused.iter().for_each(tell);
            if !broken.is_empty() {
                let broken = broken.iter().filter_map(|failed| some.get(failed.at));
                let (count, refused) = self.note(broken.map(whole)).await?;
                matched += count;
                refused.iter().for_each(tell);
            }
        }
        Ok(matched)
    }

    async fn note(
        &self,
        statements: impl Iterator<Item = RawDocumentBuf>,
    ) -> Result<(u64, Vec<Failed>), StoreError> {
        let statements: Vec<_> = statements.collect();
        let statements = statements.iter().map(|statement| &**statement);
        let updated = bounded(LONGEST_CALL, self.update_all(statements, None)).await?;
        Ok((updated.matched, updated.failed))
    }
}

/// A rule of the application's about that document, say: it stays as it is.
fn tell(failed: &Failed) {
    let code = failed.code;
    tracing::warn!(
        event = "appraisal",
        code,
        "MongoDB refuses to note when an account is due (write error {code})"
    );
}

fn inside(appraised: &Appraised) -> RawDocumentBuf {
    let mut filter = guard(&appraised.expected);
    // One that is missing or no date at all was read as none.
    let same = appraised
        .attempted_at
        .map_or_else(|| rawdoc! { "$not": { "$type": "date" } }, |at| rawdoc! { "$eq": date(at) });
    filter.append(cstr!("tokenRefresh.attemptedAt"), same);
    let set = fields(appraised).inside(|set| bookkeeping(&appraised.appraisal, set));
    statement(filter, set)
}

fn whole(appraised: &Appraised) -> RawDocumentBuf {
    let set = fields(appraised).whole(|set| bookkeeping(&appraised.appraisal, set));
    statement(without_bookkeeping(guard(&appraised.expected)), set)
}

fn fields(appraised: &Appraised) -> Fields {
    let mut set = Fields::new();
    if let Some(at) = appraised.appraisal.token_expiry {
        set.put("tokenExpiry", date(at));
    }
    set
}

fn bookkeeping(appraisal: &Appraisal, set: &mut Fields) {
    set.put("service", appraisal.service.as_str());
    set.put_or_null("nextAttemptAt", appraisal.next_attempt_at.map(date));
    if let Some(new) = &appraisal.new_token {
        set.put("judgedJti", new.jti.as_str());
        set.put_or_null("outcome", new.outcome.map(Outcome::as_str));
        set.put("failures", 0);
        for field in ["heardAt", "heardAtServer", "lastError"] {
            set.put(field, RawBsonRef::Null);
        }
    }
}
