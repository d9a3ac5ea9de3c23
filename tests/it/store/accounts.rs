//! Walks, due accounts and listings: the right ones, and through the indexes.

use std::collections::BTreeSet;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson as Value, Document as Bson, doc};
use refreshd::domain::account::Document;
use refreshd::domain::appraisal::{Appraisal, NewToken};
use refreshd::domain::attempt::Expected;
use refreshd::domain::identity::AccountId;
use refreshd::domain::outcome::Outcome;
use refreshd::store::{AccountFilter, Appraised, Whose};

use super::{Place, account, at, jwt};

const HOME: &str = "https://bsky.social";
const ALL: Whose = Whose { active: None, failed: false };

fn millis(seconds: i64) -> mongodb::bson::DateTime {
    mongodb::bson::DateTime::from_millis(at(seconds).timestamp_millis())
}

fn kept(service: &str, next: Value) -> Bson {
    let mut document = account("active");
    document.insert("tokenRefresh", doc! { "service": service, "nextAttemptAt": next });
    document
}

fn ids(documents: &[Document]) -> Vec<AccountId> {
    documents.iter().map(|document| document.id).collect()
}

/// What the server had to do for the reads of this test, from its profiler.
async fn profile(place: &Place) -> Vec<(String, i64, i64)> {
    let database = place.client.database(place.store.database());
    let name = format!("{}.{}", place.store.database(), place.store.collection());
    let mut cursor = database
        .collection::<Bson>("system.profile")
        .find(doc! { "ns": name, "command.find": { "$exists": true } })
        .await
        .unwrap();
    let mut reads = Vec::new();
    while cursor.advance().await.unwrap() {
        let read = cursor.deserialize_current().unwrap();
        let number = |key: &str| i64::from(read.get_i32(key).unwrap_or_default());
        let summary = read.get_str("planSummary").unwrap().to_owned();
        reads.push((summary, number("keysExamined"), number("docsExamined")));
    }
    reads
}

async fn set_profiler(place: &Place, level: i32) {
    let database = place.client.database(place.store.database());
    database.run_command(doc! { "profile": level }).await.unwrap();
}

#[tokio::test]
async fn reads_go_through_the_indexes() {
    let place = Place::shared().await;
    let made = place.store.ensure_indexes().await.unwrap().created;
    assert!(made.contains(&"refreshd_service_id") && made.contains(&"refreshd_due"));
    assert!(place.store.ensure_indexes().await.unwrap().created.is_empty());
    let mut documents = Vec::new();
    for n in 0..3_000_i64 {
        let service = if n % 3 == 0 { "https://pds.example" } else { HOME };
        let next = if n % 10 == 0 { millis(n).into() } else { Value::Null };
        let mut document = kept(service, next);
        document.insert("status", if n % 4 == 1 { "inactive" } else { "active" });
        match n % 7 {
            0 => document.insert("platform", "threads"),
            1 | 2 => document.remove("tokenRefresh"),
            _ => None,
        };
        documents.push(document);
    }
    place.accounts.insert_many(documents).await.unwrap();

    set_profiler(&place, 2).await;
    let store = &place.store;
    assert_eq!(store.services(None, 9).await.unwrap(), [HOME, "https://pds.example"]);
    let first = store.page(HOME, None, 50).await.unwrap();
    let second = store.page(HOME, ids(&first).pop(), 50).await.unwrap();
    assert_eq!(store.unstamped(None, 50).await.unwrap().len(), 50);
    let due = store.due(HOME, ALL, (at(-9), Some(at(100))), 50).await.unwrap();
    store
        .due(HOME, Whose { active: Some(true), failed: false }, (at(10), Some(at(999))), 50)
        .await
        .unwrap();
    store.next_due(HOME, ALL, at(-9)).await.unwrap();
    store.load(ids(&due)[0]).await.unwrap();
    set_profiler(&place, 0).await;

    assert_eq!((first.len(), second.len()), (50, 50));
    assert!(ids(&first).is_sorted() && ids(&first).last() < ids(&second).first());
    let reads = profile(&place).await;
    assert_eq!(reads.len(), 3 + 2 + 3 + 3 + 1, "{reads:?}");
    for (summary, keys, docs) in &reads {
        println!("{summary}: {keys} keys, {docs} documents");
        let ours = summary.contains("{ tokenRefresh.service: 1") || summary.contains("IDHACK");
        let load = summary.contains("{ _id: 1 }");
        assert!(ours || (load && *docs <= 1), "{reads:?}");
        assert!(*keys <= 120 && *docs <= 60, "{reads:?}");
    }
}

#[tokio::test]
async fn a_walk_over_all_servers_meets_every_account_once() {
    let place = Place::shared().await;
    let mut all = BTreeSet::new();
    for n in 0..40 {
        let service = ["https://a.example", "https://b.example", "not a server"][n % 3];
        all.insert(place.insert(&kept(service, Value::Null)).await);
    }
    let odd = [Value::Null, Value::from("x"), Value::Array(vec![]), Value::Array(vec![1.into()])];
    let inner = [
        Value::Array(vec![]),
        Value::Null,
        Value::from(1),
        doc! {}.into(),
        Value::Boolean(true),
        Value::from(1.5),
    ];
    for (key, values) in [("tokenRefresh", &odd[..]), ("tokenRefresh.service", &inner[..])] {
        for value in values {
            let id = place.insert(&account("active")).await;
            place.set(id, doc! { key: value.clone() }).await;
            all.insert(id);
        }
    }
    all.insert(place.insert(&account("inactive")).await);
    let mut other = account("active");
    other.insert("platform", "threads");
    place.insert(&other).await;
    other.insert("_id", "a text");
    other.insert("platform", "bluesky");
    place.accounts.insert_one(&other).await.unwrap();

    let unindexed = walk(&place).await;
    assert_eq!(unindexed.len(), all.len(), "once each");
    place.store.ensure_indexes().await.unwrap();
    assert_eq!(walk(&place).await, unindexed);
    assert_eq!(BTreeSet::from_iter(unindexed), all);
}

async fn walk(place: &Place) -> Vec<AccountId> {
    let mut met = Vec::new();
    let mut services = place.store.services(None, 2).await.unwrap();
    services.extend(place.store.services(Some(&services[1]), 9).await.unwrap());
    assert_eq!(services, ["https://a.example", "https://b.example", "not a server"]);
    for service in &services {
        let mut page = place.store.page(service, None, 4).await.unwrap();
        while let Some(last) = page.last().map(|document| document.id) {
            met.extend(ids(&page));
            page = place.store.page(service, Some(last), 4).await.unwrap();
        }
    }
    let mut page = place.store.unstamped(None, 2).await.unwrap();
    while let Some(last) = page.last().map(|document| document.id) {
        met.extend(ids(&page));
        page = place.store.unstamped(Some(last), 2).await.unwrap();
    }
    met
}

/// That the account belongs to `HOME`, by a document as it is read now.
pub(super) async fn appraised(place: &Place, id: AccountId) -> Appraised {
    let document = place.load(id).await;
    Appraised {
        expected: Expected::of(&document).unwrap(),
        attempted_at: document.kept.attempted_at,
        appraisal: Appraisal {
            service: HOME.parse().unwrap(),
            next_attempt_at: Some(at(7)),
            new_token: None,
            token_expiry: None,
        },
    }
}

#[tokio::test]
async fn appraisals_are_guarded_and_change_nothing_else() {
    let place = Place::shared().await;
    let mut stamps = Vec::new();
    let mut before = Vec::new();
    for value in
        [None, Some(Value::Null), Some(Value::from("x")), Some(doc! { "failures": 2 }.into())]
    {
        let mut document = account("active");
        if let Some(value) = value {
            document.insert("tokenRefresh", value);
        }
        let id = place.insert(&document).await;
        stamps.push(appraised(&place, id).await);
        before.push(document);
    }
    for change in [
        doc! { "refreshToken": jwt("c", 1) },
        doc! { "status": "inactive" },
        doc! { "refreshToken": jwt("c", 1), "tokenRefresh": "x" },
        doc! { "tokenRefresh": { "attemptedAt": millis(1) } },
    ] {
        let mut document = account("active");
        let id = place.insert(&document).await;
        stamps.push(appraised(&place, id).await);
        place.set(id, change.clone()).await;
        document.extend(change);
        before.push(document);
    }
    assert_eq!(place.store.appraise(&stamps).await.unwrap(), 4);
    for (n, (document, stamp)) in before.iter_mut().zip(&stamps).enumerate() {
        let (service, next) = (HOME, millis(7));
        match n {
            0..=2 => {
                document.insert("tokenRefresh", doc! { "service": service, "nextAttemptAt": next })
            }
            3 => document.insert(
                "tokenRefresh",
                doc! { "failures": 2, "service": service, "nextAttemptAt": next },
            ),
            _ => None,
        };
        assert_eq!(place.find(stamp.expected.id).await.as_ref(), Some(&*document), "{n}");
    }
    assert_eq!(place.store.appraise(&[]).await.unwrap(), 0);
}

#[tokio::test]
async fn an_appraisal_begins_anew_for_a_token_that_others_stored() {
    let place = Place::shared().await;
    let mut document = account("active");
    document.insert("tokenRefresh", doc! {
        "attemptedAt": millis(1), "judgedJti": "old", "outcome": "revoked", "failures": 3,
        "heardAt": millis(1), "heardAtServer": millis(1), "lastError": "x", "refreshedAt": millis(1),
    });
    let id = place.insert(&document).await;
    let mut appraised = appraised(&place, id).await;
    let (jti, outcome) = ("u".to_owned(), Some(Outcome::Superseded));
    appraised.appraisal.new_token = Some(NewToken { jti, outcome });
    appraised.appraisal.token_expiry = Some(at(9));
    assert_eq!(place.store.appraise(&[appraised]).await.unwrap(), 1);
    document.insert("tokenExpiry", millis(9));
    document.insert(
        "tokenRefresh",
        doc! {
            "attemptedAt": millis(1), "judgedJti": "u", "outcome": "superseded", "failures": 0,
            "heardAt": null, "heardAtServer": null, "lastError": null, "refreshedAt": millis(1),
            "service": HOME, "nextAttemptAt": millis(7),
        },
    );
    assert_eq!(place.find(id).await, Some(document));
}

#[tokio::test]
async fn due_are_those_whose_time_has_come() {
    let place = Place::shared().await;
    let late = place.insert(&kept(HOME, millis(-60).into())).await;
    let now = place.insert(&kept(HOME, millis(0).into())).await;
    let soon = place.insert(&kept(HOME, millis(60).into())).await;
    let far = place.insert(&kept(HOME, millis(1_000_000).into())).await;
    let mut revoked = kept(HOME, millis(-120).into());
    revoked.insert("status", "revoked");
    let revoked = place.insert(&revoked).await;
    for next in [Value::Null, Value::from(0), Value::from("x")] {
        place.insert(&kept(HOME, next)).await;
    }
    place.insert(&kept("https://other.example", millis(-60).into())).await;
    let mut inactive = kept(HOME, millis(-60).into());
    inactive.insert("status", "inactive");
    place.insert(&inactive).await;

    let store = &place.store;
    let due = async |whose, from, to: Option<i64>, limit| {
        ids(&store.due(HOME, whose, (at(from), to.map(at)), limit).await.unwrap())
    };
    assert_eq!(due(ALL, -999, Some(0), 9).await, [revoked, late, now]);
    assert_eq!(due(ALL, -999, Some(0), 2).await, [revoked, late]);
    assert_eq!(due(ALL, -60, Some(0), 9).await, [late, now]);
    assert_eq!(due(ALL, 90_000, None, 9).await, [far]);
    let of = |active| Whose { active: Some(active), failed: false };
    assert_eq!(due(of(true), -999, Some(0), 9).await, [late, now]);
    assert_eq!(due(of(false), -999, Some(0), 9).await, [revoked]);
    assert_eq!(store.next_due(HOME, ALL, at(-999)).await.unwrap(), Some(at(-120)));
    assert_eq!(store.next_due(HOME, ALL, at(-120)).await.unwrap(), Some(at(-60)));

    let failed = Whose { active: None, failed: true };
    assert_eq!(due(failed, -999, Some(0), 9).await, []);
    place.set(late, doc! { "tokenRefresh.failures": 1 }).await;
    place.set(now, doc! { "tokenRefresh.outcome": "rate_limited" }).await;
    place.set(revoked, doc! { "tokenRefresh.failures": 0 }).await;
    assert_eq!(due(failed, -999, Some(0), 9).await, [late, now]);
    for id in [late, now, revoked] {
        place.set(id, doc! { "tokenRefresh.nextAttemptAt": null }).await;
    }
    assert_eq!(store.next_due(HOME, ALL, at(-999)).await.unwrap(), Some(at(60)));
    assert_eq!(due(ALL, -999, Some(60), 9).await, [soon]);
    assert_eq!(store.next_due("https://nobody.example", ALL, at(0)).await.unwrap(), None);
}

#[tokio::test]
async fn listings_hold_no_token() {
    let place = Place::shared().await;
    let mut document = account("active");
    document.insert("tokenExpiry", millis(5));
    let bookkeeping = doc! {
        "refreshedAt": millis(1), "outcome": "unreachable", "failures": 2_i64,
        "nextAttemptAt": millis(9), "lastError": "x".repeat(999), "service": HOME,
        "attemptedAt": millis(1),
    };
    document.insert("tokenRefresh", bookkeeping);
    let id = place.insert(&document).await;
    for status in [Value::from("error"), Value::from("active"), Value::Null, Value::from(3)] {
        let mut other = account("x");
        other.insert("status", status);
        place.insert(&other).await;
    }
    let row = place.store.account(id).await.unwrap().unwrap();
    assert!(!format!("{row:?}").contains("e30"));
    assert_eq!((row.token_expiry, row.refreshed_at), (Some(at(5)), Some(at(1))));
    assert_eq!((row.failures, row.next_attempt_at), (2, Some(at(9))));
    assert_eq!((row.handle.as_deref(), row.service.as_deref()), (Some("alice.test"), Some(HOME)));
    assert_eq!(row.last_error.as_ref().unwrap().len(), 256);

    let store = &place.store;
    let active = AccountFilter { status: Some("active".to_owned()) };
    let rows = store.list(&active, None, 9).await.unwrap();
    assert_eq!((rows.len(), &rows[0]), (2, &row));
    assert_eq!(store.list(&active, Some(id), 9).await.unwrap().len(), 1);
    assert_eq!(store.list(&AccountFilter::default(), None, 4).await.unwrap().len(), 4);
    let nobody = AccountId::from_bytes(ObjectId::new().bytes());
    assert_eq!(store.account(nobody).await.unwrap(), None);

    let counts = store.count_by_status().await.unwrap();
    let counts: Vec<_> = counts.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    assert_eq!(counts, [("(none)", 2), ("active", 2), ("error", 1)]);
    let outcomes = store.recount(at(1)).await.unwrap();
    assert_eq!(
        outcomes.into_iter().map(|(it, n)| (it.as_str(), n)).collect::<Vec<_>>(),
        [("unreachable", 1)]
    );
    assert!(store.recount(at(2)).await.unwrap().is_empty());
}
