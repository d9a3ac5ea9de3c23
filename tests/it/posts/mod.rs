//! Queued posts of the application's are given the tokens that their accounts have by now.

mod application;
mod copies;
mod instances;
mod margins;
mod month;
mod queues;
mod scale;
mod trouble;

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use futures::TryStreamExt as _;
use mongodb::bson::{Document, doc};
use refreshd::clock::Clock;
use refreshd::domain::session::AccessJwt;

use crate::harness::daemon::Daemon;
use crate::harness::redis::RedisServer;
use crate::harness::scripted_pds::{Options, ScriptedPds, Session};
use crate::harness::world::{World, text};
use crate::harness::{PATIENCE, eventually};

const USER: &str = "6806a8c4302c4281518c95b1";

/// The states in which a job can wait.
const STATES: [&str; 5] = ["delayed", "wait", "prioritized", "paused", "active"];

const HOUR: u64 = 3_600_000;

/// The servers, and the application's queue `posts`.
struct Stage {
    world: World,
    pds: ScriptedPds,
}

/// An account that the application has logged in.
struct Account {
    id: String,
    session: Session,
}

impl Stage {
    async fn set() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let (world, pds) = tokio::join!(World::start(), ScriptedPds::start(options));
        Self { world, pds }
    }

    /// A daemon that has looked at all queues.
    async fn daemon(&self, more: &[(&str, &str)]) -> Daemon {
        let daemon = self.world.daemon(self.pds.url().as_str(), more).await;
        daemon.log().wait(|line| line["event"] == "posts.indexed").await;
        daemon
    }

    async fn account(&self) -> Account {
        let session = self.pds.create(1).pop().expect("one");
        let Session { did, handle, access, refresh } = &session;
        let id = self.world.log_in(did, handle, access, refresh).await;
        Account { id, session }
    }

    /// All accounts, each with the pair that its document holds.
    async fn accounts(&self) -> Vec<Account> {
        let all: Vec<Document> = self
            .world
            .accounts()
            .find(doc! {})
            .await
            .expect("a read")
            .try_collect()
            .await
            .expect("all");
        let owned = |document: &Document, path: &str| text(document, path).to_owned();
        let account = |document: &Document| Account {
            id: document.get_object_id("_id").expect("an id").to_hex(),
            session: Session {
                did: owned(document, "platformAccountId"),
                handle: owned(document, "platformUsername"),
                access: owned(document, "accessToken"),
                refresh: owned(document, "refreshToken"),
            },
        };
        all.iter().map(account).collect()
    }

    /// The pair that an account's document holds.
    async fn stored(&self, account: &Account) -> Session {
        let document = self.world.account(&account.id).await;
        Session {
            access: text(&document, "accessToken").to_owned(),
            refresh: text(&document, "refreshToken").to_owned(),
            ..account.session.clone()
        }
    }

    fn redis(&self) -> &RedisServer {
        &self.world.redis
    }

    /// Waits until a job's data is so.
    async fn becomes(&self, job: &str, expected: &str) {
        eventually(&format!("{job} is up to date"), PATIENCE, async || {
            self.redis().data(job).await.as_deref() == Some(expected)
        })
        .await;
    }

    /// What the metric says of one outcome.
    async fn counted(daemon: &Daemon, outcome: &str) -> u64 {
        let line = format!("refreshd_post_syncs_total{{outcome=\"{outcome}\"}} ");
        let metrics = daemon.text("/metrics").await;
        let found = metrics.lines().find_map(|it| it.strip_prefix(&line));
        found.unwrap_or_else(|| panic!("{line}: {metrics}")).parse().expect("a count")
    }
}

fn now() -> u64 {
    u64::try_from(Clock::system().now().timestamp_millis()).expect("after 1970")
}

fn post(account: &Account, number: u64) -> String {
    format!("post-{USER}-{}-{number}", account.id)
}

fn expiry(session: &Session) -> DateTime<Utc> {
    AccessJwt::parse(&session.access).expect("a token").expires_at()
}

fn iso(at: DateTime<Utc>) -> String {
    format!("\"{}\"", at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// A job's data as the application writes it, with what JSON parsers like to change.
fn data(session: &Session, expiry: &str) -> String {
    let Session { did, access, refresh, .. } = session;
    format!(
        r#"{{"content":{{"text":"caf\u00e9","media":[],"big":9007199254740993}},"account":{{"id":"x","originalData":{{"platformAccountId":"{did}","accessToken":"{access}","refreshToken":"{refresh}","tokenExpiry":{expiry},"scope":"atproto"}}}},"empty":{{}}, "x":1.0}}"#
    )
}

/// The same with the pair on the account itself.
fn flat(session: &Session) -> String {
    let Session { access, refresh, .. } = session;
    format!(r#"{{"account":{{"refreshToken":"{refresh}", "accessToken" : "{access}"}}}}"#)
}

/// BullMQ's keys of the queue `posts`, written by hand as BullMQ writes them.
impl RedisServer {
    async fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        self.link().query(&command).await.expect("an answer")
    }

    /// A job in a state, without an event.
    async fn put(&self, state: &str, id: &str, due: u64, data: &str) {
        let mut pipeline = redis::pipe();
        let hash = format!("bull:posts:{id}");
        pipeline.cmd("HSET").arg(&hash).arg(&["name", "process-post", "data", data, "opts", "{}"]);
        let key = format!("bull:posts:{state}");
        match state {
            "delayed" => pipeline.cmd("ZADD").arg(key).arg(due * 4_096).arg(id),
            "prioritized" => pipeline.cmd("ZADD").arg(key).arg(4_294_967_297_u64).arg(id),
            _ => pipeline.cmd("LPUSH").arg(key).arg(id),
        };
        pipeline.cmd("HSET").arg("bull:posts:meta").arg(&["version", "bullmq:5.56.1"]);
        let _done: redis::Value = self.link().pipe(&pipeline).await.expect("it is put");
    }

    /// A delayed job, told of.
    async fn schedule(&self, id: &str, due: u64, data: &str) {
        self.put("delayed", id, due, data).await;
        self.tell(&["event", "added", "jobId", id, "name", "process-post"]).await;
        self.tell(&["event", "delayed", "jobId", id, "delay", &due.to_string()]).await;
    }

    async fn tell(&self, event: &[&str]) {
        let mut words = vec!["XADD", "bull:posts:events", "MAXLEN", "~", "10000", "*"];
        words.extend(event);
        let _id: String = self.run(&words).await;
    }

    async fn data(&self, id: &str) -> Option<String> {
        self.run(&["HGET", &format!("bull:posts:{id}"), "data"]).await
    }
}

/// Long enough for what does not wait for anything.
const SOON: Duration = Duration::from_secs(10);
