//! Several Bluesky servers: what one of them does holds up none of the others.

use std::time::Duration;

use futures::future::join3;
use mongodb::bson::{Bson, doc};
use serde_json::json;
use tokio::time::Instant;

use super::harness::daemon::Daemon;
use super::harness::fleet::Fleet;
use super::harness::scripted_pds::{Fault, Options, ScriptedPds};
use super::harness::world::World;
use super::harness::{PATIENCE, eventually};

/// Calls that may be under way at once.
const SLOTS: u64 = 32;

/// A server that is found by what its tokens say.
async fn server() -> ScriptedPds {
    let audience = "did:web:127.0.0.1%3A{port}";
    ScriptedPds::start(Options { audience, ..Options::default() }).await
}

/// A world with a server in trouble and one without.
async fn stage(more: &[(&str, &str)]) -> (World, ScriptedPds, ScriptedPds, Daemon) {
    let (world, bad, good) = join3(World::start(), server(), server()).await;
    let slots = SLOTS.to_string();
    let mut settings = vec![("PDS_ALLOW_PRIVATE", "true"), ("WORKER_CONCURRENCY", &slots)];
    settings.extend(more);
    // Nobody is at home: all are found by their tokens.
    let daemon = world.daemon("http://127.0.0.1:9", &settings).await;
    (world, bad, good, daemon)
}

async fn refreshed(fleet: &Fleet<'_>, world: &World) {
    eventually("all are refreshed", PATIENCE, async || fleet.is_refreshed(world).await).await;
}

/// Nobody is blamed for what the server does.
async fn assert_nobody_is_blamed(world: &World) {
    let blamed = doc! { "$or": [
        { "status": { "$ne": "active" } }, { "errorMessage": { "$ne": Bson::Null } },
    ] };
    assert_eq!(world.accounts().find_one(blamed).await.expect("a read"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_does_not_hold_up_another_one() {
    let (world, hung, good, daemon) = stage(&[("PDS_TIMEOUT", "2s")]).await;
    hung.fail_next(100_000, &Fault::Hang);
    // The hung server's accounts are the older ones, and come first wherever order counts.
    let stuck = Fleet::of(&world, &hung, 300).await;
    let fleet = Fleet::of(&world, &good, 300).await;

    let begun = Instant::now();
    let id = daemon.ask_for_run().await;
    refreshed(&fleet, &world).await;
    let good_took = begun.elapsed();
    let asked = hung.total_calls();
    assert!(asked < stuck.len(), "while {asked} of the hung server's accounts were asked for");
    let run = daemon.run_within(&id, Duration::from_mins(3)).await;
    let all_took = begun.elapsed();

    assert!(2 * good_took < all_took, "{good_took:?} of {all_took:?}");
    assert_eq!(fleet.calls(), (1, 1));
    assert_eq!(run["outcomes"], json!({"refreshed": 300, "unreachable": 300}), "{run}");
    assert_nobody_is_blamed(&world).await;

    // When the server is back, so are its accounts, by themselves.
    hung.recover();
    refreshed(&stuck, &world).await;
    stuck.assert_current(&world).await;
    fleet.assert_current(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_asks_for_time_gets_it_and_the_other_goes_on() {
    let (world, busy, good, daemon) = stage(&[]).await;
    busy.set_latency(Duration::from_millis(50));
    let waiting = Fleet::of(&world, &busy, 200).await;
    let fleet = Fleet::of(&world, &good, 200).await;
    busy.fail_next(1, &Fault::rate_limited(20));

    let begun = Instant::now();
    let id = daemon.ask_for_run().await;
    refreshed(&fleet, &world).await;
    // What was under way when it asked may still arrive; nothing after that.
    let asked = busy.total_calls();
    assert!(asked <= 2 * SLOTS, "{asked} calls came to the server that asked for time");
    let run = daemon.run(&id).await;
    refreshed(&waiting, &world).await;

    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(20), "it was left alone for as long as it asked: {took:?}");
    assert_eq!(busy.answers(429), 1, "{run}");
    assert_eq!((busy.answers(200), good.answers(200)), (200, 200), "{run}");
    waiting.assert_current(&world).await;
    fleet.assert_current(&world).await;
    assert_nobody_is_blamed(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_asks_for_a_day_does_not_hold_up_the_next_run() {
    let (world, silent, good, daemon) = stage(&[]).await;
    let _waiting = Fleet::of(&world, &silent, 50).await;
    let _fleet = Fleet::of(&world, &good, 50).await;
    silent.fail_next(1_000, &Fault::rate_limited(86_400));

    let run = daemon.refresh_all().await;
    assert_eq!(run["outcomes"], json!({"refreshed": 50, "rate_limited": 50}), "{run}");
    let run = daemon.refresh_all().await;
    assert_eq!(run["outcomes"], json!({"refreshed": 50, "rate_limited": 50}), "{run}");
    assert_eq!((good.answers(200), silent.answers(200)), (100, 0));
    let asked = silent.total_calls();
    assert!(asked <= 2 * SLOTS, "{asked} calls came to the server that asked for a day");
    assert_nobody_is_blamed(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_fails_its_own_accounts_only() {
    let (world, gone, good, daemon) = stage(&[]).await;
    let lost = Fleet::of(&world, &gone, 40).await.len();
    let fleet = Fleet::of(&world, &good, 40).await;
    gone.stop().await;
    let run = daemon.refresh_all().await;
    assert_eq!(run["outcomes"], json!({"refreshed": 40, "unreachable": lost}), "{run}");
    assert_eq!(run["failures"].as_array().map(Vec::len), Some(40), "each of them is listed");
    fleet.assert_current(&world).await;
    assert_nobody_is_blamed(&world).await;
}

/// What stands before a dead server says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_with_many_accounts_is_hardly_called_and_heals_by_itself() {
    hardly_called(&Fault::html(502)).await;
}

/// It answers, and nobody can make anything of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_broken_for_all_is_hardly_called_and_heals_by_itself() {
    hardly_called(&Fault::answer(500, r#"{"error":"InternalServerError"}"#)).await;
}

async fn hardly_called(fault: &Fault) {
    let (world, dead, good, daemon) = stage(&[]).await;
    let lost = Fleet::of(&world, &dead, 150).await;
    let fleet = Fleet::of(&world, &good, 50).await;
    dead.fail_next(100_000, fault);

    let begun = Instant::now();
    let run = daemon.refresh_all_within(Duration::from_mins(3)).await;
    let took = begun.elapsed();
    let asked = dead.total_calls();
    assert_eq!(run["outcomes"], json!({"refreshed": 50, "unreachable": 150}), "{run}");
    // An open breaker leaves room for one job at a time, which takes its while on a busy machine.
    assert!(took < Duration::from_mins(2), "{took:?}");
    // What was under way before it was known, then probes at 0.5, 1, 2, 4 … s at the earliest.
    assert!(asked <= SLOTS + 8, "{asked} calls came to the dead server");
    fleet.assert_current(&world).await;
    assert_nobody_is_blamed(&world).await;

    dead.recover();
    refreshed(&lost, &world).await;
    lost.assert_current(&world).await;
    assert_nobody_is_blamed(&world).await;
    let breakers = daemon.log().matching(|line| line["event"] == "breaker");
    let levels: Vec<_> = breakers.iter().map(|line| line["level"].as_str()).collect();
    assert_eq!(levels, [Some("WARN"), Some("INFO")], "{breakers:?}");
    assert!(breakers.iter().all(|line| line["service"] == dead.url().as_str()), "{breakers:?}");
}
