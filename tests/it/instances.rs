//! Several daemons on one Redis and one MongoDB share the work, and survive each other.

use std::time::Duration;

use futures::future::join;
use serde_json::json;

use super::harness::daemon::Daemon;
use super::harness::fleet::Fleet;
use super::harness::scripted_pds::{Options, ScriptedPds};
use super::harness::world::World;

/// Slow enough for a test to step in between.
const SLOW: Duration = Duration::from_millis(100);

const MANY: usize = 1_500;

struct Stage {
    world: World,
    pds: ScriptedPds,
}

impl Stage {
    async fn set() -> Self {
        let (world, pds) = join(World::start(), ScriptedPds::start(Options::default())).await;
        pds.set_latency(SLOW);
        Self { world, pds }
    }

    async fn daemons(&self) -> (Daemon, Daemon) {
        let url = self.pds.url().to_string();
        let slots = [("WORKER_CONCURRENCY", "32")];
        join(self.world.daemon(&url, &slots), self.world.daemon(&url, &slots)).await
    }
}

fn refreshes(daemon: &Daemon) -> usize {
    daemon.log().matching(|line| line["event"] == "refresh").len()
}

/// Whether it opened a run, as only the one that plans does.
fn plans(daemon: &Daemon) -> bool {
    let opened = |line: &serde_json::Value| line["event"] == "run" && line["state"] == "started";
    !daemon.log().matching(opened).is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_share_one_run_and_no_account_is_refreshed_twice() {
    let stage = Stage::set().await;
    let fleet = Fleet::of(&stage.world, &stage.pds, MANY).await;
    let (one, two) = stage.daemons().await;

    let run = one.refresh_all().await;
    assert_eq!(run["outcomes"], json!({"refreshed": MANY}), "{run}");
    assert_eq!(fleet.calls(), (1, 1));
    fleet.assert_current(&stage.world).await;
    for daemon in [&one, &two] {
        assert!(refreshes(daemon) > MANY / 10, "a share of {}", refreshes(daemon));
    }
    assert_eq!(
        two.get(&format!("/api/admin/runs/{}", run["id"].as_str().expect("an id"))).await.1,
        run,
        "both tell the same of it"
    );
    assert!(one.stop().await.success() && two.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_daemon_that_plans_is_killed_the_other_one_ends_the_run() {
    let stage = Stage::set().await;
    kill_one(&stage, plans).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_daemon_that_only_works_is_killed_the_other_one_ends_the_run() {
    let stage = Stage::set().await;
    kill_one(&stage, |daemon| !plans(daemon)).await;
}

async fn kill_one(stage: &Stage, which: impl Fn(&Daemon) -> bool) {
    let fleet = Fleet::of(&stage.world, &stage.pds, MANY).await;
    let (one, two) = stage.daemons().await;
    let id = one.ask_for_run().await;
    fleet.called(fleet.len() / 4).await;
    let (victim, survivor) = if which(&one) { (one, two) } else { (two, one) };
    assert!(which(&victim) && !which(&survivor), "one of them plans");
    victim.kill().await;
    assert!(stage.pds.total_calls() < fleet.len(), "it was killed in the middle");

    let run = survivor.run(&id).await;
    assert_eq!(run["failed"], 0, "{run}");
    assert_whole(&fleet, &stage.world).await;
}

/// None was left out, and only what was running was asked for again.
async fn assert_whole(fleet: &Fleet<'_>, world: &World) {
    assert!(fleet.is_refreshed(world).await, "none was left out");
    let (fewest, most) = fleet.calls();
    assert!(fewest == 1 && most <= 2, "{fewest} to {most} calls an account");
    assert!(fleet.repeated() <= 32, "{} accounts were asked for twice", fleet.repeated());
    fleet.assert_live(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_joins_in_the_middle_of_a_run_takes_its_share() {
    let stage = Stage::set().await;
    let fleet = Fleet::of(&stage.world, &stage.pds, MANY).await;
    let url = stage.pds.url().to_string();
    let first = stage.world.daemon(&url, &[("WORKER_CONCURRENCY", "8")]).await;
    let id = first.ask_for_run().await;
    fleet.called(20).await;
    let second = stage.world.daemon(&url, &[("WORKER_CONCURRENCY", "64")]).await;

    let run = first.run(&id).await;
    assert_eq!(run["outcomes"], json!({"refreshed": MANY}), "{run}");
    assert_eq!(fleet.calls(), (1, 1));
    assert!(refreshes(&second) > MANY / 4, "a share of {}", refreshes(&second));
}
