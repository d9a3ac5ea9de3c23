//! The stop: what runs is finished, what hangs is given up and runs again.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{Stage, exit, says};
use crate::harness::scripted_pds::Fault;
use crate::harness::world::text;

#[tokio::test]
async fn an_idle_daemon_stops_for_either_signal() {
    let stage = Stage::set(0).await;
    let mut took = Vec::new();
    for signal in ["TERM", "INT"] {
        // Were anything waited for, it would be for longer than the test's patience.
        let mut daemon = stage.daemon(&[("SHUTDOWN_TIMEOUT", "1h")]).await;
        let begun = Instant::now();
        daemon.signal(signal);
        assert_eq!(exit(&mut daemon).await, Some(0), "{}", daemon.log().text());
        took.push(begun.elapsed());
        assert_eq!(daemon.log().matching(|line| line["event"] == "stopped").len(), 1);
    }
    // The tasks of the daemon are given five seconds for their last words; none has any.
    assert!(took.iter().min() < Some(&Duration::from_secs(4)), "{took:?}");
}

#[tokio::test]
async fn calls_in_flight_are_finished_and_stored() {
    let stage = Stage::set(3).await;
    let held = stage.pds.hold();
    let mut daemon = stage.daemon(&[]).await;
    for member in &stage.members {
        stage.ask(&daemon, member).await;
    }
    stage.called(3).await;
    assert_eq!(stage.pds.answers(200), 0, "they are still in flight");

    daemon.signal("TERM");
    daemon.log().wait(|line| says(line, "stop", &["finishing the jobs"])).await;
    drop(held);
    assert_eq!(exit(&mut daemon).await, Some(0), "{}", daemon.log().text());
    for member in &stage.members {
        stage.assert_rotated(member).await;
    }
    assert_eq!(daemon.log().matching(|line| line["event"] == "refresh").len(), 3);

    // Nothing was left in the queue: another start has nothing to do.
    let daemon = stage.daemon(&[]).await;
    let first = &stage.members[0];
    assert_eq!(daemon.refresh(&first.id).await["outcome"], "refreshed");
    assert_eq!(stage.pds.total_calls(), 4);
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_run_is_interrupted_cleanly_and_goes_on_at_the_next_start() {
    let stage = Stage::set(40).await;
    stage.pds.set_latency(Duration::from_millis(50));
    let more = [("WORKER_CONCURRENCY", "4")];
    let mut daemon = stage.daemon(&more).await;
    let (_, answer) = daemon.post("/api/admin/refresh-tokens", "{}").await;
    let run = answer["jobId"].as_str().expect("a run id");
    stage.called(10).await;
    daemon.signal("TERM");
    assert_eq!(exit(&mut daemon).await, Some(0), "{}", daemon.log().text());
    assert!(stage.pds.total_calls() < 40, "it stopped in the middle");

    let daemon = stage.daemon(&more).await;
    let run = daemon.run(run).await;
    for member in &stage.members {
        stage.assert_rotated(member).await;
        assert_eq!(stage.pds.calls(&member.session.did), 1, "once each: {run}");
    }
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_call_that_hangs_is_given_up_and_the_job_runs_again() {
    let stage = Stage::set(1).await;
    let member = &stage.members[0];
    stage.pds.fail_next(1, &Fault::Hang);
    let mut daemon = stage.daemon(&[("SHUTDOWN_TIMEOUT", "500ms"), ("PDS_TIMEOUT", "300s")]).await;
    let job = stage.ask(&daemon, member).await;
    stage.called(1).await;
    daemon.signal("TERM");
    assert_eq!(exit(&mut daemon).await, Some(1), "{}", daemon.log().text());
    let found =
        daemon.log().matching(|line| says(line, "stopped", &["SHUTDOWN_TIMEOUT", "run again"]));
    assert_eq!(found.iter().map(|line| &line["jobs"]).collect::<Vec<_>>(), [&json!(1)]);
    let document = stage.world.account(&member.id).await;
    assert_eq!(text(&document, "refreshToken"), member.session.refresh, "nothing was written");

    let daemon = stage.daemon(&[]).await;
    let line = daemon.log().wait(|line| line["event"] == "refresh").await;
    assert_eq!((&line["job"], &line["outcome"]), (&json!(job), &json!("refreshed")));
    stage.assert_rotated(member).await;
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let stage = Stage::set(1).await;
    stage.pds.fail_next(1, &Fault::Hang);
    let mut daemon = stage.daemon(&[("SHUTDOWN_TIMEOUT", "1h"), ("PDS_TIMEOUT", "300s")]).await;
    stage.ask(&daemon, &stage.members[0]).await;
    stage.called(1).await;
    daemon.signal("TERM");
    daemon.log().wait(|line| says(line, "stop", &["finishing the jobs"])).await;
    let again = Instant::now();
    daemon.signal("INT");
    assert_eq!(exit(&mut daemon).await, Some(1), "{}", daemon.log().text());
    // An idle end takes some ten milliseconds; the waits that there could be, three seconds.
    assert!(again.elapsed() < Duration::from_secs(3), "{:?}", again.elapsed());
    daemon.log().wait(|line| says(line, "stop", &["again: stopping at once"])).await;
}
