//! No account is ever without a live access token: while instances are killed, come and go, and
//! Redis is flushed.

use std::time::Duration;

use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use super::{CYCLE, LIFE, amount, is_long, settings};
use crate::harness::daemon::Daemon;
use crate::harness::fleet::Fleet;
use crate::harness::scripted_pds::{Options, ScriptedPds};
use crate::harness::world::World;
use crate::harness::{PATIENCE, eventually};

/// Counts stale accounts every second until it is stopped; answers how often, and when it was not
/// none.
async fn watch(world: &World, stop: &CancellationToken) -> (usize, Vec<(Duration, u64)>) {
    let begun = Instant::now();
    let (mut samples, mut found) = (0, Vec::new());
    let mut ticks = interval(Duration::from_secs(1));
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        samples += 1;
        let stale = world.not_known_fresh().await;
        if stale > 0 {
            found.push((begun.elapsed(), stale));
        }
    }
    (samples, found)
}

/// Waits until so many more calls have come: so much of a cycle has passed.
async fn pass(pds: &ScriptedPds, fleet: &Fleet<'_>, cycles: f64) {
    #[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "a few thousand")]
    let calls = fleet.len() as f64 * cycles;
    let begun = pds.total_calls();
    let limit = PATIENCE + CYCLE.mul_f64(cycles * 2.0);
    eventually("time passes", limit, async || {
        #[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "a few thousand")]
        let made = (pds.total_calls() - begun) as f64;
        made >= calls
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_account_is_ever_stale() {
    let options = Options { access_life: LIFE, ..Options::default() };
    let (world, pds) = tokio::join!(World::start(), ScriptedPds::start(options));
    let fleet = Fleet::of(&world, &pds, amount(2_000, 20_000)).await;
    let settings = settings(&world, &pds, &[("PDS_RATE_LIMIT", "off")]);
    let quarter = if is_long() { 0.75 } else { 0.2 };
    let one = Daemon::start_release(&settings).await;
    eventually("all are known", PATIENCE, async || world.not_known_fresh().await == 0).await;

    let stop = CancellationToken::new();
    let troubles = async {
        pass(&pds, &fleet, quarter).await;
        // The only one is killed, and started again by its supervisor.
        one.kill().await;
        let one = Daemon::start_release(&settings).await;
        pass(&pds, &fleet, quarter).await;
        let two = Daemon::start_release(&settings).await;
        pass(&pds, &fleet, quarter).await;
        let link = world.redis.link();
        let _flushed: () = link.query(&redis::cmd("FLUSHALL")).await.expect("an answer");
        pass(&pds, &fleet, quarter).await;
        // The one that plans is killed, and stays away.
        one.kill().await;
        pass(&pds, &fleet, quarter).await;
        let three = Daemon::start_release(&settings).await;
        assert!(two.stop().await.success());
        pass(&pds, &fleet, quarter).await;
        stop.cancel();
        three
    };
    let ((samples, found), _last) = tokio::join!(watch(&world, &stop), troubles);
    let (fewest, most) = fleet.calls();
    println!(
        "{} accounts, {samples} samples, {} calls, {fewest} to {most} each: stale {found:?}",
        fleet.len(),
        pds.total_calls()
    );
    assert!(samples > 60, "{samples} samples");
    assert_eq!(found, [], "stale accounts, after, and how many");
    fleet.assert_live(&world).await;
}
