//! Writing down which server accounts belong to and when they are due, many at a time, so that
//! runs can walk them server by server and the planner finds them.

use chrono::{DateTime, Utc};
use mongodb::bson::{Bson, Document as BsonDocument, RawBsonRef, RawDocument, doc};

use super::bound::{LONGEST_CALL, bounded};
use super::error::{PATH_NOT_VIABLE, StoreError};
use super::field::{date, date_or_null};
use super::{Store, field, write};
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
            let updates: Vec<_> = some.iter().map(inside).collect();
            let answer = self.update_all(updates).await?;
            matched += answer.matched;
            // Where `tokenRefresh` is no document, it becomes one.
            let broken = answer.not_viable.iter().filter_map(|at| some.get(*at));
            let updates: Vec<_> = broken.map(whole).collect();
            if !updates.is_empty() {
                matched += self.update_all(updates).await?.matched;
            }
        }
        Ok(matched)
    }

    async fn update_all(&self, updates: Vec<BsonDocument>) -> Result<Answer, StoreError> {
        bounded(LONGEST_CALL, async {
            let command = doc! {
                "update": self.collection(),
                "updates": updates,
                "ordered": false,
                "writeConcern": { "w": "majority", "wtimeout": 10_000 },
            };
            let answer = self.db.run_command(command).await?;
            let raw = mongodb::bson::RawDocumentBuf::try_from(&answer).map_err(|_bson| {
                StoreError::Unanswered("the answer was not understood".to_owned())
            })?;
            Answer::read(&raw)
        })
        .await
    }
}

fn inside(appraised: &Appraised) -> BsonDocument {
    let mut filter = write::guard(&appraised.expected);
    // One that is missing or no date at all was read as none.
    let same = appraised
        .attempted_at
        .map_or_else(|| doc! { "$not": { "$type": "date" } }, |at| doc! { "$eq": date(at) });
    filter.insert("tokenRefresh.attemptedAt", same);
    let mut set = write::dotted(&bookkeeping(&appraised.appraisal));
    set.extend(expiry(&appraised.appraisal));
    doc! { "q": filter, "u": { "$set": set } }
}

fn whole(appraised: &Appraised) -> BsonDocument {
    let mut set = doc! { "tokenRefresh": bookkeeping(&appraised.appraisal) };
    set.extend(expiry(&appraised.appraisal));
    let filter = write::without_bookkeeping(write::guard(&appraised.expected));
    doc! { "q": filter, "u": { "$set": set } }
}

fn expiry(appraisal: &Appraisal) -> Option<(String, Bson)> {
    appraisal.token_expiry.map(|at| ("tokenExpiry".to_owned(), date(at).into()))
}

fn bookkeeping(appraisal: &Appraisal) -> BsonDocument {
    let mut set = doc! {
        "service": appraisal.service.as_str(),
        "nextAttemptAt": date_or_null(appraisal.next_attempt_at),
    };
    if let Some(new) = &appraisal.new_token {
        set.extend(doc! {
            "judgedJti": &new.jti, "outcome": new.outcome.map(Outcome::as_str), "failures": 0,
            "heardAt": Bson::Null, "heardAtServer": Bson::Null, "lastError": Bson::Null,
        });
    }
    set
}

/// What an `update` command answers.
struct Answer {
    matched: u64,
    /// The places of those that failed because `tokenRefresh` is no document.
    not_viable: Vec<usize>,
}

impl Answer {
    fn read(raw: &RawDocument) -> Result<Self, StoreError> {
        if field::document(raw, "writeConcernError").is_some() {
            return Err(StoreError::Unanswered("write concern error".to_owned()));
        }
        let mut not_viable = Vec::new();
        if let field::Field::Value(RawBsonRef::Array(errors)) = field::get(raw, "writeErrors") {
            for error in errors.into_iter().flatten().filter_map(RawBsonRef::as_document) {
                let code = field::count(error, "code").unwrap_or_default();
                match field::count(error, "index").map(usize::try_from) {
                    Some(Ok(at)) if i32::try_from(code) == Ok(PATH_NOT_VIABLE) => {
                        not_viable.push(at);
                    }
                    // A rule of the application's about that document, say: it stays as it is.
                    _ => tracing::warn!(
                        event = "appraisal",
                        code,
                        "MongoDB refuses to note when an account is due (write error {code})"
                    ),
                }
            }
        }
        Ok(Self { matched: field::count(raw, "n").unwrap_or_default(), not_viable })
    }
}
