//! The link to Redis: what it says, and how it comes back.

use std::time::Duration;

use refreshd::link::{Health, Link, RedisTarget};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::harness::eventually;
use crate::harness::redis::RedisServer;

const SOON: Duration = Duration::from_secs(20);

fn link(url: &str) -> Link {
    Link::new(RedisTarget::from_url(url).unwrap()).unwrap()
}

async fn ping(link: &Link) -> Result<String, String> {
    link.query(&redis::cmd("PING")).await.map_err(|error| link.explain(&error))
}

#[tokio::test]
async fn a_refusal_says_what_to_do() {
    let open = RedisServer::start().await;
    let closed = RedisServer::start_with(&["requirepass \"open sesame\""]).await;
    let at = |server: &RedisServer| format!("127.0.0.1:{}", server.port());
    let login = "check REDIS_USERNAME and REDIS_PASSWORD, and unset them if it asks for none";
    for (url, expected) in [
        (format!("redis://{}", at(&closed)), "set REDIS_PASSWORD"),
        (format!("redis://:wr0ng@{}", at(&closed)), login),
        (format!("redis://me:wr0ng@{}", at(&open)), login),
        (format!("redis://:wr0ng@{}", at(&open)), login),
        (format!("redis://{}/99", at(&open)), "has no database 99: check REDIS_DB"),
    ] {
        let link = link(&url);
        let why = ping(&link).await.expect_err(&url);
        assert!(why.ends_with(expected) && !why.contains("wr0ng"), "{url}: {why}");
        let health = link.health().borrow().clone();
        assert!(matches!(health, Health::Down { why: known, .. } if known == why));
    }
    assert_eq!(
        ping(&link(&format!("redis://:open%20sesame@{}", at(&closed)))).await.unwrap(),
        "PONG"
    );
    let info = link(&open.url()).server_info().await.unwrap();
    assert!(info.is_new_enough() && info.maxmemory_policy == "noeviction", "{info:?}");
}

#[tokio::test]
async fn a_lost_redis_is_found_again() {
    let mut server = RedisServer::start().await;
    let (link, tracker, stop) = (server.link(), TaskTracker::new(), CancellationToken::new());
    let kept = tracker.spawn(link.clone().keep(stop.clone()));
    let mut health = link.health();
    let up = |health: &Health| *health == Health::Up;
    tokio::time::timeout(SOON, health.wait_for(up)).await.unwrap().unwrap();
    for _ in 0..2 {
        server.kill();
        eventually("the loss is noticed", SOON, async || ping(&link).await.is_err()).await;
        assert!(matches!(&*health.borrow_and_update(), Health::Down { .. }));
        server.restart().await;
        tokio::time::timeout(SOON, health.wait_for(up)).await.unwrap().unwrap();
        assert_eq!(ping(&link).await.unwrap(), "PONG");
    }
    stop.cancel();
    kept.await.unwrap();
}

#[tokio::test]
async fn a_replica_answers_and_is_of_no_use() {
    let (server, primary) = tokio::join!(RedisServer::start(), RedisServer::start());
    let (link, tracker, stop) = (server.link(), TaskTracker::new(), CancellationToken::new());
    let kept = tracker.spawn(link.clone().keep(stop.clone()));
    let mut health = link.health();
    let up = |health: &Health| *health == Health::Up;
    tokio::time::timeout(SOON, health.wait_for(up)).await.unwrap().unwrap();

    let follow = |host: &str, port: &str| {
        let mut command = redis::cmd("REPLICAOF");
        command.arg(host).arg(port);
        command
    };
    let (host, port) = ("127.0.0.1", primary.port().to_string());
    link.query::<String>(&follow(host, &port)).await.unwrap();
    let write = redis::cmd("INCR").arg("n").to_owned();
    let refused = link.query::<u64>(&write).await.unwrap_err();
    assert!(link.explain(&refused).contains("is a replica"), "{}", link.explain(&refused));
    // The link's own tries find a server that answers, and are not taken in.
    let tries = async || {
        let info: String =
            server.link().query(redis::cmd("INFO").arg("commandstats")).await.unwrap();
        let role = info.lines().find(|line| line.starts_with("cmdstat_role:")).unwrap_or_default();
        role.split(['=', ',']).nth(1).and_then(|calls| calls.parse::<u32>().ok()).unwrap_or(0)
    };
    let before = tries().await;
    eventually("two more tries", SOON, async || tries().await >= before + 2).await;
    assert!(matches!(&*health.borrow(), Health::Down { .. }), "it is still of no use");

    server.link().query::<String>(&follow("NO", "ONE")).await.unwrap();
    tokio::time::timeout(SOON, health.wait_for(up)).await.unwrap().unwrap();
    assert_eq!(link.query::<u64>(&write).await.unwrap(), 1);
    stop.cancel();
    kept.await.unwrap();
}

#[tokio::test]
async fn sentinels_name_the_server() {
    let server = RedisServer::start().await;
    let monitor = format!("sentinel monitor ours 127.0.0.1 {} 1", server.port());
    let sentinel = RedisServer::start_with(&[&monitor]).await;
    let link = link(&format!("redis+sentinel://127.0.0.1:{}/ours", sentinel.port()));
    assert_eq!(ping(&link).await.unwrap(), "PONG");
    let stranger = self::link(&format!("redis+sentinel://127.0.0.1:{}/theirs", sentinel.port()));
    assert!(ping(&stranger).await.is_err());
}
