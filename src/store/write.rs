//! The compare-and-set: the one way in which an account's document is ever changed.

use mongodb::ClientSession;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document as BsonDocument, doc};
use mongodb::options::ReadConcern;

use super::bound::{LONGEST_CALL, LONGEST_READ, bounded};
use super::error::{self, StoreError};
use super::field::{cut, date, date_or_null};
use super::{PLATFORM, Store, document};
use crate::domain::account::{Document, Status};
use crate::domain::attempt::{Expected, Save};
use crate::domain::decide::{Change, Note, Rotation};
use crate::domain::identity::AccountId;

/// How a compare-and-set ended.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "handed straight on, one at a time")]
pub enum Cas {
    /// The document was as expected; a majority holds the change.
    Stored,
    /// It was not. This is what it is now, read causally after the miss; `None`: it is gone, or
    /// no longer ours.
    Missed(Option<Document>),
}

impl Store {
    /// Writes `save.change` if the document still is what `save.expected` says, in one atomic
    /// update (contract.md, "MongoDB document").
    ///
    /// # Errors
    /// After an error that [may have written](StoreError::may_have_written), the same call is
    /// simply repeated: an unseen success then shows as [`Cas::Missed`] with our own pair, and
    /// bookkeeping is written a second time.
    pub async fn save(&self, save: &Save) -> Result<Cas, StoreError> {
        bounded(LONGEST_CALL, async {
            // One session for both steps: the second reads at or after the first one's time.
            let mut session = self.client.start_session().causal_consistency(true).await?;
            if self.update(save, &mut session).await? {
                return Ok(Cas::Stored);
            }
            let now = self
                .accounts
                .find_one(doc! { "_id": object_id(save.expected.id), "platform": PLATFORM })
                .projection(document::projection())
                .read_concern(ReadConcern::majority())
                .max_time(LONGEST_READ)
                .session(&mut session)
                .await?;
            Ok(Cas::Missed(now.as_deref().and_then(document::read)))
        })
        .await
    }

    async fn update(&self, save: &Save, session: &mut ClientSession) -> Result<bool, StoreError> {
        let mut set = fields(&save.change, save.expected.ours);
        let notes = bookkeeping(&save.change);
        let mut inside = set.clone();
        inside.extend(dotted(&notes));
        let filter = guard(&save.expected);
        let updated = self
            .accounts
            .update_one(filter.clone(), doc! { "$set": inside })
            .session(&mut *session)
            .await;
        match updated {
            Ok(updated) => Ok(updated.matched_count == 1),
            // `tokenRefresh` is no document, so that nothing can be set inside it.
            Err(error) if error::write_code(&error) == Some(error::PATH_NOT_VIABLE) => {
                set.insert("tokenRefresh", notes);
                let updated = self
                    .accounts
                    .update_one(without_bookkeeping(filter), doc! { "$set": set })
                    .session(session)
                    .await?;
                Ok(updated.matched_count == 1)
            }
            Err(error) => Err(error.into()),
        }
    }
}

pub(super) fn object_id(id: AccountId) -> ObjectId {
    ObjectId::from_bytes(id.bytes())
}

/// What every write's filter holds: `_id`, `platform`, the token and the class of the status.
pub(super) fn guard(expected: &Expected) -> BsonDocument {
    let class = if expected.ours { "$in" } else { "$nin" };
    let token = match &expected.token {
        Some(token) => Bson::from(token.expose()),
        // Null also matches a missing one; an empty text reads as none, too.
        None => doc! { "$in": [Bson::Null, ""] }.into(),
    };
    doc! {
        "_id": object_id(expected.id),
        "platform": PLATFORM,
        "refreshToken": token,
        "status": { class: Status::OURS.to_vec() },
    }
}

/// The same, for a document whose `tokenRefresh` is there and is no document.
pub(super) fn without_bookkeeping(mut filter: BsonDocument) -> BsonDocument {
    let kind = doc! { "$type": "$tokenRefresh" };
    filter.insert("$expr", doc! { "$not": [{ "$in": [kind, ["object", "missing"]] }] });
    filter
}

/// Bookkeeping as fields of the document, each of which is set on its own.
pub(super) fn dotted(bookkeeping: &BsonDocument) -> BsonDocument {
    bookkeeping.iter().map(|(key, value)| (format!("tokenRefresh.{key}"), value.clone())).collect()
}

/// The application's own fields.
fn fields(change: &Change, ours: bool) -> BsonDocument {
    let mut set = BsonDocument::new();
    if let Some(Rotation { pair, handle }) = &change.rotation {
        set.insert("accessToken", pair.access.expose());
        set.insert("refreshToken", pair.refresh.expose());
        set.insert("tokenExpiry", date(pair.access.expires_at()));
        if let Some(handle) = handle {
            set.insert("platformUsername", handle.as_str());
        }
        if ours {
            set.insert("status", Status::Active.as_str());
            set.insert("errorMessage", Bson::Null);
        }
        set.insert("updatedAt", date(change.note.at));
    } else if let (Some(verdict), true) = (&change.verdict, ours) {
        set.insert("status", verdict.status.as_str());
        set.insert("errorMessage", verdict.message);
        set.insert("updatedAt", date(change.note.at));
    }
    set
}

/// The fields of `tokenRefresh`. What is left out stays as it is.
fn bookkeeping(change: &Change) -> BsonDocument {
    let Note { at, service, outcome, failures, .. } = &change.note;
    let note = &change.note;
    let mut set = doc! {
        "attemptedAt": date(*at),
        "outcome": outcome.as_str(),
        "failures": i32::try_from(*failures).unwrap_or(i32::MAX),
        "nextAttemptAt": date_or_null(note.next_attempt_at),
        "judgedJti": note.judged_jti.as_deref(),
        "heardAt": date_or_null(note.heard.map(|heard| heard.ours)),
        "heardAtServer": date_or_null(note.heard.and_then(|heard| heard.theirs)),
        "lastError": note.last_error.as_deref().map(cut),
    };
    // An attempt that got nowhere near a server does not take the account off its server's list.
    if let Some(service) = service {
        set.insert("service", service.as_str());
    }
    if change.rotation.is_some() {
        set.insert("refreshedAt", date(*at));
        set.insert("refreshExpiresAt", date_or_null(note.refresh_expires_at));
        set.insert("accountStatus", note.account_status.as_deref().map(cut));
    }
    set
}
