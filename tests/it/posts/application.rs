//! The application itself, with both versions of BullMQ and of the SDK: a post that was scheduled
//! before a refresh is sent after it.

use serde_json::{Value, json};

use super::*;
use crate::harness::app::App;

const BULLMQ: [&str; 2] = ["5", "newest"];

/// An SDK, and where the job carries its tokens.
const WAYS: [(&str, &str); 2] = [("0.15.23", "originalData"), ("newest", "direct")];

/// The queue of each of those.
const QUEUES: &str = "5-0.15.23,5-newest,newest-0.15.23,newest-newest";

/// Longer than a spent token's grace, and than an access token's life.
const LATER: Duration = Duration::from_hours(3);

/// Has posts scheduled in every way and their accounts refreshed, and sends them hours later.
/// `copied` waits for what is to become of a job's data. Answers each post's first attempt.
async fn sent(queues: &str, copied: impl AsyncFn(&Stage, &str, &Account)) -> Vec<Value> {
    let stage = Stage::set().await;
    let service = stage.pds.url().to_string();
    let daemon = stage.world.daemon(&service, &[("BULLMQ_POST_QUEUES", queues)]).await;
    let mut first_attempts = Vec::new();
    for bullmq in BULLMQ {
        let app = App::start(&stage.world, &service, &["--bullmq", bullmq]).await;
        let mut jobs = Vec::new();
        for (sdk, shape) in WAYS {
            let (account, queue) = (stage.account().await, format!("{bullmq}-{sdk}"));
            let job = planned(&app, &account, shape, &queue).await;
            assert_eq!(daemon.refresh(&account.id).await["outcome"], "refreshed");
            copied(&stage, &format!("bull:{queue}:{job}"), &account).await;
            jobs.push((job, sdk, queue));
        }
        stage.pds.advance(LATER);
        for (job, sdk, queue) in &jobs {
            let how = json!({"do": "work", "sdk": sdk, "post": "getSession", "queue": queue});
            app.ask(how).await;
            first_attempts.push(attempt(&app, job).await);
        }
    }
    first_attempts
}

/// Schedules a post and answers its job.
async fn planned(app: &App, account: &Account, shape: &str, queue: &str) -> String {
    let post = json!({"do": "schedule", "accountId": account.id, "delayMs": 1_000,
                      "shape": shape, "queue": queue});
    app.ask(post).await["job"].as_str().expect("a name").to_owned()
}

/// The first attempt to send a post.
async fn attempt(app: &App, job: &str) -> Value {
    app.log().wait(|line| line["event"] == "post" && line["job"] == job).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_that_was_scheduled_before_a_refresh_is_sent_after_it() {
    let synced = async |stage: &Stage, key: &str, account: &Account| {
        let stored = stage.stored(account).await;
        eventually("the job carries the new pair", PATIENCE, async || {
            let data: String = stage.redis().run(&["HGET", key, "data"]).await;
            data.contains(&stored.access) && data.contains(&stored.refresh)
        })
        .await;
    };
    for post in sent(QUEUES, synced).await {
        assert_eq!(post["ok"], true, "{post}");
    }
}

/// What the other test is worth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_that_it_fails() {
    for post in sent("off", async |_, _, _| {}).await {
        assert_eq!(post["ok"], false, "{post}");
    }
}

/// The three lines of docs/postmore.md: nothing has to be kept up to date, and nothing is spent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_reads_its_tokens_needs_no_copies() {
    let stage = Stage::set().await;
    let service = stage.pds.url().to_string();
    let daemon = stage.world.daemon(&service, &[("BULLMQ_POST_QUEUES", "off")]).await;
    let app = App::start(&stage.world, &service, &[]).await;
    for (sdk, shape) in WAYS {
        let account = stage.account().await;
        let job = planned(&app, &account, shape, sdk).await;
        stage.pds.advance(LATER);
        // As it is kept fresh.
        assert_eq!(daemon.refresh(&account.id).await["outcome"], "refreshed");
        let how =
            json!({"do": "work", "sdk": sdk, "post": "getSession", "queue": sdk, "reads": true});
        app.ask(how).await;
        let post = attempt(&app, &job).await;
        assert_eq!(
            (&post["ok"], &post["calls"]),
            (&json!(true), &json!(["getSession 200"])),
            "{post}"
        );
    }
}
