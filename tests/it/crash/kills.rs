//! Instances are killed at random moments and started again: who is dead at the end?

use std::time::Duration;

use futures::TryStreamExt as _;
use futures::future::{join, join_all};
use mongodb::bson::{Document, doc};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use super::{
    Daemon, Fleet, LATER, Options, QUIET, ScriptedPds, World, eventually, is_long, load, quiet,
    settings,
};
use crate::harness::world::text;

const MANY: usize = 5_000;

/// One kill in so many comes while the instance may not have begun to work.
const EARLY: u32 = 2;

fn kills() -> usize {
    if is_long() { 200 } else { 20 }
}

/// What was done, and what came of it.
struct End {
    pds: ScriptedPds,
    world: World,
}

impl End {
    /// Kills instances under load: the first half of the times one of two, then the only one.
    /// Afterwards all that was asked for ends, and every grace period is over.
    async fn after_kills(grace: Duration) -> Self {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let options = Options { grace, ..Options::default() };
        let (world, pds) = join(World::start(), ScriptedPds::start(options)).await;
        pds.set_latency(Duration::from_millis(20));
        let _fleet = Fleet::of(&world, &pds, MANY).await;
        let settings = settings(&world, &pds);
        let begun = Instant::now();
        let mut instances = Vec::new();
        for (wanted, times) in [(2, kills() / 2), (1, kills() / 2)] {
            instances.truncate(wanted);
            while instances.len() < wanted {
                instances.push(Daemon::start_release(&settings).await);
            }
            for _ in 0..times {
                kill_one(&mut instances, &pds, &mut random).await;
                instances.push(Daemon::start_release(&settings).await);
            }
        }
        let calls = pds.total_calls();
        quiet(&world, &instances[0]).await;
        println!("{} kills, {calls} calls under load, {:?} in all", kills(), begun.elapsed());
        assert!(calls > 100 * u64::try_from(kills()).expect("a small number"), "there was load");
        join_all(instances.into_iter().map(Daemon::stop)).await;
        pds.advance(LATER);
        Self { pds, world }
    }

    /// Accounts whose stored refresh token the server does not hold (any more).
    async fn dead(&self) -> Vec<Document> {
        let fields = doc! {
            "platformAccountId": 1, "status": 1, "refreshToken": 1, "tokenRefresh": 1,
        };
        let all: Vec<Document> = self
            .world
            .accounts()
            .find(doc! {})
            .projection(fields)
            .await
            .expect("a read")
            .try_collect()
            .await
            .expect("all");
        assert_eq!(all.len(), MANY);
        all.into_iter()
            .filter(|document| !self.pds.is_live(text(document, "refreshToken")))
            .collect()
    }
}

/// Kills one of them at a moment that nobody could foresee: in the middle of its work, with calls
/// under way, or now and then before it has begun.
async fn kill_one(instances: &mut Vec<Daemon>, pds: &ScriptedPds, random: &mut StdRng) {
    for instance in &*instances {
        load(instance).await;
    }
    if random.random_ratio(1, EARLY) {
        sleep(Duration::from_millis(random.random_range(0..300))).await;
    } else {
        let calls = pds.total_calls() + random.random_range(1..600);
        eventually("there is load", QUIET, async || pds.total_calls() >= calls).await;
        sleep(Duration::from_micros(random.random_range(0..20_000))).await;
    }
    let victim = random.random_range(0..instances.len());
    instances.swap_remove(victim).kill().await;
}

/// HOOK: the DIDs of all answers that had reached an instance's journal when it was killed. Until
/// there is a journal, none has.
fn journaled_answers() -> Vec<String> {
    Vec::new()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_grace_period_no_kill_costs_a_session() {
    let end = End::after_kills(Duration::from_hours(2)).await;
    let dead = end.dead().await;
    println!("{} kills, {} dead of {MANY}", kills(), dead.len());
    assert_eq!(dead, Vec::<Document>::new());
    let marked = doc! { "status": { "$ne": "active" } };
    assert_eq!(end.world.accounts().find_one(marked).await.expect("a read"), None);
}

/// What a kill costs where a spent token is worth nothing at once: the window between the server's
/// commit and the moment in which the answer is on our disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_grace_period_only_unwritten_answers_are_lost() {
    let end = End::after_kills(Duration::ZERO).await;
    let dead = end.dead().await;
    println!("{} kills, {} dead of {MANY}, without a grace period", kills(), dead.len());
    let dead: Vec<_> = dead.iter().map(|it| text(it, "platformAccountId")).collect();
    let journaled = journaled_answers();
    let lost: Vec<_> = journaled.iter().filter(|did| dead.contains(&did.as_str())).collect();
    assert_eq!(lost, Vec::<&String>::new(), "lost although their answers were journaled");
}
