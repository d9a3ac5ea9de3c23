//! Connecting: which database, and what is said when it cannot be.

use mongodb::Client;
use mongodb::bson::doc;
use refreshd::domain::outcome::Trigger;
use refreshd::store::{Store, StoreError};

use super::{Place, account, at, config, rotation};
use crate::harness::mongo::{MongoServer, Topology};

#[tokio::test]
async fn a_store_shows_no_login() {
    let uri = "mongodb://user:secret@one.example,two.example:27018/app?replicaSet=rs0";
    let store = Store::connect(&config(uri, "app")).await.unwrap();
    assert!(!format!("{store:?}").contains("secret"));
}

#[tokio::test]
async fn a_bad_uri_is_refused_without_being_quoted() {
    for uri in [
        "",
        "postgres://user:secret@localhost/db",
        "mongodb://user:sec/ret@localhost/db",
        "mongodb://user:12/secret@localhost",
        "mongodb://user:se:cret@localhost/db",
        "mongodb://user:secret%@localhost/db",
        "mongodb://user:secret@/db",
    ] {
        let error = Store::connect(&config(uri, "app")).await.unwrap_err();
        assert!(matches!(error, StoreError::BadUri(_)), "{uri}: {error}");
        let said = format!("{error} {error:?}");
        assert!(!said.contains("sec") && !said.contains("ret@"), "{said}");
        assert!(said.contains("MONGODB_URI"));
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_as_the_trouble() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for host in [format!("127.0.0.1:{port}"), "nowhere.invalid".to_owned()] {
        let uri = format!("mongodb://user:secret@{host}/db?serverSelectionTimeoutMS=300");
        let error = Store::connect(&config(&uri, "app")).await.unwrap().ping().await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable(_)), "{error}");
        assert!(error.is_transient() && !error.may_have_written());
        assert!(!format!("{error:?}").contains("secret") && error.to_string().len() < 400);
    }
}

#[tokio::test]
async fn logins_and_rights_are_told_apart() {
    let server = MongoServer::start(Topology::WithLogins).await;
    let admin = Client::with_uri_str(server.uri()).await.unwrap().database("admin");
    let root = doc! { "createUser": "root", "pwd": "root", "roles": ["root"] };
    admin.run_command(root).await.unwrap();
    let uri =
        |user: &str| server.uri().replace("://", &format!("://{user}@")) + "?authSource=admin";
    let admin = Client::with_uri_str(uri("root:root")).await.unwrap().database("admin");
    let what = doc! {
        "resource": { "db": "app", "collection": "" },
        "actions": ["find", "insert", "update", "remove", "listIndexes"],
    };
    let role = doc! { "createRole": "modest", "privileges": [what], "roles": [] };
    admin.run_command(role).await.unwrap();
    for (user, roles) in [("modest", vec!["modest"]), ("nobody", vec![])] {
        let user = doc! { "createUser": user, "pwd": "secret", "roles": roles };
        admin.run_command(user).await.unwrap();
    }

    let wrong = Store::connect(&config(&uri("modest:wrong"), "app")).await.unwrap();
    let error = wrong.ping().await.unwrap_err();
    assert_eq!(error, StoreError::BadLogin);
    assert!(!error.to_string().contains("wrong"));

    let direct = uri("root:root");
    let place = Place::at(&uri("modest:secret"), "app", Some(&direct)).await;
    place.store.ping().await.unwrap();
    let error = place.store.ensure_indexes().await.unwrap_err();
    assert_eq!(error, StoreError::NotAllowed("create indexes and collections"));
    // All goes on without them.
    let id = place.insert(&account("active")).await;
    let save = rotation(&place.load(id).await);
    place.store.save(&save).await.unwrap();
    place.client.database("app").create_collection("refresh_runs").await.unwrap();
    place.store.request_run(Trigger::Manual, at(0)).await.unwrap();
    assert_eq!(place.store.services(None, 5).await.unwrap(), ["https://bsky.social"]);

    let nobody = Place::at(&uri("nobody:secret"), "app", Some(&direct)).await;
    let error = nobody.store.save(&save).await.unwrap_err();
    assert!(matches!(error, StoreError::NotAllowed(_)), "{error}");
    assert!(!format!("{error} {error:?}").contains("e30"), "{error}");
}
