//! What a look of the planner reads of a large collection.

use std::time::Duration;

use chrono::{DateTime as Moment, TimeDelta, Utc};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Document, doc};
use refreshd::clock::Clock;
use refreshd::store::{Store, StoreConfig, Whose};

use tokio::time::Instant;

use super::amount;
use crate::harness::world::World;

const HOME: &str = "https://bsky.social";

/// So many accounts, `due` of which are due now.
async fn fill(world: &World, now: Moment<Utc>, all: usize, due: usize) {
    let spread = i64::try_from(all).expect("a number");
    for begin in (0..all).step_by(20_000) {
        let documents = (begin..all.min(begin + 20_000)).map(|n| {
            let is_due = n % (all / due) == 0;
            let after = i64::try_from(n).expect("a number") * 5_000_000 / spread + 60_000;
            let next = if is_due { now } else { now + TimeDelta::milliseconds(after) };
            doc! {
                "_id": ObjectId::new(), "platform": "bluesky", "status": "active",
                "refreshToken": "x".repeat(300),
                "tokenRefresh": { "service": HOME, "nextAttemptAt": DateTime::from_millis(next.timestamp_millis()) },
            }
        });
        world.accounts().insert_many(documents).await.expect("an insert");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_reads_what_is_due_and_no_more() {
    let world = World::start().await;
    let config = StoreConfig {
        uri: world.mongo.uri().into(),
        database: "app".to_owned(),
        collection: "socialaccounts".to_owned(),
    };
    let store = Store::connect(&config).await.expect("a store");
    store.ensure_indexes().await.expect("indexes");
    let all = amount(50_000, 1_000_000);
    let now = Clock::system().now();
    fill(&world, now, all, 100).await;

    world.database().run_command(doc! { "profile": 2 }).await.expect("a profiler");
    let begun = Instant::now();
    let times = (Moment::UNIX_EPOCH, Some(now));
    let active = Whose { active: Some(true), failed: false };
    let troubled = Whose { active: Some(false), failed: false };
    let due = store.due(HOME, active, times, 500).await.expect("an answer");
    store.due(HOME, troubled, times, 500).await.expect("an answer");
    let next = store.next_due(HOME, active, now).await.expect("an answer");
    let took = begun.elapsed();
    world.database().run_command(doc! { "profile": 0 }).await.expect("a profiler");
    assert_eq!((due.len(), next.is_some()), (100, true));

    let read = read(&world).await;
    println!("{all} accounts, 100 due: {took:?}, (keys, documents, index) {read:?}");
    let size = doc! { "collStats": "socialaccounts" };
    let size = world.database().run_command(size).await.expect("sizes");
    println!("sizes of the indexes in bytes: {}", size.get_document("indexSizes").expect("sizes"));
    let documents: i64 = read.iter().map(|(_, documents, _)| documents).sum();
    let keys: i64 = read.iter().map(|(keys, ..)| keys).sum();
    assert!(
        read.iter().all(|(.., plan)| plan.contains("tokenRefresh.nextAttemptAt: 1")),
        "{read:?}"
    );
    assert!(documents <= 110 && keys <= 120, "{read:?}");
    assert!(took < Duration::from_secs(5), "a figure is for the log: {took:?}");
}

async fn read(world: &World) -> Vec<(i64, i64, String)> {
    use futures::TryStreamExt as _;
    let profile = world.database().collection::<Document>("system.profile");
    let finds = profile.find(doc! { "command.find": "socialaccounts" }).await.expect("a profile");
    let finds: Vec<_> = finds.try_collect().await.expect("a profile");
    let number = |find: &Document, key: &str| i64::from(find.get_i32(key).expect("a count"));
    let plan = |find: &Document| find.get_str("planSummary").expect("a plan").to_owned();
    finds
        .iter()
        .map(|it| (number(it, "keysExamined"), number(it, "docsExamined"), plan(it)))
        .collect()
}
