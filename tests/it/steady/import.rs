//! A fleet that comes at once does not come back at once.

use std::time::Duration;

use mongodb::bson::doc;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_is_imported_at_once_is_spread_over_its_cycle() {
    // Many take seconds to be noticed, which must be a small part of the cycle, as it is of hours.
    let times = if is_long() { 5 } else { 1 };
    let (life, cycle) = (LIFE * times, CYCLE * times);
    let options = Options { access_life: life, ..Options::default() };
    let (world, pds) = tokio::join!(World::start(), ScriptedPds::start(options));
    let settings = settings(&world, &pds, &[("PDS_RATE_LIMIT", "off")]);
    let _daemon = Daemon::start_release(&settings).await;
    let fleet = Fleet::of(&world, &pds, amount(5_000, 100_000)).await;
    let begun = Instant::now();
    let unnoticed = doc! { "tokenRefresh": { "$exists": false } };
    eventually("all are noticed", PATIENCE * times, async || {
        world.accounts().find_one(unnoticed.clone()).await.expect("a read").is_none()
    })
    .await;
    println!("{} accounts are noticed within {:?} of their import", fleet.len(), begun.elapsed());

    // So long that chance does not look like a burst.
    let stretch = Duration::from_secs(if is_long() { 5 } else { 15 });
    let calls = calls(&pds, stretch, cycle.mul_f64(0.8)).await;
    let even = fleet.len() * stretch.as_secs() / cycle.as_secs();
    let (fewest, most) = (calls.iter().min().expect("some"), calls.iter().max().expect("some"));
    println!("{} accounts: {fewest} to {most} calls in {stretch:?}, {even} were even", fleet.len());
    println!("{calls:?}");
    assert!(*fewest >= even * 80 / 100 && *most <= even * 120 / 100, "{calls:?}, even is {even}");
}
