//! The daemon's wall clock jumps: nobody is condemned by it, and nobody is left out.

use std::time::Duration;

use mongodb::bson::{DateTime, doc};
use serde_json::json;

use super::{SLOTS, Stage, assert_struck};
use crate::harness::daemon::Daemon;
use crate::harness::faketime::WallClock;
use crate::harness::fleet::Fleet;
use crate::harness::scripted_pds::Fault;
use crate::harness::{PATIENCE, eventually};

const HOUR: Duration = Duration::from_hours(1);
const YEAR: Duration = Duration::from_hours(365 * 24);
const MANY: usize = 200;

async fn daemon(stage: &Stage, clock: &WallClock) -> Daemon {
    let mut settings = stage.world.settings(&stage.pds.url().to_string());
    settings.push(("WORKER_CONCURRENCY".to_owned(), SLOTS.to_string()));
    settings.extend(clock.settings());
    Daemon::start(&settings).await
}

/// Accounts that were noted later than `limit`.
async fn noted_after(stage: &Stage, limit: Duration) -> u64 {
    let limit = i64::try_from(limit.as_millis()).expect("milliseconds");
    let later = DateTime::from_millis(DateTime::now().timestamp_millis() + limit);
    let late = doc! { "tokenRefresh.attemptedAt": { "$gt": later } };
    stage.world.accounts().count_documents(late).await.expect("a count")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_forward_and_back_in_the_middle_of_a_run() {
    let stage = Stage::set().await;
    let clock = WallClock::right();
    let daemon = daemon(&stage, &clock).await;
    let fleet = Fleet::of(&stage.world, &stage.pds, MANY).await;
    let id = daemon.ask_for_run().await;
    fleet.called(fleet.len() / 4).await;
    clock.ahead(HOUR);
    fleet.called(fleet.len() / 2).await;
    clock.behind(HOUR);
    fleet.called(fleet.len() * 3 / 4).await;
    clock.ahead(Duration::ZERO);
    assert!(noted_after(&stage, HOUR / 2).await > 0, "its clock did jump");
    let run = daemon.run(&id).await;
    assert_eq!(run["outcomes"], json!({"refreshed": MANY}), "{run}");
    fleet.assert_current(&stage.world).await;
    assert_eq!(fleet.calls(), (1, 1));
}

/// Accounts whose replies are lost.
const STRUCK: usize = 4;

/// Replies are lost, and the clock jumps before they are asked for again.
async fn jumps_while_retries_wait(jump: impl Fn(&WallClock)) {
    let stage = Stage::set().await;
    let clock = WallClock::right();
    let daemon = daemon(&stage, &clock).await;
    let fleet = Fleet::of(&stage.world, &stage.pds, MANY / 2).await;
    // Waits of up to 4 s: some are still to come when the clock jumps. Few, among many that are
    // well: their server's breaker is another test's.
    for did in fleet.dids().iter().step_by(MANY / 2 / STRUCK) {
        stage.pds.fail_next_of(did, 3, &Fault::DropAfter);
    }
    let run = daemon.refresh_all().await;
    assert_struck(&run, MANY / 2, STRUCK);
    let waits = doc! { "tokenRefresh.outcome": "unreachable" };
    let waiting = stage.world.accounts().count_documents(waits).await.expect("a count");
    assert!(waiting > 0, "retries wait");
    jump(&clock);
    // What waits for an hour more by a clock that went back is not left to that: a run finds it.
    eventually("they heal", PATIENCE, async || {
        daemon.refresh_all().await;
        fleet.is_refreshed(&stage.world).await
    })
    .await;
    fleet.assert_current(&stage.world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_forward_while_retries_wait() {
    jumps_while_retries_wait(|clock| clock.ahead(HOUR)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_back_while_retries_wait() {
    jumps_while_retries_wait(|clock| clock.behind(HOUR)).await;
}

/// By that clock every token has long expired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_a_year_ahead_marks_nobody_and_what_it_put_off_is_due_once_it_is_right() {
    const FAILING: usize = 20;
    let stage = Stage::set().await;
    let clock = WallClock::right();
    clock.ahead(YEAR);
    let daemon = daemon(&stage, &clock).await;
    let fleet = Fleet::of(&stage.world, &stage.pds, MANY).await;
    for did in fleet.dids().iter().take(FAILING) {
        stage.pds.fail_next_of(did, 1, &Fault::DropAfter);
    }
    let run = daemon.refresh_all().await;
    assert_struck(&run, MANY, FAILING);
    assert!(noted_after(&stage, YEAR / 2).await > 0, "its clock is ahead");
    let marked = doc! { "status": { "$ne": "active" } };
    assert_eq!(stage.world.accounts().find_one(marked).await.expect("a read"), None);

    clock.ahead(Duration::ZERO);
    fleet.heals(&stage.world).await;
    fleet.assert_current(&stage.world).await;
}
