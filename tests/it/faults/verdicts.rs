//! Permanent answers about many, and about a token that was replaced meanwhile.

use std::time::Duration;

use mongodb::bson::doc;
use serde_json::json;

use super::Stage;
use crate::harness::daemon::Daemon;
use crate::harness::faketime::WallClock;
use crate::harness::fleet::Fleet;
use crate::harness::scripted_pds::Fault;
use crate::harness::world::text;
use crate::harness::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_that_were_dead_long_before_are_marked_in_one_run() {
    const DEAD: usize = 1_000;
    const ALIVE: usize = 50;
    let stage = Stage::set().await;
    stage.pds.set_latency(Duration::ZERO);
    let daemon = stage.daemon(&[("WORKER_CONCURRENCY", "64")]).await;
    let dead = Fleet::of(&stage.world, &stage.pds, DEAD).await;
    let fleet = Fleet::of(&stage.world, &stage.pds, ALIVE).await;
    dead.dids().iter().for_each(|did| stage.pds.revoke(did));

    let run = daemon.refresh_all().await;
    assert_eq!(run["outcomes"], json!({"revoked": DEAD, "refreshed": ALIVE}), "{run}");
    let marked = doc! {
        "platformAccountId": { "$in": dead.dids() }, "status": "revoked",
        "errorMessage": { "$type": "string" },
    };
    let marked = stage.world.accounts().count_documents(marked).await.expect("a count");
    assert_eq!(marked, dead.len());
    assert_eq!(dead.calls(), (1, 1), "each was asked for once");
    fleet.assert_current(&stage.world).await;
}

/// The person logs in again while the daemon is being told that the old session is dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_about_a_token_that_was_replaced_is_dropped() {
    let stage = Stage::set().await;
    let daemon = stage.daemon(&[]).await;
    let old = stage.pds.create(1).remove(0);
    let id = stage.world.log_in(&old.did, &old.handle, &old.access, &old.refresh).await;
    stage.pds.revoke(&old.did);

    let held = stage.pds.hold();
    let run = daemon.ask_for_run().await;
    eventually("the call is under way", PATIENCE, async || stage.pds.calls(&old.did) == 1).await;
    stage.pds.pass();
    let new = stage.pds.login(&old.did);
    let pair = doc! { "accessToken": &new.access, "refreshToken": &new.refresh };
    stage.world.set(&id, pair).await;
    assert_eq!(stage.pds.answers(400), 0, "it was done before the daemon had its answer");
    drop(held);

    let run = daemon.run(&run).await;
    assert_eq!(stage.pds.answers(400), 1, "the old session was pronounced dead");
    assert_eq!(run["outcomes"], json!({"superseded": 1}), "{run}");
    let document = stage.world.account(&id).await;
    assert_eq!(text(&document, "status"), "active");
    assert_eq!(text(&document, "refreshToken"), new.refresh);

    let run = daemon.refresh_all().await;
    assert_eq!(run["outcomes"], json!({"refreshed": 1}), "{run}");
    let document = stage.world.account(&id).await;
    assert!(stage.pds.is_current(text(&document, "refreshToken")));
    assert_eq!(text(&document, "status"), "active");
}

/// A server that was restored from yesterday's backup, say: it knows none of the sessions that it
/// gave out since. A clock that jumps a year ahead does not help it to be believed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgets_a_thousand_sessions_costs_none_its_status() {
    const MANY: usize = 1_000;
    const YEAR: Duration = Duration::from_hours(365 * 24);
    let stage = Stage::set().await;
    stage.pds.set_latency(Duration::ZERO);
    let clock = WallClock::right();
    let mut settings = stage.world.settings(&stage.pds.url().to_string());
    settings.push(("VERDICT_CONFIRM_AFTER".to_owned(), "1s".to_owned()));
    settings.extend(clock.settings());
    let daemon = Daemon::start(&settings).await;
    let fleet = Fleet::of(&stage.world, &stage.pds, MANY).await;
    let run = daemon.refresh_all().await;
    assert_eq!(run["outcomes"], json!({"refreshed": MANY}), "they are kept alive");

    let forgotten =
        Fault::answer(400, r#"{"error":"ExpiredToken","message":"Token has been revoked"}"#);
    stage.pds.fail_next(100_000, &forgotten);
    let run = daemon.refresh_all().await;
    assert_eq!(run["outcomes"], json!({"revoked": MANY}), "{run}");
    // Those that were told off before the brake came on hear it a second time.
    daemon.log().wait(|line| line["trigger"] == "recovery" && line["outcome"] == "revoked").await;
    let run = daemon.refresh_all().await;
    assert_eq!(run["outcomes"], json!({"revoked": MANY}), "{run}");
    clock.ahead(YEAR);
    let run = daemon.refresh_all().await;
    assert_eq!(run["outcomes"], json!({"revoked": MANY}), "{run}");
    let marked = doc! { "status": { "$ne": "active" } };
    assert_eq!(stage.world.accounts().count_documents(marked).await.expect("a count"), 0);
    let told = |event: &'static str| daemon.log().matching(|line| line["event"] == event).len();
    assert_eq!(told("server.suspect"), 1, "it is told once");

    clock.ahead(Duration::ZERO);
    stage.pds.recover();
    eventually("they are all alive", PATIENCE, async || {
        daemon.refresh_all().await;
        fleet.is_refreshed(&stage.world).await
    })
    .await;
    fleet.assert_current(&stage.world).await;
    assert_eq!(told("server.absolved"), 1, "and its word counts again");
}
