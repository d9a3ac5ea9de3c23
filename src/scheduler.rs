//! The cron pattern's ticks: each becomes one refresh-all over all instances.
//!
//! Every instance watches the clock; the insert of the run, whose id is the tick, is the claim.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::schedule::Schedule;
use crate::events::{Trouble, rfc3339};
use crate::queue::Queue;
use crate::store::{Store, StoreError};

/// The clock is read again this often at the latest, so that a jump of it is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// After an error.
const RETRY: Duration = Duration::from_secs(2);

/// Watches for ticks.
#[derive(Debug)]
pub struct Scheduler {
    /// Where runs stand.
    pub store: Store,
    /// Whom to wake.
    pub queue: Queue,
    /// `REFRESH_CRON` in `REFRESH_CRON_TZ`.
    pub schedule: Schedule,
    /// `REFRESH_LIMIT`: no scheduled run after this many; 0: never mind.
    pub limit: u64,
    /// The time.
    pub clock: Clock,
}

impl Scheduler {
    /// Turns ticks into runs until `stop`, or until the limit is reached.
    ///
    /// A tick that was missed while nothing ran is caught up once: the latest, however many there
    /// were. On the very first start, or under a new pattern, nothing has been missed yet.
    pub async fn run(self, stop: CancellationToken) {
        let held_up = Trouble::new("schedule", "the schedule is held up", "the schedule goes on");
        stop.run_until_cancelled(async move {
            loop {
                let turn = self.turn().await;
                if turn.is_ok() {
                    held_up.over();
                }
                match turn {
                    Ok(Some(wait)) => tokio::time::sleep(wait.min(LONGEST_SLEEP)).await,
                    Ok(None) => return,
                    Err(error) => {
                        held_up.met(&error);
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        })
        .await;
    }

    /// Claims what is due; answers how long until the next tick, or `None` if none will come.
    async fn turn(&self) -> Result<Option<Duration>, StoreError> {
        let now = self.clock.now();
        let anchor = self
            .store
            .schedule_anchor(self.schedule.pattern(), self.schedule.zone().name(), now)
            .await?;
        let (last, ordinal) = match self.store.last_tick().await? {
            Some(last) => (last.at.max(anchor), last.ordinal),
            None => (anchor, 0),
        };
        if self.limit > 0 && ordinal >= self.limit {
            tracing::info!(
                event = "schedule",
                limit = self.limit,
                "the schedule has ended: REFRESH_LIMIT={} scheduled runs have been made",
                self.limit
            );
            return Ok(None);
        }
        if let Some(tick) = self.schedule.last_between(last, now) {
            self.claim(tick, now).await?;
            return Ok(Some(Duration::ZERO));
        }
        Ok(self
            .schedule
            .next_after(now.max(last))
            .map(|next| (next - now).to_std().unwrap_or_default()))
    }

    async fn claim(&self, tick: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), StoreError> {
        let Some(run) = self.store.claim_tick(tick, now).await? else {
            return Ok(());
        };
        tracing::info!(
            event = "schedule",
            run = %run.id,
            tick = rfc3339(tick),
            late_s = (now - tick).num_seconds(),
            "the schedule asks for a refresh-all: {}",
            run.id
        );
        if let Err(error) = self.queue.nudge().await {
            tracing::debug!(%error, "the planners were not woken; they look by themselves");
        }
        Ok(())
    }
}
