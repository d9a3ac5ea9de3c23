//! The wall clock jumps, or the whole daemon is suspended, while accounts are kept fresh: nobody
//! is left out for long, and no server is flooded.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{FRESH, LIFE, becomes_fresh, stage, stays_fresh};
use crate::harness::daemon::Daemon;
use crate::harness::eventually;
use crate::harness::faketime::WallClock;
use crate::harness::fleet::Fleet;
use crate::harness::scripted_pds::ScriptedPds;
use crate::harness::world::World;

const HOUR: Duration = Duration::from_hours(1);

const MANY: usize = 100;

/// That a clock was set is noticed within five seconds; then all are looked at.
const SHORT_WHILE: Duration = Duration::from_secs(15);

async fn daemon(world: &World, pds: &ScriptedPds, clock: &WallClock) -> Daemon {
    let mut settings = world.settings(pds.url().as_str());
    settings.extend(FRESH.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    settings.extend(clock.settings());
    Daemon::start(&settings).await
}

/// The most calls that an account may have had since `begun`: twice what its cycles need.
fn twice(begun: Instant) -> u64 {
    // A quarter of a life before its end, and a twentieth of that time sooner.
    let cycle = LIFE.mul_f64(0.75 * 0.95);
    2 * u64::try_from(begun.elapsed().as_millis() / cycle.as_millis() + 1).expect("a few")
}

/// A daemon whose clock is `first` keeps accounts fresh; then it is `then`.
async fn stay_fresh_over_a_jump(first: impl Fn(&WallClock), then: impl Fn(&WallClock)) {
    let (world, pds) = stage().await;
    let clock = WallClock::right();
    first(&clock);
    let fleet = Fleet::of(&world, &pds, MANY).await;
    let begun = Instant::now();
    let _daemon = daemon(&world, &pds, &clock).await;
    let called = async || fleet.calls().0 >= 1;
    eventually("they are kept fresh", LIFE + SHORT_WHILE, called).await;
    becomes_fresh(&world, SHORT_WHILE).await;

    then(&clock);
    // Some may lapse until that is noticed: what is promised begins after that time.
    sleep_until(Instant::now() + SHORT_WHILE).await;
    stays_fresh(&world, LIFE).await;
    fleet.assert_live(&world).await;
    let (fewest, most) = fleet.calls();
    println!("{fewest} to {most} calls an account in {:?}", begun.elapsed());
    assert!(most <= twice(begun), "{fewest} to {most} calls an account in {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_by_an_hour_makes_nobody_stale_for_long() {
    stay_fresh_over_a_jump(|_right| {}, |clock| clock.behind(HOUR)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_forward_by_an_hour_floods_nobody() {
    stay_fresh_over_a_jump(|_right| {}, |clock| clock.ahead(HOUR)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_an_hour_ahead_and_is_set_right_makes_nobody_stale_for_long() {
    stay_fresh_over_a_jump(|clock| clock.ahead(HOUR), |clock| clock.ahead(Duration::ZERO)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_an_hour_behind_and_is_set_right_makes_nobody_stale_for_long() {
    stay_fresh_over_a_jump(|clock| clock.behind(HOUR), |clock| clock.ahead(Duration::ZERO)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_suspension_all_are_fresh_within_seconds() {
    let (world, pds) = stage().await;
    let fleet = Fleet::of(&world, &pds, MANY).await;
    let daemon = world.daemon(pds.url().as_str(), FRESH).await;
    let called = async || fleet.calls().0 >= 1;
    eventually("they are kept fresh", LIFE + SHORT_WHILE, called).await;

    daemon.signal("STOP");
    eventually("all lapse", LIFE * 2, async || world.stale().await == fleet.len()).await;
    let before = fleet.calls().1;
    daemon.signal("CONT");
    let begun = Instant::now();
    becomes_fresh(&world, SHORT_WHILE).await;
    println!("fresh after {:?}", begun.elapsed());
    stays_fresh(&world, LIFE).await;
    fleet.assert_live(&world).await;
    let most = fleet.calls().1;
    println!("{before}, then {most} calls an account in {:?}", begun.elapsed());
    // At once, and then once a cycle.
    assert!(most <= before + 3, "{before}, then {most} calls an account");
}
