//! What others change in the accounts, as MongoDB's change stream tells it. The daemon's own writes
//! are left out by the server: at full speed it does not pay for hearing its own echo.

use mongodb::ClientSession;
use mongodb::bson::{Bson, Document as Fields, doc};

use super::bound::{LONGEST_CALL, bounded};
use super::error::write_code;
use super::{CHANGES, Store, StoreError};
use crate::domain::identity::AccountId;

/// How long the server waits for a change before it says that there is none, in milliseconds.
const AWAIT_MS: i64 = 5_000;

/// Changes that are told together at most.
const MOST: i32 = 500;

/// Not a replica set: `CommandNotSupported`, and what `$changeStream` itself says.
const NOT_SUPPORTED: [i32; 2] = [115, 40_573];
/// `ChangeStreamHistoryLost`, `ChangeStreamFatalError`, and tokens that are none.
const LOST: [i32; 4] = [286, 280, 260, 9];

/// What came of listening.
#[derive(Debug)]
pub enum Heard {
    /// These accounts, and perhaps others' documents, were added or changed by somebody else.
    Changed(Vec<AccountId>),
    /// Changes may have been missed, or cannot be told at all: only a look at everything helps.
    Lost,
}

/// The stream of changes from some moment on, as a cursor of our own: one answer is one batch, and
/// its resume token is at hand.
#[derive(Debug)]
pub struct Changes {
    session: ClientSession,
    cursor: i64,
    /// What the first answer held.
    first: Vec<AccountId>,
    /// How far has been listened, and how far that is written down.
    place: Option<Fields>,
    saved: Option<Fields>,
}

impl Store {
    /// Listens from where [`save_place`](Self::save_place) last was, or else from now on; whether
    /// it was the former. `None`: this MongoDB has no change streams.
    pub async fn changes(&self) -> Result<Option<(Changes, bool)>, StoreError> {
        let saved = self.place().await?;
        match self.listen(saved.clone()).await {
            Err(error) if is(&error, &NOT_SUPPORTED) => Ok(None),
            Err(error) => match StoreError::from(error) {
                // Whatever it has against the place: it can only be given up.
                StoreError::Refused(_) if saved.is_some() => {
                    Ok(Some((self.listen(None).await?, false)))
                }
                error => Err(error),
            },
            Ok(changes) => Ok(Some((changes, saved.is_some()))),
        }
    }

    async fn listen(&self, from: Option<Fields>) -> Result<Changes, mongodb::error::Error> {
        let mut session = self.client.start_session().await?;
        let mut stage = Fields::new();
        if let Some(token) = &from {
            stage.insert("resumeAfter", token.clone());
        }
        let mut stages = vec![doc! { "$changeStream": stage }];
        stages.extend(pipeline());
        let watch = doc! { "aggregate": self.collection(), "pipeline": stages, "cursor": {} };
        let answer = self.db.run_command(watch).session(&mut session).await?;
        let Batch { cursor, accounts, place } = Batch::read(&answer);
        Ok(Changes { session, cursor, first: accounts, place, saved: from })
    }

    async fn place(&self) -> Result<Option<Fields>, StoreError> {
        bounded(LONGEST_CALL, async {
            let found = self.named(CHANGES).find_one(doc! { "_id": self.collection() }).await?;
            Ok(found.and_then(|found| found.get_document("resumeToken").ok().cloned()))
        })
        .await
    }

    /// Writes down how far `changes` has been listened to, so that whoever leads next goes on
    /// there: also while only our own writes happen, or the oplog would leave the place behind.
    pub async fn save_place(&self, changes: &mut Changes) -> Result<(), StoreError> {
        let Some(place) = changes.place.clone().filter(|it| changes.saved.as_ref() != Some(it))
        else {
            return Ok(());
        };
        bounded(LONGEST_CALL, async {
            let here = doc! { "_id": self.collection() };
            let update = doc! { "$set": { "resumeToken": place.clone() } };
            self.named(CHANGES).update_one(here, update).upsert(true).await?;
            Ok(())
        })
        .await?;
        changes.saved = Some(place);
        Ok(())
    }

    /// Forgets how far was listened: what comes next cannot follow on it.
    pub async fn forget_place(&self) -> Result<(), StoreError> {
        bounded(LONGEST_CALL, async {
            self.named(CHANGES).delete_one(doc! { "_id": self.collection() }).await?;
            Ok(())
        })
        .await
    }

    /// Waits for changes, for a few seconds at most. What has come by then is told together. After
    /// an error the stream is to be opened anew.
    pub async fn next_changes(&self, changes: &mut Changes) -> Result<Heard, StoreError> {
        if !changes.first.is_empty() {
            return Ok(Heard::Changed(std::mem::take(&mut changes.first)));
        }
        let more = doc! {
            "getMore": changes.cursor, "collection": self.collection(),
            "batchSize": MOST, "maxTimeMS": AWAIT_MS,
        };
        let answer = bounded(LONGEST_CALL, async {
            match self.db.run_command(more).session(&mut changes.session).await {
                Err(error) if is(&error, &LOST) => Ok(None),
                answer => Ok(Some(answer?)),
            }
        });
        let Some(answer) = answer.await? else { return Ok(Heard::Lost) };
        let Batch { cursor, accounts, place } = Batch::read(&answer);
        changes.place = place.or(changes.place.take());
        // The collection was dropped or renamed.
        if cursor == 0 {
            return Ok(Heard::Lost);
        }
        Ok(Heard::Changed(accounts))
    }
}

/// One answer's worth of changes.
struct Batch {
    cursor: i64,
    accounts: Vec<AccountId>,
    /// `postBatchResumeToken`, which also an empty batch has.
    place: Option<Fields>,
}

impl Batch {
    fn read(answer: &Fields) -> Self {
        let empty = Fields::new();
        let cursor = answer.get_document("cursor").unwrap_or(&empty);
        let events = cursor.get_array("firstBatch").or_else(|_more| cursor.get_array("nextBatch"));
        let account = |event: &Bson| {
            let id = event.as_document()?.get_document("documentKey").ok()?.get_object_id("_id");
            Some(AccountId::from_bytes(id.ok()?.bytes()))
        };
        Self {
            cursor: cursor.get_i64("id").unwrap_or_default(),
            accounts: events
                .map(|events| events.iter().filter_map(account).collect())
                .unwrap_or_default(),
            place: cursor.get_document("postBatchResumeToken").ok().cloned(),
        }
    }
}

fn is(error: &mongodb::error::Error, codes: &[i32]) -> bool {
    write_code(error).is_some_and(|code| codes.contains(&code))
}

/// Every write of ours sets one of these, and nobody else sets any. The first write to a document
/// makes the whole subdocument.
const OURS: [&str; 3] = ["tokenRefresh.attemptedAt", "tokenRefresh.service", "tokenRefresh"];

/// What an appraisal looks at.
const LOOKED_AT: [&str; 6] =
    ["status", "refreshToken", "accessToken", "tokenExpiry", "platform", "platformAccountId"];

fn pipeline() -> [Fields; 2] {
    // A field's name with a dot in it can only be asked for so.
    let field = |name: &str| {
        let updated = "$updateDescription.updatedFields";
        doc! { "$type": { "$getField": { "field": name, "input": updated } } }
    };
    let set = |name: &str| doc! { "$ne": [field(name), "missing"] };
    let others: Vec<_> = OURS.map(|name| doc! { "$not": [set(name)] }).into();
    let looked_at: Vec<_> = LOOKED_AT.map(set).into();
    let update = doc! { "$and": [
        { "$eq": ["$operationType", "update"] },
        { "$and": others },
        { "$or": looked_at },
    ] };
    let whole = doc! { "$in": ["$operationType", ["insert", "replace"]] };
    [
        doc! { "$match": { "$expr": { "$or": [whole, update] } } },
        doc! { "$project": { "documentKey": 1, "operationType": 1 } },
    ]
}
