//! A refresh-all over many accounts: none missed, none twice, in little memory, across restarts.

use std::time::Duration;

use futures::future::join;
use refreshd::domain::outcome::Trigger;
use refreshd::store::{Store, StoreConfig};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::harness::daemon::Daemon;
use super::harness::fleet::Fleet;
use super::harness::scripted_pds::{Options, ScriptedPds};
use super::harness::world::World;
use super::harness::{LOUD, eventually};

/// Slow enough for a test to step in between, with some ten thousand calls a minute left.
const SLOW: Duration = Duration::from_millis(100);

/// More than two pages of everything that comes in pages.
const MANY: usize = 2_000;

/// The most memory that a daemon at work may ever have had resident, in KiB.
const MOST_MEMORY: u64 = 60 * 1_000_000 / 1_024;

async fn stage() -> (World, ScriptedPds) {
    join(World::start(), ScriptedPds::start(Options::default())).await
}

fn url(pds: &ScriptedPds) -> String {
    pds.url().to_string()
}

/// All accounts of a run ended well, and the run knows it.
fn assert_complete(run: &Value, accounts: u64) {
    assert_eq!(run["outcomes"], json!({"refreshed": accounts}), "{run}");
    assert_eq!((&run["succeeded"], &run["failed"]), (&json!(accounts), &json!(0)), "{run}");
    assert_eq!((&run["jobs"], &run["leftOut"]), (&json!(accounts), &json!(0)), "{run}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_refreshes_every_account_once() {
    let (world, pds) = stage().await;
    let daemon = world.daemon(&url(&pds), &[]).await;
    let fleet = Fleet::of(&world, &pds, MANY).await;

    let run = daemon.refresh_all().await;
    assert_complete(&run, fleet.len());
    assert_eq!(fleet.calls(), (1, 1));
    fleet.assert_current(&world).await;

    assert_eq!(daemon.end_of_run(&run).await["succeeded"], MANY);
    // A machine so busy that the daemon's heart misses a beat has jobs recovered that ran after all.
    let is_its_own = |line: &Value| line["event"] == "refresh" && line["trigger"] != "recovery";
    let lines = daemon.log().matching(is_its_own);
    assert_eq!(lines.len(), MANY, "one line an account");

    // Everything was refreshed a moment ago; the next request is a new one all the same.
    assert_complete(&daemon.refresh_all().await, fleet.len());
    assert_eq!(fleet.calls(), (2, 2));
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_thousand_accounts_take_less_than_60_mb() {
    let _alone = LOUD.lock().await;
    let (world, pds) = stage().await;
    let fleet = Fleet::of(&world, &pds, 50_000).await;
    let daemon = Daemon::start_release(&world.settings(&url(&pds))).await;

    let begun = Instant::now();
    let id = daemon.ask_for_run().await;
    let run = daemon.run_within(&id, Duration::from_mins(10)).await;
    let took = begun.elapsed();

    assert_complete(&run, fleet.len());
    assert_eq!(fleet.calls(), (1, 1));
    let peak = peak_memory(&daemon);
    println!("50,000 accounts in {took:?}; at most {peak} KiB resident");
    assert!(peak < MOST_MEMORY, "{peak} KiB");
    fleet.assert_current(&world).await;
}

/// In KiB.
fn peak_memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()));
    let status = status.expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_was_asked_for_while_no_daemon_ran_is_worked_at_the_next_start() {
    let (world, pds) = stage().await;
    let fleet = Fleet::of(&world, &pds, 20).await;
    let store = Store::connect(&StoreConfig {
        uri: world.mongo.uri().into(),
        database: "app".to_owned(),
        collection: "socialaccounts".to_owned(),
    })
    .await
    .expect("a store");
    let run = store.request_run(Trigger::Cli, pds.now()).await.expect("a run");

    let daemon = world.daemon(&url(&pds), &[]).await;
    assert_complete(&daemon.run(run.id.as_str()).await, fleet.len());
    assert_eq!(fleet.calls(), (1, 1));
    let line = daemon.log().wait(|line| line["event"] == "refresh").await;
    assert_eq!(line["trigger"], "cli");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_the_middle_of_a_run_finishes_what_runs_and_the_next_start_goes_on() {
    let (world, pds) = stage().await;
    pds.set_latency(SLOW);
    let fleet = Fleet::of(&world, &pds, MANY).await;
    let daemon = world.daemon(&url(&pds), &[("SHUTDOWN_TIMEOUT", "20s")]).await;
    let id = daemon.ask_for_run().await;
    fleet.called(fleet.len() / 4).await;

    let log = daemon.log().clone();
    assert_eq!(daemon.stop().await.code(), Some(0), "{}", log.text());
    let called = pds.total_calls();
    assert!(called < fleet.len(), "it stopped in the middle");
    log.wait(|line| line["event"] == "log_ended").await;
    let ended = log.matching(|line| line["event"] == "refresh" && line["outcome"] == "refreshed");
    assert_eq!(u64::try_from(ended.len()).ok(), Some(called), "no call was abandoned");

    let next = world.daemon(&url(&pds), &[]).await;
    assert_complete(&next.run(&id).await, fleet.len());
    assert_eq!(fleet.calls(), (1, 1));
    fleet.assert_current(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_the_middle_of_a_run_repeats_only_what_was_running() {
    let (world, pds) = stage().await;
    pds.set_latency(SLOW);
    let fleet = Fleet::of(&world, &pds, MANY).await;
    let daemon = world.daemon(&url(&pds), &[("WORKER_CONCURRENCY", "40")]).await;
    let id = daemon.ask_for_run().await;
    fleet.called(fleet.len() / 4).await;
    daemon.kill().await;
    assert!(pds.total_calls() < fleet.len(), "it was killed in the middle");

    let next = world.daemon(&url(&pds), &[]).await;
    let run = next.run(&id).await;
    assert_eq!(run["failed"], 0, "{run}");
    let (fewest, most) = fleet.calls();
    assert!(fewest == 1 && most <= 2, "{fewest} to {most} calls an account");
    // Calls that were under way, and answers that were not saved yet: a slot is free as soon as its
    // call is over, and four times as many jobs as there are slots may be in hand.
    assert!(fleet.repeated() <= 4 * 40, "{} accounts were asked for twice", fleet.repeated());
    fleet.assert_live(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_budget_spreads_the_calls_and_turns_nobody_away() {
    let _alone = LOUD.lock().await;
    // The budget's own burst is a quarter of a second's worth on top of its rate, and a busy machine
    // may be late with some calls. Without a budget all 60 would come within half a second.
    let options = Options { limit: Some((45, Duration::from_secs(1))), ..Options::default() };
    let (world, pds) = join(World::start(), ScriptedPds::start(options)).await;
    let fleet = Fleet::of(&world, &pds, 60).await;
    let daemon = world.daemon(&url(&pds), &[("PDS_RATE_LIMIT", "20/s")]).await;
    let begun = Instant::now();
    assert_complete(&daemon.refresh_all().await, fleet.len());
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(2_500), "60 calls at 20 a second in {took:?}");
    assert_eq!((pds.answers(200), pds.answers(429)), (60, 0));
    fleet.assert_current(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_while_a_run_goes_on_is_a_run_of_its_own() {
    let (world, pds) = stage().await;
    pds.set_latency(SLOW);
    let fleet = Fleet::of(&world, &pds, 500).await;
    // Few calls at a time: the run is still going on when the next ones are asked for.
    let daemon = world.daemon(&url(&pds), &[("WORKER_CONCURRENCY", "16")]).await;
    let first = daemon.ask_for_run().await;
    fleet.called(100).await;
    let second = daemon.ask_for_run().await;
    let third = daemon.ask_for_run().await;
    assert_ne!(first, second);
    assert_eq!(second, third, "what waits is joined");

    assert_complete(&daemon.run(&first).await, fleet.len());
    daemon.run(&second).await;
    let (fewest, most) = fleet.calls();
    assert!(fewest >= 1 && most <= 2, "{fewest} to {most} calls an account");
    eventually("all pairs are stored", Duration::from_secs(10), async || {
        fleet.is_refreshed(&world).await
    })
    .await;
    fleet.assert_current(&world).await;
}
