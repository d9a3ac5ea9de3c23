//! Workers that are gone, jobs that are shared, services that are away.

use std::time::Duration;

use super::*;
use crate::harness::arrival;
use crate::harness::scripted_pds::Fault;

/// What a minute does: locks run out, and the look for lost jobs is due again.
async fn a_minute_passes(stage: &Stage) {
    let locks: Vec<String> = stage.ask(&["KEYS", &format!("bull:{QUEUE}:*:lock")]).await;
    for key in locks.iter().map(String::as_str).chain([&*format!("bull:{QUEUE}:stalled-check")]) {
        let _gone: u64 = stage.ask(&["DEL", key]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_daemon_had_in_hand_is_done_by_another() {
    let stage = Stage::set().await;
    let app = stage.app("5").await;
    let (account, session) = stage.account().await;
    stage.pds.fail_next_of(&session.did, 1, &Fault::Hang);
    let first = stage.daemon(&[SERVED]).await;
    let asked = json!({"do": "refresh", "accountId": account, "wait": true});
    let (answer, ()) = tokio::join!(app.ask(asked), async {
        arrival("the call is under way", PATIENCE, async || {
            (stage.pds.calls(&session.did) == 1).then_some(())
        })
        .await;
        first.kill().await;
        // The first look marks what nobody holds, the second takes it up.
        a_minute_passes(&stage).await;
        let second = stage.daemon(&[SERVED]).await;
        let mark = format!("bull:{QUEUE}:stalled");
        arrival("it is marked", PATIENCE, async || {
            (stage.ask::<u64>(&["SCARD", &mark]).await == 1).then_some(())
        })
        .await;
        second.kill().await;
        a_minute_passes(&stage).await;
        let third = stage.daemon(&[SERVED]).await;
        third.log().wait(|line| line["event"] == "bullmq" && line["outcome"] == "completed").await;
        assert_eq!(counted(&third, "stalled").await, 1);
    });
    assert_eq!(answer["result"]["success"], true, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_stops_gives_back_what_it_has_not_done() {
    let stage = Stage::set().await;
    let app = stage.app("newest").await;
    let (account, session) = stage.account().await;
    stage.pds.fail_next_of(&session.did, 1, &Fault::Hang);
    let first = stage.daemon(&[SERVED, ("SHUTDOWN_TIMEOUT", "0s")]).await;
    let asked = json!({"do": "refresh", "accountId": account, "wait": true});
    let (answer, ()) = tokio::join!(app.ask(asked), async {
        arrival("the call is under way", PATIENCE, async || {
            (stage.pds.calls(&session.did) == 1).then_some(())
        })
        .await;
        first.stop().await;
        let waiting: u64 = stage.ask(&["ZCARD", &format!("bull:{QUEUE}:delayed")]).await;
        let locks: Vec<String> = stage.ask(&["KEYS", &format!("bull:{QUEUE}:*:lock")]).await;
        assert_eq!((waiting, locks.len()), (1, 0));
        let second = stage.daemon(&[SERVED]).await;
        second.log().wait(|line| line["event"] == "bullmq" && line["outcome"] == "completed").await;
    });
    assert_eq!(answer["result"]["success"], true, "{answer}");
    // Not the job's fault, and no attempt of it.
    assert_eq!(stage.ask::<u64>(&["ZCARD", &format!("bull:{QUEUE}:failed")]).await, 0);
}

/// The button for so many accounts at once: each is refreshed, by one call.
async fn all_succeed_once(stage: &Stage, app: &App, many: usize) {
    let mut accounts = Vec::new();
    for _ in 0..many {
        accounts.push(stage.account().await);
    }
    let asked = accounts.iter().map(|(account, _)| press(app, account, json!("bluesky")));
    for answer in futures::future::join_all(asked).await {
        assert_eq!(answer["result"]["success"], true, "{answer}");
    }
    for (_, session) in &accounts {
        assert_eq!(stage.pds.calls(&session.did), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_share_the_queue_and_do_each_job_once() {
    let stage = Stage::set().await;
    let daemons = [stage.daemon(&[SERVED]).await, stage.daemon(&[SERVED]).await];
    let app = stage.app("5").await;
    all_succeed_once(&stage, &app, 80).await;
    let mut completed = 0;
    for daemon in &daemons {
        let share = counted(daemon, "completed").await;
        assert!(share > 0);
        completed += share;
    }
    assert_eq!(completed, 80);
}

/// Longer than a lock lasts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_held_for_as_long_as_it_takes() {
    let stage = Stage::set().await;
    let daemon = stage.daemon(&[SERVED, ("PDS_TIMEOUT", "60s")]).await;
    let app = stage.app("5").await;
    let (account, session) = stage.account().await;
    stage.pds.set_latency(Duration::from_secs(34));
    let answer = press(&app, &account, json!("bluesky")).await;
    assert_eq!(answer["result"]["success"], true, "{answer}");
    assert_eq!((stage.pds.calls(&session.did), counted(&daemon, "lost").await), (1, 0));
}

/// More than the budget lets through at once: each waits for its turn, and none fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_served_at_the_budgets_pace() {
    let stage = Stage::set().await;
    let daemon = stage.daemon(&[SERVED, ("PDS_RATE_LIMIT", "8/s")]).await;
    let app = stage.app("newest").await;
    all_succeed_once(&stage, &app, 60).await;
    assert!(counted(&daemon, "put_back").await > 0, "otherwise it was no crowd");
    assert_eq!((counted(&daemon, "retried").await, counted(&daemon, "failed").await), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_and_mongodb_may_go_and_come() {
    let mut stage = Stage::set().await;
    let app = stage.app("5").await;
    let daemon = stage.daemon(&[SERVED]).await;
    let (account, _) = stage.account().await;
    stage.world.redis.kill();
    daemon.log().wait(|line| line["event"] == "redis.down").await;
    stage.world.redis.restart().await;
    let answer = press(&app, &account, json!("bluesky")).await;
    assert_eq!(answer["result"]["success"], true, "{answer}");

    let mut mongo_is_away = stage;
    let stage = &mut mongo_is_away;
    stage.world.mongo.kill();
    let asked = json!({"do": "refresh", "accountId": account, "wait": true, "limitMs": 120_000});
    let (answer, ()) = tokio::join!(app.ask_within(asked, Duration::from_mins(3)), async {
        let held =
            daemon.log().wait(|line| line["event"] == "bullmq" && line["outcome"] == "put_back");
        tokio::time::timeout(Duration::from_secs(50), held).await.expect("it is put back");
        stage.world.mongo.restart().await;
    });
    assert_eq!(answer["result"]["success"], true, "{answer}");
}
