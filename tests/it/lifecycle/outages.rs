//! Services that go away while jobs run.

use std::time::Duration;

use super::{Stage, exit, says};

const CONCURRENCY: u64 = 4;

#[tokio::test]
async fn redis_may_come_back_empty_and_nothing_is_lost() {
    let mut stage = Stage::set(40).await;
    stage.pds.set_latency(Duration::from_millis(50));
    let daemon = stage.daemon(&[("WORKER_CONCURRENCY", "4")]).await;
    let (_, answer) = daemon.post("/api/admin/refresh-tokens", "{}").await;
    let run = answer["jobId"].as_str().expect("a run id");
    stage.called(10).await;

    stage.world.redis.kill();
    daemon.log().wait(|line| line["event"] == "redis.down").await;
    stage.world.redis.restart().await;
    daemon.log().wait(|line| line["event"] == "redis.up").await;

    let run = daemon.run(run).await;
    for member in &stage.members {
        stage.assert_rotated(member).await;
    }
    assert_eq!(run["outcomes"]["refreshed"], 40, "{run}");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn redis_lost_for_too_long_ends_the_daemon_for_its_supervisor() {
    let mut stage = Stage::set(0).await;
    let mut daemon = stage.daemon(&[("REDIS_DOWN_EXIT_AFTER", "2s")]).await;
    stage.world.redis.kill();
    assert_eq!(exit(&mut daemon).await, Some(75), "{}", daemon.log().text());
    let place = format!("127.0.0.1:{}", stage.world.redis.port());
    let found = daemon.log().matching(|line| line["level"] == "ERROR");
    assert_eq!(found.len(), 1, "one clear line:\n{}", daemon.log().text());
    assert!(says(&found[0], "stop", &["Redis", &place, "REDIS_DOWN_EXIT_AFTER", "status 75"]));
}

#[tokio::test]
async fn no_call_is_made_whose_answer_mongodb_could_not_take() {
    let mut stage = Stage::set(60).await;
    stage.pds.set_latency(Duration::from_millis(50));
    // Its own patience of 5 s with a server that is away would only make the test longer.
    let uri = stage.world.mongo.uri() + "&serverSelectionTimeoutMS=300";
    let more = [
        ("WORKER_CONCURRENCY", "4"),
        ("MONGODB_URI", uri.as_str()),
        ("RUST_LOG", "info,refreshd::refresh=debug"),
    ];
    let daemon = stage.daemon(&more).await;
    let (_, answer) = daemon.post("/api/admin/refresh-tokens", "{}").await;
    let run = answer["jobId"].as_str().expect("a run id").to_owned();
    stage.called(12).await;

    stage.world.mongo.kill();
    let before = stage.pds.total_calls();
    let tried = |times: u64| {
        move |line: &serde_json::Value| {
            line["event"] == "mongo.retry" && line["attempt"].as_u64().is_some_and(|it| it >= times)
        }
    };
    daemon.log().wait(tried(2)).await;
    let calls = stage.pds.total_calls();
    assert!(calls - before <= CONCURRENCY, "only what was loaded already: {before}, then {calls}");
    daemon.log().wait(tried(4)).await;
    assert_eq!(stage.pds.total_calls(), calls, "none while it is away");
    assert!(calls < 60, "the run is not over");

    stage.world.mongo.restart().await;
    let run = daemon.run(&run).await;
    assert_eq!(run["outcomes"]["refreshed"], 60, "{run}");
    for member in &stage.members {
        stage.assert_rotated(member).await;
        assert_eq!(stage.pds.calls(&member.session.did), 1, "once each");
    }
    // While it lasts it is told again every half a minute.
    let is_first = |line: &serde_json::Value| line["lasts_s"].as_u64().is_none_or(|it| it == 0);
    let told = |level: &'static str| {
        let of_it = |line: &serde_json::Value| line["event"] == "mongo" && line["level"] == level;
        daemon.log().count(|line| of_it(line) && is_first(line))
    };
    assert_eq!((told("WARN"), told("INFO")), (1, 1), "{}", daemon.log().text());
    assert!(daemon.stop().await.success());
}
