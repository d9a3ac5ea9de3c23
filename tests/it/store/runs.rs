//! Runs, their rows and failures, and the schedule's memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use mongodb::bson::oid::ObjectId;
use refreshd::domain::identity::AccountId;
use refreshd::domain::outcome::{Outcome, Trigger};
use refreshd::domain::run::RunId;
use refreshd::store::{Advance, Counts, Failure, Run, RunState, Store, Tick};
use tokio_util::task::TaskTracker;

use super::{Place, at};

const DAY: i64 = 86_400;

fn some_account() -> AccountId {
    AccountId::from_bytes(ObjectId::new().bytes())
}

async fn complete(store: &Store, run: &Run) {
    assert!(store.start_run(&run.id, at(1)).await.unwrap());
    assert!(store.finish_run(&run.id, at(2), &Counts::default()).await.unwrap());
}

/// What 20 tasks get that do the same at once.
async fn race<T: Send + 'static, F>(store: &Store, act: impl Fn(Store) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
{
    let tasks = TaskTracker::new();
    let racers: Vec<_> = (0..20).map(|_| tasks.spawn(act(store.clone()))).collect();
    let mut results = Vec::new();
    for racer in racers {
        results.push(racer.await.unwrap());
    }
    results
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_is_claimed_once() {
    let place = Place::shared().await;
    let store = &place.store;
    store.ensure_indexes().await.unwrap();
    assert_eq!(store.last_tick().await.unwrap(), None);
    for ordinal in 1..=3_u32 {
        let tick = at(DAY * i64::from(ordinal));
        let won = race(store, |store| async move { store.claim_tick(tick, at(7)).await.unwrap() });
        let won: Vec<_> = won.await.into_iter().flatten().collect();
        assert_eq!(won.len(), 1);
        assert_eq!((won[0].ordinal, won[0].tick), (Some(ordinal.into()), Some(tick)));
        assert_eq!((won[0].cut_off, won[0].created_at), (tick, at(7)));
        assert_eq!(store.run(&won[0].id).await.unwrap().as_ref(), Some(&won[0]));
        let last = Tick { at: tick, ordinal: ordinal.into() };
        assert_eq!(store.last_tick().await.unwrap(), Some(last));
    }
    assert_eq!(store.claim_tick(at(DAY), at(9)).await.unwrap(), None, "an older tick");
    let midnight = "2026-11-22T00:00:00Z".parse().unwrap();
    let run = store.claim_tick(midnight, at(0)).await.unwrap().unwrap();
    assert_eq!(run.id.as_str(), "cron-2026-11-22T00:00:00Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_is_joined() {
    let place = Place::shared().await;
    let store = &place.store;
    store.ensure_indexes().await.unwrap();
    let asked =
        race(
            store,
            |store| async move { store.request_run(Trigger::Manual, at(5)).await.unwrap() },
        );
    let asked = asked.await;
    assert!(asked.iter().all(|run| run.id == asked[0].id), "one run for all");
    let first = store.request_run(Trigger::Cli, at(9)).await.unwrap();
    assert_eq!((&first.id, first.cut_off, first.trigger), (&asked[0].id, at(9), Trigger::Manual));
    assert_eq!(store.request_run(Trigger::Cli, at(3)).await.unwrap().cut_off, at(9));

    assert!(store.start_run(&first.id, at(10)).await.unwrap());
    assert!(!store.start_run(&first.id, at(11)).await.unwrap(), "only once");
    let second = store.request_run(Trigger::Cli, at(12)).await.unwrap();
    assert_ne!(second.id, first.id, "a run under way is not joined");
    let current = store.current_run().await.unwrap().unwrap();
    assert_eq!((current.id, current.started_at), (first.id.clone(), Some(at(10))));

    let counts = Counts {
        jobs: 3,
        fresh: 1,
        outcomes: BTreeMap::from([(Outcome::Refreshed, 2), (Outcome::Revoked, 1)]),
    };
    assert!(!store.save_counts(&second.id, &counts).await.unwrap(), "it is not running");
    assert!(store.save_counts(&first.id, &counts).await.unwrap());
    assert_eq!(store.run(&first.id).await.unwrap().unwrap().counts, counts);
    assert!(!store.finish_run(&second.id, at(13), &counts).await.unwrap(), "it is not running");
    assert!(store.finish_run(&first.id, at(13), &counts).await.unwrap());
    assert!(!store.finish_run(&first.id, at(14), &Counts::default()).await.unwrap());
    let done = store.run(&first.id).await.unwrap().unwrap();
    assert_eq!((done.state, done.ended_at, done.counts), (RunState::Done, Some(at(13)), counts));
    assert_eq!(store.current_run().await.unwrap().unwrap().id, second.id);
    complete(store, &second).await;
    assert_eq!(store.current_run().await.unwrap(), None);
}

#[tokio::test]
async fn old_runs_are_forgotten_but_never_the_newest_tick() {
    let place = Place::shared().await;
    let store = &place.store;
    store.ensure_indexes().await.unwrap();
    let tick = store.claim_tick(at(0), at(0)).await.unwrap().unwrap();
    complete(store, &tick).await;
    let mut ids = vec![tick.id.clone()];
    for n in 1..=5 {
        let run = store.request_run(Trigger::Cli, at(n)).await.unwrap();
        store.add_rows(&run.id, &["https://a.example".to_owned()]).await.unwrap();
        complete(store, &run).await;
        ids.push(run.id);
    }
    let waiting = store.request_run(Trigger::Cli, at(6)).await.unwrap();
    ids.push(waiting.id);
    ids.reverse();

    let all: Vec<_> = store.runs(9, None).await.unwrap().into_iter().map(|run| run.id).collect();
    assert_eq!(all, ids);
    let page: Vec<_> =
        store.runs(2, Some(&ids[1])).await.unwrap().into_iter().map(|run| run.id).collect();
    assert_eq!(page, ids[2..4]);
    assert!(store.runs(2, Some(&"run-unknown".parse().unwrap())).await.unwrap().is_empty());

    assert_eq!(store.prune(2).await.unwrap(), 3);
    let left: Vec<_> = store.runs(9, None).await.unwrap().into_iter().map(|run| run.id).collect();
    assert_eq!(left, [&ids[..3], &ids[6..]].concat());
    assert!(store.rows(&ids[3]).await.unwrap().is_empty());
    assert_eq!(store.rows(&ids[2]).await.unwrap().len(), 1);
    assert_eq!(store.prune(2).await.unwrap(), 0);
    assert_eq!(store.last_tick().await.unwrap().unwrap().at, at(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_goes_on_where_it_was() {
    let place = Place::shared().await;
    let store = &place.store;
    let (run, other): (RunId, RunId) = ("run-a".parse().unwrap(), "run-ab".parse().unwrap());
    let services = ["https://b.example".to_owned(), "https://a.example".to_owned()];
    store.add_rows(&run, &services).await.unwrap();
    store.add_rows(&other, &services).await.unwrap();
    let (one, two) = (some_account(), some_account());
    let step = |from, to, done| Advance {
        service: "https://a.example",
        from,
        to,
        jobs: 2,
        fresh: 1,
        done,
    };

    let moved = race(store, move |store| {
        let run = run.clone();
        async move { store.advance(&run, &step(None, Some(one), false)).await.unwrap() }
    });
    assert_eq!(moved.await.into_iter().filter(|moved| *moved).count(), 1, "one of 20");
    let run: RunId = "run-a".parse().unwrap();
    assert!(!store.advance(&run, &step(Some(two), Some(two), false)).await.unwrap());
    assert!(store.advance(&run, &step(Some(one), Some(two), false)).await.unwrap());
    assert!(store.advance(&run, &step(Some(two), None, true)).await.unwrap());
    assert!(!store.advance(&run, &step(Some(two), None, true)).await.unwrap(), "it is done");
    store.add_rows(&run, &services).await.unwrap();
    let rows = store.rows(&run).await.unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(
        (rows[0].service.as_str(), rows[0].cursor, rows[0].done),
        ("https://a.example", Some(two), true)
    );
    assert_eq!((rows[0].jobs, rows[0].fresh), (6, 3));
    assert_eq!(
        (rows[1].service.as_str(), rows[1].cursor, rows[1].done),
        ("https://b.example", None, false)
    );
    assert!(store.rows(&other).await.unwrap().iter().all(|row| row.cursor.is_none()));
}

#[tokio::test]
async fn only_a_run_that_is_running_is_walked_again() {
    let place = Place::shared().await;
    let store = &place.store;
    let run = store.request_run(Trigger::Manual, at(0)).await.unwrap().id;
    let service = "https://a.example";
    store.add_rows(&run, &[service.to_owned()]).await.unwrap();
    let step =
        Advance { service, from: None, to: Some(some_account()), jobs: 2, fresh: 1, done: true };
    assert!(store.advance(&run, &step).await.unwrap());
    let again = async || store.walk_again(&run, &Counts::default()).await.unwrap();
    assert!(!again().await, "it waits");

    assert!(store.start_run(&run, at(1)).await.unwrap());
    assert!(again().await);
    let rows = store.rows(&run).await.unwrap();
    assert!(rows.iter().all(|row| row.cursor.is_none() && !row.done && row.jobs + row.fresh == 0));
    assert_eq!(store.run(&run).await.unwrap().unwrap().pass, 1);

    assert!(store.advance(&run, &step).await.unwrap());
    assert!(store.finish_run(&run, at(2), &Counts::default()).await.unwrap());
    assert!(!again().await, "it is done");
    assert!(store.rows(&run).await.unwrap().iter().all(|row| row.done));
}

#[tokio::test]
async fn failures_are_the_newest_of_each_account() {
    let place = Place::shared().await;
    let store = &place.store;
    store.ensure_indexes().await.unwrap();
    let run: RunId = "run-f".parse().unwrap();
    let failure = |account, n| Failure {
        account,
        did: Some("did:plc:a".to_owned()),
        handle: None,
        outcome: Outcome::Unreachable,
        error: Some(format!("try {n}")),
        at: at(n),
    };
    let (one, two) = (some_account(), some_account());
    store.record_failures(&run, &[]).await.unwrap();
    store.record_failures(&run, &[failure(one, 1), failure(two, 2)]).await.unwrap();
    store.record_failures(&run, &[failure(one, 3)]).await.unwrap();
    store.record_failures(&"run-g".parse().unwrap(), &[failure(two, 4)]).await.unwrap();
    assert_eq!(store.failures(&run, 9).await.unwrap(), [failure(one, 3), failure(two, 2)]);
    assert_eq!(store.failures(&run, 1).await.unwrap(), [failure(one, 3)]);
    let listed = place.client.database(store.database()).list_collections().await.unwrap();
    let listed: Vec<_> = futures::TryStreamExt::try_collect(listed).await.unwrap();
    let capped = listed.iter().find(|it| it.name == "refresh_run_failures").unwrap();
    assert_eq!((capped.options.capped, capped.options.max), (Some(true), Some(100_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedules_anchor_is_the_first_start() {
    let place = Place::shared().await;
    let store = &place.store;
    let seconds = AtomicI64::new(0);
    let raced = race(store, |store| {
        let now = at(seconds.fetch_add(1, Ordering::Relaxed));
        async move { store.schedule_anchor("0 0 * * 0", "UTC", now).await.unwrap() }
    });
    let raced = raced.await;
    assert!(raced.iter().all(|anchor| *anchor == raced[0]), "all agree");
    assert_eq!(store.schedule_anchor("0 0 * * 0", "UTC", at(DAY)).await.unwrap(), raced[0]);
    assert_eq!(store.schedule_anchor("0 1 * * 0", "UTC", at(DAY)).await.unwrap(), at(DAY));
    assert_eq!(
        store.schedule_anchor("0 1 * * 0", "$zone", at(2 * DAY)).await.unwrap(),
        at(2 * DAY)
    );
    assert_eq!(
        store.schedule_anchor("0 1 * * 0", "$zone", at(3 * DAY)).await.unwrap(),
        at(2 * DAY)
    );
}
