//! MongoDB dies, fails over, slows down or loses its answers in the middle of a run.

use std::time::Duration;

use mongodb::bson::doc;

use super::{SLOTS, SOME, Stage};
use crate::harness::daemon::Daemon;
use crate::harness::fleet::Fleet;
use crate::harness::mongo::Topology;
use crate::harness::proxy::Proxy;
use crate::harness::scripted_pds::ScriptedPds;
use crate::harness::world::World;
use crate::harness::{PATIENCE, eventually};

/// The daemon's own 5 s with a server that is away would only make the tests longer.
const PATIENCE_OF_URI: &str = "&serverSelectionTimeoutMS=500&connectTimeoutMS=500";

struct Run<'a> {
    daemon: Daemon,
    fleet: Fleet<'a>,
    id: String,
}

impl<'a> Run<'a> {
    /// A run that has come a part of its way.
    async fn under_way(world: &World, pds: &'a ScriptedPds, more: &[(&str, &str)]) -> Self {
        let uri = world.mongo.uri() + PATIENCE_OF_URI;
        let slots = SLOTS.to_string();
        let mut settings = vec![
            ("MONGODB_URI", uri.as_str()),
            ("WORKER_CONCURRENCY", slots.as_str()),
            ("RUST_LOG", "info,refreshd::refresh=debug"),
        ];
        settings.extend(more);
        let daemon = world.daemon(&pds.url().to_string(), &settings).await;
        let fleet = Fleet::of(world, pds, SOME).await;
        let id = daemon.ask_for_run().await;
        let run = Self { daemon, fleet, id };
        run.fleet.called(run.fleet.len() / 4).await;
        run
    }

    /// Waits until work that MongoDB could not do is tried again.
    async fn held_up(&self) {
        self.daemon.log().wait(|line| line["event"] == "mongo.retry").await;
    }

    /// It ends, nobody is left out, and nothing was asked for twice: what was received was kept
    /// until it was stored.
    async fn ends(self, world: &World) {
        let run = self.daemon.run(&self.id).await;
        assert_eq!(run["outcomes"]["refreshed"], self.fleet.len(), "{run}");
        self.fleet.assert_current(world).await;
        assert_eq!(self.fleet.calls(), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_is_killed_and_started_again() {
    let mut stage = Stage::set().await;
    let run = Run::under_way(&stage.world, &stage.pds, &[]).await;
    stage.world.mongo.kill();
    run.held_up().await;
    assert!(stage.pds.total_calls() < run.fleet.len(), "it is killed in the middle");
    stage.world.mongo.restart().await;
    run.ends(&stage.world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_of_three_steps_down() {
    let stage = Stage::on(&[], Topology::ReplicaSet(3)).await;
    let run = Run::under_way(&stage.world, &stage.pds, &[]).await;
    stage.world.mongo.step_down().await;
    assert!(stage.pds.total_calls() < run.fleet.len(), "it steps down in the middle");
    run.fleet.called(run.fleet.len() / 2).await;
    // The driver alone gets over an election that is quick. This one is not.
    stage.world.mongo.step_down_without_heir(3).await;
    run.held_up().await;
    run.ends(&stage.world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_of_three_is_killed() {
    let mut stage = Stage::on(&[], Topology::ReplicaSet(3)).await;
    let run = Run::under_way(&stage.world, &stage.pds, &[]).await;
    let killed = stage.world.mongo.primary().await;
    stage.world.mongo.kill_node(killed);
    assert!(stage.pds.total_calls() < run.fleet.len(), "it is killed in the middle");
    assert_ne!(stage.world.mongo.primary().await, killed);
    stage.world.mongo.restart_node(killed).await;
    run.ends(&stage.world).await;
}

/// The primary takes the write, and nobody confirms it: neither a success nor a failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_majority_acknowledges_for_a_while() {
    let stage = Stage::on(&[], Topology::ReplicaSet(3)).await;
    let run = Run::under_way(&stage.world, &stage.pds, &[]).await;
    let others = stage.world.mongo.others(stage.world.mongo.primary().await);
    for node in &others {
        stage.world.mongo.freeze(*node);
    }
    run.held_up().await;
    let calls = stage.pds.total_calls();
    assert!(calls < run.fleet.len(), "{calls} calls");
    for node in &others {
        stage.world.mongo.thaw(*node);
    }
    run.ends(&stage.world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_concern_that_times_out_after_the_write() {
    let stage = Stage::set().await;
    let run = Run::under_way(&stage.world, &stage.pds, &[]).await;
    let error = doc! { "code": 64, "errmsg": "waiting for replication timed out" };
    stage.world.mongo.fail(20, &["update"], doc! { "writeConcernError": error }).await;
    run.held_up().await;
    run.ends(&stage.world).await;
    assert!(stage.world.mongo.failed().await >= 20);
}

/// No document is to blame: nothing more is received that could only wait, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_takes_no_writes() {
    let stage = Stage::set().await;
    let run = Run::under_way(&stage.world, &stage.pds, &[]).await;
    stage.world.mongo.fail(30, &["update"], doc! { "errorCode": 371 }).await;
    run.held_up().await;
    run.ends(&stage.world).await;
    assert!(stage.world.mongo.failed().await >= 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_slow() {
    let stage = Stage::set().await;
    let run = Run::under_way(&stage.world, &stage.pds, &[]).await;
    let slow = doc! { "blockConnection": true, "blockTimeMS": 1_000 };
    stage.world.mongo.fail(60, &["update", "find"], slow).await;
    run.ends(&stage.world).await;
    assert!(stage.world.mongo.failed().await >= 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_close_without_an_answer() {
    let stage = Stage::set().await;
    let run = Run::under_way(&stage.world, &stage.pds, &[]).await;
    // More in a row than the driver itself repeats.
    stage.world.mongo.fail(30, &["update", "find"], doc! { "closeConnection": true }).await;
    run.held_up().await;
    run.ends(&stage.world).await;
    assert!(stage.world.mongo.failed().await >= 30);
}

/// The write is done, and its answer goes down with its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_lost_after_the_write() {
    let stage = Stage::set().await;
    let proxy = Proxy::marking(stage.world.mongo.port(), "refreshExpiresAt").await;
    // So that it is the daemon, and not its driver, who finds out what became of it.
    let alone = "directConnection=true&retryWrites=false";
    let uri = format!("mongodb://127.0.0.1:{}/?{alone}{PATIENCE_OF_URI}", proxy.port());
    let run = Run::under_way(&stage.world, &stage.pds, &[("MONGODB_URI", &uri)]).await;
    for _ in 0..5 {
        proxy.lose_next_reply();
        eventually("a reply is lost", PATIENCE, async || !proxy.is_armed()).await;
    }
    run.held_up().await;
    run.ends(&stage.world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_resets_and_then_refuses() {
    let stage = Stage::set().await;
    let proxy = Proxy::to(stage.world.mongo.port()).await;
    let uri =
        format!("mongodb://127.0.0.1:{}/?directConnection=true{PATIENCE_OF_URI}", proxy.port());
    let run = Run::under_way(&stage.world, &stage.pds, &[("MONGODB_URI", &uri)]).await;
    for _ in 0..3 {
        let calls = stage.pds.total_calls();
        proxy.reset();
        run.fleet.called(calls + 10).await;
    }
    proxy.refuse();
    run.held_up().await;
    let calls = stage.pds.total_calls();
    assert!(calls < run.fleet.len(), "{calls} calls");
    proxy.mend();
    proxy.delay(Duration::from_millis(5));
    run.ends(&stage.world).await;
}
