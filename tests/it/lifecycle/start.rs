//! The start: what it waits for, what it says, and with which status it gives up.

use mongodb::Client;
use mongodb::bson::doc;

use super::{Stage, exit, free_port, says, with};
use crate::harness::daemon::Daemon;
use crate::harness::mongo::{MongoServer, Topology};
use crate::harness::redis::RedisServer;

fn settings(redis: u16, mongo: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let redis = redis.to_string();
    let own = [
        ("REDIS_HOST", "127.0.0.1"),
        ("REDIS_PORT", redis.as_str()),
        ("MONGODB_URI", mongo),
        ("REFRESH_CRON", "off"),
    ];
    with(with(Vec::new(), &own), more)
}

#[tokio::test]
async fn services_that_do_not_come_are_named_and_the_start_gives_up() {
    let (redis, mongo) = (free_port(), free_port());
    let (at_redis, at_mongo) = (format!("127.0.0.1:{redis}"), format!("127.0.0.1:{mongo}"));
    // With the driver's own patience, longer than the start's, and with a shorter one.
    for (options, reason) in [("", "does not answer"), ("?serverSelectionTimeoutMS=300", "refused")]
    {
        let uri = format!("mongodb://127.0.0.1:{mongo}/{options}");
        let mut daemon = Daemon::spawn(&settings(redis, &uri, &[("STARTUP_TIMEOUT", "4s")]));
        assert_eq!(exit(&mut daemon).await, Some(69), "{}", daemon.log().text());
        assert_told(&daemon, &["Redis", &at_redis, "refused"]);
        assert_told(&daemon, &["MongoDB", &at_mongo, reason]);
    }
}

/// A warning while it waits, and an error when it gives up, that say all this.
fn assert_told(daemon: &Daemon, words: &[&str]) {
    for (level, verb) in [("WARN", "waiting for"), ("ERROR", "cannot be used")] {
        let found = daemon.log().matching(|line| {
            line["level"] == level
                && line["service"] == words[0]
                && says(line, "start", words)
                && says(line, "start", &[verb])
        });
        assert!(!found.is_empty(), "{level} of {words:?}:\n{}", daemon.log().text());
    }
}

#[tokio::test]
async fn services_that_come_up_in_time_are_used() {
    let mut stage = Stage::set(1).await;
    stage.world.redis.kill();
    stage.world.mongo.kill();
    let daemon = Daemon::spawn(&stage.settings(&[("STARTUP_TIMEOUT", "10m")]));
    for service in ["Redis", "MongoDB"] {
        daemon.log().wait(|line| says(line, "start", &["waiting for", service])).await;
    }
    stage.world.redis.restart().await;
    stage.world.mongo.restart().await;
    daemon.log().wait(|line| line["event"] == "ready").await;
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_redis_that_wants_another_password_is_told_as_such() {
    let (redis, mongo) =
        tokio::join!(RedisServer::start(), MongoServer::start(Topology::Standalone));
    let uri = mongo.uri() + "app";
    let link = redis.link();
    let quick = ("STARTUP_TIMEOUT", "3s");
    let needless = settings(redis.port(), &uri, &[quick, ("REDIS_PASSWORD", "not-the-word")]);
    let mut require = redis::cmd("CONFIG");
    require.arg("SET").arg("requirepass").arg("open-sesame");

    let mut rows =
        vec![(needless.clone(), "REDIS_PASSWORD, and unset them if it asks for none", false)];
    rows.push((settings(redis.port(), &uri, &[quick]), "set REDIS_PASSWORD", true));
    rows.push((needless, "refuses the login: check REDIS_USERNAME and REDIS_PASSWORD", true));
    for (settings, advice, is_locked) in rows {
        if is_locked {
            // Again is harmless: who has logged in stays so.
            link.query::<String>(&require).await.expect("a password");
        }
        let mut daemon = Daemon::spawn(&settings);
        assert_eq!(exit(&mut daemon).await, Some(69), "{}", daemon.log().text());
        let place = format!("127.0.0.1:{}", redis.port());
        let found = daemon
            .log()
            .matching(|line| line["level"] == "ERROR" && says(line, "start", &[&place, advice]));
        assert_eq!(found.len(), 1, "{}", daemon.log().text());
        assert!(!daemon.log().text().contains("not-the-word"));
    }

    let right = settings(redis.port(), &uri, &[("REDIS_PASSWORD", "open-sesame")]);
    let daemon = Daemon::start(&right).await;
    assert!(!daemon.log().text().contains("open-sesame"));
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_wrong_mongodb_password_is_told_as_such() {
    let (redis, mongo) =
        tokio::join!(RedisServer::start(), MongoServer::start(Topology::WithLogins));
    let admin = Client::with_uri_str(mongo.uri()).await.expect("a client").database("admin");
    let user = doc! {"createUser": "app", "pwd": "open-sesame", "roles": ["readWriteAnyDatabase"]};
    admin.run_command(user).await.expect("a user");
    let uri = |password: &str| {
        mongo.uri().replace("://", &format!("://app:{password}@")) + "app?authSource=admin"
    };

    let wrong = settings(redis.port(), &uri("not-the-word"), &[("STARTUP_TIMEOUT", "3s")]);
    let mut daemon = Daemon::spawn(&wrong);
    assert_eq!(exit(&mut daemon).await, Some(69), "{}", daemon.log().text());
    let text = daemon.log().text();
    let place = format!("127.0.0.1:{}", mongo.port());
    let found = daemon.log().matching(|line| {
        line["level"] == "ERROR" && says(line, "start", &[&place, "refused the login; check"])
    });
    assert_eq!(found.len(), 1, "{text}");
    assert!(!text.contains("not-the-word"), "{text}");

    let daemon = Daemon::start(&settings(redis.port(), &uri("open-sesame"), &[])).await;
    assert!(!daemon.log().text().contains("open-sesame"));
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_name_that_the_dns_does_not_know_is_waited_for_like_any_service() {
    let redis = RedisServer::start().await;
    let uri = "mongodb+srv://app:open-sesame@cluster.nowhere.invalid/app";
    let mut daemon = Daemon::spawn(&settings(redis.port(), uri, &[("STARTUP_TIMEOUT", "4s")]));
    daemon
        .log()
        .wait(|line| says(line, "start", &["waiting for MongoDB", "nowhere.invalid"]))
        .await;
    assert_eq!(exit(&mut daemon).await, Some(69), "{}", daemon.log().text());
    assert!(!daemon.log().text().contains("open-sesame"), "{}", daemon.log().text());
}

#[tokio::test]
async fn a_signal_ends_a_start_that_waits() {
    let uri = format!("mongodb://127.0.0.1:{}/app", free_port());
    for signal in ["TERM", "INT"] {
        let more = [("STARTUP_TIMEOUT", "10m")];
        let mut daemon = Daemon::spawn(&settings(free_port(), &uri, &more));
        daemon.log().wait(|line| says(line, "start", &["waiting for"])).await;
        daemon.signal(signal);
        assert_eq!(exit(&mut daemon).await, Some(0), "{}", daemon.log().text());
    }
}

#[tokio::test]
async fn an_admin_address_in_use_is_told_as_such() {
    let stage = Stage::set(0).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let mut daemon = Daemon::spawn(&stage.settings(&[("ADMIN_LISTEN", &address)]));
    assert_eq!(exit(&mut daemon).await, Some(1), "{}", daemon.log().text());
    let found = daemon.log().matching(|line| {
        line["level"] == "ERROR"
            && says(line, "stop", &["ADMIN_LISTEN", &address, "choose another address", "in use"])
    });
    assert_eq!(found.len(), 1, "{}", daemon.log().text());
}
