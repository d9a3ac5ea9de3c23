//! A run's rows: how far its walk over each server's accounts is.

use mongodb::bson::{Bson, Document as BsonDocument, RawDocument, doc};

use super::bound::{LONGEST_CALL, LONGEST_READ, bounded};
use super::error::StoreError;
use super::run::{Counts, RunState};
use super::{ROWS, RUNS, Store, field, write};
use crate::domain::identity::AccountId;
use crate::domain::run::RunId;

/// The most servers of one run that are read back.
const MOST_ROWS: i64 = 100_000;
/// How many rows are inserted at a time.
const AT_ONCE: usize = 1_000;

/// How far a run's walk over one server's accounts is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRow {
    /// The server, as `tokenRefresh.service` has it.
    pub service: String,
    /// The last account that was looked at, by `_id`.
    pub cursor: Option<AccountId>,
    /// Whether there are no more.
    pub done: bool,
    /// Jobs that were made since the walk last began.
    pub jobs: u64,
    /// Accounts that were left out as fresh since the walk last began.
    pub fresh: u64,
}

/// One step of the walk over one server's accounts.
#[derive(Debug, Clone)]
pub struct Advance<'a> {
    /// The server.
    pub service: &'a str,
    /// Where the step began: the row's cursor as it was read.
    pub from: Option<AccountId>,
    /// The last account of the step; `None`: there was none, and the cursor stays.
    pub to: Option<AccountId>,
    /// Jobs that the step made, to be added.
    pub jobs: u64,
    /// Accounts that the step left out as fresh, to be added.
    pub fresh: u64,
    /// Whether there are no more accounts.
    pub done: bool,
}

impl Store {
    /// Adds rows for these servers; those that are there already stay as they are.
    pub async fn add_rows(&self, run: &RunId, services: &[String]) -> Result<(), StoreError> {
        for some in services.chunks(AT_ONCE) {
            bounded(LONGEST_CALL, self.insert_rows(run, some)).await?;
        }
        Ok(())
    }

    async fn insert_rows(&self, run: &RunId, services: &[String]) -> Result<(), StoreError> {
        let updates: Vec<_> = services
            .iter()
            .map(|service| {
                let row = doc! {
                    "run": run.as_str(), "service": service.as_str(), "cursor": Bson::Null,
                    "done": false, "jobs": 0_i64, "fresh": 0_i64,
                };
                doc! { "q": { "_id": id(run, service) }, "u": { "$setOnInsert": row }, "upsert": true }
            })
            .collect();
        let command = doc! {
            "update": ROWS,
            "updates": updates,
            "ordered": false,
            "writeConcern": { "w": "majority", "wtimeout": 10_000 },
        };
        let answer = self.db.run_command(command).await?;
        if answer.contains_key("writeConcernError") {
            return Err(StoreError::Unanswered("write concern error".to_owned()));
        }
        // Two upserts of one row can race; the loser repeats and finds it there.
        if answer.contains_key("writeErrors") {
            return Err(StoreError::Unanswered("some rows were not written".to_owned()));
        }
        Ok(())
    }

    /// A run's rows, by server.
    pub async fn rows(&self, run: &RunId) -> Result<Vec<RunRow>, StoreError> {
        bounded(LONGEST_CALL, async {
            let mut cursor = self
                .raw(ROWS)
                .find(of(run))
                .sort(doc! { "_id": 1 })
                .limit(MOST_ROWS)
                .max_time(LONGEST_READ)
                .await?;
            let mut rows = Vec::new();
            while cursor.advance().await? {
                rows.extend(read(cursor.current()));
            }
            Ok(rows)
        })
        .await
    }

    /// Moves a row on, if it still stands where the step began and is not done. False: another
    /// instance made this step, or the walk was begun again.
    pub async fn advance(&self, run: &RunId, step: &Advance<'_>) -> Result<bool, StoreError> {
        let from = step.from.map_or(Bson::Null, |at| write::object_id(at).into());
        let mut set = doc! { "done": step.done };
        if let Some(to) = step.to {
            set.insert("cursor", write::object_id(to));
        }
        bounded(LONGEST_CALL, async {
            let filter = doc! { "_id": id(run, step.service), "cursor": from, "done": false };
            let add = doc! { "jobs": field::whole(step.jobs), "fresh": field::whole(step.fresh) };
            let moved =
                self.named(ROWS).update_one(filter, doc! { "$set": set, "$inc": add }).await?;
            Ok(moved.matched_count == 1)
        })
        .await
    }

    /// Begins a run's walk again, because its jobs were lost: its `pass` goes up, then its rows go
    /// back to the start. After an error in between, the next walk finds them done and begins
    /// again. False: the run is not running (any more).
    pub async fn walk_again(&self, run: &RunId, counts: &Counts) -> Result<bool, StoreError> {
        bounded(LONGEST_CALL, async {
            let running = doc! { "_id": run.as_str(), "state": RunState::Running.as_str() };
            let change = doc! { "$set": { "counts": counts.to_bson() }, "$inc": { "pass": 1 } };
            if self.named(RUNS).update_one(running, change).await?.matched_count == 0 {
                return Ok(false);
            }
            let start = doc! { "cursor": Bson::Null, "done": false, "jobs": 0_i64, "fresh": 0_i64 };
            self.named(ROWS).update_many(of(run), doc! { "$set": start }).await?;
            Ok(true)
        })
        .await
    }
}

/// A row's `_id`: no run's id holds a space, so that a run's rows are one stretch of the index.
fn id(run: &RunId, service: &str) -> String {
    format!("{run} {service}")
}

/// All rows of a run; `!` is what follows the space.
pub(super) fn of(run: &RunId) -> BsonDocument {
    doc! { "_id": { "$gte": format!("{run} "), "$lt": format!("{run}!") } }
}

fn read(raw: &RawDocument) -> Option<RunRow> {
    Some(RunRow {
        service: field::text(raw, "service")?.to_owned(),
        cursor: field::object_id(raw, "cursor").map(AccountId::from_bytes),
        done: field::boolean(raw, "done")?,
        jobs: field::count(raw, "jobs").unwrap_or_default(),
        fresh: field::count(raw, "fresh").unwrap_or_default(),
    })
}
