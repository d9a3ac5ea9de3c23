//! What the journal costs: the same refreshes with it and without it, in turn.
//!
//! `eval "$(scripts/setup --env)"; cargo bench --bench journal`. The scripted server answers at once,
//! and no queue stands before the refresher, so that the journal's share is as large as it can be.
//! MongoDB is real, and so is the disk: the journal lies in the build's own folder.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "what is wrong ends it at once")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use refreshd::budget::Budget;
use refreshd::clock::Clock;
use refreshd::domain::decide::Policy;
use refreshd::domain::identity::AccountId;
use refreshd::domain::outcome::Outcome;
use refreshd::domain::routing::Routing;
use refreshd::journal::Journal;
use refreshd::pds::{Client, ClientConfig};
use refreshd::posts::Posts;
use refreshd::refresh::{NO_SLOT, Parts, Refresher};
use refreshd::store::{Store, StoreConfig};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

#[path = "../tests/it/harness/mod.rs"]
#[expect(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the tests use the rest, and it is a harness: what is wrong ends it at once"
)]
mod harness;

use harness::fleet::Fleet;
use harness::scripted_pds::{Options, ScriptedPds};
use harness::world::World;

const ACCOUNTS: usize = 20_000;
const IN_FLIGHT: usize = 64;
/// Of each kind; an odd number, for the medians.
const ROUNDS: usize = 3;

/// The threads of the scripted server, whose time is not the daemon's.
const SERVER: &str = "pds";

/// What the harness needs to know of the program, which is not run here.
fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_refreshd")
}

/// What one round came to.
struct Figures {
    per_second: f64,
    /// Of all threads but the server's, in microseconds.
    cpu_each: f64,
    syncs: u64,
}

fn main() {
    let (serving, working) = (runtime(SERVER), runtime("refreshd"));
    let pds = serving.block_on(ScriptedPds::start(Options::default()));
    working.block_on(measure(&pds));
}

fn runtime(name: &str) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(name)
        .enable_all()
        .build()
        .expect("a runtime")
}

async fn measure(pds: &ScriptedPds) {
    let world = World::start().await;
    let _fleet = Fleet::of(&world, pds, ACCOUNTS).await;
    let accounts: Arc<[AccountId]> = world
        .accounts()
        .distinct("_id", mongodb::bson::doc! {})
        .await
        .expect("a read")
        .iter()
        .map(|id| AccountId::from_bytes(id.as_object_id().expect("an id").bytes()))
        .collect();
    println!("{ACCOUNTS} accounts, {IN_FLIGHT} in flight");
    round(&world, pds, Journal::off(), &accounts).await;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(told("off", round(&world, pds, Journal::off(), &accounts).await));
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let (journal, _) = Journal::open(dir.path()).expect("a journal");
        with.push(told("on", round(&world, pds, journal.clone(), &accounts).await));
        journal.close().await;
    }
    compare("refreshes/s", &without, &with, |figures| figures.per_second);
    compare("CPU µs per refresh", &without, &with, |figures| figures.cpu_each);
}

/// Refreshes every account once.
async fn round(
    world: &World,
    pds: &ScriptedPds,
    journal: Journal,
    all: &Arc<[AccountId]>,
) -> Figures {
    let refresher = Arc::new(Refresher::new(parts(world, pds, journal.clone()).await));
    let (next, tasks) = (Arc::new(AtomicUsize::new(0)), TaskTracker::new());
    let (syncs, cpu, begun) = (journal.syncs(), cpu(), Instant::now());
    for _ in 0..IN_FLIGHT {
        let (refresher, next, all) = (Arc::clone(&refresher), Arc::clone(&next), Arc::clone(all));
        tasks.spawn(async move {
            while let Some(account) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                let report = refresher.refresh(*account, None, NO_SLOT).await;
                assert_eq!(report.outcome, Outcome::Refreshed, "{:?}", report.error);
            }
        });
    }
    tasks.close();
    tasks.wait().await;
    let count = f64::from(u32::try_from(all.len()).expect("a small number"));
    Figures {
        per_second: count / begun.elapsed().as_secs_f64(),
        cpu_each: self::cpu().saturating_sub(cpu).as_secs_f64() * 1e6 / count,
        syncs: journal.syncs() - syncs,
    }
}

async fn parts(world: &World, pds: &ScriptedPds, journal: Journal) -> Parts {
    let home = pds.url();
    let store = StoreConfig {
        uri: world.mongo.uri().into(),
        database: "app".to_owned(),
        collection: "socialaccounts".to_owned(),
    };
    let client = ClientConfig {
        timeout: Duration::from_secs(30),
        routing_home: home.clone(),
        allow_private: false,
        max_idle_per_host: IN_FLIGHT,
    };
    Parts {
        store: Store::connect(&store).await.expect("a store"),
        clock: Clock::system(),
        journal,
        pds: Client::new(&client).expect("a client"),
        budget: Arc::new(Budget::new(world.redis.link(), "bench:", "here", None)),
        routing: Routing::new(home, false, false),
        posts: Posts::off(),
        policy: Policy { confirm_after: Duration::ZERO, suspect: false, lead: None },
    }
}

/// The processor time that this process has used so far, without the server's.
fn cpu() -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let threads = fs::read_dir("/proc/self/task").expect("Linux").flatten();
    let ticks = threads.map(|thread| ticks(&thread.path()).unwrap_or(0));
    TICK * ticks.sum::<u32>()
}

/// One thread's, user and system; nothing of one that has just ended.
fn ticks(thread: &Path) -> Option<u32> {
    let stat = fs::read_to_string(thread.join("stat")).ok()?;
    let (name, fields) = stat.rsplit_once(") ")?;
    if name.ends_with(&format!("({SERVER}")) {
        return Some(0);
    }
    let mut fields = fields.split(' ').skip(11).map(str::parse::<u32>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

fn told(journal: &str, figures: Figures) -> Figures {
    let Figures { per_second, cpu_each, syncs } = figures;
    println!(
        "journal {journal:>3}: {per_second:6.0} refreshes/s, {cpu_each:5.0} CPU µs each, {syncs} fsyncs"
    );
    figures
}

fn compare(what: &str, without: &[Figures], with: &[Figures], figure: impl Fn(&Figures) -> f64) {
    let median = |all: &[Figures]| {
        let mut all: Vec<_> = all.iter().map(&figure).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (off, on) = (median(without), median(with));
    println!("{what}, medians: {off:.0} off, {on:.0} on: {:+.1} %", (on / off - 1.0) * 100.0);
}
