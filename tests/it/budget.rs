//! The budget of a server, shared by all instances through a real Redis.

use std::time::Duration;

use refreshd::budget::{Budget, Grant, LONGEST_WAIT};
use refreshd::domain::identity::ServiceUrl;

use super::harness::redis::RedisServer;

const PREFIX: &str = "{test:0}:";

fn budget(redis: &RedisServer, egress: &str, per_second: Option<f64>) -> Budget {
    Budget::new(redis.link(), PREFIX, egress, per_second)
}

fn server(name: &str) -> ServiceUrl {
    format!("https://{name}.example").parse().unwrap()
}

/// Takes until it is denied; the waits that were granted.
async fn spend(budget: &Budget, service: &ServiceUrl) -> (Vec<Duration>, Duration) {
    let mut waits = Vec::new();
    for _ in 0..1_000 {
        match budget.take(service).await {
            Grant::After(wait) => waits.push(wait),
            Grant::Denied(wait) => return (waits, wait),
        }
    }
    panic!("1,000 calls were granted at once");
}

#[tokio::test]
async fn turns_come_one_after_the_other_and_none_further_away_than_a_second() {
    let redis = RedisServer::start().await;
    let (waits, denied) = spend(&budget(&redis, "a", Some(20.0)), &server("one")).await;
    // A burst of a quarter of a second, then a second's worth of turns, and whatever the clock
    // went on meanwhile.
    assert!((26..=40).contains(&waits.len()), "{}", waits.len());
    assert!(waits.iter().all(|wait| *wait <= LONGEST_WAIT), "{waits:?}");
    assert!(waits.iter().filter(|wait| wait.is_zero()).count() >= 5, "{waits:?}");
    let later: Vec<_> = waits.iter().skip_while(|wait| wait.is_zero()).collect();
    assert!(later.windows(2).all(|two| two[0] <= two[1]), "{waits:?}");
    assert!(denied > LONGEST_WAIT, "{denied:?}");
}

#[tokio::test]
async fn a_budget_is_shared_by_server_and_egress_address() {
    let redis = RedisServer::start().await;
    let one = budget(&redis, "a", Some(10.0));
    let alone = spend(&one, &server("one")).await.0.len();
    let same = budget(&redis, "a", Some(10.0));
    assert!(spend(&same, &server("one")).await.0.len() < alone / 2, "one instance spent it all");
    assert!(spend(&same, &server("two")).await.0.len() >= 10, "another server has its own");
    let elsewhere = budget(&redis, "b", Some(10.0));
    assert!(spend(&elsewhere, &server("one")).await.0.len() >= 10, "as has another address");
}

#[tokio::test]
async fn a_server_that_closes_is_closed_for_everybody() {
    let redis = RedisServer::start().await;
    let service = server("one");
    for per_second in [None, Some(10.0)] {
        let one = budget(&redis, &format!("{per_second:?}"), per_second);
        let other = budget(&redis, &format!("{per_second:?}"), per_second);
        assert_eq!(other.closed_for(&service).await, None);
        assert_eq!(one.take(&service).await, Grant::After(Duration::ZERO));

        one.close(&service, Duration::from_mins(5)).await;
        one.close(&service, Duration::from_secs(1)).await;
        assert!(matches!(one.take(&service).await, Grant::Denied(wait) if wait.as_secs() > 290));
        let seen = other.closed_for(&service).await.unwrap();
        assert!((290..=300).contains(&seen.as_secs()), "{seen:?}");
        if per_second.is_some() {
            assert!(
                matches!(other.take(&service).await, Grant::Denied(wait) if wait.as_secs() > 290)
            );
        }
        assert_eq!(other.closed_for(&server("two")).await, None);
    }
}

#[tokio::test]
async fn a_server_is_not_closed_for_longer_than_a_day() {
    let redis = RedisServer::start().await;
    let budget = budget(&redis, "a", None);
    budget.close(&server("one"), Duration::from_hours(1_000_000)).await;
    let wait = budget.closed_for(&server("one")).await.unwrap();
    assert!(wait <= Duration::from_hours(24), "{wait:?}");
}

#[tokio::test]
async fn without_a_rate_there_is_nothing_to_wait_for() {
    let redis = RedisServer::start().await;
    let budget = budget(&redis, "a", None);
    for _ in 0..100 {
        assert_eq!(budget.take(&server("one")).await, Grant::After(Duration::ZERO));
    }
}

#[tokio::test]
async fn while_redis_is_away_calls_keep_their_distance() {
    let mut redis = RedisServer::start().await;
    let budget = budget(&redis, "a", Some(4.0));
    redis.kill();
    assert_eq!(budget.take(&server("one")).await, Grant::After(Duration::from_millis(250)));
}
