//! What breaks in the middle of a run, with the real servers: afterwards every account that can be
//! alive is alive, which means active, and holding the unspent end of its chain.

mod clock;
mod mongo;
mod pds;
mod redis;
mod repair;
mod silence;
mod verdicts;

use std::time::Duration;

use serde_json::Value;

use crate::harness::daemon::Daemon;
use crate::harness::mongo::Topology;
use crate::harness::scripted_pds::{Options, ScriptedPds};
use crate::harness::world::World;

/// Slow enough for a test to step in between.
const SLOW: Duration = Duration::from_millis(50);

/// A fleet that takes a few seconds.
const SOME: usize = 400;

/// Calls that may be under way at once.
const SLOTS: usize = 8;

/// The servers that a test is about to break.
struct Stage {
    world: World,
    pds: ScriptedPds,
}

impl Stage {
    async fn set() -> Self {
        Self::on(&[], Topology::ReplicaSet(1)).await
    }

    async fn on(redis: &[&str], mongo: Topology) -> Self {
        let (world, pds) =
            tokio::join!(World::start_on(redis, mongo), ScriptedPds::start(Options::default()));
        pds.set_latency(SLOW);
        Self { world, pds }
    }

    async fn daemon(&self, more: &[(&str, &str)]) -> Daemon {
        let slots = SLOTS.to_string();
        let mut settings = vec![("WORKER_CONCURRENCY", slots.as_str())];
        settings.extend(more);
        self.world.daemon(&self.pds.url().to_string(), &settings).await
    }
}

/// The run ended for all accounts, in vain for those that were struck at the least: their server's
/// breaker turns away some more.
#[track_caller]
#[expect(clippy::as_conversions, reason = "small counts of a test")]
fn assert_struck(run: &Value, accounts: usize, struck: usize) {
    let count = |outcome: &str| run["outcomes"][outcome].as_u64().unwrap_or_default();
    let (struck, accounts) = (struck as u64, accounts as u64);
    let (good, bad) = (count("refreshed"), count("unreachable"));
    assert_eq!(good + bad, accounts, "{}", run["outcomes"]);
    assert!(bad >= struck, "at least {struck}: {}", run["outcomes"]);
}
