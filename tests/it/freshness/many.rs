//! More servers than are looked at in one pass, most of them with more due than they may be sent.

use std::time::Duration;

use futures::future::join_all;

use crate::harness::eventually;
use crate::harness::fleet::Fleet;
use crate::harness::scripted_pds::{Options, ScriptedPds};
use crate::harness::world::World;

const SERVERS: usize = 40;

/// Of them, those that have a minute's worth of calls to make.
const BUSY: usize = 36;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_forty_servers_are_served_while_the_others_have_more_than_they_may() {
    let audience = "did:web:127.0.0.1%3A{port}";
    let options = || Options { audience, ..Options::default() };
    let (world, servers) =
        tokio::join!(World::start(), join_all((0..SERVERS).map(|_| ScriptedPds::start(options()))));
    let (busy, idle) = servers.split_at(BUSY);
    let mut behind = Vec::new();
    for server in busy {
        behind.push(Fleet::lapsed(&world, server, 60).await);
    }
    let mut last = Vec::new();
    for server in idle {
        last.push(Fleet::lapsed(&world, server, 1).await);
    }
    let settings =
        [("KEEP_FRESH", "true"), ("PDS_RATE_LIMIT", "1/s"), ("PDS_ALLOW_PRIVATE", "true")];
    // Nobody is at home: all are found by their tokens.
    let _daemon = world.daemon("http://127.0.0.1:9", &settings).await;
    for fleet in &last {
        let is_refreshed = async || fleet.is_refreshed(&world).await;
        eventually("it has its turn", Duration::from_secs(25), is_refreshed).await;
    }
    assert!(behind.iter().all(|fleet| fleet.calls().0 == 0), "otherwise they were no crowd");
}
