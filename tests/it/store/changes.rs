//! The change stream: what others write is heard, what the daemon writes is not.

use mongodb::bson::doc;
use refreshd::domain::identity::AccountId;
use refreshd::store::{Changes, Heard};

use super::accounts::appraised;
use super::{Place, account, jwt, rotation};
use crate::harness::mongo::{MongoServer, Topology};

/// The stream, and whether it goes on where another ended.
async fn open(place: &Place) -> (Changes, bool) {
    place.store.changes().await.unwrap().expect("a replica set has change streams")
}

/// What is heard until something of `last` is; whatever is heard beside it is told, too.
async fn heard(place: &Place, changes: &mut Changes, last: AccountId) -> Vec<AccountId> {
    let mut all = Vec::new();
    while all.last() != Some(&last) {
        match place.store.next_changes(changes).await.unwrap() {
            Heard::Changed(ids) => all.extend(ids),
            Heard::Lost => panic!("nothing was lost"),
        }
    }
    all
}

#[tokio::test]
async fn what_others_change_is_heard_and_nothing_else() {
    let place = Place::shared().await;
    place.insert(&account("active")).await;
    let (mut changes, resumed) = open(&place).await;
    assert!(!resumed);

    let new = place.insert(&account("active")).await;
    let mut told = vec![new];
    for change in [
        doc! { "refreshToken": jwt("c", 1) },
        doc! { "accessToken": "x", "updatedAt": 5 },
        doc! { "status": "inactive" },
        doc! { "tokenExpiry": null },
        doc! { "tokenExpiry": 5 },
    ] {
        place.set(new, change).await;
        told.push(new);
    }
    // The third writes what stood there already: nothing changed.
    told.pop();
    // Ours, and what is none of our business.
    let ours = place.insert(&account("error")).await;
    told.push(ours);
    let appraisal = appraised(&place, ours).await;
    assert_eq!(place.store.appraise(&[appraisal]).await.unwrap(), 1);
    place.store.save(&rotation(&place.load(ours).await)).await.unwrap();
    place.set(ours, doc! { "lastUsed": 5, "displayName": "x", "updatedAt": 5 }).await;
    let last = place.insert(&account("active")).await;
    told.push(last);
    assert_eq!(heard(&place, &mut changes, last).await, told);
}

#[tokio::test]
async fn listening_goes_on_where_it_ended() {
    let place = Place::shared().await;
    place.insert(&account("active")).await;
    let (mut changes, _) = open(&place).await;
    let first = place.insert(&account("active")).await;
    heard(&place, &mut changes, first).await;
    place.store.save_place(&mut changes).await.unwrap();
    drop(changes);

    let meanwhile = place.insert(&account("active")).await;
    let (mut changes, resumed) = open(&place).await;
    assert!(resumed);
    assert_eq!(heard(&place, &mut changes, meanwhile).await, [meanwhile]);

    // Also while only our own writes, or others', go by.
    let place_before = saved(&place).await;
    place.client.database("elsewhere").collection("x").insert_one(doc! {}).await.unwrap();
    while saved(&place).await == place_before {
        assert!(
            matches!(place.store.next_changes(&mut changes).await.unwrap(), Heard::Changed(ids) if ids.is_empty())
        );
        place.store.save_place(&mut changes).await.unwrap();
    }

    place.store.forget_place().await.unwrap();
    assert!(!open(&place).await.1);
}

async fn saved(place: &Place) -> Option<mongodb::bson::Document> {
    let database = place.client.database(place.store.database());
    database.collection("refresh_changes").find_one(doc! {}).await.unwrap()
}

#[tokio::test]
async fn a_place_that_the_server_no_longer_knows_is_told() {
    let place = Place::shared().await;
    place.insert(&account("active")).await;
    // As from another replica set: nothing there can follow on it.
    let strange = doc! { "_data": "8263F0E4B2000000012B022C0100296E5A10049999" };
    let database = place.client.database(place.store.database());
    let changes = database.collection("refresh_changes");
    let row = doc! { "_id": "socialaccounts", "resumeToken": strange };
    changes.insert_one(row).await.unwrap();
    let (mut stream, resumed) = open(&place).await;
    assert!(!resumed);
    let new = place.insert(&account("active")).await;
    assert_eq!(heard(&place, &mut stream, new).await, [new]);

    // A collection that is gone.
    place.accounts.drop().await.unwrap();
    let lost = async {
        while !matches!(place.store.next_changes(&mut stream).await.unwrap(), Heard::Lost) {}
    };
    tokio::time::timeout(crate::harness::PATIENCE, lost).await.expect("it is told");
}

#[tokio::test]
async fn without_a_replica_set_there_is_none() {
    let server = MongoServer::start(Topology::Standalone).await;
    let place = Place::at(&server.uri(), "app", None).await;
    assert!(place.store.changes().await.unwrap().is_none());
}
