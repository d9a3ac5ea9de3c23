//! `KEEP_FRESH=false`: only what failed is tried again, and what is left of the time before is
//! cleared away.

use mongodb::bson::{Bson, DateTime, doc};

use super::{FRESH, LIFE, becomes_fresh, stage, stays_fresh};
use crate::harness::fleet::Fleet;
use crate::harness::scripted_pds::Fault;
use crate::harness::world::World;
use crate::harness::{PATIENCE, eventually};

const OFF: &[(&str, &str)] = &[("KEEP_FRESH", "false"), ("PDS_RATE_LIMIT", "off")];

/// Sets fields behind the daemon's back, of the kind that it does not listen for.
async fn set(world: &World, fleet: &Fleet<'_>, fields: mongodb::bson::Document) {
    let updated = world.accounts().update_many(fleet.filter(), doc! { "$set": fields }).await;
    assert_eq!(updated.expect("an update").matched_count, fleet.len());
}

async fn scheduled(world: &World, fleet: &Fleet<'_>) -> u64 {
    let mut filter = fleet.filter();
    filter.insert("tokenRefresh.nextAttemptAt", doc! { "$type": "date" });
    world.accounts().count_documents(filter).await.expect("a count")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switched_off_a_time_that_has_passed_counts_only_after_a_failure() {
    let (world, pds) = stage().await;
    let daemon = world.daemon(pds.url().as_str(), OFF).await;
    let well = Fleet::of(&world, &pds, 20).await;
    let failing = Fleet::of(&world, &pds, 20).await;
    let run = daemon.refresh_all().await;
    assert_eq!(run["outcomes"], serde_json::json!({"refreshed": 40}), "{run}");
    assert_eq!(scheduled(&world, &well).await + scheduled(&world, &failing).await, 0);

    // Those that are well would come first.
    let ago =
        |seconds: i64| DateTime::from_millis(DateTime::now().timestamp_millis() - seconds * 1_000);
    set(&world, &well, doc! { "tokenRefresh.nextAttemptAt": ago(60) }).await;
    let failed = doc! {
        "tokenRefresh.nextAttemptAt": ago(30), "tokenRefresh.failures": 1,
        "tokenRefresh.outcome": "unreachable",
    };
    set(&world, &failing, failed).await;
    let tried = || {
        let others =
            |line: &serde_json::Value| line["event"] == "refresh" && line["trigger"] != "manual";
        daemon.log().matching(others)
    };
    let told = async || tried().len() >= 20;
    eventually("those that failed are tried again", PATIENCE, told).await;
    assert!(tried().iter().all(|line| line["trigger"] == "recovery"), "{:?}", tried());
    assert_eq!((well.calls(), failing.calls()), ((1, 1), (2, 2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switching_it_off_clears_the_times_of_those_that_are_well_and_on_brings_them_back() {
    let (world, pds) = stage().await;
    let url = pds.url().to_string();
    let well = Fleet::lapsed(&world, &pds, 50).await;
    let daemon = world.daemon(&url, FRESH).await;
    let refreshed = async || well.is_refreshed(&world).await;
    eventually("they are kept fresh", PATIENCE, refreshed).await;
    // Before there is one to fail: it is refreshed as soon as it is there.
    pds.fail_next(100_000, &Fault::answer(500, "{}"));
    let failing = Fleet::lapsed(&world, &pds, 1).await;
    let failed = async || failing.calls().1 >= 1;
    eventually("one is in trouble", PATIENCE, failed).await;
    assert!(daemon.stop().await.success());
    // It waits, for longer than this test takes.
    let in_an_hour = DateTime::from_millis(DateTime::now().timestamp_millis() + 3_600_000);
    set(&world, &failing, doc! { "tokenRefresh.nextAttemptAt": in_an_hour }).await;
    pds.recover();

    let daemon = world.daemon(&url, OFF).await;
    let cleared = async || scheduled(&world, &well).await == 0;
    eventually("what is left is cleared", PATIENCE, cleared).await;
    let is_null = doc! { "tokenRefresh.nextAttemptAt": Bson::Null };
    assert_eq!(world.accounts().count_documents(is_null).await.expect("a count"), well.len());
    assert_eq!(scheduled(&world, &failing).await, 1, "what failed keeps its time");
    let calls = pds.total_calls();
    eventually("they lapse", LIFE * 2, async || world.stale().await >= well.len()).await;
    assert_eq!(pds.total_calls(), calls);
    assert!(daemon.stop().await.success());

    set(&world, &failing, doc! { "tokenRefresh.nextAttemptAt": DateTime::now() }).await;
    let _daemon = world.daemon(&url, FRESH).await;
    becomes_fresh(&world, LIFE).await;
    stays_fresh(&world, LIFE).await;
    well.assert_live(&world).await;
}
