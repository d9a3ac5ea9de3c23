//! The compare-and-set: the one way in which an account's document is ever changed.

use std::collections::BTreeMap;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::raw::{BindRawBsonRef, CStr, cstr};
use mongodb::bson::{RawArrayBuf, RawBsonRef, RawDocumentBuf, doc, rawdoc};
use mongodb::options::ReadConcern;

use super::accounts::one_batch;
use super::bound::{LONGEST_CALL, LONGEST_READ, bounded};
use super::error::{self, StoreError};
use super::field::{cut, date};
use super::updates::statement;
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
    /// It was not, or that is not known: MongoDB tells how many of several writes matched, not
    /// which. This is what the document is now, read causally after the write; `None`: it is
    /// gone, or no longer ours.
    Missed(Option<Document>),
}

/// One compare-and-set on its way.
pub(super) struct Write {
    id: AccountId,
    statement: RawDocumentBuf,
}

/// What came of it; `None`: `tokenRefresh` is no document, so that nothing can be set inside it.
pub(super) type Written = Result<Option<Cas>, StoreError>;

impl Store {
    /// Writes `save.change` if the document still is what `save.expected` says, in one atomic
    /// update (contract.md, "MongoDB document"), together with the writes of others.
    ///
    /// # Errors
    /// After an error that [may have written](StoreError::may_have_written), the same call is
    /// simply repeated: an unseen success then shows as [`Cas::Missed`] with our own pair, and
    /// bookkeeping is written a second time.
    pub async fn save(&self, save: &Save) -> Result<Cas, StoreError> {
        let id = save.expected.id;
        for statement in [inside, whole] {
            let write = Write { id, statement: statement(save) };
            let store = self.clone();
            let written = self.writes.ask(write, move |writes| store.clone().write_all(writes));
            let written = written.await.unwrap_or_else(|| Err(StoreError::broken_off()));
            if let Some(cas) = written? {
                return Ok(cas);
            }
        }
        Err(StoreError::Refused("tokenRefresh changes its type all the time".to_owned()))
    }

    /// The answers are in the order of the writes.
    async fn write_all(self, writes: Vec<Write>) -> Vec<Written> {
        match bounded(LONGEST_CALL, self.try_all(&writes)).await {
            Ok(written) => written,
            Err(error) => writes.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn try_all(&self, writes: &[Write]) -> Result<Vec<Written>, StoreError> {
        // One session for both steps: the second reads at or after the first one's time.
        let mut session = self.client.start_session().causal_consistency(true).await?;
        let statements = writes.iter().map(|write| &*write.statement);
        let updated = self.update_all(statements, Some(&mut session)).await?;
        let mut failed: BTreeMap<_, _> =
            updated.failed.into_iter().map(|failed| (failed.at, failed)).collect();
        let sound = u64::try_from(writes.len() - failed.len()).unwrap_or(u64::MAX);
        let now = if updated.matched == sound {
            None
        } else {
            let ids = writes.iter().map(|write| object_id(write.id)).collect::<Vec<_>>();
            let mut found = self
                .accounts
                .find(doc! { "_id": { "$in": ids }, "platform": PLATFORM })
                .projection(document::projection())
                .read_concern(ReadConcern::majority())
                .batch_size(one_batch(writes.len()))
                .max_time(LONGEST_READ)
                .session(&mut session)
                .await?;
            let mut documents = BTreeMap::new();
            while found.advance(&mut session).await? {
                documents.extend(document::read(found.current()).map(|it| (it.id, it)));
            }
            Some(documents)
        };
        let written = writes.iter().enumerate().map(|(at, write)| match failed.remove(&at) {
            Some(failed) if failed.code == error::PATH_NOT_VIABLE => Ok(None),
            Some(failed) => Err(failed.error),
            None => Ok(Some(match &now {
                None => Cas::Stored,
                // Cloned: a write that nobody waits for any more may be about the same account.
                Some(documents) => Cas::Missed(documents.get(&write.id).cloned()),
            })),
        });
        Ok(written.collect())
    }
}

pub(super) fn object_id(id: AccountId) -> ObjectId {
    ObjectId::from_bytes(id.bytes())
}

/// A document that is being written, field by field.
pub(super) struct Fields {
    /// What is there of it.
    pub(super) raw: RawDocumentBuf,
    /// The last field's name, which shares its memory and its first bytes with the next one's.
    name: String,
    prefix: usize,
}

impl Fields {
    /// Fields of the document itself.
    pub(super) fn new() -> Self {
        Self { raw: RawDocumentBuf::new(), name: String::new(), prefix: 0 }
    }

    /// Sets a field. No name of ours holds a zero byte, which would leave it out.
    pub(super) fn put(&mut self, name: &str, value: impl BindRawBsonRef) {
        self.name.truncate(self.prefix);
        self.name.push_str(name);
        if let Ok(key) = <&CStr>::try_from(self.name.as_str()) {
            self.raw.append(key, value);
        }
    }

    /// The same, for what may be nothing.
    pub(super) fn put_or_null(&mut self, name: &str, value: Option<impl BindRawBsonRef>) {
        match value {
            Some(value) => self.put(name, value),
            None => self.put(name, RawBsonRef::Null),
        }
    }

    /// Sets fields of `tokenRefresh`, each of which is set on its own.
    pub(super) fn inside(mut self, put: impl FnOnce(&mut Self)) -> RawDocumentBuf {
        self.name.clear();
        self.name.push_str("tokenRefresh.");
        self.prefix = self.name.len();
        put(&mut self);
        self.raw
    }

    /// Sets `tokenRefresh` as a whole.
    pub(super) fn whole(mut self, put: impl FnOnce(&mut Self)) -> RawDocumentBuf {
        let mut notes = Self::new();
        put(&mut notes);
        self.put("tokenRefresh", notes.raw);
        self.raw
    }
}

fn inside(save: &Save) -> RawDocumentBuf {
    let set = fields(&save.change, save.expected.ours).inside(|set| bookkeeping(&save.change, set));
    statement(guard(&save.expected), set)
}

fn whole(save: &Save) -> RawDocumentBuf {
    let set = fields(&save.change, save.expected.ours).whole(|set| bookkeeping(&save.change, set));
    statement(without_bookkeeping(guard(&save.expected)), set)
}

/// What every write's filter holds: `_id`, `platform`, the token and the class of the status.
pub(super) fn guard(expected: &Expected) -> RawDocumentBuf {
    let mut filter = rawdoc! { "_id": object_id(expected.id), "platform": PLATFORM };
    match &expected.token {
        Some(token) => filter.append(cstr!("refreshToken"), token.expose()),
        // Null also matches a missing one; an empty text reads as none, too.
        None => filter.append(cstr!("refreshToken"), rawdoc! { "$in": [RawBsonRef::Null, ""] }),
    }
    let mut ours = RawArrayBuf::new();
    for status in Status::OURS {
        ours.push(status);
    }
    let class = if expected.ours {
        rawdoc! { "$in": ours }
    } else {
        rawdoc! { "$nin": ours }
    };
    filter.append(cstr!("status"), class);
    filter
}

/// The same, for a document whose `tokenRefresh` is there and is no document.
pub(super) fn without_bookkeeping(mut filter: RawDocumentBuf) -> RawDocumentBuf {
    let kind = rawdoc! { "$type": "$tokenRefresh" };
    let none = rawdoc! { "$not": [{ "$in": [kind, ["object", "missing"]] }] };
    filter.append(cstr!("$expr"), none);
    filter
}

/// The application's own fields.
fn fields(change: &Change, ours: bool) -> Fields {
    let mut set = Fields::new();
    if let Some(Rotation { pair, handle }) = &change.rotation {
        set.put("accessToken", pair.access.expose());
        set.put("refreshToken", pair.refresh.expose());
        set.put("tokenExpiry", date(pair.access.expires_at()));
        if let Some(handle) = handle {
            set.put("platformUsername", handle.as_str());
        }
        if ours {
            set.put("status", Status::Active.as_str());
            set.put("errorMessage", RawBsonRef::Null);
        }
        set.put("updatedAt", date(change.note.at));
    } else if let (Some(verdict), true) = (&change.verdict, ours) {
        set.put("status", verdict.status.as_str());
        set.put("errorMessage", verdict.message);
        set.put("updatedAt", date(change.note.at));
    }
    set
}

/// The fields of `tokenRefresh`. What is left out stays as it is.
fn bookkeeping(change: &Change, set: &mut Fields) {
    let Note { at, service, outcome, failures, .. } = &change.note;
    let note = &change.note;
    set.put("attemptedAt", date(*at));
    set.put("outcome", outcome.as_str());
    set.put("failures", i32::try_from(*failures).unwrap_or(i32::MAX));
    set.put_or_null("nextAttemptAt", note.next_attempt_at.map(date));
    set.put_or_null("judgedJti", note.judged_jti.as_deref());
    set.put_or_null("heardAt", note.heard.map(|heard| date(heard.ours)));
    set.put_or_null("heardAtServer", note.heard.and_then(|heard| heard.theirs).map(date));
    set.put_or_null("lastError", note.last_error.as_deref().map(cut));
    // An attempt that got nowhere near a server does not take the account off its server's list.
    if let Some(service) = service {
        set.put("service", service.as_str());
    }
    if change.rotation.is_some() {
        set.put("refreshedAt", date(*at));
        set.put_or_null("refreshExpiresAt", note.refresh_expires_at.map(date));
        set.put_or_null("accountStatus", note.account_status.as_deref().map(cut));
    }
}
