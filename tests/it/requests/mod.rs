//! The application's own requests for refreshes, over its BullMQ queue.

mod adopt;
mod application;
mod crash;
mod odd;
mod others;
mod queue;

use std::collections::BTreeMap;

use mongodb::bson::doc;
use serde_json::{Value, json};

use crate::harness::app::App;
use crate::harness::daemon::Daemon;
use crate::harness::scripted_pds::{Options, ScriptedPds, Session};
use crate::harness::world::{World, login};
use crate::harness::{PATIENCE, eventually};

/// BullMQ as the application has it, and the newest.
const BULLMQ: [&str; 2] = ["5", "newest"];

const QUEUE: &str = "token-refreshes";

/// The queue of whoever serves the other platforms.
const OTHER: &str = "other-refreshes";

const SERVED: (&str, &str) = ("BULLMQ_REFRESH_QUEUE", QUEUE);

const WITH_OTHER: [(&str, &str); 2] = [SERVED, ("BULLMQ_OTHER_QUEUE", OTHER)];

/// An account's id that nobody has.
const NOBODY: &str = "6806a8c4302c4281518c95b2";

/// The servers that all of it takes.
struct Stage {
    world: World,
    pds: ScriptedPds,
}

impl Stage {
    async fn set() -> Self {
        let (world, pds) = tokio::join!(World::start(), ScriptedPds::start(Options::default()));
        Self { world, pds }
    }

    async fn daemon(&self, more: &[(&str, &str)]) -> Daemon {
        self.world.daemon(self.pds.url().as_str(), more).await
    }

    async fn app(&self, bullmq: &str) -> App {
        App::start(&self.world, self.pds.url().as_str(), &["--bullmq", bullmq]).await
    }

    async fn account(&self) -> (String, Session) {
        let session = self.pds.create(1).pop().expect("one");
        let Session { did, handle, access, refresh } = &session;
        (self.world.log_in(did, handle, access, refresh).await, session)
    }

    /// An account of another platform.
    async fn foreign(&self, platform: &str) -> String {
        self.with(doc! { "platform": platform }).await
    }

    /// An account whose document differs from a login's from its first moment on: the daemon never saw the login.
    async fn with(&self, fields: mongodb::bson::Document) -> String {
        let mut document = login("did:none", "somebody", "a", "b");
        document.extend(fields);
        let id = document.get_object_id("_id").expect("an id").to_hex();
        self.world.accounts().insert_one(document).await.expect("an insert");
        id
    }

    /// The runs that stand in MongoDB.
    async fn runs(&self) -> u64 {
        let runs = self.world.database().collection::<mongodb::bson::Document>("refresh_runs");
        runs.count_documents(doc! {}).await.expect("a count")
    }

    async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        self.world.redis.link().query(&command).await.expect("an answer")
    }

    /// A job's fields.
    async fn job(&self, queue: &str, id: &str) -> BTreeMap<String, String> {
        self.ask(&["HGETALL", &format!("bull:{queue}:{id}")]).await
    }

    /// Waits until a queue has nothing left to do.
    async fn done(&self, queue: &str) {
        eventually(&format!("{queue} is empty"), PATIENCE, async || {
            let mut left = 0;
            for (command, name) in
                [("LLEN", "wait"), ("LLEN", "active"), ("ZCARD", "delayed"), ("LLEN", "paused")]
            {
                left += self.ask::<u64>(&[command, &format!("bull:{queue}:{name}")]).await;
            }
            left == 0
        })
        .await;
    }
}

/// What the metric says of one outcome.
async fn counted(daemon: &Daemon, outcome: &str) -> u64 {
    let line = format!("refreshd_bullmq_jobs_total{{outcome=\"{outcome}\"}} ");
    let metrics = daemon.text("/metrics").await;
    let found = metrics.lines().find_map(|it| it.strip_prefix(&line));
    found.unwrap_or_else(|| panic!("{line}: {metrics}")).parse().expect("a count")
}

/// What the button does, and what came of it.
async fn press(app: &App, account: &str, platform: Value) -> Value {
    app.ask(json!({"do": "refresh", "accountId": account, "platform": platform, "wait": true}))
        .await
}
