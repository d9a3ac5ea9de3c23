//! What is due comes before a refresh-all where a budget is not enough for both at once, and several
//! addresses have several budgets.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{LIFE, becomes_fresh, stage, stays_fresh};
use crate::harness::daemon::Daemon;
use crate::harness::fleet::Fleet;
use crate::harness::scripted_pds::{Options, ScriptedPds};
use crate::harness::world::World;
use crate::harness::{LOUD, PATIENCE, eventually};

/// These need seven of the ten calls a second that are allowed.
const ACCOUNTS: usize = 160;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_lapses_because_of_a_refresh_all() {
    let (world, pds) = stage().await;
    let fleet = Fleet::of(&world, &pds, ACCOUNTS).await;
    let settings = [("KEEP_FRESH", "true"), ("PDS_RATE_LIMIT", "10/s")];
    let daemon = world.daemon(pds.url().as_str(), &settings).await;
    becomes_fresh(&world, PATIENCE).await;
    stays_fresh(&world, LIFE).await;

    for _ in 0..2 {
        let begun = Instant::now();
        let id = daemon.ask_for_run().await;
        loop {
            assert_eq!(world.stale().await, 0, "stale accounts after {:?}", begun.elapsed());
            let (_, run) = daemon.get(&format!("/api/admin/runs/{id}")).await;
            if run["state"] == "done" {
                assert_eq!(run["failed"], 0, "{run}");
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end: {run}");
            sleep(Duration::from_millis(200)).await;
        }
        println!("a run took {:?}", begun.elapsed());
    }
    fleet.assert_live(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_addresses_have_two_budgets() {
    const PER_SECOND: u32 = 10;
    let _alone = LOUD.lock().await;
    let (world, pds) = tokio::join!(World::start(), ScriptedPds::start(Options::default()));
    let instances: Vec<_> = ["one", "two"]
        .map(|egress_id| {
            let mut settings = world.settings(pds.url().as_str());
            for (name, value) in [("PDS_RATE_LIMIT", "10/s"), ("EGRESS_ID", egress_id)] {
                settings.push((name.to_owned(), value.to_owned()));
            }
            settings
        })
        .into();
    let (one, _two) =
        tokio::join!(Daemon::start_release(&instances[0]), Daemon::start_release(&instances[1]));
    let fleet = Fleet::of(&world, &pds, 300).await;
    let _run = one.ask_for_run().await;
    // They know of each other by then, and what is left at the end may be one address's alone.
    eventually("a part is done", PATIENCE, async || pds.answers(200) >= 60).await;
    let (begun, done) = (Instant::now(), pds.answers(200));
    let most = fleet.len() - 60;
    eventually("most is done", PATIENCE, async || pds.answers(200) >= most).await;
    let calls = u32::try_from(pds.answers(200) - done).expect("a few");
    let rate = f64::from(calls) / begun.elapsed().as_secs_f64();
    println!("{rate:.1} a second of two times {PER_SECOND}");
    assert!(rate > f64::from(PER_SECOND) * 1.4, "{rate} a second");
    assert!(rate < f64::from(PER_SECOND) * 2.2, "{rate} a second");
    eventually("all is done", PATIENCE, async || pds.answers(200) >= fleet.len()).await;
}
