//! `refreshd status`: the queue, the runs and the accounts in numbers.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::args::StatusArgs;
use super::connect::connect;
use super::output::{counted, distance, line, span, table, tidy};
use crate::capacity;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::forecast::Shortage;
use crate::events::rfc3339;
use crate::lifecycle::Exit;
use crate::queue::Depth;
use crate::store::{Run, RunState, Store, StoreError};

/// Runs that are shown.
const RUNS: u32 = 5;

/// Servers that are named.
const AHEAD: usize = 5;

/// All that is shown.
struct Overview {
    redis: String,
    mongo: String,
    depth: Depth,
    accounts: BTreeMap<String, u64>,
    /// The servers whose accounts need more calls than the budget gives.
    shortages: Vec<Shortage>,
    runs: Vec<Run>,
    /// The servers whose accounts the current run has still to make jobs for.
    ahead: Vec<String>,
    next_tick: Option<DateTime<Utc>>,
}

/// Shows the state of things on stdout.
pub(super) async fn status(config: &Config, args: &StatusArgs) -> anyhow::Result<Exit> {
    let services = connect(config).await?;
    let now = Clock::system().now();
    let next_tick = config.schedule.cron.as_ref().and_then(|schedule| schedule.next_after(now));
    let store = &services.store;
    let runs = store.runs(RUNS, None).await?;
    let depth = services.queue.depth().await?;
    let overview = Overview {
        redis: services.link.place(),
        mongo: format!("{}, {}.{}", config.mongo.hosts, store.database(), store.collection()),
        accounts: store.count_by_status().await?,
        shortages: shortages(config, store, depth.addresses).await?,
        depth,
        ahead: ahead(store, &runs).await?,
        runs,
        next_tick,
    };
    if args.json {
        line(object(&overview))?;
    } else {
        show(&overview, now)?;
    }
    Ok(Exit::Fine)
}

/// Each of the instances' addresses has a budget of its own.
async fn shortages(
    config: &Config,
    store: &Store,
    addresses: u64,
) -> Result<Vec<Shortage>, StoreError> {
    let (Some(lead), Some(per_second)) = (config.schedule.lead, config.pds.per_second) else {
        return Ok(Vec::new());
    };
    let fleets = capacity::fleets(store, &config.pds.home).await?;
    Ok(capacity::shortages(&fleets, lead, |_service| Some(per_second), addresses.max(1)))
}

async fn ahead(store: &Store, runs: &[Run]) -> Result<Vec<String>, StoreError> {
    let Some(run) = runs.iter().find(|run| run.state == RunState::Running) else {
        return Ok(Vec::new());
    };
    let rows = store.rows(&run.id).await?;
    let named = |service: String| if service.is_empty() { "no server".to_owned() } else { service };
    Ok(rows.into_iter().filter(|row| !row.done).map(|row| named(row.service)).collect())
}

fn object(overview: &Overview) -> Value {
    let lanes: serde_json::Map<_, _> = overview
        .depth
        .lanes
        .iter()
        .map(|(lane, depth)| {
            let numbers = json!({
                "waiting": depth.waiting,
                "running": depth.running,
                "oldestSeconds": depth.oldest.as_secs(),
            });
            (lane.to_string(), numbers)
        })
        .collect();
    json!({
        "redis": overview.redis,
        "mongo": overview.mongo,
        "instances": overview.depth.instances,
        "slots": overview.depth.slots,
        "lanes": lanes,
        "accounts": overview.accounts,
        "shortages": overview.shortages.iter().map(shortage_object).collect::<Vec<_>>(),
        "runs": overview.runs.iter().map(run_object).collect::<Vec<_>>(),
        "ahead": overview.ahead,
        "nextTick": overview.next_tick.map(rfc3339),
    })
}

fn shortage_object(shortage: &Shortage) -> Value {
    json!({
        "service": shortage.fleet.service.as_str(),
        "active": shortage.fleet.active,
        "neededPerSecond": shortage.needed,
        "allowedPerSecond": shortage.allowed,
        "lapsing": shortage.lapsing,
        "withinSeconds": shortage.within.as_secs(),
        "message": shortage.sentence(),
    })
}

fn run_object(run: &Run) -> Value {
    let outcomes: BTreeMap<_, _> =
        run.counts.outcomes.iter().map(|(outcome, n)| (outcome.as_str(), n)).collect();
    json!({
        "id": run.id.as_str(),
        "state": run.state.as_str(),
        "trigger": run.trigger.as_str(),
        "requestedAt": rfc3339(run.created_at),
        "startedAt": run.started_at.map(rfc3339),
        "endedAt": run.ended_at.map(rfc3339),
        "leftOut": run.counts.fresh,
        "outcomes": outcomes,
    })
}

fn show(overview: &Overview, now: DateTime<Utc>) -> std::io::Result<()> {
    line(format_args!("Redis      {}", overview.redis))?;
    line(format_args!("MongoDB    {}", overview.mongo))?;
    let depth = &overview.depth;
    let daemons = match depth.instances {
        0 => "none is alive: start one with `refreshd run`".to_owned(),
        n => format!("{} with {}", counted(n, "instance"), counted(depth.slots, "slot")),
    };
    line(format_args!("Daemon     {daemons}"))?;
    let tick =
        overview.next_tick.map(|at| format!("{} ({})", rfc3339(at), distance(Some(at), now)));
    line(format_args!("Next tick  {}", tick.as_deref().unwrap_or("none: REFRESH_CRON is off")))?;
    let accounts: Vec<_> =
        overview.accounts.iter().map(|(status, n)| format!("{status} {n}")).collect();
    let accounts = if accounts.is_empty() { "none".to_owned() } else { accounts.join(", ") };
    line(format_args!("Accounts   {accounts}"))?;
    for shortage in &overview.shortages {
        line(format_args!("Capacity   too little: {}", shortage.sentence()))?;
    }
    line("")?;

    let mut lanes = table(["LANE", "WAITING", "RUNNING", "OLDEST"]);
    for (lane, depth) in &depth.lanes {
        let busy = depth.waiting + depth.running > 0;
        let oldest = TimeDelta::from_std(depth.oldest)
            .ok()
            .filter(|_| busy)
            .map_or_else(|| "-".to_owned(), span);
        lanes.add_row([
            lane.to_string(),
            depth.waiting.to_string(),
            depth.running.to_string(),
            oldest,
        ]);
    }
    line(format_args!("{}\n", tidy(&lanes)))?;

    if overview.runs.is_empty() {
        return line("No refresh-all has been asked for yet");
    }
    let mut runs = table(["RUN", "STATE", "TRIGGER", "REQUESTED", "OUTCOMES"]);
    for run in &overview.runs {
        let outcomes = run.counts.outcomes.iter();
        let outcomes: Vec<_> = outcomes.map(|(outcome, n)| format!("{outcome} {n}")).collect();
        runs.add_row([
            run.id.to_string(),
            run.state.as_str().to_owned(),
            run.trigger.to_string(),
            distance(Some(run.created_at), now),
            if outcomes.is_empty() { "-".to_owned() } else { outcomes.join(", ") },
        ]);
    }
    line(tidy(&runs))?;
    if !overview.ahead.is_empty() {
        let some: Vec<_> = overview.ahead.iter().take(AHEAD).map(String::as_str).collect();
        let more = overview.ahead.len().saturating_sub(AHEAD);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        line(format_args!(
            "\nStill ahead of the current run: accounts of {}{more}",
            some.join(", ")
        ))?;
    }
    Ok(())
}
