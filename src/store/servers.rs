//! What all instances know of a server's permanent answers of late, and whether it is suspect: one
//! small document a server, written only when something permanent is heard.

use chrono::{DateTime, Utc};
use mongodb::bson::{Bson, Document as Fields, RawDocument, doc};
use mongodb::options::ReturnDocument;

use super::bound::{LONGEST_CALL, bounded};
use super::error::is_duplicate_key;
use super::field::{self, date, date_or_null, whole};
use super::{SERVERS, Store, StoreError};
use crate::domain::brake::{self, Minute, Record};
use crate::domain::identity::ServiceUrl;
use crate::domain::moment::Moment;

const SINCE: &str = "suspectSince";
const SINCE_SERVER: &str = "suspectSinceServer";

/// Minutes further away than this are removed.
const KEPT: i64 = 60;

/// How often an upsert that raced with another's is tried again.
const UPSERT_ATTEMPTS: u32 = 3;

impl Store {
    /// Adds what was heard and answered to a server's record, and reads it.
    pub async fn hear(
        &self,
        service: &ServiceUrl,
        minutes: &[Minute],
        now: DateTime<Utc>,
    ) -> Result<Record, StoreError> {
        let mut add = Fields::new();
        for Minute { at, told_off, answered } in minutes {
            add.insert(format!("minutes.{at}.toldOff"), whole(*told_off));
            add.insert(format!("minutes.{at}.answered"), whole(*answered));
        }
        let update = if add.is_empty() {
            doc! { "$unset": { "none": 1 } }
        } else {
            doc! { "$inc": add }
        };
        for _ in 0..UPSERT_ATTEMPTS {
            let Some(record) = self.add_to_record(service, update.clone()).await? else { continue };
            let this = brake::minute(now);
            let (kept, old): (Vec<_>, Vec<_>) = record
                .minutes
                .into_iter()
                .partition(|it| (this - KEPT..=this + KEPT).contains(&it.at));
            if !old.is_empty() {
                let old = old.iter().map(|it| (format!("minutes.{}", it.at), Bson::from(1)));
                self.change(service, doc! {}, doc! { "$unset": old.collect::<Fields>() }).await?;
            }
            return Ok(Record { minutes: kept, ..record });
        }
        Err(StoreError::Refused("the record of a server cannot be written".to_owned()))
    }

    async fn add_to_record(
        &self,
        service: &ServiceUrl,
        update: Fields,
    ) -> Result<Option<Record>, StoreError> {
        bounded(LONGEST_CALL, async {
            let written = self
                .raw(SERVERS)
                .find_one_and_update(doc! { "_id": service.as_str() }, update)
                .upsert(true)
                .return_document(ReturnDocument::After)
                .await;
            match written {
                Ok(document) => Ok(document.as_deref().map(record)),
                Err(error) if is_duplicate_key(&error) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// Puts a server's brake on, unless another instance just did. `before` is the record's word
    /// on it. Says whether it was this call.
    pub async fn suspect(
        &self,
        service: &ServiceUrl,
        before: Option<Moment>,
        now: Moment,
    ) -> Result<bool, StoreError> {
        let same = doc! { SINCE: date_or_null(before.map(|it| it.ours)) };
        let set = doc! {
            SINCE: date(now.ours), SINCE_SERVER: date_or_null(now.theirs),
        };
        self.change(service, same, doc! { "$set": set }).await
    }

    /// Takes it off and begins a new record. Says whether it was on.
    pub async fn absolve(&self, service: &ServiceUrl) -> Result<bool, StoreError> {
        let on = doc! { SINCE: { "$type": "date" } };
        let off = doc! { "$unset": { SINCE: 1, SINCE_SERVER: 1, "minutes": 1 } };
        self.change(service, on, off).await
    }

    async fn change(
        &self,
        service: &ServiceUrl,
        mut filter: Fields,
        update: Fields,
    ) -> Result<bool, StoreError> {
        filter.insert("_id", service.as_str());
        bounded(LONGEST_CALL, async {
            let updated = self.named(SERVERS).update_one(filter, update).await?;
            Ok(updated.matched_count == 1)
        })
        .await
    }
}

fn record(raw: &RawDocument) -> Record {
    let suspect_since =
        field::time(raw, SINCE).map(|ours| Moment { ours, theirs: field::time(raw, SINCE_SERVER) });
    let minutes = field::document(raw, "minutes").into_iter().flat_map(RawDocument::iter_elements);
    let minutes = minutes.flatten().filter_map(|element| {
        let counts = element.value().ok()?.as_document()?;
        Some(Minute {
            at: element.key().as_str().parse().ok()?,
            told_off: field::count(counts, "toldOff").unwrap_or_default(),
            answered: field::count(counts, "answered").unwrap_or_default(),
        })
    });
    Record { suspect_since, minutes: minutes.collect() }
}
