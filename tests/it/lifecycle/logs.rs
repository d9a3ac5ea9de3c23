//! What the log says of a session's whole life, and what it never says.

use mongodb::Client;
use mongodb::bson::doc;
use serde_json::{Value, json};

use super::{Stage, exit, with};
use crate::harness::daemon::{ADMIN_TOKEN, Daemon};
use crate::harness::mongo::{MongoServer, Topology};
use crate::harness::scripted_pds::{Fault, Options, ScriptedPds};
use crate::harness::world::{by_id, login, text};

/// The words that must never be said.
struct Secrets(Vec<String>);

impl Secrets {
    fn add(&mut self, secret: &str) {
        if !secret.is_empty() {
            self.0.push(secret.to_owned());
        }
    }

    /// Neither they, nor the signature or the claims of those that are tokens.
    fn assert_absent(&self, log: &str) {
        for secret in self.0.iter().flat_map(|it| it.split('.').skip(usize::from(it.contains('.'))))
        {
            let line = log.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "a secret was said: {secret}");
        }
        let lower = log.to_lowercase();
        assert!(!lower.contains("bearer "), "an Authorization header");
    }
}

#[tokio::test]
async fn one_line_for_a_refresh_with_its_keys_and_two_for_a_run() {
    let stage = Stage::set(2).await;
    let mut daemon = stage.daemon(&[]).await;
    let (first, second) = (&stage.members[0], &stage.members[1]);
    stage.pds.revoke(&second.session.did);
    let job = daemon.refresh(&first.id).await;
    daemon.refresh_all().await;
    daemon.signal("TERM");
    assert_eq!(exit(&mut daemon).await, Some(0));

    let lines = daemon.log().matching(|line| line["event"] == "refresh");
    assert_eq!(lines.len(), 3, "{}", daemon.log().text());
    let line = &lines[0];
    let expected = json!({
        "level": "INFO", "event": "refresh", "account": first.id, "did": first.session.did,
        "handle": first.session.handle, "trigger": "manual", "outcome": "refreshed",
        "service": stage.pds.url().to_string(), "attempt": 1, "job": job["jobId"],
    });
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&line[key], value, "{key} of {line}");
    }
    for key in ["timestamp", "message", "expires_at"] {
        assert!(line[key].as_str().is_some_and(|it| !it.is_empty()), "{key} of {line}");
    }
    assert!(line["duration_ms"].is_u64(), "{line}");
    let failed = lines.iter().find(|line| line["account"] == json!(second.id)).expect("its line");
    assert_eq!(failed["outcome"], "revoked");

    let runs = daemon.log().matching(|line| line["event"] == "run");
    assert_eq!(runs.len(), 2, "its start and its end: {}", daemon.log().text());
    assert!(daemon.log().matching(Value::is_string).is_empty(), "every line is JSON");
}

#[tokio::test]
async fn no_secret_is_ever_logged_however_much_is() {
    let mongo = MongoServer::start(Topology::WithLogins).await;
    let admin = Client::with_uri_str(mongo.uri()).await.expect("a client").database("admin");
    let user = doc! {"createUser": "app", "pwd": "mongo-sesame", "roles": ["root"]};
    admin.run_command(user).await.expect("a user");
    let uri = mongo.uri().replace("://", "://app:mongo-sesame@") + "app?authSource=admin";
    let accounts = Client::with_uri_str(&uri).await.expect("a client").database("app");
    let accounts = accounts.collection::<mongodb::bson::Document>("socialaccounts");
    let redis = crate::harness::redis::RedisServer::start().await;
    let mut require = redis::cmd("CONFIG");
    require.arg("SET").arg("requirepass").arg("redis-sesame");
    redis.link().query::<String>(&require).await.expect("a password");

    let pds = ScriptedPds::start(Options::default()).await;
    let mut secrets = Secrets(Vec::new());
    let mut sessions = Vec::new();
    for session in pds.create(9) {
        let document = login(&session.did, &session.handle, &session.access, &session.refresh);
        let id = document.get_object_id("_id").expect("an id").to_hex();
        accounts.insert_one(document).await.expect("an insert");
        secrets.add(&session.access);
        secrets.add(&session.refresh);
        sessions.push((id, session.did));
    }
    for secret in [ADMIN_TOKEN, "mongo-sesame", "redis-sesame"] {
        secrets.add(secret);
    }

    let (port, url) = (redis.port().to_string(), pds.url().to_string());
    let settings = [
        ("REDIS_HOST", "127.0.0.1"),
        ("REDIS_PORT", &port),
        ("REDIS_PASSWORD", "redis-sesame"),
        ("MONGODB_URI", &uri),
        ("BLUESKY_SERVICE_URL", &url),
        ("REFRESH_CRON", "off"),
        ("KEEP_FRESH", "false"),
        ("RUST_LOG", "trace"),
        ("PDS_TIMEOUT", "4s"),
        ("VERDICT_CONFIRM_AFTER", "0s"),
    ];
    let mut daemon = Daemon::start(&with(Vec::new(), &settings)).await;
    let faults = [
        None,
        Some(Fault::answer(500, "{}")),
        Some(Fault::html(502)),
        Some(Fault::DropAfter),
        Some(Fault::HangAfter),
        Some(Fault::WrongDid),
        Some(Fault::rate_limited(0)),
        Some(Fault::answer(400, r#"{"error":"ExpiredToken","message":"Token has been revoked"}"#)),
        Some(Fault::SlowLoris),
    ];
    for ((id, did), fault) in sessions.iter().zip(&faults) {
        // Nobody else's call, such as a repair, is to meet it.
        if let Some(fault) = fault {
            pds.fail_next_of(did, 1, fault);
        }
        let job = daemon.refresh(id).await;
        assert_eq!(job["outcome"] == "refreshed", fault.is_none(), "{job}");
    }
    daemon.refresh_all().await;
    for (id, _) in &sessions {
        let document = accounts.find_one(by_id(id)).await.expect("a read").expect("the account");
        secrets.add(text(&document, "accessToken"));
        secrets.add(text(&document, "refreshToken"));
    }
    daemon.signal("TERM");
    assert_eq!(exit(&mut daemon).await, Some(0));

    let log = daemon.log().text();
    let traced = daemon.log().matching(|line| line["level"] == "TRACE").len();
    assert!(traced > 50, "the libraries do speak: {traced} lines");
    secrets.assert_absent(&log);
}

#[tokio::test]
async fn a_token_that_a_server_quotes_is_not_passed_on() {
    let stage = Stage::set(1).await;
    let member = &stage.members[0];
    let body = json!({"error": "Odd", "message": format!("what is {}?", member.session.refresh)});
    stage.pds.fail_next(1, &Fault::answer(400, &body.to_string()));
    let mut daemon = stage.daemon(&[("RUST_LOG", "trace")]).await;
    daemon.refresh(&member.id).await;
    daemon.signal("TERM");
    assert_eq!(exit(&mut daemon).await, Some(0));
    let mut secrets = Secrets(Vec::new());
    secrets.add(&member.session.refresh);
    secrets.assert_absent(&daemon.log().text());
    let document = stage.world.account(&member.id).await;
    let kept = document.to_string().replacen(&member.session.refresh, "", 1);
    assert!(!kept.contains(&member.session.refresh), "nor written to the account: {kept}");
}
