//! The cron pattern's memory: which tick was the last, who has it, and since when there is one.

use chrono::{DateTime, SecondsFormat, Utc};
use mongodb::bson::{Document as Bson, doc};
use mongodb::options::ReturnDocument;

use super::bound::{LONGEST_CALL, bounded};
use super::error::is_duplicate_key;
use super::field::{self, date};
use super::run::Run;
use super::{RUNS, SCHEDULE, Store, StoreError};
use crate::domain::outcome::Trigger;

/// How often an upsert that raced with another's is tried again.
const UPSERT_ATTEMPTS: u32 = 3;

/// A tick of the cron pattern that some instance has claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// The moment that the pattern names.
    pub at: DateTime<Utc>,
    /// How many scheduled runs there have been, this one included.
    pub ordinal: u64,
}

impl Store {
    /// Makes the scheduled run of `tick`, with the tick as its cut-off. The insert is the claim:
    /// `None` if another instance has it, or if a later tick was claimed already.
    pub async fn claim_tick(
        &self,
        tick: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Option<Run>, StoreError> {
        let newest = self.last_tick().await?;
        if newest.is_some_and(|newest| newest.at >= tick) {
            return Ok(None);
        }
        let id = format!("cron-{}", tick.to_rfc3339_opts(SecondsFormat::Secs, true));
        let Ok(id) = id.parse() else {
            return Err(StoreError::Refused("a tick that far away has no name".to_owned()));
        };
        let run = Run {
            cut_off: tick,
            tick: Some(tick),
            ordinal: Some(newest.map_or(1, |newest| newest.ordinal + 1)),
            ..Run::queued(id, Trigger::Cron, now)
        };
        bounded(LONGEST_CALL, async {
            match self.named(RUNS).insert_one(run.to_bson()).await {
                Ok(_) => Ok(Some(run)),
                Err(error) if is_duplicate_key(&error) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// The newest tick that was claimed.
    pub async fn last_tick(&self) -> Result<Option<Tick>, StoreError> {
        let newest = self.newest_tick().await?;
        Ok(newest.and_then(|run| Some(Tick { at: run.tick?, ordinal: run.ordinal? })))
    }

    pub(super) async fn newest_tick(&self) -> Result<Option<Run>, StoreError> {
        let scheduled = doc! { "tick": { "$type": "date" } };
        Ok(self.find_runs(scheduled, doc! { "tick": -1 }, 0, 1).await?.pop())
    }

    /// Since when this pattern holds in this zone: ticks before it are nobody's. The first call,
    /// and the first with another pattern or zone, writes `now` down.
    pub async fn schedule_anchor(
        &self,
        pattern: &str,
        zone: &str,
        now: DateTime<Utc>,
    ) -> Result<DateTime<Utc>, StoreError> {
        let same = doc! { "$and": [
            { "$eq": ["$pattern", { "$literal": pattern }] },
            { "$eq": ["$zone", { "$literal": zone }] },
            { "$eq": [{ "$type": "$anchoredAt" }, "date"] },
        ] };
        // One pipeline, so that two instances that start at once agree.
        let update = vec![doc! { "$set": {
            "anchoredAt": { "$cond": [same, "$anchoredAt", date(now)] },
            "pattern": { "$literal": pattern },
            "zone": { "$literal": zone },
        } }];
        for _ in 0..UPSERT_ATTEMPTS {
            if let Some(anchor) = self.anchor(update.clone()).await? {
                return Ok(anchor);
            }
        }
        Err(StoreError::Refused("the schedule's document cannot be written".to_owned()))
    }

    async fn anchor(&self, update: Vec<Bson>) -> Result<Option<DateTime<Utc>>, StoreError> {
        bounded(LONGEST_CALL, async {
            let written = self
                .raw(SCHEDULE)
                .find_one_and_update(doc! { "_id": "cron" }, update)
                .upsert(true)
                .return_document(ReturnDocument::After)
                .await;
            match written {
                Ok(document) => {
                    Ok(document.as_deref().and_then(|raw| field::time(raw, "anchoredAt")))
                }
                Err(error) if is_duplicate_key(&error) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }
}
