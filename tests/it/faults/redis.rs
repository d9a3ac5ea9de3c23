//! Redis goes away, comes back, turns into a replica or runs full in the middle of a run.

use std::time::Duration;

use refreshd::journal::Journal;
use serde_json::Value;
use tempfile::TempDir;

use super::{SLOTS, SOME, Stage};
use crate::harness::daemon::Daemon;
use crate::harness::fleet::Fleet;
use crate::harness::mongo::Topology;
use crate::harness::proxy::Proxy;
use crate::harness::redis::{KEEPS_ALL, RedisServer};
use crate::harness::scripted_pds::{Options, ScriptedPds};
use crate::harness::world::{World, text};
use crate::harness::{PATIENCE, eventually, is_long};

/// How long Redis is away: longer than one reconnect, one command or one heartbeat may take.
fn outage() -> Duration {
    Duration::from_secs(if is_long() { 30 } else { 8 })
}

async fn stage() -> Stage {
    Stage::on(&KEEPS_ALL, Topology::ReplicaSet(1)).await
}

/// The run is over, nobody is left out, and what was asked for twice was under way at the time. A
/// job whose end Redis forgot is run again, and finds nothing to do.
async fn assert_whole(stage: &Stage, fleet: &Fleet<'_>, run: &Value) {
    let ended = |outcome: &str| run["outcomes"][outcome].as_u64().unwrap_or(0);
    assert_eq!(ended("refreshed") + ended("superseded"), fleet.len(), "{run}");
    assert_eq!(run["failed"], 0, "{run}");
    fleet.heals(&stage.world).await;
    fleet.assert_current(&stage.world).await;
    assert!(fleet.repeated() <= SLOTS, "{} were asked for twice", fleet.repeated());
}

async fn down(daemon: &Daemon) {
    daemon.log().wait(|line| line["event"] == "redis.down").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_its_data_in_the_middle_of_a_run() {
    let mut stage = stage().await;
    let daemon = stage.daemon(&[]).await;
    let fleet = Fleet::of(&stage.world, &stage.pds, SOME).await;
    let id = daemon.ask_for_run().await;
    fleet.called(fleet.len() / 4).await;
    stage.world.redis.kill();
    down(&daemon).await;
    assert!(stage.pds.total_calls() < fleet.len(), "it is killed in the middle");
    stage.world.redis.restart().await;
    let run = daemon.run(&id).await;
    assert_whole(&stage, &fleet, &run).await;
}

/// The answer says that nothing is left of the limit, which others are to be told, while Redis
/// hangs: the pair is in the journal first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_does_not_wait_for_redis() {
    let limit = Some((1, Duration::from_mins(5)));
    let options = Options { limit, ..Options::default() };
    let (world, pds) = tokio::join!(World::start(), ScriptedPds::start(options));
    let proxy = Proxy::to(world.redis.port()).await;
    let (port, state) = (proxy.port().to_string(), TempDir::new().expect("a folder"));
    let folder = state.path().display().to_string();
    let settings = [("REDIS_PORT", port.as_str()), ("STATE_DIR", folder.as_str())];
    let daemon = world.daemon(pds.url().as_str(), &settings).await;
    let session = pds.create(1).remove(0);
    let id = world.log_in(&session.did, &session.handle, &session.access, &session.refresh).await;
    pds.set_latency(Duration::from_secs(1));
    let asked = format!(r#"{{"accountId":"{id}"}}"#);
    assert_eq!(daemon.post("/api/admin/refresh-tokens", &asked).await.0, 200);
    eventually("the call is made", PATIENCE, async || pds.calls(&session.did) == 1).await;
    proxy.swallow();
    eventually("the pair is kept", Duration::from_secs(4), async || {
        let read = Journal::read(state.path()).expect("a journal");
        read.pending.iter().any(|pending| pending.answer.is_some())
    })
    .await;
    proxy.mend();
    eventually("it is stored", PATIENCE, async || {
        pds.is_current(text(&world.account(&id).await, "refreshToken"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_in_the_middle_of_a_run() {
    let mut stage = stage().await;
    let daemon = stage.daemon(&[]).await;
    let fleet = Fleet::of(&stage.world, &stage.pds, SOME).await;
    let id = daemon.ask_for_run().await;
    fleet.called(fleet.len() / 4).await;
    stage.world.redis.kill();
    tokio::time::sleep(outage()).await;
    let calls = stage.pds.total_calls();
    assert!(calls < fleet.len(), "{calls} of {} calls", fleet.len());
    stage.world.redis.restart().await;
    let run = daemon.run(&id).await;
    assert_whole(&stage, &fleet, &run).await;
}

/// No byte comes through, and no connection says goodbye.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_swallows_and_then_resets() {
    let stage = stage().await;
    let proxy = Proxy::to(stage.world.redis.port()).await;
    let daemon = stage.daemon(&[("REDIS_PORT", &proxy.port().to_string())]).await;
    let fleet = Fleet::of(&stage.world, &stage.pds, SOME).await;
    let id = daemon.ask_for_run().await;
    fleet.called(fleet.len() / 4).await;
    proxy.swallow();
    down(&daemon).await;
    proxy.reset();
    proxy.refuse();
    proxy.mend();
    daemon.log().wait(|line| line["event"] == "redis.up").await;
    proxy.delay(Duration::from_millis(20));
    proxy.reset();
    let run = daemon.run(&id).await;
    assert_whole(&stage, &fleet, &run).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_becomes_a_replica_and_a_primary_again() {
    let stage = stage().await;
    let daemon = stage.daemon(&[]).await;
    let other = RedisServer::start().await;
    let redis = &stage.world.redis;
    other.follow(Some(redis)).await;
    let fleet = Fleet::of(&stage.world, &stage.pds, SOME).await;
    let id = daemon.ask_for_run().await;
    fleet.called(fleet.len() / 4).await;

    other.follow(None).await;
    redis.follow(Some(&other)).await;
    down(&daemon).await;
    let calls = stage.pds.total_calls();
    assert!(calls < fleet.len(), "it is demoted in the middle");
    let why = daemon.log().matching(|line| line["event"] == "redis.down");
    assert!(why[0]["message"].as_str().is_some_and(|it| it.contains("replica")), "{why:?}");
    redis.follow(None).await;

    let run = daemon.run(&id).await;
    assert_whole(&stage, &fleet, &run).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_full_for_a_while() {
    let stage = stage().await;
    let daemon = stage.daemon(&[]).await;
    // More than elsewhere: the run is not to be over before it is said.
    let fleet = Fleet::of(&stage.world, &stage.pds, 3 * SOME).await;
    let id = daemon.ask_for_run().await;
    fleet.called(fleet.len() / 8).await;
    stage.world.redis.limit_memory(1).await;
    // Jobs that are there end; new ones are not taken, and it is said why.
    daemon
        .log()
        .wait(|line| {
            line["level"] == "WARN"
                && line["message"].as_str().is_some_and(|it| it.contains("is full"))
        })
        .await;
    let calls = stage.pds.total_calls();
    assert!(calls < fleet.len(), "{calls} of {} calls", fleet.len());
    stage.world.redis.limit_memory(0).await;
    let run = daemon.run(&id).await;
    assert_whole(&stage, &fleet, &run).await;
    assert_eq!(fleet.calls(), (1, 1));
}
