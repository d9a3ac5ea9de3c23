//! The store against a real MongoDB.

mod accounts;
mod cas;
mod changes;
mod connect;
mod runs;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document as Bson, doc};
use mongodb::{Client, Collection};
use refreshd::domain::account::Document;
use refreshd::domain::attempt::{Expected, Save};
use refreshd::domain::decide::{Change, Note, Rotation};
use refreshd::domain::identity::AccountId;
use refreshd::domain::outcome::Outcome;
use refreshd::domain::session::{AccessJwt, Pair, RefreshJwt};
use refreshd::store::{Store, StoreConfig};

use crate::harness::mongo::MongoServer;

const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";

/// A store on a database of its own, and the same collection as the application sees it.
struct Place {
    store: Store,
    accounts: Collection<Bson>,
    client: Client,
    /// Keeps the server running.
    server: Option<Arc<MongoServer>>,
}

impl Place {
    async fn shared() -> Self {
        let server = MongoServer::shared().await;
        let database = server.fresh_database();
        let mut place = Self::at(&server.uri(), &database, None).await;
        place.server = Some(server);
        place
    }

    /// `direct` is where the test itself looks, if the store goes another way.
    async fn at(uri: &str, database: &str, direct: Option<&str>) -> Self {
        let store = Store::connect(&config(uri, database)).await.unwrap();
        let client = Client::with_uri_str(direct.unwrap_or(uri)).await.unwrap();
        let accounts = client.database(database).collection("socialaccounts");
        Self { store, accounts, client, server: None }
    }

    async fn insert(&self, document: &Bson) -> AccountId {
        self.accounts.insert_one(document).await.unwrap();
        id_of(document)
    }

    async fn find(&self, id: AccountId) -> Option<Bson> {
        self.accounts.find_one(doc! { "_id": ObjectId::from_bytes(id.bytes()) }).await.unwrap()
    }

    async fn set(&self, id: AccountId, change: Bson) {
        let filter = doc! { "_id": ObjectId::from_bytes(id.bytes()) };
        self.accounts.update_one(filter, doc! { "$set": change }).await.unwrap();
    }

    async fn load(&self, id: AccountId) -> Document {
        self.store.load(id).await.unwrap().unwrap()
    }
}

fn config(uri: &str, database: &str) -> StoreConfig {
    StoreConfig {
        uri: uri.into(),
        database: database.to_owned(),
        collection: "socialaccounts".to_owned(),
    }
}

fn id_of(document: &Bson) -> AccountId {
    AccountId::from_bytes(document.get_object_id("_id").unwrap().bytes())
}

/// A moment of the tests, in seconds.
fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000 + seconds, 0).unwrap()
}

fn jwt(jti: &str, iat: i64) -> String {
    let claims = serde_json::json!({
        "sub": DID, "aud": "did:web:bsky.social", "jti": jti, "iat": iat, "exp": 2_000_000_000,
    });
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn refresh_token(jti: &str) -> RefreshJwt {
    RefreshJwt::parse(&jwt(jti, 100)).unwrap()
}

/// An account as the application writes it, with fields that are none of the daemon's business.
fn account(status: &str) -> Bson {
    doc! {
        "_id": ObjectId::new(), "userId": ObjectId::new(), "platform": "bluesky",
        "platformAccountId": DID, "platformUsername": "alice.test", "displayName": "Älice",
        "accessToken": "old access", "refreshToken": jwt("u", 100), "tokenExpiry": null,
        "status": status, "errorMessage": "Token refresh failed: x", "scope": ["a", { "b": 1.5 }],
        "metadata": { "tokenRefresh": 1, "nested": { "x": null } }, "profileImage": null,
        "lastUsed": mongodb::bson::DateTime::from_millis(5), "__v": 0,
        "createdAt": mongodb::bson::DateTime::from_millis(1),
        "updatedAt": mongodb::bson::DateTime::from_millis(2),
    }
}

fn note(outcome: Outcome, jti: &str) -> Note {
    Note {
        at: at(0),
        service: Some("https://bsky.social".parse().unwrap()),
        outcome,
        failures: 0,
        next_attempt_at: None,
        judged_jti: Some(jti.to_owned()),
        heard: None,
        last_error: None,
        refresh_expires_at: None,
        account_status: None,
    }
}

/// The new pair, for a document that is as it was read.
fn rotation(document: &Document) -> Save {
    let pair = Pair {
        access: AccessJwt::parse(&jwt("access", 200)).unwrap(),
        refresh: refresh_token("n"),
    };
    let mut note = note(Outcome::Refreshed, "n");
    note.refresh_expires_at = Some(pair.refresh.expires_at());
    Save {
        expected: Expected::of(document).unwrap(),
        change: Change { rotation: Some(Rotation { pair, handle: None }), verdict: None, note },
        misses: 0,
    }
}
