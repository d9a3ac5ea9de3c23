//! A fleet that comes at once does not come back at once.

use std::time::Duration;

use mongodb::bson::{Bson, doc};
use tokio::time::{Instant, interval};

use super::{CYCLE, LIFE, amount, is_long, settings};
use crate::harness::daemon::Daemon;
use crate::harness::fleet::Fleet;
use crate::harness::scripted_pds::{Options, ScriptedPds};
use crate::harness::world::World;
use crate::harness::{PATIENCE, eventually};

/// How many calls came in every stretch of that length, over so long.
async fn calls(pds: &ScriptedPds, stretch: Duration, how_long: Duration) -> Vec<u64> {
    let begun = Instant::now();
    let mut ticks = interval(stretch);
    ticks.tick().await;
    let (mut calls, mut before) = (Vec::new(), pds.total_calls());
    while begun.elapsed() < how_long {
        ticks.tick().await;
        let now = pds.total_calls();
        calls.push(now - before);
        before = now;
    }
    calls
}

/// Commands that Redis and MongoDB have carried out so far, as they count them.
async fn commands(world: &World) -> (u64, u64) {
    let link = world.redis.link();
    let stats: String = link.query(redis::cmd("INFO").arg("stats")).await.expect("statistics");
    let redis = stats.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
    let counted = world.database().run_command(doc! { "serverStatus": 1 }).await.expect("a status");
    let counters = counted.get_document("opcounters").expect("counters");
    let count = |kind| match counters.get(kind) {
        Some(Bson::Int32(n)) => u64::try_from(*n).expect("a count"),
        Some(Bson::Int64(n)) => u64::try_from(*n).expect("a count"),
        other => panic!("{kind}: {other:?}"),
    };
    let mongo = ["query", "update", "getmore", "insert"].map(count).iter().sum();
    (redis.expect("a count").trim().parse().expect("a number"), mongo)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_is_imported_at_once_is_spread_over_its_cycle() {
    let options = Options { access_life: LIFE, ..Options::default() };
    let (world, pds) = tokio::join!(World::start(), ScriptedPds::start(options));
    let settings = settings(&world, &pds, &[("PDS_RATE_LIMIT", "off")]);
    let _daemon = Daemon::start_release(&settings).await;
    let fleet = Fleet::of(&world, &pds, amount(5_000, 100_000)).await;
    eventually("the first calls", PATIENCE, async || pds.total_calls() > 0).await;

    // As many as a second's worth of a large fleet, so that chance does not look like a burst.
    let stretch = Duration::from_secs(if is_long() { 1 } else { 15 });
    let before = commands(&world).await;
    let calls = calls(&pds, stretch, CYCLE.mul_f64(0.8)).await;
    let after = commands(&world).await;
    let all: u64 = calls.iter().sum();
    println!(
        "{} hundredths of a Redis command and {} of a MongoDB command a refresh",
        (after.0 - before.0) * 100 / all,
        (after.1 - before.1) * 100 / all
    );
    let even = fleet.len() * stretch.as_secs() / CYCLE.as_secs();
    let (fewest, most) = (calls.iter().min().expect("some"), calls.iter().max().expect("some"));
    println!("{} accounts: {fewest} to {most} calls in {stretch:?}, {even} were even", fleet.len());
    println!("{calls:?}");
    assert!(*fewest >= even * 80 / 100 && *most <= even * 120 / 100, "{calls:?}, even is {even}");
}
