//! Reading accounts: one, a server's page by page, those due, those not yet told apart.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use mongodb::Cursor;
use mongodb::bson::{Document as Filter, Document as Fields, RawDocument, RawDocumentBuf, doc};
use mongodb::options::Hint;

use super::bound::{LONGEST_CALL, LONGEST_READ, bounded};
use super::error::is_bad_hint;
use super::field::{self, date};
use super::indexes::{BY_SERVICE, DUE};
use super::{PLATFORM, Store, StoreError, document, write};
use crate::domain::account::{Document, Status};
use crate::domain::identity::{AccountId, ServiceUrl};
use crate::domain::outcome::Outcome;
use crate::domain::session::{AccessJwt, Life};

const SERVICE: &str = "tokenRefresh.service";
const NEXT: &str = "tokenRefresh.nextAttemptAt";
const ACTIVE: &str = Status::Active.as_str();

/// A question for documents, and the index that answers it. The index is named, because a plan
/// that was cached when the collection was small, or all accounts were new, would stay.
struct Query {
    index: &'static str,
    filter: Filter,
    sort: Filter,
    limit: u32,
}

impl Query {
    fn by_id(filter: Filter, limit: u32) -> Self {
        Self { index: BY_SERVICE, filter, sort: doc! { "_id": 1 }, limit }
    }

    fn page(service: &str, after: Option<AccountId>, limit: u32) -> Self {
        let filter = doc! { "platform": PLATFORM, SERVICE: service, "_id": beyond(after) };
        Self::by_id(filter, limit)
    }

    fn by_next_attempt(filter: Filter, limit: u32) -> Self {
        Self { index: DUE, filter, sort: doc! { NEXT: 1 }, limit }
    }
}

impl Store {
    /// The account's document; `None` if there is none of Bluesky's. Read together with those that
    /// others ask for.
    pub async fn load(&self, id: AccountId) -> Result<Option<Document>, StoreError> {
        let store = self.clone();
        let loaded = self.loads.ask(id, move |ids| store.clone().load_all(ids)).await;
        loaded.unwrap_or_else(|| Err(StoreError::broken_off()))
    }

    /// The answers are in the order of the ids.
    async fn load_all(self, ids: Vec<AccountId>) -> Vec<Result<Option<Document>, StoreError>> {
        match self.those(&ids, document::projection()).await {
            Ok(documents) => {
                let found: BTreeMap<_, _> = documents.into_iter().map(|it| (it.id, it)).collect();
                ids.iter().map(|id| Ok(found.get(id).cloned())).collect()
            }
            Err(error) => ids.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// The distinct `tokenRefresh.service` of Bluesky accounts after `after`, in order, as they
    /// are written: one small find each, which the index answers with one document, however many
    /// accounts a server has.
    pub async fn services(
        &self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        let mut services = Vec::new();
        let mut last = after.map(str::to_owned);
        for _ in 0..limit {
            let Some(service) = self.next_service(last.as_deref()).await? else { break };
            services.push(service.clone());
            last = Some(service);
        }
        Ok(services)
    }

    async fn next_service(&self, last: Option<&str>) -> Result<Option<String>, StoreError> {
        // The empty text comes before all others, and is no server.
        let filter = doc! { "platform": PLATFORM, SERVICE: { "$gt": last.unwrap_or_default() } };
        let sort = doc! { SERVICE: 1, "_id": 1 };
        let query = Query { index: BY_SERVICE, filter, sort, limit: 1 };
        let read = |raw: &RawDocument| {
            field::text(field::document(raw, "tokenRefresh")?, "service").map(str::to_owned)
        };
        Ok(self.ask(query, doc! { SERVICE: 1 }, read).await?.pop())
    }

    /// The accounts of one server after `after`, by `_id`.
    pub async fn page(
        &self,
        service: &str,
        after: Option<AccountId>,
        limit: u32,
    ) -> Result<Vec<Document>, StoreError> {
        self.documents(Query::page(service, after, limit)).await
    }

    /// The same, with what their access tokens say.
    pub async fn page_with_access(
        &self,
        service: &str,
        after: Option<AccountId>,
        limit: u32,
    ) -> Result<Vec<Document>, StoreError> {
        let query = Query::page(service, after, limit);
        self.ask(query, document::with_access(), document::read).await
    }

    /// The Bluesky accounts after `after`, by `_id`, of which no server is written down yet: a
    /// missing one, null, or something that is no text. With what their access tokens say.
    pub async fn unstamped(
        &self,
        after: Option<AccountId>,
        limit: u32,
    ) -> Result<Vec<Document>, StoreError> {
        // Three questions, each a stretch of the index in its own order: as one, they would be
        // sorted, all of them, for every page. Null does not match an array where the
        // bookkeeping should be; a missing field does, and is not null where null is written.
        let kinds = ["number", "bool", "date", "object", "objectId", "binData"];
        let odd = [doc! { SERVICE: { "$type": kinds.to_vec() } }, doc! { SERVICE: [] }];
        let mut found = Vec::new();
        for mut filter in [
            doc! { SERVICE: null },
            doc! { SERVICE: { "$exists": false } },
            doc! { "$or": odd.to_vec() },
        ] {
            let ordered = !filter.contains_key("$or");
            filter.extend(doc! { "platform": PLATFORM, "_id": beyond(after) });
            let mut query = Query::by_id(filter, limit);
            if ordered {
                query.sort = doc! { SERVICE: 1, "_id": 1 };
            }
            found.extend(self.ask(query, document::with_access(), document::read).await?);
        }
        found.sort_by_key(|document| document.id);
        found.dedup_by_key(|document| document.id);
        found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(found)
    }

    /// These accounts, with what their access tokens say.
    pub async fn some(&self, ids: &[AccountId]) -> Result<Vec<Document>, StoreError> {
        self.those(ids, document::with_access()).await
    }

    async fn those(&self, ids: &[AccountId], fields: Fields) -> Result<Vec<Document>, StoreError> {
        let all = one_batch(ids.len());
        let ids: Vec<_> = ids.iter().copied().map(write::object_id).collect();
        bounded(LONGEST_CALL, async {
            let find = self
                .accounts
                .find(doc! { "_id": { "$in": ids }, "platform": PLATFORM })
                .projection(fields)
                .batch_size(all)
                .max_time(LONGEST_READ);
            collect(find.await?, document::read).await
        })
        .await
    }

    /// The accounts of one server whose `nextAttemptAt` lies between two moments, both included, or
    /// after the first, the longest due first.
    pub async fn due(
        &self,
        service: &str,
        whose: Whose,
        (from, to): (DateTime<Utc>, Option<DateTime<Utc>>),
        limit: u32,
    ) -> Result<Vec<Document>, StoreError> {
        let mut between = doc! { "$gte": date(from) };
        between.extend(to.map(|to| ("$lte".to_owned(), date(to).into())));
        let filter = whose.scheduled(service, between);
        self.documents(Query::by_next_attempt(filter, limit)).await
    }

    /// The soonest `nextAttemptAt` of one server's accounts after `from`, which may have passed.
    pub async fn next_due(
        &self,
        service: &str,
        whose: Whose,
        from: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let filter = whose.scheduled(service, doc! { "$gt": date(from) });
        let query = Query::by_next_attempt(filter, 1);
        let read =
            |raw: &RawDocument| field::time(field::document(raw, "tokenRefresh")?, "nextAttemptAt");
        Ok(self.ask(query, doc! { NEXT: 1 }, read).await?.pop())
    }

    /// The life of the access token that was stored last for any account of a server.
    pub async fn access_life(&self, service: &ServiceUrl) -> Result<Option<Life>, StoreError> {
        let whose = Whose { active: Some(true), failed: false };
        let filter = whose.scheduled(service.as_str(), doc! { "$gte": date(DateTime::UNIX_EPOCH) });
        let query = Query { sort: doc! { NEXT: -1 }, ..Query::by_next_attempt(filter, 1) };
        let found = self.ask(query, document::with_access(), document::read).await?;
        Ok(found.first().and_then(|document| document.access.as_ref()).map(AccessJwt::life))
    }

    async fn documents(&self, query: Query) -> Result<Vec<Document>, StoreError> {
        self.ask(query, document::projection(), document::read).await
    }

    async fn ask<T>(
        &self,
        query: Query,
        fields: Fields,
        read: impl Fn(&RawDocument) -> Option<T>,
    ) -> Result<Vec<T>, StoreError> {
        bounded(LONGEST_CALL, async {
            let find = || {
                self.accounts
                    .find(query.filter.clone())
                    .sort(query.sort.clone())
                    .limit(query.limit.max(1).into())
                    .batch_size(query.limit.max(1))
                    .projection(fields.clone())
                    .max_time(LONGEST_READ)
            };
            let cursor = match find().hint(Hint::Name(query.index.to_owned())).await {
                // The user may not create indexes: slower, but the same answer.
                Err(error) if is_bad_hint(&error) => find().await?,
                answer => answer?,
            };
            collect(cursor, read).await
        })
        .await
    }
}

/// A batch that takes so many documents: the server's own first one takes 101.
pub(super) fn one_batch(documents: usize) -> u32 {
    u32::try_from(documents).unwrap_or(u32::MAX).max(1)
}

async fn collect<T>(
    mut cursor: Cursor<RawDocumentBuf>,
    read: impl Fn(&RawDocument) -> Option<T>,
) -> Result<Vec<T>, StoreError> {
    let mut found = Vec::new();
    while cursor.advance().await? {
        found.extend(read(cursor.current()));
    }
    Ok(found)
}

/// Which accounts are asked for when they are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whose {
    /// Those that are `active`, those in trouble, or (`None`) both.
    pub active: Option<bool>,
    /// Only those whose last attempt failed, or was put off.
    pub failed: bool,
}

impl Whose {
    fn scheduled(self, service: &str, at: Filter) -> Filter {
        let wanted = |name: &&str| self.active.is_none_or(|it| it == (*name == ACTIVE));
        let status: Vec<_> = Status::OURS.into_iter().filter(wanted).collect();
        let mut filter = doc! {
            "platform": PLATFORM, SERVICE: service, "status": { "$in": status }, NEXT: at,
        };
        if self.failed {
            // Being put off without a call costs no attempt, and is to be made up for all the same.
            let failed = doc! { "tokenRefresh.failures": { "$gt": 0 } };
            let transient = [Outcome::RateLimited, Outcome::Unreachable].map(Outcome::as_str);
            let put_off = doc! { "tokenRefresh.outcome": { "$in": transient.to_vec() } };
            filter.insert("$or", vec![failed, put_off]);
        }
        filter
    }
}

/// Also keeps to `ObjectId`s: a comparison only matches values of its own type.
pub(super) fn beyond(after: Option<AccountId>) -> Filter {
    let first = AccountId::from_bytes([0; 12]);
    after.map_or_else(
        || doc! { "$gte": write::object_id(first) },
        |id| doc! { "$gt": write::object_id(id) },
    )
}
