//! Notices what others do to the accounts: by MongoDB's change stream where there is one, and by
//! sweeps over all of them.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{Notify, SetOnce};
use tokio::time::{Instant, sleep, timeout};

use super::sweep::sweep;
use super::{Parts, PlanError, appraiser};
use crate::events::Trouble;
use crate::store::Heard;

/// A full sweep comes this often, whatever the stream tells.
const SWEEP_EVERY: Duration = Duration::from_hours(1);

/// And this often where there is no stream, but for a small share of the time.
const SWEEP_OFTEN: Duration = Duration::from_secs(10);
const SWEEP_SHARE: u32 = 10;

/// How often the clock is compared with the time that has passed, and the stream's place saved.
const EVERY: Duration = Duration::from_secs(5);

/// A clock that went back by more than this was set.
const SET_BACK: TimeDelta = TimeDelta::seconds(30);

/// After an error.
const PAUSE: Duration = Duration::from_secs(1);

/// The follower of one instance, while it leads.
#[derive(Debug)]
pub(super) struct Follower {
    parts: Parts,
    /// Asks for a sweep before its time.
    asked: Notify,
    deaf: Trouble,
    held_up: Trouble,
}

impl Follower {
    pub(super) fn new(parts: Parts) -> Self {
        let (begun, over) =
            ("changes of others are not heard", "changes of others are heard again");
        let deaf = Trouble::new("changes", begun, over);
        let (begun, over) = ("the sweep over all accounts is held up", "the sweep goes on");
        let held_up = Trouble::new("sweep", begun, over);
        Self { parts, asked: Notify::new(), deaf, held_up }
    }

    /// Follows until it is dropped.
    pub(super) async fn follow(&self) {
        let has_stream = SetOnce::new();
        let listen = async {
            self.listen(&has_stream).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = listen => {}
            never = self.sweep_again_and_again(&has_stream) => never,
        }
    }

    async fn listen(&self, has_stream: &SetOnce<bool>) {
        loop {
            match self.listen_once(has_stream).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    self.deaf.met(&error);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Listens until something is lost; false: there is nothing to listen to.
    async fn listen_once(&self, has_stream: &SetOnce<bool>) -> Result<bool, PlanError> {
        let store = &self.parts.store;
        let opened = store.changes().await?;
        // Once known, it stays: a replica set does not become none.
        let _known = has_stream.set(opened.is_some());
        let Some((mut changes, resumed)) = opened else { return Ok(false) };
        if !resumed {
            self.asked.notify_one();
        }
        let mut saved = Instant::now();
        loop {
            match store.next_changes(&mut changes).await? {
                Heard::Changed(accounts) if accounts.is_empty() => {}
                Heard::Changed(accounts) => {
                    for account in &accounts {
                        self.parts.posts.rotated(*account);
                    }
                    appraiser::appraise(&self.parts, &store.some(&accounts).await?).await?;
                }
                Heard::Lost => {
                    store.forget_place().await?;
                    return Ok(true);
                }
            }
            self.deaf.over();
            if saved.elapsed() >= EVERY {
                saved = Instant::now();
                store.save_place(&mut changes).await?;
            }
        }
    }

    async fn sweep_again_and_again(&self, has_stream: &SetOnce<bool>) -> ! {
        // Listen first, then look at everything: so nothing falls in between.
        let every = if *has_stream.wait().await { SWEEP_EVERY } else { SWEEP_OFTEN };
        let mut before = self.moment();
        loop {
            let begun = Instant::now();
            match sweep(&self.parts).await {
                Ok(()) => {
                    self.held_up.over();
                    self.rest(every.max(begun.elapsed() * SWEEP_SHARE), &mut before).await;
                }
                Err(error) => {
                    self.held_up.met(&error);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Waits for so long, or until a sweep is asked for, or the clock is set back since `before`:
    /// times that were written by it then lie too late.
    async fn rest(&self, wait: Duration, before: &mut (DateTime<Utc>, Instant)) {
        let begun = Instant::now();
        while begun.elapsed() < wait {
            let asked = timeout(EVERY.min(wait), self.asked.notified()).await.is_ok();
            let now = self.moment();
            if asked || went_back(std::mem::replace(before, now), now) {
                return;
            }
        }
    }

    fn moment(&self) -> (DateTime<Utc>, Instant) {
        (self.parts.clock.now(), Instant::now())
    }
}

fn went_back(before: (DateTime<Utc>, Instant), now: (DateTime<Utc>, Instant)) -> bool {
    let passed = TimeDelta::from_std(now.1 - before.1).unwrap_or_default();
    now.0 - before.0 < passed - SET_BACK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_went_back_is_told() {
        let (wall, steady) = (DateTime::UNIX_EPOCH, Instant::now());
        let later = |wall_seconds, seconds| {
            (wall + TimeDelta::seconds(wall_seconds), steady + Duration::from_secs(seconds))
        };
        for (wall_seconds, seconds, back) in
            [(5, 5, false), (3_605, 5, false), (-3_595, 5, true), (-20, 5, false), (-26, 5, true)]
        {
            let went = went_back((wall, steady), later(wall_seconds, seconds));
            assert_eq!(went, back, "{wall_seconds} {seconds}");
        }
    }
}
