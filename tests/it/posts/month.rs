//! A month of scheduled posts, compressed: accounts are refreshed again and again while their posts
//! wait, and the daemon is killed now and then. What becomes of the posts, with the copies kept up
//! to date and without?
//!
//! One application posts from the copy. Another spends the account's refresh token with every post
//! and drops what it gets for it. That the account outlives this rests on one rule of the server's:
//! a spent token that is asked again within its grace leads to the same next link, which is whole as
//! long as nobody has spent *that*. So the daemon is to come within one grace of the post, which it
//! does: it comes every three quarters of a life. **No daemon could save an account whose application
//! spends two links with a post** (the newest SDK, which refreshes as it resumes, and then once more)
//! unless it came twice within that grace: the link that it is led to then was spent with the post,
//! has only the rest of its grace to live, and looks like any other.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::*;
use crate::harness::app::App;
use crate::harness::fleet::Fleet;
use crate::harness::{LOUD, is_long};

/// BullMQ, the queue, and what becomes of the token: the two applications, with half of the accounts
/// each.
const APPLICATIONS: [(&str, &str, &str); 2] =
    [("5", "posts", "as-sdk"), ("newest", "forgotten", "and-forget")];

/// Attempts that the application gives a post.
const ATTEMPTS: u64 = 3;

const POSTS_EACH: usize = 4;

/// How much of everything there is.
#[derive(Clone, Copy)]
struct Size {
    accounts: usize,
    kills: usize,
    /// Of an access token, and of a spent token's grace.
    life: Duration,
    month: Duration,
}

impl Size {
    fn get() -> Self {
        let size = |accounts, kills, life, month| Self {
            accounts,
            kills,
            life: Duration::from_secs(life),
            month: Duration::from_secs(month),
        };
        if is_long() { size(500, 12, 60, 600) } else { size(100, 4, 24, 84) }
    }

    fn posts(self) -> usize {
        self.accounts * POSTS_EACH
    }
}

/// What came of it. Some is for the log alone.
#[derive(Debug)]
#[expect(dead_code, reason = "printed")]
struct End {
    sent: usize,
    lost: usize,
    /// Attempts that failed, also of posts that were sent later.
    failed_attempts: usize,
    /// Attempts with a copy whose access token had ended: the SDK refreshed it, or could not.
    expired_copies: usize,
    /// Accounts whose stored token is worth nothing any more.
    dead: usize,
}

/// The month, with these queues looked after.
async fn after_a_month(queues: &str, size: Size) -> End {
    let Size { life, .. } = size;
    let options = Options { access_life: life, grace: life, ..Options::default() };
    let stage = Stage::with(options).await;
    let _fleet = Fleet::of(&stage.world, &stage.pds, size.accounts).await;
    let accounts = stage.accounts().await;
    let folder = TempDir::new().expect("a folder");
    let mut settings = stage.world.settings(stage.pds.url().as_str());
    for (name, value) in [
        ("KEEP_FRESH", "true"),
        ("BULLMQ_POST_QUEUES", queues),
        ("STATE_DIR", folder.path().to_str().expect("a path that is a text")),
    ] {
        settings.push((name.to_owned(), value.to_owned()));
    }
    let mut daemon = Daemon::start_release(&settings).await;
    let halves = accounts.chunks(size.accounts / APPLICATIONS.len());
    let mut apps = Vec::new();
    for (half, application) in halves.zip(APPLICATIONS) {
        apps.push(schedule(&stage, half, application, size).await);
    }

    let seed: u64 = rand::random();
    println!("{queues}: seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for kill in 1..=size.kills {
        let after = (size.posts() * kill - random.random_range(0..size.accounts)) / size.kills;
        eventually("posts are sent", size.month + PATIENCE, async || ended(&apps) >= after).await;
        // In the middle of a refresh, most likely.
        let calls = stage.pds.total_calls();
        eventually("a call is made", life, async || stage.pds.total_calls() > calls).await;
        daemon.kill().await;
        daemon = Daemon::start_release(&settings).await;
    }
    let all = async || ended(&apps) == size.posts();
    eventually("every post has ended", size.month + PATIENCE, all).await;
    let dead = dead(&stage, life * 2).await;
    let count = |which: fn(&Value) -> bool| apps.iter().map(|app| app.log().count(which)).sum();
    End {
        sent: count(|line| line["event"] == "post" && line["ok"] == true),
        lost: count(is_lost),
        failed_attempts: count(|line| line["event"] == "post" && line["ok"] == false),
        expired_copies: count(|line| {
            line["event"] == "post" && line["calls"][0] == "getSession 400"
        }),
        dead,
    }
}

/// Has posts scheduled, which all carry the tokens of this day, and begins to work them off. None is
/// due within the first life of these tokens: it would need nobody.
async fn schedule(
    stage: &Stage,
    accounts: &[Account],
    (bullmq, queue, rotate): (&str, &str, &str),
    size: Size,
) -> App {
    let app = App::start(&stage.world, stage.pds.url().as_str(), &["--bullmq", bullmq]).await;
    let count = u32::try_from(accounts.len() * POSTS_EACH).expect("a small number");
    let step = size.month.saturating_sub(size.life) / count;
    let posts: Vec<_> = (0..count)
        .zip(accounts.iter().cycle())
        .zip(["originalData", "direct"].iter().cycle())
        .map(|((number, account), shape)| {
            let delay = size.life + step * number;
            json!({"accountId": account.id, "delayMs": u64::try_from(delay.as_millis()).expect("short"),
                   "shape": shape, "queue": queue})
        })
        .collect();
    app.ask(json!({"do": "schedule", "posts": posts})).await;
    app.ask(json!({"do": "work", "queue": queue, "rotate": rotate, "post": "getSession",
                   "concurrency": 4, "marks": true}))
        .await;
    app
}

/// Posts that were sent, or given up.
fn ended(apps: &[App]) -> usize {
    let is_over = |line: &Value| line["event"] == "post" && (line["ok"] == true || is_lost(line));
    apps.iter().map(|app| app.log().count(is_over)).sum()
}

fn is_lost(line: &Value) -> bool {
    line["event"] == "post" && line["ok"] == false && line["attempt"] == ATTEMPTS
}

/// How many accounts do not come back to the end of their chains within the limit, by which every
/// grace is over.
async fn dead(stage: &Stage, limit: Duration) -> usize {
    let begun = Instant::now();
    loop {
        let accounts = stage.accounts().await;
        let is_dead = |account: &&Account| !stage.pds.is_current(&account.session.refresh);
        let dead = accounts.iter().filter(is_dead).count();
        if dead == 0 || begun.elapsed() > limit {
            return dead;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn over_a_month_every_post_is_sent_and_no_account_dies() {
    let _alone = LOUD.lock().await;
    let size = Size::get();
    let (with, without) =
        tokio::join!(after_a_month("posts,forgotten", size), after_a_month("off", size));
    println!(
        "{} accounts, {} posts, {} kills, tokens and grace of {:?}, a month of {:?}:\n\
         with the sync: {with:?}\nwithout it: {without:?}",
        size.accounts,
        size.posts(),
        size.kills,
        size.life,
        size.month,
    );
    assert_eq!((with.sent, with.lost, with.dead), (size.posts(), 0, 0), "{with:?}");
    assert_eq!(with.failed_attempts, 0, "at the first attempt: {with:?}");
    assert!(without.lost > size.posts() / 2, "{without:?}");
}
