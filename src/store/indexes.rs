//! What the store needs beyond documents: two indexes on the accounts, one on the runs, and the
//! capped collection.

use mongodb::IndexModel;
use mongodb::bson::{Document as Bson, doc};
use mongodb::options::IndexOptions;

use super::bound::{LONGEST_SCAN, bounded};
use super::error::write_code;
use super::runs::SLOT;
use super::{FAILURES, PLATFORM, RUNS, Store, StoreError};

/// Walks: a server's accounts by `_id`.
pub(super) const BY_SERVICE: &str = "refreshd_service_id";
/// Retries: a server's accounts by when they are due.
pub(super) const DUE: &str = "refreshd_due";

/// `NamespaceExists`.
const EXISTS: i32 = 48;
const FAILURES_BYTES: u64 = 64 * 1_024 * 1_024;
const FAILURES_DOCUMENTS: u64 = 100_000;

/// What [`Store::ensure_indexes`] found and made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexReport {
    /// The indexes and collections that were not there before.
    pub created: Vec<&'static str>,
}

impl Store {
    /// Makes what is missing: indexes whose names begin with `refreshd_`, and the collection of
    /// failures. Building them on a large collection can take minutes.
    ///
    /// # Errors
    /// [`StoreError::NotAllowed`] if the user may not: everything still works, but walks and
    /// retries scan the collection, and failures are not listed.
    pub async fn ensure_indexes(&self) -> Result<IndexReport, StoreError> {
        let made = bounded(LONGEST_SCAN, async {
            let mut created = Vec::new();
            created.extend(self.cap_failures().await?.then_some(FAILURES));
            for (name, keys, options) in account_indexes() {
                let new = self.ensure(self.collection(), name, keys, options).await?;
                created.extend(new.then_some(name));
            }
            let name = "refreshd_waiting";
            let options = IndexOptions::builder().unique(true).sparse(true).build();
            let new = self.ensure(RUNS, name, doc! { SLOT: 1 }, options).await?;
            created.extend(new.then_some(name));
            Ok(IndexReport { created })
        });
        made.await.map_err(|error| match error {
            StoreError::NotAllowed(_) => StoreError::NotAllowed("create indexes and collections"),
            other => other,
        })
    }

    async fn ensure(
        &self,
        collection: &str,
        name: &str,
        keys: Bson,
        mut options: IndexOptions,
    ) -> Result<bool, StoreError> {
        let before = self.index_names(collection).await?;
        if before.iter().any(|there| there == name) {
            return Ok(false);
        }
        options.name = Some(name.to_owned());
        let model = IndexModel::builder().keys(keys).options(options).build();
        self.named(collection).create_index(model).await?;
        Ok(true)
    }

    async fn index_names(&self, collection: &str) -> Result<Vec<String>, StoreError> {
        match self.named(collection).list_index_names().await {
            Ok(names) => Ok(names),
            // `NamespaceNotFound`: a collection that nobody has written to yet.
            Err(error) if write_code(&error) == Some(26) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    async fn cap_failures(&self) -> Result<bool, StoreError> {
        let created = self
            .db
            .create_collection(FAILURES)
            .capped(true)
            .size(FAILURES_BYTES)
            .max(FAILURES_DOCUMENTS)
            .await;
        match created {
            Ok(()) => Ok(true),
            Err(error) if write_code(&error) == Some(EXISTS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn account_indexes() -> [(&'static str, Bson, IndexOptions); 2] {
    // Partial: other platforms' accounts, and their writers, have no part in them.
    let ours =
        || IndexOptions::builder().partial_filter_expression(doc! { "platform": PLATFORM }).build();
    [
        (BY_SERVICE, doc! { "tokenRefresh.service": 1, "_id": 1 }, ours()),
        (
            DUE,
            doc! { "tokenRefresh.service": 1, "status": 1, "tokenRefresh.nextAttemptAt": 1 },
            ours(),
        ),
    ]
}
