//! One refresh-all: every server's accounts are walked on their own, by keyset, so that a server
//! without room holds up nobody else.

use std::time::Duration;

use tokio::time::Instant;

use super::choice::{Choice, choose};
use super::room::Room;
use super::{IDLE, MOST_SERVERS, Next, Parts, PlanError, appraiser};
use crate::domain::identity::{AccountId, ServiceUrl};
use crate::domain::outcome::Outcome;
use crate::events;
use crate::queue::{Added, NewJob, RunTally};
use crate::store::{Advance, Counts, Run, RunRow, RunState};

/// Accounts read at once.
const PAGE: u32 = 500;

/// Pages read for one server in one pass.
const PAGES_A_PASS: usize = 20;

/// How often a run's counts are written to MongoDB while it goes on.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Walks over a run's accounts to find jobs that Redis lost; the last one finds none.
const MOST_PASSES: u32 = 10;

/// Skipped accounts that a page has room for, beside those that become jobs.
const SPARE: u32 = 50;

/// A server that wants to be left alone for longer than this does not hold its run, and all later
/// ones, open: its accounts end as `rate_limited`, without a call, and are retried when it is over.
const LONGEST_HOLD: Duration = Duration::from_mins(10);

/// The row of the accounts that no server can be named for.
const NO_SERVER: &str = "";

/// The walk of the current run, if there is one.
#[derive(Debug)]
pub(super) struct Walk {
    parts: Parts,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    run: Run,
    rows: Vec<RunRow>,
    /// How far the stamping sweep has come, until there are rows.
    swept: Option<AccountId>,
    saved: Instant,
    /// What a later walk has met so far.
    met: Met,
}

/// Accounts that the tally does not count.
#[derive(Debug, Default)]
struct Met {
    /// Those whose job was there already. It may be from before the tally was begun anew.
    joined: u64,
    /// Those that cannot be attempted, and bear no trace of it.
    malformed: u64,
}

impl Walk {
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts, current: None }
    }

    /// Whether a run is under way whose servers are known.
    pub(super) fn knows_servers(&self) -> bool {
        self.current.as_ref().is_some_and(|current| !current.rows.is_empty())
    }

    /// Whether it has accounts of `service` yet to come to.
    pub(super) fn is_at(&self, service: &ServiceUrl) -> bool {
        let rows = self.current.iter().flat_map(|current| &current.rows);
        rows.filter(|row| !row.done).any(|row| row.service == service.as_str())
    }

    /// Forgets where it is: another instance goes on.
    pub(super) fn forget(&mut self) {
        self.current = None;
    }

    /// Goes on with the oldest run that is not done.
    pub(super) async fn step(&mut self, room: &mut Room) -> Result<Next, PlanError> {
        // What is in memory is only a copy: after any error it is read again.
        let current = match self.current.take() {
            Some(current) => current,
            None => match self.open().await? {
                Some(current) => current,
                None => return Ok(Next::After(IDLE)),
            },
        };
        let (next, current) = self.go_on(current, room).await?;
        self.current = current;
        Ok(next)
    }

    async fn open(&self) -> Result<Option<Current>, PlanError> {
        let Some(mut run) = self.parts.store.current_run().await? else { return Ok(None) };
        if run.state == RunState::Queued {
            let now = self.parts.clock.now();
            self.parts.queue.begin_run(&run.id).await?;
            if !self.parts.store.start_run(&run.id, now).await? {
                return Err(PlanError::Overtaken);
            }
            run.state = RunState::Running;
            run.started_at = Some(now);
            events::run_started(&run);
        }
        let rows = self.parts.store.rows(&run.id).await?;
        let met = Met::default();
        Ok(Some(Current { run, rows, swept: None, saved: Instant::now(), met }))
    }

    async fn go_on(
        &self,
        mut current: Current,
        room: &mut Room,
    ) -> Result<(Next, Option<Current>), PlanError> {
        if current.rows.is_empty() {
            self.sweep(&mut current).await?;
            return Ok((Next::Now, Some(current)));
        }
        let next = self.walk_rows(&mut current, room).await?;
        if current.rows.iter().all(|row| row.done) {
            return self.close(current).await;
        }
        if current.saved.elapsed() >= SAVE_EVERY {
            let tally = self.parts.queue.run_tally(&current.run.id).await?.unwrap_or_default();
            self.save_counts(&mut current, tally).await?;
        }
        Ok((next, Some(current)))
    }

    /// Stamps the accounts that have no server yet, a page at a time; after the last one the
    /// run's rows are made.
    async fn sweep(&self, current: &mut Current) -> Result<(), PlanError> {
        let store = &self.parts.store;
        let page = store.unstamped(current.swept, PAGE).await?;
        appraiser::appraise(&self.parts, &page).await?;
        if let Some(last) = page.last() {
            current.swept = Some(last.id);
        }
        if is_last(&page, PAGE) {
            let mut services = store.services(None, MOST_SERVERS).await?;
            services.push(NO_SERVER.to_owned());
            store.add_rows(&current.run.id, &services).await?;
            current.rows = store.rows(&current.run.id).await?;
        }
        Ok(())
    }

    async fn walk_rows(&self, current: &mut Current, room: &mut Room) -> Result<Next, PlanError> {
        for row in current.rows.iter().filter(|row| !row.done) {
            room.wants(&row.service, true);
        }
        let mut next = Next::After(BETWEEN_TALLIES);
        for row in current.rows.iter_mut().filter(|row| !row.done) {
            next = next.min(self.walk_row((&current.run, &mut current.met), row, room).await?);
        }
        Ok(next)
    }

    async fn walk_row(
        &self,
        (run, met): (&Run, &mut Met),
        row: &mut RunRow,
        room: &mut Room,
    ) -> Result<Next, PlanError> {
        if room.left(&row.service) == 0 {
            return Ok(Next::Room);
        }
        if let Some(wait) = self.closed_for(&row.service).await
            && wait <= LONGEST_HOLD
        {
            // It does not wait for room: the others' share need not shrink for it.
            room.wants(&row.service, false);
            return Ok(Next::After(wait.min(IDLE)));
        }
        for _ in 0..PAGES_A_PASS {
            if !self.walk_page((run, met), row, room).await? {
                return Ok(Next::Room);
            }
            if row.done {
                room.wants(&row.service, false);
                return Ok(Next::After(BETWEEN_TALLIES));
            }
        }
        Ok(Next::Now)
    }

    async fn closed_for(&self, service: &str) -> Option<Duration> {
        let service: ServiceUrl = service.parse().ok()?;
        self.parts.budget.closed_for(&service).await
    }

    /// Makes jobs of the row's next accounts, as far as there is room, then moves its cursor past
    /// them. A crash in between walks them again, and their jobs join the ones that were made.
    /// False: there is no room for the next one.
    async fn walk_page(
        &self,
        (run, met): (&Run, &mut Met),
        row: &mut RunRow,
        room: &mut Room,
    ) -> Result<bool, PlanError> {
        let store = &self.parts.store;
        // Asked once: room says none when it is hardly worth a page.
        let mut left = room.left(&row.service);
        let limit = page_size(left);
        let page = if row.service == NO_SERVER {
            store.unstamped(row.cursor, limit).await?
        } else {
            store.page(&row.service, row.cursor, limit).await?
        };
        let mut jobs: Vec<NewJob> = Vec::new();
        let (mut fresh, mut cursor, mut consumed) = (0, row.cursor, 0);
        for document in &page {
            match choose(document, run, &self.parts.routing) {
                Choice::Skip => {}
                Choice::Malformed => met.malformed += 1,
                Choice::Fresh => fresh += 1,
                Choice::Job(job) => {
                    // By the server that its token names now, which the row's may no longer be.
                    let service = job.service.as_ref().map_or(NO_SERVER, ServiceUrl::as_str);
                    let has_room =
                        if service == row.service { left > 0 } else { room.left(service) > 0 };
                    if !has_room {
                        break;
                    }
                    left = left.saturating_sub(usize::from(service == row.service));
                    room.give(service, 1);
                    jobs.push(*job);
                }
            }
            cursor = Some(document.id);
            consumed += 1;
        }
        if consumed == 0 && !page.is_empty() {
            return Ok(false);
        }
        let added = self.parts.queue.enqueue(&jobs).await?;
        let joined = added.iter().filter(|job| job.how != Added::New).count();
        met.joined += u64::try_from(joined).unwrap_or(u64::MAX);
        let made = u64::try_from(jobs.len()).unwrap_or(u64::MAX);
        let all = consumed == page.len();
        let done = all && is_last(&page, limit);
        let service = row.service.as_str();
        let step = Advance { service, from: row.cursor, to: cursor, jobs: made, fresh, done };
        if !store.advance(&run.id, &step).await? {
            return Err(PlanError::Overtaken);
        }
        row.jobs += made;
        row.fresh += fresh;
        row.cursor = cursor;
        row.done = done;
        Ok(all)
    }

    /// Every job is made: waits until they have ended, and looks for those that Redis lost.
    async fn close(&self, mut current: Current) -> Result<(Next, Option<Current>), PlanError> {
        let tally = self.parts.queue.run_tally(&current.run.id).await?;
        if let Some(tally) = tally.as_ref().filter(|tally| tally.open > 0) {
            self.save_counts(&mut current, tally.clone()).await?;
            if !self.is_evicted(&current.run).await? {
                return Ok((Next::After(BETWEEN_TALLIES), Some(current)));
            }
            return self.walk_again(current).await;
        }
        let made: u64 = current.rows.iter().map(|row| row.jobs).sum();
        let ended: u64 = tally.iter().flat_map(|tally| tally.outcomes.values()).sum();
        let complete = if current.run.pass == 0 { ended >= made } else { made == 0 };
        // Jobs that are still there are waited for, however long that takes.
        let waits = current.run.pass > 0 && current.met.joined > 0;
        if !complete && (waits || current.run.pass < MOST_PASSES) {
            return self.walk_again(current).await;
        }
        if current.run.pass == 0 {
            current.run.counts = counts(&current.rows, tally.unwrap_or_default());
        } else {
            self.recount(&mut current).await?;
        }
        let now = self.parts.clock.now();
        current.run.ended_at = Some(now);
        if self.parts.store.finish_run(&current.run.id, now, &current.run.counts).await? {
            events::run_ended(&current.run, now);
        }
        self.parts.queue.end_run(&current.run.id).await?;
        self.parts.store.prune(KEPT_RUNS).await?;
        Ok((Next::Now, None))
    }

    /// Whether Redis counts open jobs of a run but holds none at all: it was made to forget them.
    async fn is_evicted(&self, run: &Run) -> Result<bool, PlanError> {
        let queue = &self.parts.queue;
        if queue.depth().await?.lanes.values().any(|lane| lane.waiting + lane.running > 0) {
            return Ok(false);
        }
        // The last job may have ended between the two questions.
        let evicted = queue.run_tally(&run.id).await?.is_some_and(|tally| tally.open > 0);
        if evicted {
            queue.end_run(&run.id).await?;
        }
        Ok(evicted)
    }

    /// The totals as the accounts themselves tell them.
    async fn recount(&self, current: &mut Current) -> Result<(), PlanError> {
        let mut outcomes = self.parts.store.recount(current.run.cut_off).await?;
        if current.met.malformed > 0 {
            outcomes.insert(Outcome::Malformed, current.met.malformed);
        }
        current.run.counts.jobs = outcomes.values().sum();
        current.run.counts.outcomes = outcomes;
        Ok(())
    }

    /// Redis lost some of the run's jobs: the accounts themselves tell which were not tried.
    async fn walk_again(&self, current: Current) -> Result<(Next, Option<Current>), PlanError> {
        if current.run.pass == 0 {
            tracing::info!(
                event = "run_again",
                run = %current.run.id,
                "Redis lost jobs of refresh-all {}; looking for accounts that were not tried",
                current.run.id
            );
        }
        if !self.parts.store.walk_again(&current.run.id, &current.run.counts).await? {
            return Err(PlanError::Overtaken);
        }
        self.parts.queue.begin_run(&current.run.id).await?;
        Ok((Next::After(BETWEEN_WALKS), None))
    }

    async fn save_counts(&self, current: &mut Current, tally: RunTally) -> Result<(), PlanError> {
        if current.run.pass == 0 && current.saved.elapsed() >= SAVE_EVERY {
            current.run.counts = counts(&current.rows, tally);
            self.parts.store.save_counts(&current.run.id, &current.run.counts).await?;
            current.saved = Instant::now();
        }
        Ok(())
    }
}

/// How often the end of a run's last jobs is looked for.
const BETWEEN_TALLIES: Duration = Duration::from_millis(200);

/// How long the jobs that were still there have before they are looked for again.
const BETWEEN_WALKS: Duration = Duration::from_secs(1);

/// How many runs are kept for the admin API.
const KEPT_RUNS: u32 = 200;

/// How many accounts to read for `left` jobs.
fn page_size(left: usize) -> u32 {
    u32::try_from(left).unwrap_or(PAGE).saturating_add(SPARE).min(PAGE)
}

pub(super) fn is_last<T>(page: &[T], limit: u32) -> bool {
    u32::try_from(page.len()).is_ok_and(|read| read < limit)
}

fn counts(rows: &[RunRow], tally: RunTally) -> Counts {
    Counts {
        jobs: rows.iter().map(|row| row.jobs).sum(),
        fresh: rows.iter().map(|row| row.fresh).sum(),
        outcomes: tally.outcomes,
    }
}
