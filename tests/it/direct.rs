//! Redis is gone and `REDIS_DOWN_EXIT_AFTER` is `off`: what is due is refreshed without it.

use std::time::Duration;

use futures::future::{join, join3};
use mongodb::bson::{Bson, DateTime, doc};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::harness::daemon::Daemon;
use super::harness::fleet::Fleet;
use super::harness::scripted_pds::{Fault, Options, ScriptedPds};
use super::harness::world::World;
use super::harness::{PATIENCE, eventually};

/// Redis must have been away for so long first.
const AWAY: Duration = Duration::from_secs(3);

const OFF: (&str, &str) = ("REDIS_DOWN_EXIT_AFTER", "off");

/// Due since a minute.
const LONG_DUE: i64 = -60_000;

async fn stage() -> (World, ScriptedPds) {
    join(World::start(), ScriptedPds::start(Options::default())).await
}

async fn daemon(world: &World, pds: &ScriptedPds, more: &[(&str, &str)]) -> Daemon {
    let settings: Vec<_> = [OFF].into_iter().chain(more.iter().copied()).collect();
    world.daemon(&pds.url().to_string(), &settings).await
}

async fn refreshed(fleet: &Fleet<'_>, world: &World) {
    eventually("all are refreshed", PATIENCE, async || fleet.is_refreshed(world).await).await;
}

fn told(state: &'static str) -> impl Fn(&Value) -> bool {
    move |line| line["event"] == "direct" && line["state"] == state
}

fn of_outcome(daemon: &Daemon, outcome: &str) -> usize {
    daemon.log().matching(|line| line["event"] == "refresh" && line["outcome"] == outcome).len()
}

/// Whether a line is of an account that was refreshed without the queue.
fn alone(line: &Value) -> bool {
    line["job"].as_str().is_some_and(|job| job.starts_with("direct-"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_is_refreshed_while_redis_is_gone() {
    let (mut world, pds) = stage().await;
    let fleet = Fleet::of(&world, &pds, 60).await;
    let daemon = daemon(&world, &pds, &[]).await;
    fleet.set_due(&world, LONG_DUE).await;
    let odd = Fleet::of(&world, &pds, 1).await;
    // At once broken and due, so that nobody meets it in between.
    let due = DateTime::from_millis(DateTime::now().timestamp_millis() + LONG_DUE);
    let broken = doc! { "$set": {
        "platformAccountId": 7, "tokenRefresh.service": pds.url().as_str(),
        "tokenRefresh.nextAttemptAt": due, "tokenRefresh.failures": 1,
        "tokenRefresh.attemptedAt": DateTime::now(),
    } };
    let changed = world.accounts().update_one(odd.filter(), broken).await.expect("an update");
    assert_eq!(changed.modified_count, 1);
    // By the queue: it is there.
    refreshed(&fleet, &world).await;
    assert!(daemon.log().matching(told("begun")).is_empty());

    world.redis.kill();
    let gone = Instant::now();
    fleet.set_due(&world, LONG_DUE).await;
    refreshed(&fleet, &world).await;
    assert!(gone.elapsed() >= AWAY, "not before {:?}", gone.elapsed());
    fleet.assert_current(&world).await;
    assert_eq!(fleet.calls(), (2, 2));

    // And whenever their time comes again.
    let set = Instant::now();
    fleet.set_due(&world, 5_000).await;
    refreshed(&fleet, &world).await;
    assert!(set.elapsed() >= Duration::from_secs(4), "not before it is due: {:?}", set.elapsed());
    fleet.assert_current(&world).await;
    assert_eq!(fleet.calls(), (3, 3));
    assert_eq!(odd.calls(), (0, 0), "it cannot be attempted");
    assert_eq!(of_outcome(&daemon, "malformed"), 0, "and nobody tries, again and again");

    let (status, parts) = daemon.get("/readyz").await;
    assert_eq!((status, &parts["mongo"]), (503, &json!("up")), "{parts}");
    assert_eq!(daemon.get("/healthz").await.0, 200);
    assert_eq!(daemon.log().matching(|line| line["event"] == "direct").len(), 1, "told once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_whose_time_lies_impossibly_far_ahead_are_due() {
    let (mut world, pds) = stage().await;
    let fleet = Fleet::of(&world, &pds, 3).await;
    let _daemon = daemon(&world, &pds, &[]).await;
    world.redis.kill();
    fleet.set_due(&world, 30 * 86_400_000).await;
    refreshed(&fleet, &world).await;
    assert_eq!(fleet.calls(), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_leaves_room_for_another_one() {
    let server = || async {
        let audience = "did:web:127.0.0.1%3A{port}";
        ScriptedPds::start(Options { audience, ..Options::default() }).await
    };
    let (mut world, hung, good) = join3(World::start(), server(), server()).await;
    let stuck = Fleet::of(&world, &hung, 50).await;
    let fleet = Fleet::of(&world, &good, 100).await;
    // Known, and not due: the hung server could have every slot.
    fleet.set_due(&world, 3_600_000).await;
    let more = [("PDS_ALLOW_PRIVATE", "true"), ("WORKER_CONCURRENCY", "16"), ("PDS_TIMEOUT", "5m")];
    let daemon = daemon(&world, &good, &more).await;
    hung.fail_next(1_000, &Fault::Hang);

    world.redis.kill();
    stuck.set_due(&world, LONG_DUE).await;
    daemon.log().wait(told("begun")).await;
    stuck.called(4).await;
    fleet.set_due(&world, LONG_DUE).await;
    refreshed(&fleet, &world).await;
    assert_eq!(hung.total_calls(), 4, "half of the half of its workers");
    assert_eq!((fleet.calls(), stuck.calls().1), ((1, 1), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_breaker_lets_probes_through_and_nothing_is_put_off_without_need() {
    let (mut world, pds) = stage().await;
    let fleet = Fleet::of(&world, &pds, 100).await;
    let daemon = daemon(&world, &pds, &[("WORKER_CONCURRENCY", "16")]).await;
    pds.fail_next(1_000, &Fault::html(502));
    world.redis.kill();
    fleet.set_due(&world, LONG_DUE).await;
    daemon.log().wait(told("begun")).await;
    daemon.log().wait(|line| line["event"] == "breaker").await;
    // Eight at once and a few before it was known, then probes: what the journal asks is no more.
    fleet.called(10).await;
    let begun = daemon.log().matching(alone).len();
    assert!(begun <= 18, "{begun} were begun");
    pds.recover();
    refreshed(&fleet, &world).await;
    fleet.assert_current(&world).await;
    assert_eq!(daemon.log().matching(|line| line["event"] == "breaker").len(), 2, "open, closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_the_rate_is_used_and_no_account_is_put_off_for_it() {
    let (mut world, pds) = stage().await;
    let fleet = Fleet::of(&world, &pds, 40).await;
    let daemon = daemon(&world, &pds, &[("PDS_RATE_LIMIT", "20/s")]).await;
    world.redis.kill();
    fleet.set_due(&world, LONG_DUE).await;
    daemon.log().wait(told("begun")).await;
    let begun = Instant::now();
    refreshed(&fleet, &world).await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(3), "10 a second, not {took:?} for 40");
    assert_eq!(fleet.calls(), (1, 1));
    assert_eq!(of_outcome(&daemon, "rate_limited"), 0, "{}", daemon.log().text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_without_redis_keep_every_account_current() {
    let (mut world, pds) = stage().await;
    pds.set_latency(Duration::from_millis(50));
    let fleet = Fleet::of(&world, &pds, 300).await;
    let slots = [("WORKER_CONCURRENCY", "16")];
    let (one, two) = join(daemon(&world, &pds, &slots), daemon(&world, &pds, &slots)).await;
    world.redis.kill();
    fleet.set_due(&world, LONG_DUE).await;
    join(one.log().wait(told("begun")), two.log().wait(told("begun"))).await;
    refreshed(&fleet, &world).await;
    // Whoever lost a race ends, too, before anything is compared.
    let calls = pds.total_calls();
    world.redis.restart().await;
    join(one.log().wait(told("ended")), two.log().wait(told("ended"))).await;
    fleet.assert_current(&world).await;
    assert!(calls <= fleet.len() * 3 / 2, "{calls} calls for {} accounts", fleet.len());
    assert!(fleet.calls().1 <= 2, "{:?}", fleet.calls());
    for daemon in [&one, &two] {
        assert!(of_outcome(daemon, "refreshed") > 50, "{}", of_outcome(daemon, "refreshed"));
    }
    let blamed = doc! { "$or": [
        { "status": { "$ne": "active" } }, { "errorMessage": { "$ne": Bson::Null } },
    ] };
    assert_eq!(world.accounts().find_one(blamed).await.expect("a read"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_redis_is_back_the_queue_takes_over_and_an_open_run_goes_on() {
    let (mut world, pds) = stage().await;
    pds.set_latency(Duration::from_millis(100));
    let fleet = Fleet::of(&world, &pds, 200).await;
    let daemon = daemon(&world, &pds, &[("WORKER_CONCURRENCY", "4")]).await;
    let id = daemon.ask_for_run().await;
    fleet.called(10).await;
    world.redis.kill();
    let other = Fleet::of(&world, &pds, 20).await;
    other.set_due(&world, LONG_DUE).await;
    daemon.log().wait(told("begun")).await;
    other.asked_once().await;
    world.redis.restart().await;
    let ended = daemon.log().wait(told("ended")).await;

    let run = daemon.run(&id).await;
    assert_eq!(run["failed"], 0, "{run}");
    refreshed(&fleet, &world).await;
    refreshed(&other, &world).await;
    let so_far = daemon.log().matching(alone).len();
    let mut text = daemon.log().matching(|line| alone(line) || told("ended")(line));
    assert_eq!(text.pop(), Some(ended), "nothing was begun after the end");
    let run = daemon.refresh_all().await;
    assert_eq!(run["outcomes"], json!({"refreshed": 220}), "{run}");
    assert_eq!(daemon.log().matching(alone).len(), so_far);
    fleet.assert_current(&world).await;
    other.assert_current(&world).await;
    assert_eq!(daemon.log().matching(|line| line["event"] == "direct").len(), 2);
    assert!(daemon.stop().await.success());
}
