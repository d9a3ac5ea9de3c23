//! The posting application by itself: what the tests that need it take for granted.

use std::time::Duration;

use mongodb::bson::Bson;
use serde_json::{Value, json};

use super::harness::app::App;
use super::harness::reference_pds::ReferencePds;
use super::harness::scripted_pds::{Options, ScriptedPds};
use super::harness::world::{World, text};

/// What `--bullmq` takes, and the version that it means.
const BULLMQ: [(&str, &str); 2] = [("5", "5.56.1"), ("newest", "6.7.0")];

/// Plans one post, and answers the line of its first attempt.
async fn post(app: &App, account: &str, shape: &str, worker: Value) -> Value {
    let queue = worker["queue"].clone();
    let planned = json!({"do": "schedule", "accountId": account, "delayMs": 1_000,
                         "shape": shape, "queue": queue});
    let job = app.ask(planned).await["job"].clone();
    app.ask(worker).await;
    app.log().wait(|line| line["event"] == "post" && line["job"] == job).await
}

#[tokio::test]
async fn a_scheduled_post_is_sent_from_the_copy_of_the_tokens() {
    let (world, pds) = tokio::join!(World::start(), ReferencePds::start());
    for (bullmq, version) in BULLMQ {
        let app = App::start(&world, &pds.url, &["--bullmq", bullmq]).await;
        assert_eq!(app.ask(json!({"do": "versions"})).await["bullmq"], version);
        let person = pds.create(&format!("writer-{bullmq}")).await;
        let login = json!({"do": "login", "handle": person.handle, "password": person.password});
        let account = app.ask(login).await["account"].as_str().expect("an id").to_owned();
        let before = world.account(&account).await;
        assert_eq!(text(&before, "status"), "active");
        assert_eq!(text(&before, "platformAccountId"), person.did);
        assert_eq!(before.get("tokenExpiry"), Some(&Bson::Null), "as after a login");

        for (sdk, shape, calls) in [
            ("0.15.23", "originalData", json!(["getSession 200", "createRecord 200"])),
            (
                "newest",
                "direct",
                json!(["refreshSession 200", "getSession 200", "createRecord 200"]),
            ),
        ] {
            let worker = json!({"do": "work", "sdk": sdk, "queue": format!("{bullmq}-{sdk}")});
            let sent = post(&app, &account, shape, worker).await;
            assert_eq!((&sent["ok"], &sent["calls"]), (&json!(true), &calls), "{sdk}: {sent}");
        }
        assert_eq!(app.posts().len(), 2, "one attempt each");
        assert_eq!(world.account(&account).await, before, "nothing is written back");
    }
}

#[tokio::test]
async fn posting_rotates_and_forgets() {
    let (world, pds) = tokio::join!(World::start(), ScriptedPds::start(Options::default()));
    let app = App::start(&world, pds.url().as_str(), &[]).await;
    for (sdk, rotate, calls) in [
        // Refused, rotated; the SDK looks again; the application's own call.
        (
            "0.15.23",
            "as-sdk",
            json!(["getSession 400", "refreshSession 200", "getSession 200", "getSession 200"]),
        ),
        ("newest", "as-sdk", json!(["refreshSession 200", "getSession 200"])),
        (
            "newest",
            "and-forget",
            json!(["refreshSession 200", "refreshSession 200", "getSession 200"]),
        ),
    ] {
        let held = pds.create(1).remove(0);
        let account = world.log_in(&held.did, &held.handle, &held.access, &held.refresh).await;
        let before = world.account(&account).await;
        // The copy's access token is over, as after some days.
        pds.advance(Duration::from_hours(3));
        let worker = json!({"do": "work", "sdk": sdk, "rotate": rotate, "post": "getSession",
                            "queue": format!("{sdk}-{rotate}")});
        let sent = post(&app, &account, "originalData", worker).await;
        assert_eq!((&sent["ok"], &sent["calls"]), (&json!(true), &calls), "{sdk}: {sent}");
        assert!(!pds.is_current(&held.refresh), "the account's token is spent");
        assert_eq!(world.account(&account).await, before, "nothing is written back");
    }
}
