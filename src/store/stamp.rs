//! Writing down which server an account belongs to, many accounts at a time, so that runs can
//! walk them server by server.

use mongodb::bson::{Document as BsonDocument, RawBsonRef, RawDocument, doc};

use super::bound::{LONGEST_CALL, bounded};
use super::error::{PATH_NOT_VIABLE, StoreError};
use super::{Store, field, write};
use crate::domain::attempt::Expected;
use crate::domain::identity::ServiceUrl;

impl Store {
    /// Sets `tokenRefresh.service`, and nothing else, where the document still is what was
    /// expected. Says how many still were. At most 1,000 at a time are sent.
    pub async fn stamp(&self, stamps: &[(Expected, ServiceUrl)]) -> Result<u64, StoreError> {
        let mut matched = 0;
        for some in stamps.chunks(1_000) {
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

fn inside((expected, service): &(Expected, ServiceUrl)) -> BsonDocument {
    doc! {
        "q": write::guard(expected),
        "u": { "$set": { "tokenRefresh.service": service.as_str() } },
    }
}

fn whole((expected, service): &(Expected, ServiceUrl)) -> BsonDocument {
    doc! {
        "q": write::without_bookkeeping(write::guard(expected)),
        "u": { "$set": { "tokenRefresh": { "service": service.as_str() } } },
    }
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
                        event = "stamp",
                        code,
                        "MongoDB refuses to note the server of an account (write error {code})"
                    ),
                }
            }
        }
        Ok(Self { matched: field::count(raw, "n").unwrap_or_default(), not_viable })
    }
}
