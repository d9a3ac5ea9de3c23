//! Instances are killed at random moments and started again: who is dead at the end?

use std::time::Duration;

use futures::TryStreamExt as _;
use futures::future::join;
use mongodb::bson::{Document, doc};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use refreshd::domain::pending::Pending;
use refreshd::journal::{Flaw, Journal};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::{
    Daemon, Fleet, LATER, Options, QUIET, ScriptedPds, World, eventually, is_long, load, quiet,
    settings,
};
use crate::harness::part;
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
    /// The refresh tokens that journals held after kills, of answers not known to be stored.
    kept: Vec<Kept>,
}

/// An answer in a journal.
struct Kept {
    did: String,
    refresh: String,
}

/// A daemon, and the state that outlives it.
struct Instance {
    daemon: Daemon,
    state: TempDir,
}

impl Instance {
    async fn start(settings: &[(String, String)]) -> Self {
        Self::start_on(TempDir::new().expect("a folder"), settings).await
    }

    async fn start_on(state: TempDir, settings: &[(String, String)]) -> Self {
        let daemon = Daemon::start_release(&with_state(&state, settings)).await;
        Self { daemon, state }
    }

    /// What its journal holds, be it alive or dead.
    fn pending(&self) -> Vec<Pending> {
        let opened = Journal::read(self.state.path()).expect("a journal");
        assert!(opened.damage.iter().all(|it| it.what == Flaw::TornTail), "{:?}", opened.damage);
        opened.pending
    }

    fn note(&self, kept: &mut Vec<Kept>) {
        let answers = self.pending().into_iter().filter_map(|pending| pending.answer);
        kept.extend(answers.map(|answer| Kept {
            did: answer.did.clone(),
            refresh: answer.pair.refresh.expose().to_owned(),
        }));
    }

    /// Lets all that was asked for end, the repairs too, and stops it.
    async fn end(self, world: &World) {
        quiet(world, &self.daemon).await;
        eventually("the journal is empty", QUIET, async || self.pending().is_empty()).await;
        assert!(self.daemon.stop().await.success());
    }

    async fn kill_for_good(mut self, settings: &[(String, String)], kept: &mut Vec<Kept>) {
        self.daemon.kill_now().await;
        self.note(kept);
        let left = self.pending().len();
        let adopted = Command::new(part("REFRESHD_RELEASE_BIN"))
            .args(["journal", "--adopt"])
            .arg(self.state.path())
            .env_clear()
            .envs(with_state(&TempDir::new().expect("a folder"), settings))
            .output()
            .await
            .expect("it runs");
        let said = String::from_utf8_lossy(&adopted.stderr).into_owned();
        assert!(adopted.status.success(), "{said}");
        assert!(said.contains(&format!("{left} account")), "{left}: {said}");
        assert!(self.pending().is_empty());
    }
}

fn with_state(state: &TempDir, settings: &[(String, String)]) -> Vec<(String, String)> {
    let state = ("STATE_DIR".to_owned(), state.path().display().to_string());
    settings.iter().cloned().chain([state]).collect()
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
        let mut kept = Vec::new();
        let first = join(Instance::start(&settings), Instance::start(&settings)).await;
        let mut instances = vec![first.0, first.1];
        for _ in 0..kills() / 2 {
            kill_one(&mut instances, &settings, &pds, &mut random, &mut kept).await;
        }
        // The other one never comes back: what it leaves behind is settled by hand.
        if let Some(dead) = instances.pop() {
            dead.kill_for_good(&settings, &mut kept).await;
        }
        for _ in 0..kills() / 2 {
            kill_one(&mut instances, &settings, &pds, &mut random, &mut kept).await;
        }
        let calls = pds.total_calls();
        for instance in instances {
            instance.end(&world).await;
        }
        println!(
            "{} kills, {calls} calls under load, {} answers in journals after a kill, {:?} in all",
            kills(),
            kept.len(),
            begun.elapsed()
        );
        assert!(calls > 100 * u64::try_from(kills()).expect("a small number"), "there was load");
        pds.advance(LATER);
        Self { pds, world, kept }
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

/// Kills one of them at a moment that nobody could foresee, in the middle of its work, with calls
/// under way, or now and then before it has begun; and starts it again.
async fn kill_one(
    instances: &mut Vec<Instance>,
    settings: &[(String, String)],
    pds: &ScriptedPds,
    random: &mut StdRng,
    kept: &mut Vec<Kept>,
) {
    for instance in &*instances {
        load(&instance.daemon).await;
    }
    if random.random_ratio(1, EARLY) {
        sleep(Duration::from_millis(random.random_range(0..300))).await;
    } else {
        let calls = pds.total_calls() + random.random_range(1..600);
        eventually("there is load", QUIET, async || pds.total_calls() >= calls).await;
        sleep(Duration::from_micros(random.random_range(0..20_000))).await;
    }
    let mut victim = instances.swap_remove(random.random_range(0..instances.len()));
    victim.daemon.kill_now().await;
    victim.note(kept);
    instances.push(Instance::start_on(victim.state, settings).await);
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
    // An answer that is the end of its chain, of an account that is dead all the same.
    let lost = end
        .kept
        .iter()
        .filter(|kept| dead.contains(&kept.did.as_str()) && end.pds.is_current(&kept.refresh));
    assert_eq!(lost.count(), 0, "lost although their answers were in a journal");
}
