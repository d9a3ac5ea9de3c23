//! Reading accounts: one, a server's page by page, those due, those not yet told apart.

use chrono::{DateTime, Utc};
use mongodb::bson::{Document as Filter, doc};

use super::bound::{LONGEST_CALL, LONGEST_READ, bounded};
use super::field::{self, date};
use super::{PLATFORM, Store, StoreError, document, write};
use crate::domain::account::{Document, Status};
use crate::domain::identity::AccountId;

const SERVICE: &str = "tokenRefresh.service";
const NEXT: &str = "tokenRefresh.nextAttemptAt";

/// A question for documents: filter, order, and how many at most.
struct Query {
    filter: Filter,
    sort: Filter,
    limit: u32,
}

impl Store {
    /// The account's document; `None` if there is none of Bluesky's.
    pub async fn load(&self, id: AccountId) -> Result<Option<Document>, StoreError> {
        bounded(LONGEST_CALL, async {
            let found = self
                .accounts
                .find_one(doc! { "_id": write::object_id(id), "platform": PLATFORM })
                .projection(document::projection())
                .max_time(LONGEST_READ)
                .await?;
            Ok(found.as_deref().and_then(document::read))
        })
        .await
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
        bounded(LONGEST_CALL, async {
            // The empty text comes before all others, and is no server.
            let filter =
                doc! { "platform": PLATFORM, SERVICE: { "$gt": last.unwrap_or_default() } };
            let found = self
                .accounts
                .find_one(filter)
                .sort(doc! { SERVICE: 1, "_id": 1 })
                .projection(doc! { SERVICE: 1 })
                .max_time(LONGEST_READ)
                .await?;
            let service = found.as_deref().and_then(|raw| {
                field::text(field::document(raw, "tokenRefresh")?, "service").map(str::to_owned)
            });
            Ok(service)
        })
        .await
    }

    /// The accounts of one server after `after`, by `_id`.
    pub async fn page(
        &self,
        service: &str,
        after: Option<AccountId>,
        limit: u32,
    ) -> Result<Vec<Document>, StoreError> {
        let filter = doc! { "platform": PLATFORM, SERVICE: service, "_id": beyond(after) };
        self.documents(Query { filter, sort: doc! { "_id": 1 }, limit }).await
    }

    /// The Bluesky accounts after `after`, by `_id`, of which no server is written down yet: a
    /// missing one, null, or something that is no text.
    pub async fn unstamped(
        &self,
        after: Option<AccountId>,
        limit: u32,
    ) -> Result<Vec<Document>, StoreError> {
        // Two questions, so that each is one stretch of the index: a negation would scan it all.
        let none = doc! { "platform": PLATFORM, SERVICE: null, "_id": beyond(after) };
        let kinds = ["number", "bool", "date", "object", "objectId", "binData"];
        let odd = doc! {
            "platform": PLATFORM, SERVICE: { "$type": kinds.to_vec() }, "_id": beyond(after),
        };
        let mut found =
            self.documents(Query { filter: none, sort: doc! { "_id": 1 }, limit }).await?;
        found.extend(self.documents(Query { filter: odd, sort: doc! { "_id": 1 }, limit }).await?);
        found.sort_by_key(|document| document.id);
        found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(found)
    }

    /// The accounts of one server whose `nextAttemptAt` has come, the longest due first.
    pub async fn due(
        &self,
        service: &str,
        now: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<Document>, StoreError> {
        let filter = scheduled(service, doc! { "$lte": date(now) });
        self.documents(Query { filter, sort: doc! { NEXT: 1 }, limit }).await
    }

    /// The accounts of one server whose `nextAttemptAt` lies beyond `horizon`, further away than
    /// any rule could have put it: a clock was wrong, and they are due now.
    pub async fn astray(
        &self,
        service: &str,
        horizon: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<Document>, StoreError> {
        let filter = scheduled(service, doc! { "$gt": date(horizon) });
        self.documents(Query { filter, sort: doc! { NEXT: 1 }, limit }).await
    }

    /// The soonest `nextAttemptAt` of one server's accounts, which may have passed.
    pub async fn next_due(&self, service: &str) -> Result<Option<DateTime<Utc>>, StoreError> {
        let filter = scheduled(service, doc! { "$gte": date(DateTime::UNIX_EPOCH) });
        let found = self.documents(Query { filter, sort: doc! { NEXT: 1 }, limit: 1 }).await?;
        Ok(found.first().and_then(|document| document.kept.next_attempt_at))
    }

    async fn documents(&self, query: Query) -> Result<Vec<Document>, StoreError> {
        bounded(LONGEST_CALL, async {
            let mut cursor = self
                .accounts
                .find(query.filter)
                .sort(query.sort)
                .limit(query.limit.max(1).into())
                .batch_size(query.limit.max(1))
                .projection(document::projection())
                .max_time(LONGEST_READ)
                .await?;
            let mut documents = Vec::new();
            while cursor.advance().await? {
                documents.extend(document::read(cursor.current()));
            }
            Ok(documents)
        })
        .await
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

fn scheduled(service: &str, at: Filter) -> Filter {
    doc! {
        "platform": PLATFORM,
        SERVICE: service,
        "status": { "$in": Status::OURS.to_vec() },
        NEXT: at,
    }
}
