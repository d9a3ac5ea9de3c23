//! Which copies change, when, and to what.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_reaches_every_queued_copy_to_the_byte() {
    let stage = Stage::set().await;
    let (account, other) = (stage.account().await, stage.account().await);
    let old = "\"2020-01-01T00:00:00.000Z\"";
    for (number, state) in (1..).zip(STATES) {
        stage
            .redis()
            .put(state, &post(&account, number), now() + HOUR, &data(&account.session, old))
            .await;
        stage
            .redis()
            .put(state, &post(&other, number), now() + HOUR, &data(&other.session, old))
            .await;
    }
    let shapes = [
        (6, data(&account.session, "null")),
        (7, data(&account.session, "1577836800000")),
        (8, flat(&account.session)),
    ];
    for (number, data) in &shapes {
        stage.redis().put("delayed", &post(&account, *number), now() + HOUR, data).await;
    }
    let daemon = stage.daemon(&[]).await;
    assert_eq!(daemon.refresh(&account.id).await["outcome"], "refreshed");

    let stored = stage.stored(&account).await;
    assert_ne!(stored.refresh, account.session.refresh);
    let ends = expiry(&stored);
    for number in 1..=5 {
        stage.becomes(&post(&account, number), &data(&stored, &iso(ends))).await;
        let others = stage.redis().data(&post(&other, number)).await;
        assert_eq!(others.as_deref(), Some(data(&other.session, old).as_str()));
    }
    stage.becomes(&post(&account, 6), &data(&stored, &iso(ends))).await;
    stage.becomes(&post(&account, 7), &data(&stored, &ends.timestamp_millis().to_string())).await;
    stage.becomes(&post(&account, 8), &flat(&stored)).await;
    let told = |line: &serde_json::Value| {
        line["event"] == "posts" && line["account"] == account.id.as_str()
    };
    let line = daemon.log().wait(told).await;
    assert_eq!(line["jobs"], 8, "{line}");
    assert!(!daemon.log().text().contains("eyJ"), "no token in the log");
    assert_eq!(Stage::counted(&daemon, "synced").await, 8);
    assert_eq!(stage.pds.calls(&other.session.did), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_that_is_queued_with_a_spent_pair_gets_the_new_one() {
    let stage = Stage::set().await;
    let account = stage.account().await;
    let daemon = stage.daemon(&[]).await;
    assert_eq!(daemon.refresh(&account.id).await["outcome"], "refreshed");
    // The application has read the account just before.
    let job = post(&account, 1);
    stage.redis().schedule(&job, now() + HOUR, &data(&account.session, "null")).await;
    let stored = stage.stored(&account).await;
    stage.becomes(&job, &data(&stored, &iso(expiry(&stored)))).await;
    // It is known from then on.
    assert_eq!(daemon.refresh(&account.id).await["outcome"], "refreshed");
    let stored = stage.stored(&account).await;
    stage.becomes(&job, &data(&stored, &iso(expiry(&stored)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_reaches_the_copies() {
    let stage = Stage::set().await;
    let account = stage.account().await;
    let job = post(&account, 1);
    stage.redis().put("delayed", &job, now() + HOUR, &data(&account.session, "null")).await;
    let daemon = stage.daemon(&[]).await;
    assert_eq!(daemon.refresh(&account.id).await["outcome"], "refreshed");
    let session = stage.pds.login(&account.session.did);
    let tokens = doc! { "accessToken": &session.access, "refreshToken": &session.refresh };
    stage.world.set(&account.id, tokens).await;
    stage.becomes(&job, &data(&session, &iso(expiry(&session)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_an_old_copy_is_left_alone_and_counted() {
    let stage = Stage::set().await;
    let (account, other) = (stage.account().await, stage.account().await);
    let good = data(&account.session, "null");
    let huge = good.replacen('{', &format!("{{\"pad\":\"{}\",", "x".repeat(2_000_000)), 1);
    let odd = [
        (10, "not JSON".to_owned()),
        (11, "{}".to_owned()),
        (12, good.replace("accessToken", "token")),
        (13, huge),
        (14, data(&other.session, "null")),
        (15, String::new()),
        (16, good.replace("\"empty\":{}", "\"account\":{}")),
    ];
    for (number, data) in &odd {
        stage.redis().put("delayed", &post(&account, *number), now() + HOUR, data).await;
    }
    for id in ["1", "repeat:1:2", "post-x-y-1"] {
        stage.redis().put("wait", id, 0, &good).await;
    }
    // No hash at all.
    let strange = format!("bull:posts:{}", post(&account, 17));
    let _ok: String = stage.redis().run(&["SET", &strange, "x"]).await;
    let _new: i64 =
        stage.redis().run(&["ZADD", "bull:posts:delayed", "1", &post(&account, 17)]).await;
    let sane = post(&account, 1);
    stage.redis().put("delayed", &sane, now() + HOUR, &good).await;
    let daemon = stage.daemon(&[]).await;
    assert_eq!(daemon.refresh(&account.id).await["outcome"], "refreshed");
    let stored = stage.stored(&account).await;
    stage.becomes(&sane, &data(&stored, &iso(expiry(&stored)))).await;
    for (number, data) in &odd {
        let now = stage.redis().data(&post(&account, *number)).await;
        assert!(now.as_deref() == Some(data.as_str()), "{number} has changed");
    }
    for id in ["1", "repeat:1:2", "post-x-y-1"] {
        assert_eq!(stage.redis().data(id).await.as_deref(), Some(good.as_str()), "{id}");
    }
    let text: String = stage.redis().run(&["GET", &strange]).await;
    assert_eq!(text, "x");
    let indexed = daemon.log().wait(|line| line["event"] == "posts.indexed").await;
    assert_eq!((&indexed["jobs"], &indexed["unknown_ids"]), (&9.into(), &3.into()), "{indexed}");
    assert_eq!(Stage::counted(&daemon, "unknown_id").await, 3);
    for (outcome, least) in [("unreadable", 4), ("too_large", 1), ("other_account", 1), ("gone", 2)]
    {
        let counted = Stage::counted(&daemon, outcome).await;
        assert!(counted >= least, "{counted} {outcome}");
    }

    // A copy of a session that is younger than the document's.
    stage.pds.advance(Duration::from_mins(1));
    let job = post(&account, 2);
    let young = data(&stage.pds.login(&account.session.did), "null");
    stage.redis().schedule(&job, now() + HOUR, &young).await;
    eventually("it is seen", SOON, async || Stage::counted(&daemon, "newer").await >= 1).await;
    assert_eq!(stage.redis().data(&job).await.as_deref(), Some(young.as_str()));
}

/// What a refresh asks of the application's queues when the account has no post in them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_without_queued_posts_costs_no_command() {
    let stage = Stage::set().await;
    let (account, other) = (stage.account().await, stage.account().await);
    let job = post(&other, 1);
    stage.redis().put("delayed", &job, now() + HOUR, &data(&other.session, "null")).await;
    let daemon = stage.daemon(&[]).await;
    let redis = stage.redis();
    eventually("the first look is over", SOON, async || {
        Stage::counted(&daemon, "current").await >= 1
    })
    .await;
    let _ok: String = redis.run(&["CONFIG", "SET", "slowlog-max-len", "100000"]).await;
    let _ok: String = redis.run(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]).await;
    for _ in 0..3 {
        assert_eq!(daemon.refresh(&account.id).await["outcome"], "refreshed");
    }
    let seen = commands(redis).await;
    assert!(seen.len() > 10, "{seen:?}");
    let asked: Vec<_> = seen.iter().filter(|it| it.contains("bull:posts:post")).collect();
    assert!(asked.is_empty(), "{asked:?}");
    // And one that has some does cost something.
    assert_eq!(daemon.refresh(&other.id).await["outcome"], "refreshed");
    let stored = stage.stored(&other).await;
    stage.becomes(&job, &data(&stored, &iso(expiry(&stored)))).await;
    assert!(commands(redis).await.iter().any(|it| it.contains("HSTRLEN bull:posts:post")));
}

/// The commands that Redis has seen, as words.
async fn commands(redis: &RedisServer) -> Vec<String> {
    type Entry = (i64, i64, i64, Vec<String>, String, String);
    let seen: Vec<Entry> = redis.run(&["SLOWLOG", "GET", "-1"]).await;
    seen.into_iter().map(|(.., words, _, _)| words.join(" ")).collect()
}
