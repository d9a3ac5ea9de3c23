//! The admin API and the health checks, over real connections, Redis and MongoDB.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use mongodb::bson::doc;
use refreshd::clock::Clock;
use refreshd::domain::forecast::{Fleet, Shortage, shortage};
use refreshd::domain::outcome::{Outcome, Trigger};
use refreshd::domain::renewal::Lead;
use refreshd::domain::run::RunId;
use refreshd::events::{PostSyncs, RequestCounts};
use refreshd::http::{Api, router, serve};
use refreshd::journal::Journal;
use refreshd::link::Link;
use refreshd::queue::{Finished, Instance, Job, Keys, Queue};
use refreshd::store::{Counts, Failure, Store, StoreConfig};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::harness::http::plain;
use super::harness::scripted_pds::{Options, ScriptedPds};
use super::harness::world::World;
use super::harness::{PATIENCE, arrival, eventually};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const NOBODY: &str = "6806a8c4302c4281518c95b2";

/// An API in this process, over servers of its own.
struct Stage {
    world: World,
    store: Store,
    queue: Queue,
    /// What the journal's writer says of the disk.
    journal: watch::Sender<Result<(), String>>,
    shortages: watch::Sender<Vec<Shortage>>,
    clock: Clock,
    url: String,
    client: reqwest::Client,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What came back.
struct Reply {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl Stage {
    async fn set(token: Option<&str>) -> Self {
        let world = World::start().await;
        let config = StoreConfig {
            uri: world.mongo.uri().into(),
            database: "app".to_owned(),
            collection: "socialaccounts".to_owned(),
        };
        let store = Store::connect(&config).await.unwrap();
        store.ensure_indexes().await.unwrap();
        let link: Link = world.redis.link();
        let instance = Instance { name: "i".to_owned(), egress_id: "here".to_owned() };
        let queue = Queue::new(link.clone(), Keys::new("t", "app", "socialaccounts"), instance, 4);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(link.clone().keep(stop.clone()));
        let clock = Clock::manual("2026-11-22T00:00:00Z".parse().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (journal, journal_health) = watch::channel(Ok(()));
        let (shortages, known_shortages) = watch::channel(Vec::new());
        let api = Api {
            store: store.clone(),
            queue: queue.clone(),
            link,
            shortages: known_shortages,
            served: RequestCounts::default(),
            syncs: PostSyncs::default(),
            journal: Journal::off(),
            journal_health,
            clock: clock.clone(),
            token: token.map(Into::into),
        };
        tasks.spawn(serve(listener, router(api), stop.clone()));
        let client = plain();
        Self { world, store, queue, journal, shortages, clock, url, client, stop, tasks }
    }

    async fn send(&self, request: RequestBuilder) -> Reply {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"));
        assert_eq!(headers["content-type"], "application/json", "{text}");
        Reply { status, headers, body }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path).bearer_auth(TOKEN)).await
    }

    async fn post(&self, body: impl Into<reqwest::Body>) -> Reply {
        let request = self.request(Method::POST, "/api/admin/refresh-tokens").bearer_auth(TOKEN);
        self.send(request.header("content-type", "application/json").body(body)).await
    }

    async fn account(&self) -> String {
        let session = ScriptedPds::start(Options::default()).await.create(1).remove(0);
        self.world.log_in(&session.did, &session.handle, &session.access, &session.refresh).await
    }

    /// Workers that end every job so, and show it.
    fn work(&self, outcome: Outcome) -> mpsc::UnboundedReceiver<Job> {
        let (seen, jobs) = mpsc::unbounded_channel();
        let handler = move |job: Job, _slot| {
            seen.send(job).unwrap();
            let detail = r#"{"handle":"alice.test","error":null,"held":false}"#.to_owned();
            async move { Finished { outcome, detail } }
        };
        let (queue, tasks, stop) = (self.queue.clone(), self.tasks.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            queue.run(handler, &tasks, stop, Duration::from_secs(1)).await.unwrap();
        });
        jobs
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.expect("everything ends");
    }
}

fn error(code: &str, message: &str) -> Value {
    json!({ "success": false, "error": code, "message": message })
}

fn text<'a>(body: &'a Value, field: &str) -> &'a str {
    body[field].as_str().unwrap_or_else(|| panic!("no {field} in {body}"))
}

#[tokio::test]
async fn health_needs_no_token_and_the_rest_says_how_to_set_one() {
    let mut stage = Stage::set(None).await;
    let alive = stage.send(stage.request(Method::GET, "/healthz")).await;
    assert_eq!((alive.status, alive.body), (200, json!({ "status": "ok" })));

    let ready = async |stage: &Stage| stage.send(stage.request(Method::GET, "/readyz")).await;
    let starting = ready(&stage).await;
    assert_eq!(starting.status, 503);
    assert_eq!(starting.body["ready"], false);
    assert_eq!(text(&starting.body, "workers"), "the workers have not started yet");

    let _jobs = stage.work(Outcome::Refreshed);
    let up = json!({
        "ready": true, "redis": "up", "mongo": "up", "journal": "up", "workers": "up",
        "capacity": "enough",
    });
    eventually("ready", PATIENCE, async || ready(&stage).await.body == up).await;

    let service = "https://pds.example".parse().unwrap();
    let fleet = Fleet { service, active: 100_000, life: Duration::from_hours(2) };
    let short = shortage(&fleet, Lead::Share(0.25), 8.0, 1).unwrap();
    stage.shortages.send(vec![short.clone()]).unwrap();
    let short_of = ready(&stage).await;
    assert_eq!((short_of.status, text(&short_of.body, "capacity")), (200, &*short.sentence()));
    let metrics = stage.request(Method::GET, "/metrics").send().await.unwrap();
    insta::assert_snapshot!(metrics.text().await.unwrap());

    stage.journal.send(Err("the disk is full".to_owned())).unwrap();
    let full = ready(&stage).await;
    assert_eq!((full.status, text(&full.body, "journal")), (503, "the disk is full"));
    stage.journal.send(Ok(())).unwrap();

    for path in ["/api/admin/runs", "/api/admin/jobs/x"] {
        let off = stage.get(path).await;
        let message =
            "The admin API is off: set ADMIN_TOKEN (at least 32 characters) and restart refreshd";
        assert_eq!((off.status, off.body), (503, error("ADMIN_DISABLED", message)), "{path}");
    }

    stage.world.redis.kill();
    let without = arrival("Redis is missed", PATIENCE, async || {
        let reply = ready(&stage).await;
        (reply.body["redis"] != "up").then_some(reply)
    })
    .await;
    assert_eq!(without.status, 503);
    assert!(text(&without.body, "redis").starts_with("redis at 127.0.0.1:"), "{}", without.body);
    assert_eq!(without.body["mongo"], "up");
    stage.world.redis.restart().await;
    stage.world.mongo.kill();
    let without = arrival("MongoDB is missed", PATIENCE, async || {
        let reply = ready(&stage).await;
        (reply.body["mongo"] != "up").then_some(reply)
    })
    .await;
    assert_eq!((without.status, &without.body["ready"]), (503, &json!(false)));
}

#[tokio::test]
async fn nobody_gets_in_without_the_token() {
    let stage = Stage::set(Some(TOKEN)).await;
    let path = "/api/admin/refresh-tokens";
    let post =
        || stage.request(Method::POST, path).header("content-type", "application/json").body("{}");
    let missing = stage.send(post()).await;
    let wrong = stage.send(post().bearer_auth("0123456789abcdef0123456789abcdeF")).await;
    let basic = stage.send(post().basic_auth("admin", Some(TOKEN))).await;
    let page = stage.send(stage.request(Method::GET, "/api/admin/runs")).await;
    for reply in [&wrong, &basic, &page] {
        assert_eq!(reply.status, 401);
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
        assert_eq!(reply.body, missing.body, "which of them it was is not told");
    }
    assert_eq!(text(&missing.body, "error"), "UNAUTHORIZED");
    assert_eq!(stage.store.current_run().await.unwrap(), None, "nothing was asked for");
    stage.end().await;
}

#[tokio::test]
async fn a_refresh_of_all_accounts_is_a_run() {
    let stage = Stage::set(Some(TOKEN)).await;
    let asked = stage.post("{}").await;
    let id = text(&asked.body, "jobId").to_owned();
    let message = "Token refresh job scheduled for all accounts";
    assert_eq!(
        (asked.status, &asked.body),
        (200, &json!({ "success": true, "message": message, "jobId": id }))
    );
    assert_eq!(stage.post(" { } ").await.body["jobId"], *id, "one that waits is joined");

    let run: RunId = id.parse().unwrap();
    let midnight = "2026-11-22T00:00:00.000Z";
    let queued = json!({
        "success": true, "jobId": id, "id": id, "state": "queued", "trigger": "manual",
        "requestedAt": midnight, "cutOff": midnight, "startedAt": null, "endedAt": null,
        "jobs": 0, "succeeded": 0, "failed": 0, "leftOut": 0, "outcomes": {},
    });
    assert_eq!(stage.get(&format!("/api/admin/jobs/{id}")).await.body, queued);

    finish(&stage, &run).await;
    let done = json!({
        "success": true, "id": id, "state": "done", "trigger": "manual",
        "requestedAt": midnight, "cutOff": midnight, "startedAt": midnight,
        "endedAt": "2026-11-22T00:01:00.000Z",
        "jobs": 10, "succeeded": 8, "failed": 2, "leftOut": 3,
        "outcomes": { "refreshed": 7, "superseded": 1, "revoked": 2 },
        "failures": [{
            "account": NOBODY, "did": "did:plc:a", "handle": "a.test", "outcome": "revoked",
            "error": "ExpiredToken", "at": midnight,
        }],
    });
    assert_eq!(stage.get(&format!("/api/admin/runs/{id}")).await.body, done);
    stage.end().await;
}

async fn finish(stage: &Stage, run: &RunId) {
    let now = stage.clock.now();
    assert!(stage.store.start_run(run, now).await.unwrap());
    let failure = Failure {
        account: NOBODY.parse().unwrap(),
        did: Some("did:plc:a".to_owned()),
        handle: Some("a.test".to_owned()),
        outcome: Outcome::Revoked,
        error: Some("ExpiredToken".to_owned()),
        at: now,
    };
    stage.store.record_failures(run, &[failure]).await.unwrap();
    let outcomes = [(Outcome::Refreshed, 7), (Outcome::Superseded, 1), (Outcome::Revoked, 2)];
    let counts = Counts { jobs: 10, fresh: 3, outcomes: BTreeMap::from(outcomes) };
    assert!(stage.store.finish_run(run, now + TimeDelta::minutes(1), &counts).await.unwrap());
}

#[tokio::test]
async fn runs_are_paged_newest_first() {
    let stage = Stage::set(Some(TOKEN)).await;
    let empty = stage.get("/api/admin/runs").await;
    assert_eq!(
        (empty.status, empty.body),
        (200, json!({ "success": true, "runs": [], "next": null }))
    );
    let mut ids = Vec::new();
    for minute in 0..3 {
        let now: DateTime<Utc> = stage.clock.now() + TimeDelta::minutes(minute);
        let run = stage.store.request_run(Trigger::Cli, now).await.unwrap();
        assert!(stage.store.start_run(&run.id, now).await.unwrap());
        assert!(stage.store.finish_run(&run.id, now, &Counts::default()).await.unwrap());
        ids.push(run.id.to_string());
    }
    let page = async |query: String| {
        let body = stage.get(&format!("/api/admin/runs?{query}")).await.body;
        let runs = body["runs"].as_array().unwrap().iter().map(|run| text(run, "id").to_owned());
        (runs.collect::<Vec<_>>(), body["next"].as_str().map(str::to_owned))
    };
    let (first, next) = page("limit=2".to_owned()).await;
    assert_eq!(first, [ids[2].clone(), ids[1].clone()]);
    let (second, end) = page(format!("limit=2&before={}", next.unwrap())).await;
    assert_eq!((second, end), (vec![ids[0].clone()], None));
    assert_eq!(page("limit=3".to_owned()).await.1, None, "a full last page has no next");
    stage.end().await;
}

#[tokio::test]
async fn one_account_is_a_job_that_can_be_followed() {
    let stage = Stage::set(Some(TOKEN)).await;
    let account = stage.account().await;
    let asked = stage.post(format!(r#"{{"accountId":"{account}"}}"#)).await;
    let job = text(&asked.body, "jobId").to_owned();
    let message = format!("Token refresh job scheduled for account {account}");
    assert_eq!(
        (asked.status, &asked.body),
        (200, &json!({ "success": true, "message": message, "jobId": job }))
    );
    let again = stage.post(format!(r#"{{"accountId":"{}"}}"#, account.to_uppercase())).await;
    assert_eq!(again.body["jobId"], *job, "it joins the job that waits");

    let path = format!("/api/admin/jobs/{job}");
    let queued = json!({ "success": true, "jobId": job, "account": account, "state": "queued", "lane": "manual" });
    assert_eq!(stage.get(&path).await.body, queued);

    let mut jobs = stage.work(Outcome::Revoked);
    let delivered = jobs.recv().await.unwrap();
    assert_eq!((delivered.id.as_str(), delivered.trigger), (job.as_str(), Trigger::Manual));
    assert!(delivered.generation.is_some(), "the token that was seen is named");
    let mut done = arrival("the job is done", PATIENCE, async || {
        let body = stage.get(&path).await.body;
        (body["state"] == "done").then_some(body)
    })
    .await;
    let ended: DateTime<Utc> = text(&done, "endedAt").parse().unwrap();
    assert!(ended.timestamp() > 1_700_000_000, "by Redis's clock");
    done["endedAt"] = Value::Null;
    let expected = json!({
        "success": true, "jobId": job, "account": account, "state": "done", "outcome": "revoked",
        "succeeded": false, "endedAt": null, "handle": "alice.test", "error": null, "held": false,
    });
    assert_eq!(done, expected);
    stage.end().await;
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let stage = Stage::set(Some(TOKEN)).await;
    let (gone, foreign) = (stage.account().await, stage.account().await);
    stage.world.set(&gone, doc! { "status": "inactive", "refreshToken": null }).await;
    stage.world.set(&foreign, doc! { "platform": "tiktok" }).await;
    for (body, status, says) in [
        (String::new(), 400, "empty"),
        ("{".to_owned(), 400, "not JSON"),
        ("[]".to_owned(), 400, "not a JSON object"),
        (r#"{"all":true}"#.to_owned(), 400, "unknown field \"all\""),
        (r#"{"accountId":7}"#.to_owned(), 400, "not a text"),
        (r#"{"accountId":"alice"}"#.to_owned(), 400, "24 hexadecimal digits"),
        (format!(r#"{{"accountId":"{NOBODY}"}}"#), 404, "There is no Bluesky account with the id"),
        (format!(r#"{{"accountId":"{foreign}"}}"#), 404, "There is no Bluesky account with the id"),
        (format!(r#"{{"accountId":"{gone}"}}"#), 409, "was disconnected by its owner"),
        (format!(r#"{{"accountId":"{}"}}"#, "a".repeat(70_000)), 413, "64 KiB"),
    ] {
        let reply = stage.post(body.clone()).await;
        assert_eq!(reply.status, status, "{body:.60}: {}", reply.body);
        assert_eq!(reply.body["success"], false);
        assert!(text(&reply.body, "message").contains(says), "{body:.60}: {}", reply.body);
    }
    let form = stage.request(Method::POST, "/api/admin/refresh-tokens").bearer_auth(TOKEN);
    let form = stage
        .send(form.header("content-type", "application/x-www-form-urlencoded").body("a=1"))
        .await;
    assert_eq!(form.status, 400);
    assert!(text(&form.body, "message").contains("application/json"));
    assert_eq!(stage.store.current_run().await.unwrap(), None, "nothing was asked for");
    stage.end().await;
}

#[tokio::test]
async fn bad_addresses_are_told_what_is_wrong() {
    let stage = Stage::set(Some(TOKEN)).await;
    for (path, status, code) in [
        ("/api/admin/jobs/run-000000000000000000000000", 404, "NOT_FOUND"),
        ("/api/admin/jobs/6806a8c4302c4281518c95b2-064448e1ce5c40", 404, "NOT_FOUND"),
        ("/api/admin/jobs/a%20b", 400, "BAD_REQUEST"),
        ("/api/admin/jobs/%FF", 400, "BAD_REQUEST"),
        ("/api/admin/runs/run-000000000000000000000000", 404, "NOT_FOUND"),
        ("/api/admin/runs/%7Bx", 400, "BAD_REQUEST"),
        ("/api/admin/runs?limit=0", 400, "BAD_REQUEST"),
        ("/api/admin/runs?limit=1&limit=2", 400, "BAD_REQUEST"),
        ("/api/admin/runs?page=2", 400, "BAD_REQUEST"),
        ("/api/admin/runs?before=a%20b", 400, "BAD_REQUEST"),
        ("/api/admin/refresh-tokens", 405, "METHOD_NOT_ALLOWED"),
        ("/api/admin/nothing", 404, "NOT_FOUND"),
        ("/nothing", 404, "NOT_FOUND"),
    ] {
        let reply = stage.get(path).await;
        assert_eq!(
            (reply.status, text(&reply.body, "error")),
            (status, code),
            "{path}: {}",
            reply.body
        );
    }
    let reply = stage.send(stage.request(Method::DELETE, "/healthz")).await;
    assert_eq!((reply.status, reply.headers["allow"].to_str().unwrap()), (405, "GET,HEAD"));
    let large = stage.request(Method::GET, "/healthz").header("x-large", "x".repeat(70_000));
    assert_eq!(stage.send(large).await.status, 431);
    stage.end().await;
}

#[tokio::test]
async fn without_redis_or_mongodb_it_says_which_is_missing() {
    let mut stage = Stage::set(Some(TOKEN)).await;
    let account = stage.account().await;
    let one = format!(r#"{{"accountId":"{account}"}}"#);
    stage.world.redis.kill();
    let reply = stage.post(one.clone()).await;
    assert_eq!((reply.status, text(&reply.body, "error")), (503, "REDIS_UNAVAILABLE"));
    let job = stage.get(&format!("/api/admin/jobs/{account}-064448e1ce5c40")).await;
    assert_eq!((job.status, text(&job.body, "error")), (503, "REDIS_UNAVAILABLE"));
    let run = stage.post("{}").await;
    assert_eq!(
        run.status, 200,
        "a run stands in MongoDB and begins when Redis is back: {}",
        run.body
    );

    stage.world.mongo.kill();
    for reply in [stage.post("{}").await, stage.post(one).await, stage.get("/api/admin/runs").await]
    {
        assert_eq!((reply.status, text(&reply.body, "error")), (503, "MONGO_UNAVAILABLE"));
    }
}

#[tokio::test]
async fn connections_that_are_merely_open_do_not_hold_up_the_end() {
    let stage = Stage::set(Some(TOKEN)).await;
    let address = stage.url.strip_prefix("http://").unwrap().to_owned();
    let mut idle = TcpStream::connect(&address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let mut half = TcpStream::connect(&address).await.unwrap();
    half.write_all(b"POST /api/admin/refresh-tokens HTTP/1.1\r\nhost: a\r\ncontent-le")
        .await
        .unwrap();
    let silent = TcpStream::connect(&address).await.unwrap();
    // Sooner than connections that do nothing are closed anyway.
    let ended = tokio::time::timeout(Duration::from_secs(15), stage.end()).await;
    assert!(ended.is_ok(), "an open connection held up the end");
    drop((idle, half, silent));
}
