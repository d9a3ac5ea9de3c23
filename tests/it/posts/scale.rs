//! A hundred thousand queued posts: what they cost the program as it is shipped.

use std::fs;

use tokio::time::Instant;

use super::*;
use crate::harness::LOUD;
use crate::harness::fleet::Fleet;

const ACCOUNTS: usize = 5_000;
const POSTS_EACH: u64 = 20;

/// The most that a look at all of them may take, in milliseconds.
const SCAN: u64 = 3_000;

/// The most memory that they may take, in bytes.
const MEMORY: u64 = 20_000_000;

/// A process's resident memory, in bytes.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1_024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_queued_posts_are_known_within_seconds() {
    let _alone = LOUD.lock().await;
    let stage = Stage::set().await;
    let redis = stage.redis();
    let _fleet = Fleet::of(&stage.world, &stage.pds, ACCOUNTS).await;
    let accounts = queue_posts(&stage).await;
    let _ok: String = redis.run(&["CONFIG", "SET", "slowlog-max-len", "10000"]).await;
    let _ok: String = redis.run(&["CONFIG", "SET", "slowlog-log-slower-than", "5000"]).await;
    let _ok: String = redis.run(&["SLOWLOG", "RESET"]).await;

    let settings = stage.world.settings(stage.pds.url().as_str());
    let mut off = settings.clone();
    off.push(("BULLMQ_POST_QUEUES".to_owned(), "off".to_owned()));
    let without = Daemon::start_release(&off).await;
    let memory_without = memory(without.pid());
    assert!(without.stop().await.success());

    let begun = Instant::now();
    let daemon = Daemon::start_release(&settings).await;
    let ready = begun.elapsed();
    let indexed = daemon.log().wait(|line| line["event"] == "posts.indexed").await;
    let posts = u64::try_from(ACCOUNTS).expect("a number") * POSTS_EACH;
    assert_eq!(indexed["jobs"], posts, "{indexed}");
    let memory_indexed = memory(daemon.pid());
    eventually("all are compared", PATIENCE, async || {
        Stage::counted(&daemon, "current").await == posts
    })
    .await;
    let compared = begun.elapsed();
    let memory_compared = memory(daemon.pid());
    println!(
        "scan {} ms, ready after {ready:?}, all compared after {compared:?}; resident memory {} kB without the index, \
         {} kB with it, {} kB after all were compared",
        indexed["took_ms"],
        memory_without / 1_024,
        memory_indexed / 1_024,
        memory_compared / 1_024,
    );
    let took = indexed["took_ms"].as_u64().expect("a time");
    assert!(took < SCAN, "{took} ms");
    for with in [memory_indexed, memory_compared] {
        let more = with.saturating_sub(memory_without);
        assert!(more < MEMORY, "{more} bytes more");
    }

    let account = &accounts[ACCOUNTS / 2];
    let begun = Instant::now();
    assert_eq!(daemon.refresh(&account.id).await["outcome"], "refreshed");
    let stored = stage.stored(account).await;
    for number in 0..POSTS_EACH {
        stage.becomes(&post(account, number), &data(&stored, &iso(expiry(&stored)))).await;
    }
    println!("a refresh and {POSTS_EACH} posts of its account: {:?}", begun.elapsed());
    assert_eq!(Stage::counted(&daemon, "synced").await, POSTS_EACH);

    let slow: Vec<(i64, i64, i64, Vec<String>, String, String)> =
        redis.run(&["SLOWLOG", "GET", "-1"]).await;
    let slow: Vec<_> = slow
        .iter()
        .map(|(_, _, micros, words, ..)| (micros, words.first(), words.get(1)))
        .collect();
    println!("{} commands took more than 5 ms: {slow:?}", slow.len());
}

/// Posts of every account, each with its pair.
async fn queue_posts(stage: &Stage) -> Vec<Account> {
    let accounts = stage.accounts().await;
    let link = stage.redis().link();
    let due = now() + HOUR;
    for some in accounts.chunks(250) {
        let mut pipeline = redis::pipe();
        for account in some {
            let data = data(&account.session, "null");
            for number in 0..POSTS_EACH {
                let id = post(account, number);
                let hash = format!("bull:posts:{id}");
                pipeline
                    .cmd("HSET")
                    .arg(hash)
                    .arg(&["name", "process-post", "data", &data])
                    .ignore();
                let score = (due + number * 60_000) * 4_096;
                pipeline.cmd("ZADD").arg("bull:posts:delayed").arg(score).arg(id).ignore();
            }
        }
        let _done: () = link.pipe(&pipeline).await.expect("they are queued");
    }
    accounts
}
