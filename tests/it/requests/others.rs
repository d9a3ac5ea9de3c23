//! What is not Bluesky's goes to the worker of the other platforms, unchanged.

use refreshd::clock::Clock;

use super::*;

/// What the old worker says that it served, by job.
fn served(app: &App) -> Vec<Value> {
    app.log().matching(|line| line["event"] == "served")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_other_platforms_are_moved_to_their_worker() {
    let stage = Stage::set().await;
    let daemon = stage.daemon(&WITH_OTHER).await;
    let tiktok = stage.foreign("tiktok").await;
    for bullmq in BULLMQ {
        let app = stage.app(bullmq).await;
        let before = served(&app).len();
        let mut asked = Vec::new();
        for platform in [json!("tiktok"), json!(null)] {
            let job = json!({"do": "refresh", "accountId": tiktok, "platform": platform});
            let id = app.ask(job).await["job"].clone();
            asked.push((id, json!({"accountId": tiktok, "platform": platform})));
        }
        stage.done(QUEUE).await;
        // Not an attempt of anybody's yet.
        for (id, _) in &asked {
            let job = stage.job(OTHER, id.as_str().expect("an id")).await;
            let tried = ["ats", "atm", "processedOn", "failedReason", "pb"];
            assert!(tried.iter().all(|field| !job.contains_key(*field)), "{job:?}");
        }
        app.ask(json!({"do": "serve", "queue": OTHER})).await;
        for (id, data) in &asked {
            let line = app.log().wait(|line| line["event"] == "served" && line["job"] == *id).await;
            assert_eq!((&line["name"], &line["data"]), (&json!("refresh-account-tokens"), data));
        }
        stage.done(OTHER).await;
        assert_eq!(served(&app).len(), before + 2, "each of them once");
    }
    assert_eq!(counted(&daemon, "moved").await, 4);
    assert_eq!(stage.pds.total_calls(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_for_all_is_served_by_both() {
    let stage = Stage::set().await;
    let daemon = stage.daemon(&WITH_OTHER).await;
    for bullmq in BULLMQ {
        let app = stage.app(bullmq).await;
        app.ask(json!({"do": "serve", "queue": OTHER})).await;
        let answer = app.ask(json!({"do": "refresh", "all": true, "wait": true})).await;
        assert_eq!(answer["result"]["success"], true, "{answer}");
        daemon.run(answer["result"]["jobId"].as_str().expect("a run")).await;
        let line =
            app.log().wait(|line| line["event"] == "served" && line["job"] == answer["job"]).await;
        let half = (&line["name"], &line["data"]);
        assert_eq!(half, (&json!("refresh-all-tokens"), &json!({"triggered": true})));
        stage.done(OTHER).await;
        assert_eq!(served(&app).len(), 1);
    }
}

/// Every start of the old application added one more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_that_piled_up_are_one_run() {
    let stage = Stage::set().await;
    let (_, session) = stage.account().await;
    let app = stage.app("5").await;
    // All of them at the same second, which is not to pass before they are made.
    let second = (Clock::system().now().timestamp() + 10) % 60;
    for _ in 0..5 {
        let pattern = format!("{second} * * * * *");
        app.ask(json!({"do": "schedule-refresh", "pattern": pattern})).await;
    }
    let ticks: Vec<(String, f64)> =
        stage.ask(&["ZRANGE", &format!("bull:{QUEUE}:repeat"), "0", "-1", "WITHSCORES"]).await;
    assert_eq!(ticks.len(), 5);
    assert!(ticks.iter().all(|(_, at)| at.total_cmp(&ticks[0].1).is_eq()), "{ticks:?}");
    let daemons = [stage.daemon(&WITH_OTHER).await, stage.daemon(&WITH_OTHER).await];
    stage.done(QUEUE).await;
    let mut completed = 0;
    for daemon in &daemons {
        completed += counted(daemon, "completed").await;
    }
    assert_eq!((completed, stage.runs().await), (5, 1));
    eventually("the account is refreshed", PATIENCE, async || stage.pds.calls(&session.did) == 1)
        .await;
    // The others' worker gets what it always got, and makes no more of it.
    app.ask(json!({"do": "serve", "queue": OTHER})).await;
    stage.done(OTHER).await;
    assert_eq!(served(&app).len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_start_says_who_else_serves_and_whom_nobody_serves() {
    let stage = Stage::set().await;
    stage.foreign("tiktok").await;
    let app = stage.app("5").await;
    app.ask(json!({"do": "serve", "queue": QUEUE})).await;
    let daemon = stage.daemon(&[SERVED]).await;
    let says = async |part: &str| {
        let has = |line: &Value| line["message"].as_str().is_some_and(|it| it.contains(part));
        daemon.log().wait(|line| line["event"] == "bullmq" && has(line)).await
    };
    assert_eq!(
        says("1 other workers take jobs out of the queue token-refreshes").await["others"],
        1
    );
    assert_eq!(says("fail with unsupported_platform").await["accounts"], 1);
}
