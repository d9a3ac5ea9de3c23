//! The PDS misbehaves in every way at once, each towards some accounts of one fleet.

use std::time::Duration;

use mongodb::bson::{Bson, doc};
use serde_json::json;

use super::{Stage, assert_struck};
use crate::harness::fleet::Fleet;
use crate::harness::proxy::Proxy;
use crate::harness::scripted_pds::Fault;
use crate::harness::world::text;
use crate::harness::{PATIENCE, arrival};

/// Accounts that suffer the same.
const EACH: usize = 12;

/// A call's end when nothing comes.
const TIMEOUT: &str = "4s";

fn troubles() -> Vec<Fault> {
    vec![
        Fault::answer(502, ""),
        Fault::html(200),
        Fault::DropBefore,
        Fault::DropAfter,
        Fault::answer(500, r#"{"error":"InternalServerError","message":"oops"}"#),
        Fault::Hang,
        Fault::HangAfter,
        Fault::answer(200, r#"{"accessJwt":"half"#),
        Fault::SlowLoris,
        Fault::Huge,
        Fault::html(503),
        Fault::Chunked(10_000_000),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_it_does_to_them_the_accounts_heal_by_themselves() {
    let stage = Stage::set().await;
    stage.pds.set_latency(Duration::ZERO);
    let daemon = stage.daemon(&[("PDS_TIMEOUT", TIMEOUT), ("WORKER_CONCURRENCY", "64")]).await;
    let troubles = troubles();
    let fleet = Fleet::of(&stage.world, &stage.pds, EACH * (troubles.len() + 1)).await;
    // One after the other, with one that is well now and then: what befalls single accounts does
    // not make a dead server.
    for (did, fault) in fleet.dids().iter().zip(troubles.iter().map(Some).chain([None]).cycle()) {
        if let Some(fault) = fault {
            stage.pds.fail_next_of(did, 1, fault);
        }
    }
    let run = daemon.refresh_all().await;
    let struck = EACH * troubles.len();
    assert_struck(&run, EACH + struck, struck);
    // Nobody is blamed while it lasts, either.
    let blamed = doc! { "$or": [
        { "status": { "$ne": "active" } }, { "errorMessage": { "$ne": Bson::Null } },
    ] };
    assert_eq!(stage.world.accounts().find_one(blamed).await.expect("a read"), None);

    fleet.heals(&stage.world).await;
    fleet.assert_current(&stage.world).await;
    assert_eq!(fleet.calls(), (1, 2), "one in vain, and one more");
}

/// A server that says 429 to many at once is asked again when it wants to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_429_passes() {
    let stage = Stage::set().await;
    let daemon = stage.daemon(&[("WORKER_CONCURRENCY", "32")]).await;
    let fleet = Fleet::of(&stage.world, &stage.pds, 200).await;
    stage.pds.fail_next(20, &Fault::rate_limited(1));
    let silent = Fault::answer(429, r#"{"error":"RateLimitExceeded","message":"no word of when"}"#);
    stage.pds.fail_next(20, &silent);
    let run = daemon.refresh_all().await;
    fleet.heals(&stage.world).await;
    fleet.assert_current(&stage.world).await;
    assert_eq!((stage.pds.answers(429), stage.pds.answers(200)), (40, 200), "{run}");
}

/// Tokens that come with another's name are not stored; the account says so and its old token
/// stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_for_somebody_else_is_not_stored() {
    let stage = Stage::set().await;
    let daemon = stage.daemon(&[]).await;
    let session = stage.pds.create(1).remove(0);
    let id =
        stage.world.log_in(&session.did, &session.handle, &session.access, &session.refresh).await;
    let fleet = Fleet::of(&stage.world, &stage.pds, EACH).await;
    stage.pds.fail_next_of(&session.did, 1, &Fault::WrongDid);
    let run = daemon.refresh_all().await;
    assert_eq!(run["outcomes"], json!({"refreshed": EACH, "identity_mismatch": 1}), "{run}");
    let document = stage.world.account(&id).await;
    assert_eq!(text(&document, "status"), "error");
    assert_eq!(text(&document, "refreshToken"), session.refresh, "it is not replaced");
    assert_eq!(text(&document, "accessToken"), session.access);
    fleet.assert_current(&stage.world).await;

    // Within its grace the old token still leads to the pair that was not stored.
    assert_eq!(daemon.refresh(&id).await["outcome"], "refreshed");
    let document = stage.world.account(&id).await;
    assert!(stage.pds.is_current(text(&document, "refreshToken")));
    assert_eq!(text(&document, "status"), "active");
}

/// The network between: resets under way, half-open connections, a server that refuses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_breaks_under_its_calls() {
    let stage = Stage::set().await;
    let port = stage.pds.url().to_string().rsplit(':').next().expect("a port").to_owned();
    let proxy = Proxy::to(port.parse().expect("a port")).await;
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let settings = [("BLUESKY_SERVICE_URL", url.as_str()), ("PDS_TIMEOUT", TIMEOUT)];
    let daemon = stage.daemon(&settings).await;
    let fleet = Fleet::of(&stage.world, &stage.pds, 200).await;
    let id = daemon.ask_for_run().await;
    let failed = async |times: usize| {
        arrival("calls fail", PATIENCE, async || {
            let lines = daemon.log().matching(|line| line["outcome"] == "unreachable");
            (lines.len() >= times).then_some(lines.len())
        })
        .await
    };

    fleet.called(20).await;
    proxy.reset();
    let failures = failed(1).await;
    proxy.swallow();
    let failures = failed(failures + 1).await;
    proxy.refuse();
    failed(failures + 1).await;
    assert!(stage.pds.answers(200) < fleet.len(), "it breaks in the middle");
    proxy.mend();

    daemon.run(&id).await;
    fleet.heals(&stage.world).await;
    fleet.assert_current(&stage.world).await;
}
