//! Five servers: what three of them do to their own accounts makes nobody stale at the others.

use std::time::Duration;

use futures::future::join_all;
use mongodb::bson::{DateTime, doc};
use tokio::time::{Instant, sleep};

use crate::harness::fleet::Fleet;
use crate::harness::scripted_pds::{Fault, Options, ScriptedPds};
use crate::harness::world::World;
use crate::harness::{LOUD, eventually};

/// An access token's life.
const LIFE: Duration = Duration::from_secs(40);

/// Of the ten seconds that an account has left when it is due, so much must still be left when it
/// has been refreshed: a call of the slow server takes as long as all of them.
const LEAST: i64 = 3_000;

/// Calls that may be under way at once.
const SLOTS: u64 = 64;

/// A server that is found by what its tokens say.
async fn server() -> ScriptedPds {
    let audience = "did:web:127.0.0.1%3A{port}";
    ScriptedPds::start(Options { audience, access_life: LIFE, ..Options::default() }).await
}

/// How long the first of these accounts still has a live access token, in milliseconds; negative
/// when it has none any more. `None`: that is not known yet.
async fn left(world: &World, fleet: &Fleet<'_>) -> Option<i64> {
    let accounts = world.accounts();
    let first = accounts.find_one(fleet.filter()).sort(doc! { "tokenExpiry": 1 });
    let first = first.await.expect("a read").expect("an account");
    let ends = first.get_datetime("tokenExpiry").ok()?;
    Some(ends.timestamp_millis() - DateTime::now().timestamp_millis())
}

async fn refreshed(world: &World, fleet: &Fleet<'_>) -> u64 {
    let mut filter = fleet.filter();
    filter.insert("tokenRefresh.outcome", "refreshed");
    world.accounts().count_documents(filter).await.expect("a count")
}

/// Watches that accounts stay fresh for more than a life of their tokens; the shortest time that any
/// had left, in milliseconds.
async fn watch(world: &World, fresh: &[Fleet<'_>; 2]) -> i64 {
    let known =
        async || left(world, &fresh[0]).await.is_some() && left(world, &fresh[1]).await.is_some();
    eventually("their expiry is known", LIFE / 2, known).await;
    let (begun, mut least) = (Instant::now(), i64::MAX);
    while begun.elapsed() < LIFE * 8 / 5 {
        for fleet in fresh {
            let left = left(world, fleet).await.expect("a time");
            assert!(left > LEAST, "{left} ms left after {:?}", begun.elapsed());
            least = least.min(left);
        }
        sleep(Duration::from_millis(200)).await;
    }
    least
}

async fn assert_served(world: &World, fleet: &Fleet<'_>) {
    let (fewest, most) = fleet.calls();
    assert!(fewest >= 1 && most <= 4, "{fewest} to {most} calls an account");
    fleet.assert_live(world).await;
}

/// The dead server, and the one that asked for time, were hardly called; the slow one was.
fn assert_spared(calls: &[u64], progress: u64) {
    assert!(progress >= 20, "{progress} of the slow server's accounts");
    // What was under way before it was known, then probes at 0.5, 1, 2, 4 … s at the earliest.
    assert!(calls[0] <= SLOTS + 16, "{calls:?}");
    // What was under way before it asked for time; nothing after that.
    assert!(calls[1] <= SLOTS, "{calls:?}");
}

/// With this `PDS_RATE_LIMIT`.
async fn two_of_five_stay_fresh(rate: &str) {
    let servers: [ScriptedPds; 5] =
        join_all((0..5).map(|_| server())).await.try_into().unwrap_or_else(|_five| unreachable!());
    let [dead, busy, slow, one, two] = &servers;
    let world = World::start().await;
    // As if stopped, but for the calls, which are counted.
    dead.fail_next(100_000, &Fault::DropBefore);
    busy.fail_next(100_000, &Fault::rate_limited(292));
    slow.set_latency(Duration::from_secs(10));
    // Those in trouble are the older ones, and have lapsed: they come first wherever order counts.
    let _lost = Fleet::lapsed(&world, dead, 2_000).await;
    let _waiting = Fleet::lapsed(&world, busy, 400).await;
    let crawling = Fleet::lapsed(&world, slow, 200).await;
    let fresh = [Fleet::of(&world, one, 250).await, Fleet::of(&world, two, 250).await];
    let slots = SLOTS.to_string();
    let settings = [
        ("KEEP_FRESH", "true"),
        ("PDS_RATE_LIMIT", rate),
        ("PDS_ALLOW_PRIVATE", "true"),
        ("WORKER_CONCURRENCY", &slots),
    ];
    // Nobody is at home: all are found by their tokens.
    let _daemon = world.release("http://127.0.0.1:9", &settings).await;

    let least = watch(&world, &fresh).await;
    let calls: Vec<_> = servers.iter().map(ScriptedPds::total_calls).collect();
    let progress = refreshed(&world, &crawling).await;
    println!("calls: {calls:?}; {progress} of the slow server's accounts were refreshed");
    println!("healthy: at least {least} ms left, {:?} calls an account", fresh[0].calls());
    for fleet in &fresh {
        assert_served(&world, fleet).await;
    }
    assert_spared(&calls, progress);
    let blamed = doc! { "status": { "$ne": "active" } };
    assert_eq!(world.accounts().find_one(blamed).await.expect("a read"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_healthy_servers_among_five_stay_fresh_without_a_budget() {
    let _alone = LOUD.lock().await;
    two_of_five_stay_fresh("off").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_healthy_servers_among_five_stay_fresh_within_their_budgets() {
    let _alone = LOUD.lock().await;
    two_of_five_stay_fresh("20/s").await;
}
