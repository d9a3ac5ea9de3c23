//! Every active account has a live access token at every moment.

mod changes;
mod clock;
mod instances;
mod many;
mod off;
mod runs;
mod servers;

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::harness::eventually;
use crate::harness::fleet::Fleet;
use crate::harness::scripted_pds::{Options, ScriptedPds};
use crate::harness::world::World;

/// An access token's life here, with a lead that a busy machine can keep: a quarter of it.
const LIFE: Duration = Duration::from_secs(32);

/// The settings of a daemon that keeps accounts fresh, at whatever pace that takes.
const FRESH: &[(&str, &str)] = &[("KEEP_FRESH", "true"), ("PDS_RATE_LIMIT", "off")];

async fn stage() -> (World, ScriptedPds) {
    let pds = ScriptedPds::start(Options { access_life: LIFE, ..Options::default() });
    tokio::join!(World::start(), pds)
}

/// Waits until no account is stale, and every one's expiry is known.
async fn becomes_fresh(world: &World, limit: Duration) {
    eventually("every account has a live access token", limit, async || {
        world.not_known_fresh().await == 0
    })
    .await;
}

/// Looks again and again for so long, and never finds a stale account.
async fn stays_fresh(world: &World, how_long: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < how_long {
        assert_eq!(world.stale().await, 0, "stale accounts after {:?}", begun.elapsed());
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_refreshed_before_their_tokens_expire() {
    let (world, pds) = stage().await;
    let fleet = Fleet::of(&world, &pds, 500).await;
    let daemon = world.daemon(pds.url().as_str(), FRESH).await;
    // Null after a login: known from then on.
    stays_fresh(&world, LIFE * 3).await;
    fleet.assert_live(&world).await;
    let (fewest, most) = fleet.calls();
    println!("{fewest} to {most} calls an account");
    assert!(fewest >= 3 && most <= 5, "{fewest} to {most} calls an account");
    let lines = daemon.log().matching(|line| line["outcome"] == "refreshed");
    let asked = |line: &serde_json::Value| line["trigger"] == "keep_fresh";
    let others = lines.iter().filter(|line| !asked(line)).count();
    assert_eq!(others, 0, "of {}", lines.len());
}
