//! Permanent answers about many, and about a token that was replaced meanwhile.

use std::time::Duration;

use mongodb::bson::doc;
use serde_json::json;

use super::Stage;
use crate::harness::fleet::Fleet;
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

    stage.pds.set_latency(Duration::from_secs(2));
    let run = daemon.ask_for_run().await;
    eventually("the call is under way", PATIENCE, async || stage.pds.calls(&old.did) == 1).await;
    stage.pds.set_latency(Duration::ZERO);
    let new = stage.pds.login(&old.did);
    let pair = doc! { "accessToken": &new.access, "refreshToken": &new.refresh };
    stage.world.set(&id, pair).await;
    assert_eq!(stage.pds.answers(400), 0, "it was done before the daemon had its answer");

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
