//! An account with a queued post has enough of its access token's life left when that is due.

use super::*;

/// An access token's life here; a quarter of it is the margin.
const LIFE: Duration = Duration::from_secs(24);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_refreshed_before_its_post_would_find_too_little_left() {
    let stage = Stage::with(Options { access_life: LIFE, ..Options::default() }).await;
    let daemon = stage.daemon(&[]).await;
    let begun = now();
    let (short, long) = (stage.account().await, stage.account().await);
    let job = post(&short, 1);
    // Needs its token until six seconds after, which is two more than it lives.
    let due = begun + 20_000;
    stage.redis().schedule(&job, due, &data(&short.session, "null")).await;
    stage.redis().schedule(&post(&long, 1), begun + 14_000, &data(&long.session, "null")).await;
    let asked = |line: &serde_json::Value| {
        line["event"] == "refresh" && line["account"] == short.id.as_str()
    };
    let line = daemon.log().wait(asked).await;
    assert_eq!((&line["trigger"], &line["outcome"]), (&"keep_fresh".into(), &"refreshed".into()));
    let at = stage.pds.called_at(&short.session.did).expect("a call").timestamp_millis();
    let at = u64::try_from(at).expect("after 1970");
    assert!((due - 18_000..due).contains(&at), "{} ms before it is due", due - at);
    let stored = stage.stored(&short).await;
    stage.becomes(&job, &data(&stored, &iso(expiry(&stored)))).await;
    assert!(now() < due, "in time");
    assert_eq!(stage.pds.calls(&short.session.did), 1);
    assert_eq!(stage.pds.calls(&long.session.did), 0, "it has enough left");
}
