//! Several daemons on one Redis and one MongoDB share the work, and survive each other.

use std::time::Duration;

use futures::future::join;
use serde_json::json;
use tempfile::TempDir;

use super::harness::daemon::Daemon;
use super::harness::fleet::Fleet;
use super::harness::scripted_pds::{Fault, Options, ScriptedPds, Session};
use super::harness::world::{World, text};
use super::harness::{PATIENCE, eventually};

/// Slow enough for a test to step in between.
const SLOW: Duration = Duration::from_millis(100);

const MANY: usize = 1_500;

/// Calls that each daemon may have under way at once.
const SLOTS: usize = 32;

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
        let slots = SLOTS.to_string();
        let slots = [("WORKER_CONCURRENCY", slots.as_str())];
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

/// None was left out, and only what the victim had in hand was asked for again: for each call under
/// way, up to four jobs whose answer is not stored yet or whose end is not acknowledged.
async fn assert_whole(fleet: &Fleet<'_>, world: &World) {
    assert!(fleet.is_refreshed(world).await, "none was left out");
    let (fewest, most) = fleet.calls();
    assert!(fewest == 1 && most <= 2, "{fewest} to {most} calls an account");
    assert!(fleet.repeated() <= 4 * SLOTS, "{} accounts were asked for twice", fleet.repeated());
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

/// The journal's lock says that the process is gone, long before its sign of life is over, which
/// here never is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_daemon_had_in_hand_its_next_start_takes_up_at_once() {
    let stage = Stage::set().await;
    let session = stage.pds.create(1).pop().expect("one");
    let Session { did, handle, access, refresh } = &session;
    let id = stage.world.log_in(did, handle, access, refresh).await;
    let kept = TempDir::new().expect("a folder");
    let folder = kept.path().display().to_string();
    let (url, own) = (stage.pds.url().to_string(), [("STATE_DIR", folder.as_str())]);
    let daemon = stage.world.daemon(&url, &own).await;
    stage.pds.fail_next(1, &Fault::Hang);
    let asked = format!(r#"{{"accountId":"{id}"}}"#);
    let (_, answer) = daemon.post("/api/admin/refresh-tokens", &asked).await;
    let job = answer["jobId"].as_str().expect("a job").to_owned();
    eventually("it is called", PATIENCE, async || stage.pds.calls(did) == 1).await;
    daemon.kill().await;
    let link = stage.world.redis.link();
    let signs: Vec<String> =
        link.query(redis::cmd("KEYS").arg("*alive:*")).await.expect("an answer");
    let for_good: u8 = link.query(redis::cmd("PERSIST").arg(&signs)).await.expect("an answer");
    assert_eq!((signs.len(), for_good), (1, 1));

    let daemon = stage.world.daemon(&url, &own).await;
    assert_eq!(daemon.job(&job).await["outcome"], "refreshed");
    let account = stage.world.account(&id).await;
    assert!(stage.pds.is_current(text(&account, "refreshToken")));
    daemon.log().wait(|line| line["event"] == "queue.recovered" && line["jobs"] == 1).await;
    assert!(daemon.stop().await.success());
}
