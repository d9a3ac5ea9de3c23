//! The adapter itself, without a daemon: what each step leaves in Redis.

use refreshd::bullmq::requests::{End, Job, Requests, Step};

use super::*;
use crate::harness::redis::RedisServer;

const NOW: u64 = 1_763_935_300_123;

/// Redis alone, and the queue on it.
struct Bench {
    redis: RedisServer,
    requests: Requests,
}

impl Bench {
    async fn set() -> Self {
        let redis = RedisServer::start().await;
        let requests = Requests::new(redis.link(), "bull", QUEUE, Some(OTHER));
        Self { redis, requests }
    }

    async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        self.redis.link().query(&command).await.expect("an answer")
    }

    async fn add(&self, id: &str, opts: &str) {
        let key = format!("bull:{QUEUE}:{id}");
        let fields = [
            "HSET",
            &key,
            "name",
            "n",
            "data",
            r#"{"big":9007199254740993, "e":[]}"#,
            "opts",
            opts,
        ];
        let _new: u64 = self.ask(&[&fields[..], &["timestamp", "7", "delay", "0"]].concat()).await;
        let _long: u64 = self.ask(&["LPUSH", &format!("bull:{QUEUE}:wait"), id]).await;
    }

    async fn take(&self, token: &str, most: usize) -> Vec<Job> {
        self.requests.take(token, NOW, most).await.expect("an answer").jobs
    }

    async fn one(&self, id: &str, opts: &str) -> Job {
        self.add(id, opts).await;
        self.take("t", 1).await.pop().expect("a job")
    }

    async fn ids(&self, name: &str) -> Vec<String> {
        let key = format!("bull:{QUEUE}:{name}");
        if ["wait", "active", "paused"].contains(&name) {
            self.ask(&["LRANGE", &key, "0", "-1"]).await
        } else {
            self.ask(&["ZRANGE", &key, "0", "-1"]).await
        }
    }

    async fn job(&self, queue: &str, id: &str) -> BTreeMap<String, String> {
        self.ask(&["HGETALL", &format!("bull:{queue}:{id}")]).await
    }

    /// The events so far, without their ids.
    async fn told(&self) -> Vec<BTreeMap<String, String>> {
        let key = format!("bull:{QUEUE}:events");
        let entries: Vec<(String, BTreeMap<String, String>)> =
            self.ask(&["XRANGE", &key, "-", "+"]).await;
        entries.into_iter().map(|(_, fields)| fields).collect()
    }
}

#[tokio::test]
async fn jobs_are_taken_in_their_order_and_held() {
    let bench = Bench::set().await;
    for id in ["a", "b", "c"] {
        bench.add(id, "{}").await;
    }
    let taken = bench.take("t", 2).await;
    assert_eq!(taken.iter().map(|job| job.name.to_string()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(
        (bench.ids("wait").await, bench.ids("active").await.len()),
        (vec!["c".to_owned()], 2)
    );
    let lock: String = bench.ask(&["GET", &format!("bull:{QUEUE}:a:lock")]).await;
    let life: u64 = bench.ask(&["PTTL", &format!("bull:{QUEUE}:a:lock")]).await;
    assert!(lock == "t" && (20_000..=30_000).contains(&life), "{lock} {life}");
    // There may be more: another idle worker is woken.
    assert_eq!(bench.ids("marker").await, ["0"]);

    let lost = bench.requests.renew(taken.iter().map(Job::hold)).await.unwrap();
    assert!(lost.is_empty());
    let _gone: u64 = bench.ask(&["DEL", &format!("bull:{QUEUE}:a:lock")]).await;
    let _set: String = bench.ask(&["SET", &format!("bull:{QUEUE}:b:lock"), "another"]).await;
    let lost = bench.requests.renew(taken.iter().map(Job::hold)).await.unwrap();
    assert_eq!(lost.len(), 2);
    // Neither is ours to end, and nothing is changed.
    let before = (bench.job(QUEUE, "a").await, bench.told().await, bench.ids("active").await);
    for job in &taken {
        let end = End::Completed("{}", false);
        assert_eq!(bench.requests.finish(job, NOW, end).await.unwrap(), Step::Lost);
        let again = bench.requests.again(job, NOW, PATIENCE, None).await.unwrap();
        assert_eq!(again, Step::Lost);
        assert_eq!(bench.requests.hand_over(job).await.unwrap(), Some(Step::Lost));
    }
    let after = (bench.job(QUEUE, "a").await, bench.told().await, bench.ids("active").await);
    assert_eq!(after, before);
}

#[tokio::test]
async fn what_is_kept_of_a_job_is_what_its_options_say() {
    let bench = Bench::set().await;
    for (opts, kept) in [
        (r#"{"removeOnComplete":true,"removeOnFail":true}"#, 0),
        (r#"{"removeOnComplete":2,"removeOnFail":2}"#, 2),
        (r#"{"removeOnComplete":{"age":1},"removeOnFail":{"age":1}}"#, 1),
        ("{}", 4),
    ] {
        for (set, end) in [
            ("completed", End::Completed("{\"x\":1}", false)),
            ("failed", End::Failed("code", "code: why")),
        ] {
            for number in 0..4_u64 {
                let id = format!("{set}-{number}");
                let job = bench.one(&id, opts).await;
                let then = NOW + number * 2_000;
                assert_eq!(bench.requests.finish(&job, then, end).await.unwrap(), Step::Done);
            }
            let left = bench.ids(set).await;
            assert_eq!(left.len(), kept, "{opts} {set}");
            let hashes: Vec<String> = bench.ask(&["KEYS", &format!("bull:{QUEUE}:{set}-*")]).await;
            assert_eq!(hashes.len(), kept, "{opts}: {hashes:?}");
            for id in &left {
                let _gone: u64 = bench.ask(&["DEL", &format!("bull:{QUEUE}:{id}")]).await;
            }
            let _gone: u64 = bench.ask(&["DEL", &format!("bull:{QUEUE}:{set}")]).await;
        }
    }
}

#[tokio::test]
async fn a_delayed_job_comes_when_it_is_due() {
    let bench = Bench::set().await;
    let job = bench.one("a", "{}").await;
    let wait = std::time::Duration::from_secs(2);
    let failed = Some(("code", "code: why"));
    assert_eq!(bench.requests.again(&job, NOW, wait, failed).await.unwrap(), Step::Done);
    let score: f64 = bench.ask(&["ZSCORE", &format!("bull:{QUEUE}:delayed"), "a"]).await;
    assert_eq!(refreshd::domain::number::to_u64(score), (NOW + 2_000) * 4_096);
    let kept = bench.job(QUEUE, "a").await;
    assert_eq!((kept["atm"].as_str(), kept["failedReason"].as_str()), ("1", "code"));
    let early = bench.requests.take("t", NOW + 1_999, 1).await.unwrap();
    assert_eq!((early.jobs.len(), early.next), (0, Some(NOW + 2_000)));
    let due = bench.requests.take("t", NOW + 2_000, 1).await.unwrap();
    assert_eq!((due.jobs.len(), due.next), (1, None));
    assert_eq!((due.jobs[0].attempts_made, due.jobs[0].asked_at), (1, 7));
}

#[tokio::test]
async fn a_paused_queue_gives_nothing_and_one_with_a_limit_no_more() {
    let bench = Bench::set().await;
    for id in ["a", "b", "c"] {
        bench.add(id, "{}").await;
    }
    let meta = format!("bull:{QUEUE}:meta");
    let _set: u64 = bench.ask(&["HSET", &meta, "paused", "1"]).await;
    let _new: u64 = bench.ask(&["ZADD", &format!("bull:{QUEUE}:delayed"), "1", "a"]).await;
    assert!(bench.take("t", 9).await.is_empty());
    assert_eq!((bench.ids("wait").await.len(), bench.ids("delayed").await.len()), (3, 1));
    let _set: u64 = bench.ask(&["ZREM", &format!("bull:{QUEUE}:delayed"), "a"]).await;
    let _set: u64 = bench.ask(&["HDEL", &meta, "paused"]).await;
    let _set: u64 = bench.ask(&["HSET", &meta, "concurrency", "2"]).await;
    assert_eq!(bench.take("t", 9).await.len(), 2);
    assert_eq!(bench.take("t", 9).await.len(), 0);
}

#[tokio::test]
async fn a_job_that_is_left_behind_again_and_again_is_doomed() {
    let bench = Bench::set().await;
    let check = format!("bull:{QUEUE}:stalled-check");
    bench.add("a", "{}").await;
    for times in 0..=4 {
        let job = bench.take("t", 1).await.pop().expect("it comes again");
        assert_eq!(job.doomed.is_some(), times == 4, "{times}: {:?}", job.doomed);
        assert_eq!(job.is_first, times == 0);
        // While it is held, it is nobody else's, however often they look.
        for _ in 0..2 {
            let _gone: u64 = bench.ask(&["DEL", &check]).await;
            assert!(bench.requests.recover(NOW).await.unwrap().is_empty());
        }
        let _gone: u64 = bench.ask(&["DEL", &format!("bull:{QUEUE}:a:lock")]).await;
        // Until the next look is due, nobody looks.
        assert!(bench.requests.recover(NOW).await.unwrap().is_empty());
        let _gone: u64 = bench.ask(&["DEL", &check]).await;
        assert_eq!(bench.requests.recover(NOW).await.unwrap(), std::slice::from_ref(&job.name));
    }
    let stalled = bench.told().await.iter().filter(|it| it["event"] == "stalled").count();
    assert_eq!(stalled, 5);
}

#[tokio::test]
async fn a_job_is_moved_whole_and_only_once() {
    let bench = Bench::set().await;
    bench.add("a", r#"{"attempts":3, "x":[]}"#).await;
    let before = bench.job(QUEUE, "a").await;
    let job = bench.take("t", 1).await.pop().expect("a job");
    // The same id over there: it is not written over.
    let there = format!("bull:{OTHER}:a");
    let _new: u64 = bench.ask(&["HSET", &there, "data", "theirs"]).await;
    assert_eq!(bench.requests.hand_over(&job).await.unwrap(), Some(Step::Duplicate));
    assert_eq!(bench.ids("active").await, ["a"]);
    let _gone: u64 = bench.ask(&["DEL", &there]).await;
    assert_eq!(bench.requests.hand_over(&job).await.unwrap(), Some(Step::Done));
    assert_eq!(bench.job(OTHER, "a").await, before);
    let line: Vec<String> = bench.ask(&["LRANGE", &format!("bull:{OTHER}:wait"), "0", "-1"]).await;
    assert_eq!(line, ["a"]);
    let left: Vec<String> = bench.ask(&["KEYS", &format!("bull:{QUEUE}:a*")]).await;
    assert!(left.is_empty() && bench.ids("active").await.is_empty(), "{left:?}");
    let ringing: Vec<String> =
        bench.ask(&["ZRANGE", &format!("bull:{OTHER}:marker"), "0", "-1"]).await;
    assert_eq!(ringing, ["0"]);
    assert_eq!(bench.requests.hand_over(&job).await.unwrap(), Some(Step::Gone));
}

/// Up to version 5, jobs that come to a paused queue wait apart; later they do not.
#[tokio::test]
async fn a_job_that_is_moved_to_a_paused_queue_waits_where_its_version_looks() {
    for (version, place) in [("bullmq:5.56.1", "paused"), ("bullmq:6.7.0", "wait")] {
        let bench = Bench::set().await;
        let meta = format!("bull:{OTHER}:meta");
        let _set: u64 = bench.ask(&["HSET", &meta, "paused", "1", "version", version]).await;
        let job = bench.one("a", "{}").await;
        assert_eq!(bench.requests.hand_over(&job).await.unwrap(), Some(Step::Done));
        let line: Vec<String> =
            bench.ask(&["LRANGE", &format!("bull:{OTHER}:{place}"), "0", "-1"]).await;
        assert_eq!(line, ["a"], "{version}");
        let rings: u64 = bench.ask(&["EXISTS", &format!("bull:{OTHER}:marker")]).await;
        assert_eq!(rings, 0);
    }
}

#[tokio::test]
async fn a_job_of_a_flow_is_known_and_priorities_go_last() {
    let bench = Bench::set().await;
    bench.add("child", "{}").await;
    let _new: u64 =
        bench.ask(&["HSET", &format!("bull:{QUEUE}:child"), "parentKey", "bull:x:1"]).await;
    let fields = ["HSET", &format!("bull:{QUEUE}:p"), "name", "n", "data", "{}", "priority", "5"];
    let _new: u64 = bench.ask(&fields).await;
    let score = (5_u64 * 4_294_967_296 + 1).to_string();
    let _new: u64 = bench.ask(&["ZADD", &format!("bull:{QUEUE}:prioritized"), &score, "p"]).await;
    let taken = bench.take("t", 9).await;
    assert_eq!(taken.iter().map(|job| job.is_in_flow).collect::<Vec<_>>(), [true, false]);
    assert_eq!(taken[1].name.to_string(), "p");
}
