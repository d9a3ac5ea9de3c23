//! The budget of a server, shared by all instances through a real Redis.

use std::time::Duration;

use refreshd::budget::{Budget, Grant, LONGEST_WAIT};
use refreshd::domain::breaker::Sign;
use refreshd::domain::identity::ServiceUrl;
use tokio::time::Instant;

use super::harness::redis::RedisServer;

const PREFIX: &str = "{test:0}:";

fn budget(redis: &RedisServer, egress: &str, per_second: Option<f64>) -> Budget {
    Budget::new(redis.link(), PREFIX, egress, per_second)
}

fn server(name: &str) -> ServiceUrl {
    format!("https://{name}.example").parse().unwrap()
}

/// A wait that was granted, some time between two looks at the clock.
#[derive(Debug)]
struct Turn {
    before: Instant,
    wait: Duration,
    after: Instant,
}

impl Turn {
    /// Whether the next one may be so much later, as far as the two looks at the clock tell.
    fn is_followed(&self, next: &Self, apart: Duration) -> bool {
        next.after + next.wait >= self.before + self.wait + apart
    }
}

/// Takes until it is denied; the waits that were granted.
async fn spend(budget: &Budget, service: &ServiceUrl) -> (Vec<Turn>, Duration) {
    let mut turns = Vec::new();
    for _ in 0..1_000 {
        let before = Instant::now();
        match budget.take(service).await {
            Grant::After(wait) => turns.push(Turn { before, wait, after: Instant::now() }),
            Grant::Denied(wait) => return (turns, wait),
            Grant::Open(_) => panic!("nobody reported a failure"),
        }
    }
    panic!("1,000 calls were granted at once");
}

#[tokio::test]
async fn turns_come_one_after_the_other_and_none_further_away_than_a_second() {
    let redis = RedisServer::start().await;
    let (turns, denied) = spend(&budget(&redis, "a", Some(20.0)), &server("one")).await;
    // A burst of a quarter of a second, then a second's worth of turns, and whatever the clock
    // went on meanwhile.
    assert!((26..=40).contains(&turns.len()), "{}", turns.len());
    assert!(turns.iter().all(|turn| turn.wait <= LONGEST_WAIT), "{turns:?}");
    assert!(turns.iter().filter(|turn| turn.wait.is_zero()).count() >= 5, "{turns:?}");
    // They are 50 ms apart, and whole milliseconds are rounded up. One that need not wait may be a
    // part of the burst, as may the next.
    let apart = Duration::from_millis(48);
    let mut later = turns.windows(2).filter(|two| !two[0].wait.is_zero());
    assert!(later.all(|two| two[0].is_followed(&two[1], apart)), "{turns:?}");
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

        close(&one, &service, Duration::from_mins(5)).await;
        assert!(!one.close(&service, Duration::from_secs(1)), "it is closed for longer");
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

/// A job goes to whoever is free: one whose address may not call would put off the others' jobs.
#[tokio::test]
async fn a_server_that_closes_to_one_address_is_closed_to_all_that_are_known() {
    let redis = RedisServer::start().await;
    let (one, other, service) =
        (budget(&redis, "a", Some(10.0)), budget(&redis, "b", Some(10.0)), server("one"));
    close(&one, &service, Duration::from_mins(5)).await;
    assert_eq!(other.closed_for(&service).await, None);
    other.shared_by([("a".to_owned(), 1), ("b".to_owned(), 1)].into());
    let seen = other.closed_for(&service).await.unwrap();
    assert!((290..=300).contains(&seen.as_secs()), "{seen:?}");
    assert_eq!(other.rate(&service), Some(20.0), "each address has a budget of its own");
    assert_eq!((other.allowed(&service), other.count()), (Some(10.0), 2));
}

/// `PDS_RATE_LIMIT=off`: what the server says is the law all the same.
#[tokio::test]
async fn without_a_rate_of_ours_the_servers_own_holds() {
    let redis = RedisServer::start().await;
    let (budget, service) = (budget(&redis, "a", None), server("one"));
    budget.told(&service, 100, Duration::from_secs(50));
    assert_eq!(budget.rate(&service), Some(2.0));
    let (turns, _denied) = spend(&budget, &service).await;
    assert!((2..=4).contains(&turns.len()), "{turns:?}");
    assert_eq!(budget.take(&server("two")).await, Grant::After(Duration::ZERO));
    // What is left just before the window's end is not sent in one burst.
    let third = server("three");
    budget.told_limit(&third, 3_000, Duration::from_mins(5));
    budget.told(&third, 2_900, Duration::from_secs(1));
    assert_eq!(budget.rate(&third), Some(10.0));
}

#[tokio::test]
async fn a_server_is_not_closed_for_longer_than_a_day() {
    let redis = RedisServer::start().await;
    let budget = budget(&redis, "a", None);
    close(&budget, &server("one"), Duration::from_hours(1_000_000)).await;
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
async fn while_redis_is_away_calls_go_on_at_half_the_pace() {
    let mut redis = RedisServer::start().await;
    let budget = budget(&redis, "a", Some(8.0));
    assert_eq!(budget.take(&server("one")).await, Grant::After(Duration::ZERO));
    redis.kill();
    let (turns, denied) = spend(&budget, &server("one")).await;
    // Turns every quarter of a second, none further away than a second.
    assert!((5..=9).contains(&turns.len()), "{turns:?}");
    assert!(turns[0].wait.is_zero(), "{turns:?}");
    let apart = Duration::from_millis(248);
    assert!(turns.windows(2).all(|two| two[0].is_followed(&two[1], apart)), "{turns:?}");
    assert!(denied > LONGEST_WAIT, "{denied:?}");
    assert_eq!(budget.take(&server("two")).await, Grant::After(Duration::ZERO));
    assert_eq!(budget.apart(&server("two")), Some(Duration::from_millis(250)), "of two at least");
    budget.shared_by([("a".to_owned(), 4), ("b".to_owned(), 9)].into());
    assert_eq!(budget.apart(&server("two")), Some(Duration::from_millis(500)), "an even share");
}

async fn close(budget: &Budget, service: &ServiceUrl, wait: Duration) {
    assert!(budget.close(service, wait), "that is news");
    budget.tell_closed(service, wait).await;
}

/// Fails until the breaker opens.
fn trip(budget: &Budget, service: &ServiceUrl) {
    for _ in 0..5 {
        assert_eq!(budget.open_for(service), None);
        budget.heard(service, Sign::Silent);
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_probed_by_one_call_at_a_time() {
    let redis = RedisServer::start().await;
    for per_second in [None, Some(1_000.0)] {
        let budget = budget(&redis, "a", per_second);
        let (dead, well) = (server("dead"), server("well"));
        trip(&budget, &dead);
        budget.heard(&well, Sign::Usable);
        let wait = budget.open_for(&dead).unwrap();
        assert!(wait > Duration::from_millis(400) && wait <= Duration::from_secs(1), "{wait:?}");
        assert!(matches!(budget.take(&dead).await, Grant::Open(left) if left <= wait));
        assert!(matches!(budget.take(&well).await, Grant::After(_)));
        assert_eq!((budget.open_for(&well), budget.closed_for(&dead).await), (None, None));
        assert_eq!(budget.open().into_iter().collect::<Vec<_>>(), [dead.to_string()]);

        tokio::time::sleep(wait).await;
        assert_eq!(budget.open_for(&dead), Some(Duration::ZERO));
        let many = futures::future::join_all((0..50).map(|_| budget.take(&dead))).await;
        let granted = many.iter().filter(|it| matches!(it, Grant::After(_))).count();
        assert_eq!(granted, 1, "{many:?}");
        budget.heard(&dead, Sign::Silent);
        assert!(budget.open_for(&dead).unwrap() > Duration::from_millis(900), "it doubles");
        budget.heard(&dead, Sign::Usable);
        assert_eq!((budget.open_for(&dead), budget.open().len()), (None, 0));
        assert!(matches!(budget.take(&dead).await, Grant::After(_)));
    }
}

#[tokio::test]
async fn a_probe_that_the_budget_denies_is_not_lost() {
    let redis = RedisServer::start().await;
    let (budget, service) = (budget(&redis, "a", None), server("one"));
    trip(&budget, &service);
    // Closed for well longer than a busy machine sleeps over the breaker's first second.
    close(&budget, &service, Duration::from_secs(8)).await;
    while let Some(wait) = budget.open_for(&service).filter(|wait| !wait.is_zero()) {
        tokio::time::sleep(wait).await;
    }
    for _ in 0..2 {
        assert!(matches!(budget.take(&service).await, Grant::Denied(_)));
    }
    while let Some(wait) = budget.closed_for(&service).await {
        tokio::time::sleep(wait).await;
    }
    assert_eq!(budget.take(&service).await, Grant::After(Duration::ZERO));
    assert!(matches!(budget.take(&service).await, Grant::Open(_)));
}
