//! The adapter itself: what is read, how it is written, what is heard.

use refreshd::bullmq::{BullMq, Data, Event, Found, Happened, Heard, LARGEST, PostJob, Swapped};
use refreshd::config;

use super::*;

fn bullmq(redis: &RedisServer) -> BullMq {
    let settings = config::Posts { prefix: "bull".to_owned(), queues: vec!["posts".to_owned()] };
    BullMq::new(redis.link(), settings)
}

fn name(number: u64) -> String {
    format!("post-{USER}-{USER}-{number}")
}

fn job(number: u64) -> PostJob {
    PostJob::new(0, name(number).parse().expect("an id"))
}

#[tokio::test]
async fn a_job_that_is_gone_is_not_made_again() {
    let redis = RedisServer::start().await;
    let queue = bullmq(&redis);
    for number in 1..=3 {
        redis.put("wait", &name(number), 0, "{}").await;
    }
    let jobs = [job(1), job(2), job(3)];
    assert_eq!(queue.read(&jobs).await.unwrap(), vec![Data::Raw(b"{}".to_vec()); 3]);
    // Between the read and the write.
    let _gone: i64 = redis.run(&["DEL", &format!("bull:posts:{}", name(1))]).await;
    let _set: i64 = redis.run(&["HSET", &format!("bull:posts:{}", name(2)), "data", "{ }"]).await;
    let changes = jobs.map(|job| (job, b"{}".to_vec(), "[]".to_owned())).to_vec();
    let swapped = queue.swap(changes).await.unwrap();
    assert_eq!(swapped, [Swapped::Gone, Swapped::Missed, Swapped::Done]);
    let there: i64 = redis.run(&["EXISTS", &format!("bull:posts:{}", name(1))]).await;
    assert_eq!(there, 0);
    assert_eq!(redis.data(&name(2)).await.as_deref(), Some("{ }"));
    assert_eq!(redis.data(&name(3)).await.as_deref(), Some("[]"));
    let kept: String = redis.run(&["HGET", &format!("bull:posts:{}", name(3)), "name"]).await;
    assert_eq!(kept, "process-post");
}

#[tokio::test]
async fn data_comes_in_portions_and_what_is_too_large_not_at_all() {
    let redis = RedisServer::start().await;
    let queue = bullmq(&redis);
    let sizes = [10, LARGEST + 1, 600_000, 600_000, LARGEST, 5];
    for (number, size) in (1..).zip(sizes) {
        redis.put("wait", &name(number), 0, &"x".repeat(size)).await;
    }
    let jobs: Vec<_> = (1..=7).map(job).collect();
    let (mut left, mut portions) = (jobs.as_slice(), Vec::new());
    while !left.is_empty() {
        let read = queue.read(left).await.unwrap();
        left = &left[read.len()..];
        let size = |data: &Data| match data {
            Data::Raw(data) => i64::try_from(data.len()).unwrap(),
            Data::TooLarge => -1,
            Data::Gone => -2,
        };
        portions.push(read.iter().map(size).collect::<Vec<_>>());
    }
    let largest = i64::try_from(LARGEST).unwrap();
    assert_eq!(portions, [vec![10, -1, 600_000], vec![600_000], vec![largest], vec![5, -2]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_queues_are_looked_after_and_check_tells_of_them() {
    let stage = Stage::set().await;
    let account = stage.account().await;
    let old = data(&account.session, "null");
    stage.redis().put("delayed", &post(&account, 1), now() + HOUR, &old).await;
    stage.redis().put("wait", "7", 0, &old).await;
    let queues = [("BULLMQ_POST_QUEUES", "later, posts")];
    let daemon = stage.daemon(&queues).await;
    assert_eq!(daemon.refresh(&account.id).await["outcome"], "refreshed");
    let stored = stage.stored(&account).await;
    stage.becomes(&post(&account, 1), &data(&stored, &iso(expiry(&stored)))).await;

    let checked = tokio::process::Command::new(crate::binary())
        .arg("check")
        .env_clear()
        .envs(stage.world.settings(stage.pds.url().as_str()))
        .envs(queues)
        .output()
        .await
        .expect("it runs");
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(said.contains("later: BullMQ has not used this queue yet"), "{said}");
    assert!(said.contains("posts: 1 post queued, and 1 other job: ids that are not"), "{said}");
}

#[tokio::test]
async fn every_job_that_waits_is_found_once() {
    let redis = RedisServer::start().await;
    let queue = bullmq(&redis);
    let mut pipeline = redis::pipe();
    for number in 0..5_300_u64 {
        pipeline.cmd("LPUSH").arg("bull:posts:wait").arg(format!("w{number}")).ignore();
        pipeline.cmd("ZADD").arg("bull:posts:delayed").arg((number << 12) + 7);
        pipeline.arg(format!("d{number}")).ignore();
    }
    let _done: () = redis.link().pipe(&pipeline).await.unwrap();
    for (state, id) in [("active", "a"), ("paused", "p"), ("prioritized", "q")] {
        redis.put(state, id, 0, "{}").await;
    }
    // Neither is looked at.
    let _new: i64 = redis.run(&["ZADD", "bull:posts:failed", "1", "f"]).await;
    let _new: i64 = redis.run(&["ZADD", "bull:posts:completed", "1", "c"]).await;
    let mut found: Vec<Found> = Vec::new();
    queue.scan(0, |page| found.extend(page)).await.unwrap();
    found.sort_by(|one, other| one.id.cmp(&other.id));
    let mut expected: Vec<_> = (0..5_300)
        .flat_map(|n| [(format!("w{n}"), None), (format!("d{n}"), Some(n))])
        .chain(["a", "p", "q"].map(|id| (id.to_owned(), None)))
        .map(|(id, due)| Found { id, due })
        .collect();
    expected.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_reader_that_fell_off_is_told_so() {
    let redis = RedisServer::start().await;
    let queue = bullmq(&redis);
    redis.tell(&["event", "added", "jobId", "before", "name", "x"]).await;
    let mut events = queue.listen().await.unwrap();
    redis.tell(&["event", "waiting", "jobId", "1"]).await;
    redis.tell(&["event", "drained"]).await;
    let heard = Event { queue: 0, id: "1".to_owned(), what: Happened::Waits };
    let mut all = Vec::new();
    while all.is_empty() {
        let Heard::Events(some) = events.next().await.unwrap() else { panic!("{all:?}") };
        all.extend(some);
    }
    assert_eq!(all, [heard]);
    // Cut off, but nothing that was not read.
    let cut = ["XTRIM", "bull:posts:events", "MAXLEN", "1"];
    let _cut: i64 = redis.run(&cut).await;
    redis.tell(&["event", "active", "jobId", "1"]).await;
    assert!(matches!(events.next().await.unwrap(), Heard::Events(some) if some.len() == 1));
    redis.tell(&["event", "completed", "jobId", "1"]).await;
    redis.tell(&["event", "drained"]).await;
    let _cut: i64 = redis.run(&cut).await;
    assert_eq!(events.next().await.unwrap(), Heard::FellOff);

    // All is gone, and nobody says anything.
    let mut events = queue.listen().await.unwrap();
    let _ok: String = redis.run(&["FLUSHALL"]).await;
    assert_eq!(events.next().await.unwrap(), Heard::FellOff);
    let mut events = queue.listen().await.unwrap();
    assert_eq!(events.next().await.unwrap(), Heard::Events(vec![]), "a queue without events");
}
