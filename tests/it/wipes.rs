//! Redis loses its data in the middle of a run: the run ends by itself, and nobody is left out.

use std::time::Duration;

use futures::future::join;
use serde_json::{Value, json};

use super::harness::daemon::Daemon;
use super::harness::fleet::Fleet;
use super::harness::scripted_pds::{Options, ScriptedPds};
use super::harness::world::World;

const SLOW: Duration = Duration::from_millis(100);

const MANY: usize = 1_500;

/// Calls that may be under way, and be made again, when Redis forgets who makes them.
const SLOTS: usize = 32;

struct Stage {
    world: World,
    pds: ScriptedPds,
    daemon: Daemon,
}

impl Stage {
    async fn set() -> Self {
        let (world, pds) = join(World::start(), ScriptedPds::start(Options::default())).await;
        pds.set_latency(SLOW);
        let slots = SLOTS.to_string();
        let settings = [("WORKER_CONCURRENCY", slots.as_str())];
        let daemon = world.daemon(&pds.url().to_string(), &settings).await;
        // What cannot be attempted is counted, too.
        world.log_in("no did", "nobody.test", "", "no token").await;
        Self { world, pds, daemon }
    }

    /// Removes everything from Redis.
    async fn wipe(&self) {
        let link = self.world.redis.link();
        let done: String = link.query(&redis::cmd("FLUSHALL")).await.expect("a wipe");
        assert_eq!(done, "OK");
    }

    async fn assert_whole(&self, fleet: &Fleet<'_>, run: &Value, wipes: usize) {
        let all = json!({"refreshed": fleet.len(), "malformed": 1});
        assert_eq!(run["outcomes"], all, "the totals are those of all accounts: {run}");
        assert!(fleet.is_refreshed(&self.world).await, "none was left out");
        assert!(fleet.repeated() <= SLOTS * wipes, "{} asked for twice", fleet.repeated());
        fleet.assert_live(&self.world).await;
        self.daemon.end_of_run(run).await;
        let ends =
            self.daemon.log().matching(|line| line["event"] == "run" && line["state"] == "done");
        assert_eq!(ends.len(), 1, "a run ends once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushall_in_the_middle_of_a_run_leaves_no_account_out() {
    let stage = Stage::set().await;
    let fleet = Fleet::of(&stage.world, &stage.pds, MANY).await;
    let id = stage.daemon.ask_for_run().await;
    fleet.called(fleet.len() / 4).await;
    stage.wipe().await;
    fleet.called(fleet.len() / 2).await;
    assert!(stage.pds.total_calls() < fleet.len(), "it is wiped in the middle");
    stage.wipe().await;
    let run = stage.daemon.run(&id).await;
    stage.assert_whole(&fleet, &run, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushall_while_the_last_jobs_run_leaves_no_account_out() {
    let stage = Stage::set().await;
    let fleet = Fleet::of(&stage.world, &stage.pds, 2 * SLOTS).await;
    let id = stage.daemon.ask_for_run().await;
    fleet.called(1).await;
    stage.wipe().await;
    let run = stage.daemon.run(&id).await;
    stage.assert_whole(&fleet, &run, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_and_restarted_empty_in_the_middle_of_a_run_leaves_no_account_out() {
    let mut stage = Stage::set().await;
    let fleet = Fleet::of(&stage.world, &stage.pds, MANY).await;
    let id = stage.daemon.ask_for_run().await;
    fleet.called(fleet.len() / 4).await;
    stage.world.redis.kill();
    assert!(stage.pds.total_calls() < fleet.len(), "it is killed in the middle");
    stage.world.redis.restart().await;
    let run = stage.daemon.run(&id).await;
    stage.assert_whole(&fleet, &run, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_that_redis_drops_in_the_middle_of_a_run_leave_no_account_out() {
    let stage = Stage::set().await;
    let fleet = Fleet::of(&stage.world, &stage.pds, MANY).await;
    let id = stage.daemon.ask_for_run().await;
    fleet.called(fleet.len() / 4).await;
    let link = stage.world.redis.link();
    let lanes: Vec<String> = link.query(redis::cmd("KEYS").arg("*:q:*")).await.expect("keys");
    let dropped: usize = link.query(redis::cmd("DEL").arg(lanes)).await.expect("a drop");
    assert!(dropped > 0 && stage.pds.total_calls() < fleet.len(), "it is dropped in the middle");
    let run = stage.daemon.run(&id).await;
    stage.assert_whole(&fleet, &run, 1).await;
}
