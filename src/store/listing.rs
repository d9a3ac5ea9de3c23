//! Accounts for people: rows without tokens, and counts.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use mongodb::bson::{Document as Bson, RawDocument, RawDocumentBuf, doc};

use super::accounts::beyond;
use super::bound::{LONGEST_CALL, LONGEST_READ, LONGEST_SCAN, bounded};
use super::{PLATFORM, Store, StoreError, document, field, write};
use crate::domain::account::Status;
use crate::domain::identity::AccountId;
use crate::domain::outcome::Outcome;

/// How many different texts in `status` are told apart.
const MOST_STATUSES: i64 = 100;

/// Which accounts to list.
#[derive(Debug, Clone, Default)]
pub struct AccountFilter {
    /// Only those with this `status`.
    pub status: Option<String>,
}

/// An account for people. Never holds a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// `_id`.
    pub id: AccountId,
    /// `platformAccountId`, if it is a text.
    pub did: Option<String>,
    /// `platformUsername`, if it is a text.
    pub handle: Option<String>,
    /// `status`, if it is a text.
    pub status: Option<String>,
    /// `tokenExpiry`.
    pub token_expiry: Option<DateTime<Utc>>,
    /// When the daemon last stored a pair.
    pub refreshed_at: Option<DateTime<Utc>>,
    /// How the last attempt ended.
    pub outcome: Option<Outcome>,
    /// Attempts in a row that did not succeed.
    pub failures: u32,
    /// When it is tried again.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// What went wrong.
    pub last_error: Option<String>,
    /// The server it was last routed to.
    pub service: Option<String>,
}

impl Store {
    /// How many Bluesky accounts there are of each `status`; `(none)` for one that is no text.
    pub async fn count_by_status(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let none =
            doc! { "$cond": [{ "$eq": [{ "$type": "$status" }, "string"] }, "$status", "(none)"] };
        let groups = self
            .groups(vec![
                doc! { "$match": { "platform": PLATFORM } },
                doc! { "$group": { "_id": none, "n": { "$sum": 1 } } },
                doc! { "$sort": { "n": -1, "_id": 1 } },
                doc! { "$limit": MOST_STATUSES },
            ])
            .await?;
        Ok(groups.into_iter().collect())
    }

    /// How many `active` accounts every server has, as it is written; the empty text stands for
    /// those of which no server is written down. Reads every account: a few seconds for a million.
    pub async fn count_active_by_service(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let service = doc! { "$ifNull": ["$tokenRefresh.service", ""] };
        let active = doc! { "platform": PLATFORM, "status": Status::Active.as_str() };
        let groups = self
            .groups(vec![
                doc! { "$match": active },
                doc! { "$group": { "_id": service, "n": { "$sum": 1 } } },
            ])
            .await?;
        Ok(groups.into_iter().collect())
    }

    /// How the attempts since `cut_off` ended, counted from the accounts' own documents.
    pub async fn recount(
        &self,
        cut_off: DateTime<Utc>,
    ) -> Result<BTreeMap<Outcome, u64>, StoreError> {
        let since = doc! { "$gte": field::date(cut_off) };
        let groups = self
            .groups(vec![
                doc! { "$match": { "platform": PLATFORM, "tokenRefresh.attemptedAt": since } },
                doc! { "$group": { "_id": "$tokenRefresh.outcome", "n": { "$sum": 1 } } },
                doc! { "$limit": MOST_STATUSES },
            ])
            .await?;
        Ok(groups.into_iter().filter_map(|(name, n)| Some((name.parse().ok()?, n))).collect())
    }

    /// Accounts for people after `after`, by `_id`.
    pub async fn list(
        &self,
        filter: &AccountFilter,
        after: Option<AccountId>,
        limit: u32,
    ) -> Result<Vec<AccountRow>, StoreError> {
        let mut query = doc! { "platform": PLATFORM, "_id": beyond(after) };
        if let Some(status) = &filter.status {
            query.insert("status", status.as_str());
        }
        self.rows_of(query, limit).await
    }

    /// One account for people; `None` if there is none of Bluesky's.
    pub async fn account(&self, id: AccountId) -> Result<Option<AccountRow>, StoreError> {
        let query = doc! { "platform": PLATFORM, "_id": write::object_id(id) };
        Ok(self.rows_of(query, 1).await?.pop())
    }

    async fn rows_of(&self, query: Bson, limit: u32) -> Result<Vec<AccountRow>, StoreError> {
        bounded(LONGEST_CALL, async {
            let mut cursor = self
                .accounts
                .find(query)
                .sort(doc! { "_id": 1 })
                .limit(limit.max(1).into())
                .batch_size(limit.max(1))
                .projection(projection())
                .max_time(LONGEST_READ)
                .await?;
            let mut rows = Vec::new();
            while cursor.advance().await? {
                rows.extend(row(cursor.current()));
            }
            Ok(rows)
        })
        .await
    }

    pub(super) async fn groups(
        &self,
        pipeline: Vec<Bson>,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        bounded(LONGEST_SCAN, async {
            let mut cursor = self
                .accounts
                .aggregate(pipeline)
                .max_time(LONGEST_SCAN)
                .with_type::<RawDocumentBuf>()
                .await?;
            let mut groups = Vec::new();
            while cursor.advance().await? {
                let raw = cursor.current();
                if let (Some(name), Some(n)) =
                    (field::short_text(raw, "_id"), field::count(raw, "n"))
                {
                    groups.push((name, n));
                }
            }
            Ok(groups)
        })
        .await
    }
}

fn projection() -> Bson {
    doc! {
        "platformAccountId": 1, "platformUsername": 1, "status": 1, "tokenExpiry": 1,
        "tokenRefresh.refreshedAt": 1, "tokenRefresh.outcome": 1, "tokenRefresh.failures": 1,
        "tokenRefresh.nextAttemptAt": 1, "tokenRefresh.lastError": 1, "tokenRefresh.service": 1,
    }
}

fn row(raw: &RawDocument) -> Option<AccountRow> {
    let empty = RawDocumentBuf::new();
    let kept = field::document(raw, "tokenRefresh").unwrap_or(&empty);
    Some(AccountRow {
        id: AccountId::from_bytes(field::object_id(raw, "_id")?),
        did: field::short_text(raw, "platformAccountId"),
        handle: field::short_text(raw, "platformUsername"),
        status: field::short_text(raw, "status"),
        token_expiry: field::time(raw, "tokenExpiry"),
        refreshed_at: field::time(kept, "refreshedAt"),
        outcome: field::text(kept, "outcome").and_then(|name| name.parse().ok()),
        failures: document::failures(kept),
        next_attempt_at: field::time(kept, "nextAttemptAt"),
        last_error: field::short_text(kept, "lastError"),
        service: field::short_text(kept, "service"),
    })
}
