//! MongoDB fails over again and again under load: nobody is lost, and no newer pair is ever
//! replaced by an older one.

use std::time::Duration;

use futures::future::join;
use tokio::time::{Instant, sleep};

use super::chains::{Chains, mark};
use super::{Daemon, Fleet, LATER, Options, ScriptedPds, World, is_long, load, quiet, settings};
use crate::harness::mongo::Topology;

const MANY: usize = 2_000;

/// How often MongoDB fails over, and for how long.
fn pace() -> (Duration, Duration) {
    if is_long() {
        (Duration::from_secs(20), Duration::from_mins(5))
    } else {
        (Duration::from_secs(8), Duration::from_secs(25))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fail_overs_under_load_lose_nobody_and_overwrite_nothing() {
    let (every, long) = pace();
    let (world, pds) =
        join(World::start_on(&[], Topology::ReplicaSet(3)), ScriptedPds::start(Options::default()))
            .await;
    pds.set_latency(Duration::from_millis(20));
    let fleet = Fleet::of(&world, &pds, MANY).await;
    let mut chains = Chains::watch(&world).await;
    let daemon = Daemon::start_release(&settings(&world, &pds)).await;

    let load = async {
        let (begun, mut fail_overs) = (Instant::now(), 0);
        while begun.elapsed() < long {
            under_load(&daemon, every).await;
            world.mongo.step_down().await;
            fail_overs += 1;
        }
        quiet(&world, &daemon).await;
        mark(&world).await;
        fail_overs
    };
    let (fail_overs, ()) = join(load, chains.read_to_mark(&pds)).await;

    println!(
        "{fail_overs} fail-overs, {} calls, {} pairs stored",
        pds.total_calls(),
        chains.stored
    );
    assert_eq!(chains.backwards, Vec::<String>::new(), "overwritten by an older pair");
    assert!(chains.stored > 2 * MANY, "there was load: {}", chains.stored);
    fleet.assert_current(&world).await;
    pds.advance(LATER);
    fleet.assert_live(&world).await;
}

/// Keeps one run under way and another one waiting for so long.
async fn under_load(daemon: &Daemon, long: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < long {
        load(daemon).await;
        sleep(Duration::from_millis(500)).await;
    }
}
