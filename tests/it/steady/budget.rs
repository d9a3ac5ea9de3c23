//! A limit that the server enforces is used to the full by two instances, and never exceeded.

use std::time::Duration;

use tokio::time::{Instant, interval, sleep_until};

use super::{LIFE, is_long, settings};
use crate::harness::daemon::Daemon;
use crate::harness::fleet::Fleet;
use crate::harness::http::plain;
use crate::harness::scripted_pds::{Options, ScriptedPds};
use crate::harness::world::World;
use crate::harness::{LOUD, PATIENCE, eventually};

/// `PDS_RATE_LIMIT`, and what the server allows.
const PER_SECOND: u32 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servers_limit_is_used_and_not_exceeded() {
    let _alone = LOUD.lock().await;
    let window = if is_long() { Duration::from_mins(5) } else { Duration::from_secs(20) };
    let limit = u64::from(PER_SECOND) * window.as_secs();
    let options = Options { access_life: LIFE, limit: Some((limit, window)), ..Options::default() };
    let (world, pds) = tokio::join!(World::start(), ScriptedPds::start(options));
    // There is always work: twice as much as can be done.
    let _fleet = Fleet::of(&world, &pds, 2_000).await;
    let rate = format!("{PER_SECOND}/s");
    let settings = settings(&world, &pds, &[("PDS_RATE_LIMIT", &rate), ("EGRESS_ID", "one")]);
    let _instances =
        tokio::join!(Daemon::start_release(&settings), Daemon::start_release(&settings));

    eventually("the first window is over", window * 2 + PATIENCE, async || {
        pds.total_calls() >= limit
    })
    .await;
    let (begun, calls, refused) = (Instant::now(), pds.total_calls(), pds.answers(429));
    sleep_until(begun + window * 2).await;
    let took = begun.elapsed();
    let (calls, refused) = (pds.total_calls() - calls, pds.answers(429) - refused);
    let possible = took.as_secs_f64() * f64::from(PER_SECOND);
    let used = f64::from(u32::try_from(calls).expect("a few")) / possible;
    println!(
        "{calls} calls in {took:?}, {:.1} % of what is possible, {refused} refused",
        used * 100.0
    );
    assert_eq!(refused, 0);
    assert!((0.95..1.05).contains(&used), "{used}");
}

/// How often the server itself turned the daemon away.
fn refused(daemon: &Daemon) -> usize {
    daemon.log().matching(|line| line["outcome"] == "rate_limited").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_program_behind_our_address_is_made_room_for_and_told_of() {
    let _alone = LOUD.lock().await;
    let window = Duration::from_secs(40);
    let limit = u64::from(PER_SECOND) * window.as_secs();
    let options = Options { access_life: LIFE, limit: Some((limit, window)), ..Options::default() };
    let (world, pds) = tokio::join!(World::start(), ScriptedPds::start(options));
    let _fleet = Fleet::of(&world, &pds, 2_000).await;
    let settings = settings(&world, &pds, &[("PDS_RATE_LIMIT", "9/s")]);
    let daemon = Daemon::start_release(&settings).await;
    // It takes half of the limit.
    let other = async {
        let client = plain();
        let path = format!("{}/xrpc/com.atproto.server.refreshSession", pds.url());
        let mut ticks = interval(Duration::from_secs(2) / PER_SECOND);
        loop {
            ticks.tick().await;
            client.post(&path).bearer_auth("not-a-token").send().await.expect("an answer");
        }
    };
    let watched = async {
        // The first window is where it is learnt how much the other takes.
        eventually("the first window is over", window * 2 + PATIENCE, async || {
            pds.answers(429) + pds.answers(200) + pds.answers(400) + pds.answers(401) >= limit
        })
        .await;
        // It is used up: whatever is served now is of the next.
        let served = pds.answers(200);
        eventually("the next window", window + PATIENCE, async || pds.answers(200) > served).await;
        let (begun, done, refused) = (Instant::now(), pds.answers(200), refused(&daemon));
        sleep_until(begun + window).await;
        (pds.answers(200) - done, self::refused(&daemon) - refused)
    };
    let (done, refused) = tokio::select! {
        seen = watched => seen,
        () = other => panic!("it never ends"),
    };
    println!("{done} refreshed in a window of {limit}, {refused} refused");
    assert!(refused <= 5, "{refused} refused");
    assert!(done >= limit * 2 / 5, "{done} refreshed in what another program left of {limit}");
    let told = daemon.log().matching(|line| line["event"] == "budget");
    assert_eq!(told.len(), 1, "{told:?}");
}
