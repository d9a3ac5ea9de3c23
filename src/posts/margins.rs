//! Asks for accounts to be refreshed whose access token would end before, or soon after, a post of
//! theirs is due. Kept fresh, they hardly ever need it.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::index::SOME_TIME;
use super::{Keeper, PostsError, SWEEP_EVERY};
use crate::domain::account::{Document, Status};
use crate::domain::outcome::{Outcome, Trigger};
use crate::domain::queued::{LONGEST_MARGIN, margin, refresh_at};
use crate::domain::session::AccessJwt;
use crate::queue::{Lane, NewJob};

/// Posts that are due later are for a later sweep.
const HORIZON: Duration = SWEEP_EVERY.saturating_mul(2).saturating_add(LONGEST_MARGIN);

/// Whether a refresh that was asked for has come is looked at after this.
const CHECK: Duration = Duration::from_secs(30);

/// Where a server has enough to do, one more is asked for after this.
const FULL: Duration = Duration::from_secs(1);

/// Jobs that a server may have waiting or running for one more to be added: two seconds of what
/// Bluesky allows.
const ENOUGH: u64 = 16;

impl Keeper {
    /// Sets the alarm of each account to when it is to be refreshed for a post's sake, and has those
    /// refreshed whose time has come.
    pub(super) async fn keep_margins(&self, documents: &[Document]) -> Result<(), PostsError> {
        let now = self.parts.clock.now();
        let mut due = Vec::new();
        for document in documents {
            match self.refresh_at(document, now) {
                Some(at) if at <= now => due.push(document),
                Some(at) => self.alarm(document, now, (at - now).to_std().unwrap_or_default()),
                None => self.shared.state().alarms.remove(document.id),
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        let mut held: BTreeMap<String, u64> = self.parts.queue.metered().await?;
        let mut jobs = Vec::new();
        for document in due {
            let service = document.kept.service.as_ref().map(ToString::to_string);
            let held = held.entry(service.unwrap_or_default()).or_default();
            if *held >= ENOUGH {
                self.alarm(document, now, FULL);
                continue;
            }
            *held += 1;
            self.alarm(document, now, CHECK);
            jobs.push(NewJob::of(document, Trigger::KeepFresh, Lane::Due));
        }
        self.parts.queue.enqueue(&jobs).await?;
        Ok(())
    }

    /// When an account is to be refreshed for its posts' sake.
    fn refresh_at(&self, document: &Document, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // What failed is tried again by the planner's rules.
        let failed = document.kept.outcome.is_some_and(|it| !Outcome::is_success(it));
        let usable = document.status == Status::Active && document.account.is_ok() && !failed;
        let life = document.access.as_ref().filter(|_| usable).map(AccessJwt::life)?;
        let margin = margin(self.parts.lead, life.length());
        let horizon = now + HORIZON;
        let state = self.shared.state();
        let posts = state.index.dues(document.id).filter(|due| *due != SOME_TIME);
        posts
            .filter_map(|due| DateTime::from_timestamp_millis(i64::try_from(due).ok()?))
            .filter(|due| *due <= horizon)
            .filter_map(|due| refresh_at(now, due, life, margin))
            .min()
    }

    fn alarm(&self, document: &Document, now: DateTime<Utc>, wait: Duration) {
        let now = u64::try_from(now.timestamp_millis()).unwrap_or(0);
        let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        // Not a moment too early: it would be set again and again.
        self.shared.state().alarms.set(document.id, now.saturating_add(wait).saturating_add(1));
    }
}
