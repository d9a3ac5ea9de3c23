//! Several instances keep one fleet fresh: together, and also when the one that plans dies.

use std::time::Duration;

use futures::future::join3;
use refreshd::queue::Keys;
use tokio::time::{Instant, sleep};

use super::{FRESH, LIFE, becomes_fresh, stage, stays_fresh};
use crate::harness::daemon::Daemon;
use crate::harness::fleet::Fleet;
use crate::harness::scripted_pds::{Options, ScriptedPds};
use crate::harness::world::World;
use crate::harness::{PATIENCE, arrival};

async fn three(world: &World, pds: &ScriptedPds) -> [Daemon; 3] {
    let url = pds.url().to_string();
    let daemon = || world.daemon(&url, FRESH);
    join3(daemon(), daemon(), daemon()).await.into()
}

fn refreshes(daemon: &Daemon) -> usize {
    daemon.log().matching(|line| line["event"] == "refresh").len()
}

/// Which of these leads, by the name that it has in Redis; `None` while nobody does.
async fn leader(world: &World, daemons: &[Daemon]) -> Option<usize> {
    let keys = Keys::new("refreshd", "app", "socialaccounts");
    let key = format!("{}leader", keys.prefix());
    let name: Option<String> =
        world.redis.link().query(redis::cmd("GET").arg(key)).await.expect("an answer");
    let of = |daemon: &Daemon| format!("-{}-", daemon.pid());
    daemons.iter().position(|daemon| name.as_ref().is_some_and(|it| it.contains(&of(daemon))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_instances_refresh_each_account_once_a_cycle() {
    const CYCLES: u64 = 3;
    let (world, pds) = stage().await;
    let fleet = Fleet::of(&world, &pds, 300).await;
    let daemons = three(&world, &pds).await;
    becomes_fresh(&world, LIFE).await;
    while fleet.calls().0 < CYCLES {
        assert_eq!(world.stale().await, 0);
        sleep(Duration::from_millis(200)).await;
    }
    let (fewest, most) = fleet.calls();
    let shares = daemons.each_ref().map(refreshes);
    println!("{fewest} to {most} calls an account; {shares:?} by instance");
    // The first one comes any time within the first cycle, so some are one ahead by the end.
    assert!(most <= CYCLES + 1, "{fewest} to {most} calls an account");
    for share in shares {
        assert!(share > 50, "{shares:?} by instance");
    }
    fleet.assert_live(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_one_that_plans_is_killed_nobody_becomes_stale() {
    const LONGER: Duration = Duration::from_secs(90);
    let options = Options { access_life: LONGER, ..Options::default() };
    let (world, pds) = tokio::join!(World::start(), ScriptedPds::start(options));
    let fleet = Fleet::of(&world, &pds, 300).await;
    let mut daemons = three(&world, &pds).await.into_iter().collect::<Vec<_>>();
    becomes_fresh(&world, LONGER / 4).await;
    let leading = arrival("one leads", PATIENCE, || leader(&world, &daemons)).await;
    stays_fresh(&world, Duration::from_secs(5)).await;

    let killed = Instant::now();
    daemons.remove(leading).kill().await;
    let mut taken_over = None;
    while killed.elapsed() < LONGER {
        assert_eq!(world.stale().await, 0, "{:?} after the kill", killed.elapsed());
        if taken_over.is_none() && leader(&world, &daemons).await.is_some() {
            taken_over = Some(killed.elapsed());
        }
        sleep(Duration::from_millis(200)).await;
    }
    println!("another led after {taken_over:?}");
    assert!(taken_over.is_some_and(|took| took < Duration::from_secs(15)), "{taken_over:?}");
    let (fewest, most) = fleet.calls();
    println!("{fewest} to {most} calls an account");
    assert!(fewest >= 1 && most <= 3, "{fewest} to {most} calls an account");
    assert!(daemons.iter().all(|daemon| refreshes(daemon) > 50));
    fleet.assert_live(&world).await;
}
