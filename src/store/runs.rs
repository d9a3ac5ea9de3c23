//! The runs: asking for one, taking it through its states, looking back, forgetting old ones.

use chrono::{DateTime, Utc};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document as Bson, doc};
use mongodb::options::ReturnDocument;

use super::bound::{LONGEST_CALL, LONGEST_READ, bounded};
use super::error::is_duplicate_key;
use super::field::{cut, date};
use super::run::{Counts, Run, RunState};
use super::{RUNS, Store, StoreError, run_rows};
use crate::domain::outcome::Trigger;
use crate::domain::run::RunId;

/// How many old runs are forgotten at a time.
const PRUNED_AT_ONCE: u32 = 1_000;
/// How often a race for the place of the waiting run is tried again.
const JOIN_ATTEMPTS: u32 = 5;

/// What [`Store::request_run`] gives a run that waits, so that a unique index allows only one.
pub(super) const SLOT: &str = "slot";

impl Store {
    /// Asks for a run over all accounts that were not refreshed before `now`. One that still
    /// waits is joined: it takes in what happened up to `now`, too.
    pub async fn request_run(
        &self,
        trigger: Trigger,
        now: DateTime<Utc>,
    ) -> Result<Run, StoreError> {
        self.request(Run::queued(new_id()?, trigger, now)).await
    }

    /// The same for a request that may be made more than once, such as `id` by all who make it: any run that takes in
    /// what happened up to `asked_at` will do, whatever its state.
    pub async fn request_run_once(
        &self,
        id: RunId,
        trigger: Trigger,
        (asked_at, now): (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Run, StoreError> {
        let later = doc! { "cutOff": { "$gte": date(asked_at) } };
        match self.find_runs(later, doc! { "cutOff": 1, "_id": 1 }, 0, 1).await?.pop() {
            Some(run) => Ok(run),
            None => self.request(Run::queued(id, trigger, now)).await,
        }
    }

    /// Joins a run that waits, or inserts this one.
    async fn request(&self, run: Run) -> Result<Run, StoreError> {
        bounded(LONGEST_CALL, async {
            for _ in 0..JOIN_ATTEMPTS {
                if let Some(run) = self.join(run.cut_off).await? {
                    return Ok(run);
                }
                let mut document = run.to_bson();
                document.insert(SLOT, "waiting");
                match self.named(RUNS).insert_one(document).await {
                    Ok(_) => return Ok(run),
                    Err(error) if is_duplicate_key(&error) => {}
                    Err(error) => return Err(error.into()),
                }
                // Someone else was faster: with this very run, or with one that can be joined.
                if let Some(run) = self.run(&run.id).await? {
                    return Ok(run);
                }
            }
            Err(StoreError::Refused("runs are asked for faster than they start".to_owned()))
        })
        .await
    }

    async fn join(&self, now: DateTime<Utc>) -> Result<Option<Run>, StoreError> {
        let joined = self
            .raw(RUNS)
            .find_one_and_update(
                doc! { "state": RunState::Queued.as_str() },
                doc! { "$max": { "cutOff": date(now) } },
            )
            .sort(doc! { "createdAt": 1, "_id": 1 })
            .return_document(ReturnDocument::After)
            .await?;
        Ok(joined.as_deref().and_then(Run::read))
    }

    /// The run to work on: the one that is running, else the oldest that waits.
    pub async fn current_run(&self) -> Result<Option<Run>, StoreError> {
        // "running" sorts after "queued".
        let open = doc! { "state": { "$in": ["queued", "running"] } };
        let order = doc! { "state": -1, "createdAt": 1, "_id": 1 };
        Ok(self.find_runs(open, order, 0, 1).await?.pop())
    }

    /// Starts a run that waits. False: it does not wait (any more).
    pub async fn start_run(&self, id: &RunId, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let change = doc! {
            "$set": { "state": RunState::Running.as_str(), "startedAt": date(now) },
            "$unset": { SLOT: "" },
        };
        self.change_run(id, RunState::Queued, change).await
    }

    /// Writes the totals of a run that is running. False: it is not.
    pub async fn save_counts(&self, id: &RunId, counts: &Counts) -> Result<bool, StoreError> {
        let change = doc! { "$set": { "counts": counts.to_bson() } };
        self.change_run(id, RunState::Running, change).await
    }

    /// Ends a run that is running. False: it is not, so that somebody else has ended it.
    pub async fn finish_run(
        &self,
        id: &RunId,
        now: DateTime<Utc>,
        counts: &Counts,
    ) -> Result<bool, StoreError> {
        let change = doc! { "$set": {
            "state": RunState::Done.as_str(), "endedAt": date(now), "counts": counts.to_bson(),
        } };
        self.change_run(id, RunState::Running, change).await
    }

    async fn change_run(
        &self,
        id: &RunId,
        state: RunState,
        change: Bson,
    ) -> Result<bool, StoreError> {
        bounded(LONGEST_CALL, async {
            let filter = doc! { "_id": id.as_str(), "state": state.as_str() };
            Ok(self.named(RUNS).update_one(filter, change).await?.matched_count == 1)
        })
        .await
    }

    /// One run by its id.
    pub async fn run(&self, id: &RunId) -> Result<Option<Run>, StoreError> {
        Ok(self.find_runs(doc! { "_id": id.as_str() }, doc! { "_id": 1 }, 0, 1).await?.pop())
    }

    /// The newest runs first, those before `before` if it is given and still known.
    pub async fn runs(&self, limit: u32, before: Option<&RunId>) -> Result<Vec<Run>, StoreError> {
        let filter = match before {
            None => Bson::new(),
            Some(id) => match self.run(id).await? {
                None => return Ok(Vec::new()),
                Some(run) => {
                    let at = date(run.created_at);
                    let same_moment = doc! { "createdAt": at, "_id": { "$lt": id.as_str() } };
                    doc! { "$or": [{ "createdAt": { "$lt": at } }, same_moment] }
                }
            },
        };
        self.find_runs(filter, doc! { "createdAt": -1, "_id": -1 }, 0, limit).await
    }

    /// Forgets the oldest runs that are done beyond the newest `keep`, with their rows; never the
    /// newest scheduled one, which carries the schedule on. Says how many were forgotten.
    pub async fn prune(&self, keep: u32) -> Result<u64, StoreError> {
        let done = doc! { "state": RunState::Done.as_str() };
        let order = doc! { "createdAt": -1, "_id": -1 };
        let mut old = self.find_runs(done, order, keep, PRUNED_AT_ONCE).await?;
        let newest = self.newest_tick().await?;
        old.retain(|run| newest.as_ref().is_none_or(|newest| newest.id != run.id));
        for run in &old {
            self.delete_rows(&run.id).await?;
        }
        let ids: Vec<_> = old.iter().map(|run| run.id.as_str()).collect();
        bounded(LONGEST_CALL, async {
            let filter = doc! { "_id": { "$in": ids }, "state": RunState::Done.as_str() };
            Ok(self.named(RUNS).delete_many(filter).await?.deleted_count)
        })
        .await
    }

    async fn delete_rows(&self, run: &RunId) -> Result<(), StoreError> {
        bounded(LONGEST_CALL, async {
            self.named(super::ROWS).delete_many(run_rows::of(run)).await?;
            Ok(())
        })
        .await
    }

    pub(super) async fn find_runs(
        &self,
        filter: Bson,
        order: Bson,
        skip: u32,
        limit: u32,
    ) -> Result<Vec<Run>, StoreError> {
        bounded(LONGEST_CALL, async {
            let mut cursor = self
                .raw(RUNS)
                .find(filter)
                .sort(order)
                .skip(skip.into())
                .limit(limit.max(1).into())
                .max_time(LONGEST_READ)
                .await?;
            let mut runs = Vec::new();
            while cursor.advance().await? {
                runs.extend(Run::read(cursor.current()));
            }
            Ok(runs)
        })
        .await
    }
}

fn new_id() -> Result<RunId, StoreError> {
    let id = format!("run-{}", ObjectId::new().to_hex());
    id.parse().map_err(|error: crate::domain::run::RunIdError| {
        StoreError::Refused(cut(&error.to_string()))
    })
}
