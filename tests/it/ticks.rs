//! The cron pattern over several instances and restarts: every tick is one run, whoever watches.

use std::collections::BTreeSet;

use futures::TryStreamExt as _;
use futures::future::{join, join3};
use mongodb::bson::{DateTime, Document, doc};
use serde_json::Value;

use super::harness::fleet::Fleet;
use super::harness::scripted_pds::{Options, ScriptedPds};
use super::harness::world::{World, text};
use super::harness::{PATIENCE, arrival};

const EVERY_SECOND: (&str, &str) = ("REFRESH_CRON", "* * * * * *");
const SUNDAYS: (&str, &str) = ("REFRESH_CRON", "0 0 * * 0");

async fn stage() -> (World, ScriptedPds, String) {
    let (world, pds) = join(World::start(), ScriptedPds::start(Options::default())).await;
    let url = pds.url().to_string();
    (world, pds, url)
}

async fn runs(world: &World) -> Vec<Document> {
    let runs = world.database().collection("refresh_runs");
    let found = runs.find(doc! {}).sort(doc! { "tick": 1 }).await.expect("a read");
    found.try_collect().await.expect("all")
}

/// When it is noticed that the pattern's ticks count from now on.
async fn anchored(world: &World) {
    let schedule = world.database().collection::<Document>("refresh_schedule");
    arrival("the schedule is written down", PATIENCE, || async {
        schedule.find_one(doc! {}).await.expect("a read")
    })
    .await;
}

fn has_ended(line: &Value) -> bool {
    line["event"] == "schedule" && line["limit"] == 3
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tick_is_one_run_and_the_limit_holds_over_instances_and_restarts() {
    let (world, pds, url) = stage().await;
    let fleet = Fleet::of(&world, &pds, 5).await;
    let settings = [EVERY_SECOND, ("REFRESH_LIMIT", "3")];
    let (one, two) = join(world.daemon(&url, &settings), world.daemon(&url, &settings)).await;
    join(one.log().wait(has_ended), two.log().wait(has_ended)).await;

    let made = runs(&world).await;
    let ids: Vec<_> = made.iter().map(|run| text(run, "_id").to_owned()).collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
    assert!(ids.iter().all(|id| id.starts_with("cron-")), "{ids:?}");
    let ticks: BTreeSet<_> = made
        .iter()
        .map(|run| run.get_datetime("tick").expect("a tick").timestamp_millis())
        .collect();
    assert_eq!(ticks.len(), 3, "three moments");
    assert!(ticks.iter().all(|tick| tick % 1_000 == 0), "each is one of the pattern's");
    let claims: Vec<_> = [&one, &two]
        .into_iter()
        .flat_map(|daemon| daemon.log().matching(|line| line["event"] == "schedule"))
        .filter_map(|line| line["run"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(claims.iter().collect::<BTreeSet<_>>(), ids.iter().collect(), "{claims:?}");
    assert_eq!(claims.len(), 3, "one claim a tick: {claims:?}");
    for id in &ids {
        let run = one.run(id).await;
        assert_eq!((&run["trigger"], &run["failed"]), (&"cron".into(), &0.into()), "{run}");
    }
    fleet.assert_current(&world).await;
    let (fewest, most) = fleet.calls();
    assert!(fewest >= 1 && most <= 3, "{fewest} to {most} calls in 3 runs");
    assert!(one.stop().await.success() && two.stop().await.success());

    let later = world.daemon(&url, &settings).await;
    later.log().wait(has_ended).await;
    assert_eq!(runs(&world).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_start_ever_runs_nothing_and_a_missed_tick_is_caught_up_once() {
    let (world, pds, url) = stage().await;
    let fleet = Fleet::of(&world, &pds, 5).await;
    let first = world.daemon(&url, &[SUNDAYS]).await;
    anchored(&world).await;
    // Time enough for the schedule to do what it would do.
    first.refresh_all().await;
    assert!(first.stop().await.success());
    let made = runs(&world).await;
    assert!(made.iter().all(|run| run.get("tick").is_none()), "{made:?}");
    assert_eq!(fleet.calls(), (1, 1));

    // Nothing ran for 30 days, in which four or five Sundays were missed.
    let long_ago = DateTime::from_millis(pds.now().timestamp_millis() - 30 * 86_400_000);
    world
        .database()
        .collection::<Document>("refresh_schedule")
        .update_one(doc! {}, doc! { "$set": { "anchoredAt": long_ago } })
        .await
        .expect("an update");
    let (one, two, three) = join3(
        world.daemon(&url, &[SUNDAYS]),
        world.daemon(&url, &[SUNDAYS]),
        world.daemon(&url, &[SUNDAYS]),
    )
    .await;
    let tick = arrival("the missed tick is caught up", PATIENCE, || async {
        runs(&world).await.into_iter().find(|run| run.get("tick").is_some())
    })
    .await;
    let at = tick.get_datetime("tick").expect("a tick").timestamp_millis();
    let at = chrono::DateTime::from_timestamp_millis(at).expect("a time");
    assert_eq!(at.format("%a %T").to_string(), "Sun 00:00:00");
    assert!((pds.now() - at).num_days() < 7, "the latest of them: {at}");
    let run = one.run(text(&tick, "_id")).await;
    // All were refreshed since that Sunday.
    assert_eq!((&run["jobs"], &run["leftOut"]), (&0.into(), &5.into()), "{run}");
    for daemon in [one, two, three] {
        // Also time enough to make a second run of it.
        daemon.refresh_all().await;
        assert!(daemon.stop().await.success());
    }
    let ticks = runs(&world).await.into_iter().filter(|run| run.get("tick").is_some()).count();
    assert_eq!(ticks, 1);
}
