//! The program as it is shipped, under load, killed again and again, or its database failing over
//! again and again: what a verifier finds at the end. `scripts/test --long` makes it many times.

mod chains;
mod failover;
mod kills;

use std::time::Duration;

use mongodb::bson::doc;

use crate::harness::daemon::Daemon;
use crate::harness::fleet::Fleet;
use crate::harness::scripted_pds::{Options, ScriptedPds};
use crate::harness::world::World;
use crate::harness::{PATIENCE, eventually, is_long};

/// How long all that was asked for may take to end.
const QUIET: Duration = Duration::from_mins(3);

/// Longer than any grace.
const LATER: Duration = Duration::from_hours(3);

/// The settings of an instance of the release program, at its full pace.
fn settings(world: &World, pds: &ScriptedPds) -> Vec<(String, String)> {
    let mut settings = world.settings(&pds.url().to_string());
    settings.push(("WORKER_CONCURRENCY".to_owned(), "64".to_owned()));
    settings
}

/// Waits until nothing is left to do: no run is open, no job, and no retry waits.
async fn quiet(world: &World, daemon: &Daemon) {
    let runs = world.database().collection::<mongodb::bson::Document>("refresh_runs");
    eventually("all runs are done", QUIET, async || {
        runs.count_documents(doc! { "state": { "$ne": "done" } }).await.is_ok_and(|open| open == 0)
    })
    .await;
    eventually("no retry waits", QUIET, async || {
        let waits = doc! { "tokenRefresh.outcome": { "$in": ["unreachable", "rate_limited"] } };
        world.accounts().count_documents(waits).await.is_ok_and(|waiting| waiting == 0)
    })
    .await;
    eventually("it is ready", PATIENCE, async || daemon.get("/readyz").await.0 == 200).await;
}

/// Asks for a refresh of all accounts, beside the one that is under way: there is always one more
/// to do. While MongoDB has no primary, that takes a while.
async fn load(daemon: &Daemon) {
    eventually("a run is asked for", QUIET, async || {
        daemon.post("/api/admin/refresh-tokens", "{}").await.0 == 200
    })
    .await;
}
