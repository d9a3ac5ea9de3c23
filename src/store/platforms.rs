//! Accounts of all platforms, as far as requests for refreshes name them: whose they are. Theirs are never
//! written.

use std::collections::BTreeMap;

use mongodb::bson::doc;

use super::bound::{LONGEST_CALL, LONGEST_READ, bounded};
use super::{PLATFORM, Store, StoreError, field, write};
use crate::domain::identity::AccountId;

/// How many different texts in `platform` are told apart.
const MOST_PLATFORMS: i64 = 100;

/// Whose an account is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// Bluesky's.
    Ours,
    /// Another's, or one of which the document does not say it.
    Another,
}

impl Store {
    /// The platform of an account; `None`: there is no such account.
    ///
    /// # Errors
    /// If MongoDB cannot be used.
    pub async fn platform(&self, id: AccountId) -> Result<Option<Platform>, StoreError> {
        bounded(LONGEST_CALL, async {
            let found = self
                .accounts
                .find_one(doc! { "_id": write::object_id(id) })
                .projection(doc! { "platform": 1 })
                .max_time(LONGEST_READ)
                .await?;
            let whose = |is_ours| if is_ours { Platform::Ours } else { Platform::Another };
            Ok(found.map(|raw| whose(field::text(&raw, "platform") == Some(PLATFORM))))
        })
        .await
    }

    /// How many accounts there are of each other platform; `(none)` for those that name none. Reads every account: a
    /// few seconds for a million.
    ///
    /// # Errors
    /// If MongoDB cannot be used.
    pub async fn count_others(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let none = doc! { "$cond": [
            { "$eq": [{ "$type": "$platform" }, "string"] }, "$platform", "(none)",
        ] };
        let groups = self
            .groups(vec![
                doc! { "$match": { "platform": { "$ne": PLATFORM } } },
                doc! { "$group": { "_id": none, "n": { "$sum": 1 } } },
                doc! { "$sort": { "n": -1, "_id": 1 } },
                doc! { "$limit": MOST_PLATFORMS },
            ])
            .await?;
        Ok(groups.into_iter().collect())
    }
}
