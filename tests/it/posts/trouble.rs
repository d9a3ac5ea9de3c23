//! Crashes, wipes and cut-off streams: the copies are current again.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_the_refresh_and_the_copies_is_made_up_for() {
    let stage = Stage::set().await;
    let account = stage.account().await;
    let job = post(&account, 1);
    let before = data(&account.session, "null");
    stage.redis().put("delayed", &job, now() + HOUR, &before).await;
    let daemon = stage.daemon(&[]).await;
    let held = stage.pds.hold();
    let body = format!(r#"{{"accountId":"{}"}}"#, account.id);
    assert_eq!(daemon.post("/api/admin/refresh-tokens", &body).await.0, 200);
    let is_called = async || stage.pds.calls(&account.session.did) == 1;
    eventually("the call is under way", PATIENCE, is_called).await;
    // From here on nothing can be written to Redis.
    let _ok: String = stage.redis().run(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    drop(held);
    eventually("the new pair is stored", PATIENCE, async || {
        stage.stored(&account).await.refresh != account.session.refresh
    })
    .await;
    daemon.kill().await;
    let _ok: String = stage.redis().run(&["CLIENT", "UNPAUSE"]).await;
    assert_eq!(stage.redis().data(&job).await, Some(before), "it was killed in between");
    // Nor does the job that was under way lead there.
    let ours: Vec<String> = stage.redis().run(&["KEYS", "{refreshd:*"]).await;
    let gone: usize =
        stage.redis().link().query(redis::cmd("DEL").arg(&ours)).await.expect("a wipe");
    assert!(gone > 0);

    let _daemon = stage.daemon(&[]).await;
    let stored = stage.stored(&account).await;
    stage.becomes(&job, &data(&stored, &iso(expiry(&stored)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_were_cut_off_before_they_were_read_are_made_up_for() {
    let stage = Stage::set().await;
    let account = stage.account().await;
    let daemon = stage.daemon(&[]).await;
    assert_eq!(daemon.refresh(&account.id).await["outcome"], "refreshed");
    let stored = stage.stored(&account).await;
    let current = data(&stored, &iso(expiry(&stored)));
    stage.redis().schedule(&post(&account, 1), now() + HOUR, &data(&account.session, "null")).await;
    stage.becomes(&post(&account, 1), &current).await;

    daemon.signal("STOP");
    stage.redis().schedule(&post(&account, 2), now() + HOUR, &data(&account.session, "null")).await;
    stage.redis().tell(&["event", "drained"]).await;
    let _cut: i64 = stage.redis().run(&["XTRIM", "bull:posts:events", "MAXLEN", "1"]).await;
    daemon.signal("CONT");
    daemon.log().wait(|line| line["event"] == "posts.fell_off").await;
    stage.becomes(&post(&account, 2), &current).await;
    // And it is listened to again.
    stage.redis().schedule(&post(&account, 3), now() + HOUR, &data(&account.session, "null")).await;
    stage.becomes(&post(&account, 3), &current).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wipe_of_redis_is_survived() {
    let stage = Stage::set().await;
    let account = stage.account().await;
    let old = data(&account.session, "null");
    stage.redis().schedule(&post(&account, 1), now() + HOUR, &old).await;
    let daemon = stage.daemon(&[]).await;
    assert_eq!(daemon.refresh(&account.id).await["outcome"], "refreshed");
    let stored = stage.stored(&account).await;
    stage.becomes(&post(&account, 1), &data(&stored, &iso(expiry(&stored)))).await;
    let _ok: String = stage.redis().run(&["FLUSHALL"]).await;
    daemon.log().wait(|line| line["event"] == "posts.fell_off").await;
    stage.redis().schedule(&post(&account, 2), now() + HOUR, &old).await;
    stage.becomes(&post(&account, 2), &data(&stored, &iso(expiry(&stored)))).await;
    assert_eq!(stage.redis().data(&post(&account, 1)).await, None, "what is gone stays gone");
    assert_eq!(daemon.refresh(&account.id).await["outcome"], "refreshed");
    let stored = stage.stored(&account).await;
    stage.becomes(&post(&account, 2), &data(&stored, &iso(expiry(&stored)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_empty_is_listened_to() {
    let mut stage = Stage::set().await;
    let account = stage.account().await;
    let daemon = stage.daemon(&[]).await;
    assert_eq!(daemon.refresh(&account.id).await["outcome"], "refreshed");
    let stored = stage.stored(&account).await;
    stage.world.redis.kill();
    daemon.log().wait(|line| line["event"] == "redis.down").await;
    stage.world.redis.restart().await;
    stage.redis().schedule(&post(&account, 1), now() + HOUR, &data(&account.session, "null")).await;
    stage.becomes(&post(&account, 1), &data(&stored, &iso(expiry(&stored)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switched_off_it_touches_nothing() {
    let stage = Stage::set().await;
    let account = stage.account().await;
    let old = data(&account.session, "null");
    stage.redis().put("wait", &post(&account, 1), 0, &old).await;
    let off = [("BULLMQ_POST_QUEUES", "off")];
    let daemon = stage.world.daemon(stage.pds.url().as_str(), &off).await;
    assert_eq!(daemon.refresh(&account.id).await["outcome"], "refreshed");
    assert!(daemon.stop().await.success());
    assert_eq!(stage.redis().data(&post(&account, 1)).await, Some(old));
}
