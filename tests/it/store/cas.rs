//! The compare-and-set: who wins, what is changed, and what a lost reply comes to.

use futures::future::join_all;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson as Value, Document as Bson, doc};
use refreshd::domain::account::{Document, Status, StoredToken};
use refreshd::domain::attempt::Save;
use refreshd::domain::decide::{Change, Verdict};
use refreshd::domain::identity::Handle;
use refreshd::domain::outcome::Outcome;
use refreshd::domain::settle::{Settlement, settle};
use refreshd::store::Cas;

use super::{Place, account, at, jwt, note, refresh_token, rotation};
use crate::harness::mongo::{MongoServer, Topology};
use crate::harness::proxy::Proxy;

fn millis(seconds: i64) -> mongodb::bson::DateTime {
    mongodb::bson::DateTime::from_millis(at(seconds).timestamp_millis())
}

fn missed(cas: Cas) -> Option<Document> {
    match cas {
        Cas::Missed(document) => document,
        Cas::Stored => panic!("stored over a document that had changed"),
    }
}

fn settled(document: Option<&Document>) -> Settlement {
    let stored = document.map(|document| &document.token);
    settle(&refresh_token("u"), &refresh_token("n"), stored)
}

/// What a document is after `set` was written to it; order counts.
fn changed(mut before: Bson, set: Bson) -> Bson {
    for (key, value) in set {
        before.insert(key, value);
    }
    before
}

#[tokio::test]
async fn a_rotation_writes_its_fields_and_leaves_every_other_byte_alone() {
    let place = Place::shared().await;
    for status in ["active", "error", "expired", "revoked"] {
        let before = account(status);
        let id = place.insert(&before).await;
        let mut save = rotation(&place.load(id).await);
        save.change.rotation.as_mut().unwrap().handle = Handle::parse("bob.test");
        save.change.note.account_status = Some("deactivated".to_owned());
        assert!(matches!(place.store.save(&save).await.unwrap(), Cas::Stored), "{status}");
        let expected = changed(
            before,
            doc! {
                "accessToken": jwt("access", 200), "refreshToken": jwt("n", 100),
                "tokenExpiry": mongodb::bson::DateTime::from_millis(2_000_000_000_000),
                "platformUsername": "bob.test", "status": "active", "errorMessage": null,
                "updatedAt": millis(0),
                "tokenRefresh": {
                    "accountStatus": "deactivated", "attemptedAt": millis(0), "failures": 0,
                    "heardAt": null, "heardAtServer": null, "judgedJti": "n", "lastError": null, "nextAttemptAt": null,
                    "outcome": "refreshed",
                    "refreshExpiresAt": mongodb::bson::DateTime::from_millis(2_000_000_000_000),
                    "refreshedAt": millis(0), "service": "https://bsky.social",
                },
            },
        );
        assert_eq!(place.find(id).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_foreign_status_is_never_revived() {
    let place = Place::shared().await;
    let statuses = [Value::from("inactive"), Value::Null, Value::from(3), Value::from("Active")];
    for status in statuses {
        let mut before = account("x");
        before.insert("status", status);
        let id = place.insert(&before).await;
        let mut save = rotation(&place.load(id).await);
        save.change.verdict = Some(Verdict { status: Status::Error, message: "x" });
        assert!(matches!(place.store.save(&save).await.unwrap(), Cas::Stored));
        let after = place.find(id).await.unwrap();
        assert_eq!(after.get_str("refreshToken").unwrap(), jwt("n", 100));
        assert_eq!(after.get("status"), before.get("status"));
        assert_eq!(after.get("errorMessage"), before.get("errorMessage"));

        let mut verdict = rotation(&place.load(id).await);
        verdict.change.rotation = None;
        verdict.change.verdict = Some(Verdict { status: Status::Error, message: "x" });
        assert!(matches!(place.store.save(&verdict).await.unwrap(), Cas::Stored));
        assert_eq!(place.find(id).await.unwrap().get("status"), before.get("status"));
    }
}

#[tokio::test]
async fn a_verdict_and_bookkeeping_touch_no_token() {
    let place = Place::shared().await;
    let id = place.insert(&account("active")).await;
    let rotated = rotation(&place.load(id).await);
    assert!(matches!(place.store.save(&rotated).await.unwrap(), Cas::Stored));
    let before = place.find(id).await.unwrap();

    let mut save = rotation(&place.load(id).await);
    let mut unreachable = note(Outcome::Unreachable, "n");
    unreachable.at = at(9);
    unreachable.failures = 2;
    unreachable.next_attempt_at = Some(at(60));
    unreachable.last_error = Some("x".repeat(1_000));
    save.change = Change { rotation: None, verdict: None, note: unreachable };
    assert!(matches!(place.store.save(&save).await.unwrap(), Cas::Stored));
    let after = place.find(id).await.unwrap();
    let mut kept = before.get_document("tokenRefresh").unwrap().clone();
    kept = changed(
        kept,
        doc! {
            "attemptedAt": millis(9), "failures": 2, "lastError": "x".repeat(256),
            "nextAttemptAt": millis(60), "outcome": "unreachable",
        },
    );
    assert_eq!(after, changed(before, doc! { "tokenRefresh": kept }));

    save.change.verdict = Some(Verdict { status: Status::Revoked, message: "log in again" });
    save.change.note.service = None;
    assert!(matches!(place.store.save(&save).await.unwrap(), Cas::Stored));
    let verdict =
        doc! { "status": "revoked", "errorMessage": "log in again", "updatedAt": millis(9) };
    assert_eq!(place.find(id).await.unwrap(), changed(after, verdict));
}

#[tokio::test]
async fn whoever_changed_the_document_meanwhile_wins() {
    let place = Place::shared().await;
    let rows: [(&str, Bson, Settlement); 7] = [
        ("logged in again", doc! { "refreshToken": jwt("c", 150) }, Settlement::Superseded),
        ("old pair written back", doc! { "refreshToken": jwt("o", 50) }, Settlement::WriteAgain),
        ("token null", doc! { "refreshToken": null }, Settlement::Superseded),
        ("token of another type", doc! { "refreshToken": 5 }, Settlement::Superseded),
        ("disconnected", doc! { "status": "inactive" }, Settlement::WriteAgain),
        ("status null", doc! { "status": null }, Settlement::WriteAgain),
        ("another platform", doc! { "platform": "threads" }, Settlement::Superseded),
    ];
    for (name, change, settlement) in rows {
        let id = place.insert(&account("active")).await;
        let save = rotation(&place.load(id).await);
        place.set(id, change).await;
        let before = place.find(id).await;
        let now = missed(place.store.save(&save).await.unwrap());
        assert_eq!(settled(now.as_ref()), settlement, "{name}");
        assert_eq!(place.find(id).await, before, "{name}: changed all the same");
    }
}

#[tokio::test]
async fn a_disconnection_and_its_undoing_are_both_seen() {
    let place = Place::shared().await;
    let id = place.insert(&account("active")).await;
    let save = rotation(&place.load(id).await);
    place.set(id, doc! { "status": "inactive" }).await;
    let now = missed(place.store.save(&save).await.unwrap()).unwrap();
    let again = Save { expected: rotation(&now).expected, ..save.clone() };
    place.set(id, doc! { "status": "error" }).await;
    assert!(missed(place.store.save(&again).await.unwrap()).is_some());
    assert!(matches!(place.store.save(&save).await.unwrap(), Cas::Stored));
}

#[tokio::test]
async fn a_document_that_is_gone_stays_gone() {
    let place = Place::shared().await;
    let id = place.insert(&account("active")).await;
    let save = rotation(&place.load(id).await);
    place.accounts.delete_many(doc! {}).await.unwrap();
    assert!(missed(place.store.save(&save).await.unwrap()).is_none());
    assert!(place.find(id).await.is_none());
    assert!(place.store.load(id).await.unwrap().is_none());
}

#[tokio::test]
async fn no_token_is_matched_whether_null_missing_or_empty() {
    let place = Place::shared().await;
    for token in [Some(Value::Null), Some(Value::from("")), None] {
        let mut before = account("active");
        match token {
            Some(token) => before.insert("refreshToken", token),
            None => before.remove("refreshToken"),
        };
        let id = place.insert(&before).await;
        let document = place.load(id).await;
        let mut save = rotation(&document);
        save.change = Change {
            rotation: None,
            verdict: Some(Verdict { status: Status::Error, message: "log in again" }),
            note: note(Outcome::NoRefreshToken, "x"),
        };
        assert!(matches!(place.store.save(&save).await.unwrap(), Cas::Stored));
        place.set(id, doc! { "refreshToken": jwt("c", 1), "status": "active" }).await;
        assert!(missed(place.store.save(&save).await.unwrap()).is_some());
        assert_eq!(place.find(id).await.unwrap().get_str("status").unwrap(), "active");
    }
}

#[tokio::test]
async fn bookkeeping_of_another_type_does_not_stop_a_refresh() {
    let place = Place::shared().await;
    let odd: [Value; 6] = [
        Value::Null,
        Value::from("x"),
        Value::from(1),
        Value::Array(vec![]),
        Value::Array(vec![doc! { "service": 1 }.into()]),
        Value::Boolean(false),
    ];
    for value in odd {
        let mut before = account("active");
        before.insert("tokenRefresh", value.clone());
        let id = place.insert(&before).await;
        let save = rotation(&place.load(id).await);
        place.set(id, doc! { "refreshToken": jwt("c", 1) }).await;
        assert!(missed(place.store.save(&save).await.unwrap()).is_some(), "{value}: not guarded");
        place.set(id, doc! { "refreshToken": jwt("u", 100) }).await;
        assert!(matches!(place.store.save(&save).await.unwrap(), Cas::Stored), "{value}");
        let document = place.load(id).await;
        assert_eq!(document.kept.refreshed_at, Some(at(0)));
        assert!(matches!(document.token, StoredToken::Token(token) if token.jti() == "n"));
    }
}

#[tokio::test]
async fn a_repeat_after_an_unseen_success_finds_its_own_pair() {
    let server = MongoServer::shared().await;
    let database = server.fresh_database();
    let uri = format!("{}&appName={database}", server.uri());
    let place = Place::at(&uri, &database, Some(&server.uri())).await;
    let id = place.insert(&account("active")).await;
    let save = rotation(&place.load(id).await);
    let no_majority = doc! { "code": 64, "errmsg": "waiting for replication timed out" };
    let fail = doc! {
        "configureFailPoint": "failCommand", "mode": { "times": 1 },
        "data": {
            "failCommands": ["update"], "writeConcernError": no_majority, "appName": &database,
        },
    };
    place.client.database("admin").run_command(fail).await.unwrap();
    let error = place.store.save(&save).await.unwrap_err();
    assert!(error.may_have_written(), "{error}");
    let now = missed(place.store.save(&save).await.unwrap());
    assert_eq!(settled(now.as_ref()), Settlement::Stored);
}

#[tokio::test]
async fn a_lost_reply_is_repaired_without_a_replica_set() {
    let mut server = MongoServer::start(Topology::Standalone).await;
    let proxy = Proxy::marking(server.port(), "refreshToken").await;
    let uri = format!("mongodb://127.0.0.1:{}/", proxy.port());
    let place = Place::at(&uri, "lost", Some(&server.uri())).await;
    let id = place.insert(&account("active")).await;
    let save = rotation(&place.load(id).await);
    proxy.lose_next_reply();
    let error = place.store.save(&save).await.unwrap_err();
    assert!(error.may_have_written(), "{error}");
    assert!(!proxy.is_armed());
    assert_eq!(place.load(id).await.kept.refreshed_at, Some(at(0)), "it was carried out");
    let now = missed(place.store.save(&save).await.unwrap());
    assert_eq!(settled(now.as_ref()), Settlement::Stored);

    server.kill();
    let error = place.store.save(&save).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    server.restart().await;
    let now = missed(place.store.save(&save).await.unwrap());
    assert_eq!(settled(now.as_ref()), Settlement::Stored);
}

#[tokio::test]
async fn a_lost_reply_is_repaired_on_a_replica_set() {
    let server = MongoServer::shared().await;
    let proxy = Proxy::marking(server.port(), "refreshToken").await;
    let uri = format!("mongodb://127.0.0.1:{}/?directConnection=true", proxy.port());
    let place = Place::at(&uri, &server.fresh_database(), Some(&server.uri())).await;
    let id = place.insert(&account("active")).await;
    let save = rotation(&place.load(id).await);
    proxy.lose_next_reply();
    let error = place.store.save(&save).await.unwrap_err();
    assert!(error.may_have_written(), "{error}");
    assert!(!proxy.is_armed());
    let now = missed(place.store.save(&save).await.unwrap());
    assert_eq!(settled(now.as_ref()), Settlement::Stored);
}

#[tokio::test]
async fn of_many_writes_at_once_each_gets_its_own_answer() {
    let place = Place::shared().await;
    let mut saves = Vec::new();
    for n in 0..300 {
        let mut document = account("active");
        if n % 50 == 7 {
            document.insert("tokenRefresh", "of another type");
        }
        let id = place.insert(&document).await;
        saves.push(rotation(&place.load(id).await));
    }
    let id = |n: usize| saves[n].expected.id;
    place.set(id(20), doc! { "refreshToken": jwt("c", 150) }).await;
    place.set(id(30), doc! { "refreshToken": Value::Null }).await;
    let gone = ObjectId::from_bytes(id(40).bytes());
    place.accounts.delete_one(doc! { "_id": gone }).await.unwrap();

    let answers = join_all(saves.iter().map(|save| place.store.save(save))).await;
    for (n, answer) in answers.into_iter().enumerate() {
        let settled = match answer.unwrap() {
            Cas::Stored => Settlement::Stored,
            Cas::Missed(document) => settled(document.as_ref()),
        };
        let lost = [20, 30, 40].contains(&n);
        let expected = if lost { Settlement::Superseded } else { Settlement::Stored };
        assert_eq!(settled, expected, "{n}");
        if !lost {
            let document = place.load(id(n)).await;
            assert!(matches!(document.token, StoredToken::Token(it) if it.jti() == "n"), "{n}");
            assert_eq!(document.kept.refreshed_at, Some(at(0)), "{n}");
        }
    }
    assert!(place.find(id(40)).await.is_none());
    assert_eq!(place.find(id(30)).await.unwrap().get("refreshToken"), Some(&Value::Null));
}

#[tokio::test]
async fn writes_of_one_account_that_go_together_all_see_its_document() {
    let place = Place::shared().await;
    let id = place.insert(&account("active")).await;
    let save = rotation(&place.load(id).await);
    for answer in join_all((0..20).map(|_| place.store.save(&save))).await {
        if let Cas::Missed(document) = answer.unwrap() {
            assert_eq!(settled(document.as_ref()), Settlement::Stored, "never taken for gone");
        }
    }
}

#[tokio::test]
async fn a_write_that_mongodb_refuses_spoils_no_other() {
    let place = Place::shared().await;
    let mut saves = Vec::new();
    for _ in 0..50 {
        let id = place.insert(&account("active")).await;
        saves.push(rotation(&place.load(id).await));
    }
    saves[10].change.rotation.as_mut().unwrap().handle = Handle::parse("refused.test");
    let rule = doc! { "platformUsername": { "$ne": "refused.test" } };
    let change = doc! { "collMod": place.store.collection(), "validator": rule };
    place.client.database(place.store.database()).run_command(change).await.unwrap();

    let answers = join_all(saves.iter().map(|save| place.store.save(save))).await;
    for (n, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(Cas::Stored) => assert_ne!(n, 10),
            Ok(Cas::Missed(now)) => panic!("{n} missed: {now:?}"),
            Err(error) => assert!(n == 10 && !error.is_transient(), "{n}: {error}"),
        }
    }
}
