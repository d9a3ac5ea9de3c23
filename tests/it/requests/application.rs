//! The application's own code waits for its jobs, with both versions of BullMQ.

use super::*;
use crate::harness::scripted_pds::Fault;
use crate::harness::world::text;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_button_is_answered_as_the_old_worker_did() {
    let stage = Stage::set().await;
    let daemon = stage.daemon(&[SERVED]).await;
    for bullmq in BULLMQ {
        let app = stage.app(bullmq).await;
        let (account, session) = stage.account().await;
        for platform in [json!("bluesky"), json!(null)] {
            let before = stage.pds.calls(&session.did);
            let answer = press(&app, &account, platform).await;
            let result = json!({
                "success": true,
                "message": format!("Token refreshed for account {account}"),
                "accountId": account,
                "platform": "bluesky",
                "username": session.handle,
                "status": "active",
            });
            assert_eq!(answer["result"], result, "{answer}");
            assert_eq!(stage.pds.calls(&session.did), before + 1);
            // `removeOnComplete`: nothing is left of it.
            let id = answer["job"].as_str().expect("an id");
            assert!(stage.job(QUEUE, id).await.is_empty());
        }
        let stored = stage.world.account(&account).await;
        assert!(stage.pds.is_current(text(&stored, "refreshToken")));
    }
    let lines = daemon.log().matching(|line| line["event"] == "refresh");
    assert!(lines.iter().all(|line| line["trigger"] == "bullmq"), "{lines:?}");
    assert_eq!((lines.len(), counted(&daemon, "completed").await), (4, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_says_why_in_the_old_words() {
    let stage = Stage::set().await;
    let daemon = stage.daemon(&[SERVED]).await;
    let (revoked, session) = stage.account().await;
    stage.pds.revoke(&session.did);
    let (logged_out, _) = stage.account().await;
    stage.world.set(&logged_out, doc! { "refreshToken": null }).await;
    let left = doc! { "refreshToken": null, "accessToken": null, "status": "inactive" };
    let disconnected = stage.with(left).await;
    let tiktok = stage.foreign("tiktok").await;
    let mut failures = 0;
    for bullmq in BULLMQ {
        let app = stage.app(bullmq).await;
        for (account, platform, code) in [
            (NOBODY, json!("bluesky"), "account_not_found"),
            (NOBODY, json!(null), "account_not_found"),
            ("alice", json!("bluesky"), "account_not_found"),
            (&logged_out, json!("bluesky"), "no_refresh_token"),
            (&disconnected, json!("bluesky"), "no_refresh_token"),
            (&revoked, json!("bluesky"), "refresh_failed"),
            (&tiktok, json!("tiktok"), "unsupported_platform"),
            (&tiktok, json!(null), "unsupported_platform"),
        ] {
            let answer = press(&app, account, platform).await;
            assert_eq!(answer["failed"], code, "{account}: {answer}");
            // Kept, as `removeOnFail` says, with a sentence for people; another attempt would be in vain.
            let job = stage.job(QUEUE, answer["job"].as_str().expect("an id")).await;
            assert_eq!((job["failedReason"].as_str(), job["atm"].as_str()), (code, "1"), "{job:?}");
            let why: Vec<String> = serde_json::from_str(&job["stacktrace"]).expect("a list");
            assert!(why[0].starts_with(&format!("{code}: ")) && why[0].len() > 30, "{why:?}");
            failures += 1;
        }
    }
    let kept: u64 = stage.ask(&["ZCARD", &format!("bull:{QUEUE}:failed")]).await;
    assert_eq!((kept, counted(&daemon, "failed").await), (failures, failures));
    // Disconnected by its owner: not touched, and nobody asked for it.
    let document = stage.world.account(&disconnected).await;
    assert_eq!((text(&document, "status"), document.get("tokenRefresh")), ("inactive", None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transient_trouble_is_tried_as_often_as_the_job_says() {
    for bullmq in BULLMQ {
        // One that fails again and again opens the server's breaker, for all of its accounts.
        let stage = Stage::set().await;
        let daemon = stage.daemon(&[SERVED]).await;
        let app = stage.app(bullmq).await;
        let (account, session) = stage.account().await;
        stage.pds.fail_next_of(&session.did, 1, &Fault::answer(503, ""));
        let answer = press(&app, &account, json!("bluesky")).await;
        assert_eq!(answer["result"]["success"], true, "{answer}");
        // Whoever tried it again first, the planner or the job: the other has nothing left to do.
        assert_eq!(stage.pds.calls(&session.did), 2);

        let (account, session) = stage.account().await;
        stage.pds.fail_next_of(&session.did, 50, &Fault::answer(503, ""));
        let answer = press(&app, &account, json!("bluesky")).await;
        assert_eq!(answer["failed"], "refresh_failed", "{answer}");
        let job = stage.job(QUEUE, answer["job"].as_str().expect("an id")).await;
        assert_eq!((job["atm"].as_str(), job["ats"].as_str()), ("3", "3"), "{job:?}");
        assert_eq!(text(&stage.world.account(&account).await, "status"), "active");
        assert_eq!(counted(&daemon, "retried").await, 1 + 2);
        // No busy loop: a look for each of what happened, and some for want of news.
        let stats: String = stage.ask(&["INFO", "commandstats"]).await;
        let calls = stats.lines().find_map(|line| {
            line.strip_prefix("cmdstat_bzpopmin:calls=")?.split(',').next()?.parse::<u64>().ok()
        });
        assert!(calls.is_some_and(|calls| calls < 40), "{calls:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_accounts_are_a_run() {
    let stage = Stage::set().await;
    let daemon = stage.daemon(&[SERVED]).await;
    for (number, bullmq) in (1..).zip(BULLMQ) {
        let app = stage.app(bullmq).await;
        let (_, session) = stage.account().await;
        let answer = app.ask(json!({"do": "refresh", "all": true, "wait": true})).await;
        let result = &answer["result"];
        assert_eq!((&result["success"], &result["platform"]), (&json!(true), &json!("bluesky")));
        let run = daemon.run(result["jobId"].as_str().expect("a run")).await;
        assert_eq!(
            (&run["trigger"], &run["succeeded"]),
            (&json!("bullmq"), &json!(number)),
            "{run}"
        );
        assert_eq!(stage.pds.calls(&session.did), 1);
        assert_eq!(stage.runs().await, number);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_not_adopted_is_left_alone() {
    let stage = Stage::set().await;
    let _daemon = stage.daemon(&[]).await;
    let app = stage.app("5").await;
    let (account, session) = stage.account().await;
    let asked = json!({"do": "refresh", "accountId": account, "wait": true, "limitMs": 2_000});
    let answer = app.ask(asked).await;
    assert!(answer["failed"].as_str().is_some_and(|it| it.contains("timed out")), "{answer}");
    assert_eq!(stage.pds.calls(&session.did), 0);
    let waiting: u64 = stage.ask(&["LLEN", &format!("bull:{QUEUE}:wait")]).await;
    assert_eq!(waiting, 1);
}
