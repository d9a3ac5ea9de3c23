//! Jobs that nobody meant to make.

use super::*;

/// A job's id, name, data and options, and what it fails with.
type Odd<'a> = (&'a [u8], &'a str, &'a [u8], &'a str, &'a str);

/// A job as it stands in Redis, whatever it is.
async fn put(stage: &Stage, id: &[u8], name: &str, data: &[u8], opts: &str) {
    let key = |rest: &[u8]| [format!("bull:{QUEUE}:").as_bytes(), rest].concat();
    let mut pipeline = redis::pipe();
    pipeline.cmd("HSET").arg(key(id)).arg("name").arg(name).arg("data").arg(data);
    pipeline.arg("opts").arg(opts).arg("timestamp").arg(1).arg("delay").arg(0);
    pipeline.cmd("LPUSH").arg(key(b"wait")).arg(id);
    pipeline.cmd("ZADD").arg(key(b"marker")).arg(0).arg("0");
    let _done: redis::Value = stage.world.redis.link().pipe(&pipeline).await.expect("it is put");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_in_the_queue_it_goes_on() {
    let stage = Stage::set().await;
    let one = "refresh-account-tokens";
    let megabytes = format!(r#"{{"accountId":"{NOBODY}","x":"{}"}}"#, "x".repeat(3_000_000));
    let deep = "[".repeat(50_000);
    let options = r#"{"attempts":3,"removeOnComplete":true}"#;
    let jobs: Vec<Odd<'_>> = vec![
        (b"no-json", one, b"accountId=1", options, "invalid_request"),
        (b"empty", one, b"", options, "invalid_request"),
        (b"deep", one, deep.as_bytes(), options, "invalid_request"),
        (b"no-utf8", one, b"\xff\xfe{}", options, "invalid_request"),
        (b"list", one, b"[1,2]", options, "invalid_request"),
        (b"number", one, br#"{"accountId":7}"#, options, "invalid_request"),
        (b"query", one, br#"{"accountId":{"$ne":null}}"#, options, "invalid_request"),
        (b"all-no-json", "refresh-all-tokens", b"{", options, "invalid_request"),
        (b"no-id", one, br#"{"accountId":"x y"}"#, options, "account_not_found"),
        (b"large", one, megabytes.as_bytes(), options, "unsupported_platform"),
        (b"other-kind", "clean-up", b"{}", options, "unsupported_platform"),
        (b"", one, b"[]", options, "invalid_request"),
        (b"\xff\x00 bytes", one, b"[]", options, "invalid_request"),
        (b"no-options", one, b"[]", "not JSON", "invalid_request"),
        (
            b"odd-options",
            one,
            b"[]",
            r#"{"attempts":{},"backoff":[],"removeOnFail":-9}"#,
            "invalid_request",
        ),
    ];
    for (id, name, data, opts, _) in &jobs {
        put(&stage, id, name, data, opts).await;
    }
    // Names without jobs, and one that is something else.
    for name in ["ghost", "text", "0:0", "meta"] {
        let _long: u64 = stage.ask(&["LPUSH", &format!("bull:{QUEUE}:wait"), name]).await;
    }
    let _set: String = stage.ask(&["SET", &format!("bull:{QUEUE}:text"), "a text"]).await;
    let _new: u64 =
        stage.ask(&["ZADD", &format!("bull:{QUEUE}:delayed"), "4096", "late-ghost"]).await;

    let daemon = stage.daemon(&[SERVED]).await;
    stage.done(QUEUE).await;
    for (id, .., code) in &jobs {
        let key = [format!("bull:{QUEUE}:").as_bytes(), id].concat();
        let command = redis::cmd("HGET").arg(key).arg("failedReason").to_owned();
        let reason: Option<String> =
            stage.world.redis.link().query(&command).await.expect("an answer");
        assert_eq!(reason.as_deref(), Some(*code), "{}", String::from_utf8_lossy(id));
    }
    let failed = u64::try_from(jobs.len()).expect("few");
    assert_eq!((counted(&daemon, "failed").await, counted(&daemon, "gone").await), (failed, 4));
    // Nothing was made of what was no job.
    let made: u64 = stage
        .ask(&["EXISTS", &format!("bull:{QUEUE}:ghost"), &format!("bull:{QUEUE}:late-ghost")])
        .await;
    assert_eq!(made, 0);
    let text: String = stage.ask(&["GET", &format!("bull:{QUEUE}:text")]).await;
    assert_eq!(text, "a text");

    let app = stage.app("5").await;
    let (account, _) = stage.account().await;
    let answer = press(&app, &account, json!("bluesky")).await;
    assert_eq!(answer["result"]["success"], true, "{answer}");
}

/// With somebody to hand them to, what is not understood is theirs; what would break them is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_understood_is_handed_on_where_it_does_no_harm() {
    let stage = Stage::set().await;
    let large = format!(r#"{{"accountId":"{NOBODY}","x":"{}"}}"#, "x".repeat(3_000_000));
    put(&stage, b"large", "refresh-account-tokens", large.as_bytes(), "{}").await;
    put(&stage, b"other-kind", "clean-up", br#"{"a":[],"n":9007199254740993}"#, "{ }").await;
    put(&stage, b"no-json", "clean-up", b"{", "{}").await;
    let before = [stage.job(QUEUE, "large").await, stage.job(QUEUE, "other-kind").await];
    let daemon = stage.daemon(&WITH_OTHER).await;
    stage.done(QUEUE).await;
    let after = [stage.job(OTHER, "large").await, stage.job(OTHER, "other-kind").await];
    assert_eq!(after, before, "to the byte");
    let line: Vec<String> = stage.ask(&["LRANGE", &format!("bull:{OTHER}:wait"), "0", "-1"]).await;
    assert_eq!(line, ["other-kind", "large"], "in their order");
    assert_eq!((counted(&daemon, "moved").await, counted(&daemon, "failed").await), (2, 1));
}
