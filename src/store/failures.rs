//! The accounts that failed in a run. The collection is capped: MongoDB itself drops the oldest.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use mongodb::bson::{Document as Bson, RawDocument, doc};

use super::bound::{LONGEST_CALL, LONGEST_READ, bounded};
use super::field::{self, cut, date};
use super::{FAILURES, Store, StoreError, write};
use crate::domain::identity::AccountId;
use crate::domain::outcome::Outcome;
use crate::domain::run::RunId;

/// One account's failure within a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The account.
    pub account: AccountId,
    /// Its DID, if it is a text.
    pub did: Option<String>,
    /// Its handle, if it is a text.
    pub handle: Option<String>,
    /// How the attempt ended.
    pub outcome: Outcome,
    /// What went wrong.
    pub error: Option<String>,
    /// When.
    pub at: DateTime<Utc>,
}

impl Store {
    /// Notes failures. After an error they may stand there twice; only the newest of an account
    /// is ever shown.
    pub async fn record_failures(
        &self,
        run: &RunId,
        failures: &[Failure],
    ) -> Result<(), StoreError> {
        if failures.is_empty() {
            return Ok(());
        }
        let documents: Vec<_> = failures.iter().map(|failure| to_bson(run, failure)).collect();
        bounded(LONGEST_CALL, async {
            self.named(FAILURES).insert_many(documents).ordered(false).await?;
            Ok(())
        })
        .await
    }

    /// A run's failures, the newest first, one an account.
    pub async fn failures(&self, run: &RunId, limit: usize) -> Result<Vec<Failure>, StoreError> {
        bounded(LONGEST_CALL, async {
            // A capped collection keeps the order of insertion.
            let mut cursor = self
                .raw(FAILURES)
                .find(doc! { "run": run.as_str() })
                .sort(doc! { "$natural": -1 })
                .max_time(LONGEST_READ)
                .await?;
            let mut seen = HashSet::new();
            let mut failures = Vec::new();
            while failures.len() < limit && cursor.advance().await? {
                let failure = read(cursor.current());
                failures.extend(failure.filter(|failure| seen.insert(failure.account)));
            }
            Ok(failures)
        })
        .await
    }
}

fn to_bson(run: &RunId, failure: &Failure) -> Bson {
    doc! {
        "run": run.as_str(),
        "account": write::object_id(failure.account),
        "did": failure.did.as_deref().map(cut),
        "handle": failure.handle.as_deref().map(cut),
        "outcome": failure.outcome.as_str(),
        "error": failure.error.as_deref().map(cut),
        "at": date(failure.at),
    }
}

fn read(raw: &RawDocument) -> Option<Failure> {
    Some(Failure {
        account: AccountId::from_bytes(field::object_id(raw, "account")?),
        did: field::short_text(raw, "did"),
        handle: field::short_text(raw, "handle"),
        outcome: field::text(raw, "outcome")?.parse().ok()?,
        error: field::short_text(raw, "error"),
        at: field::time(raw, "at")?,
    })
}
