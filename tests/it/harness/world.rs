//! Redis, MongoDB and the application's collection: what every whole-daemon test stands on.

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::{Client, Collection};

use super::daemon::Daemon;
use super::mongo::{MongoServer, Topology};
use super::redis::RedisServer;

/// The servers of one test.
pub(crate) struct World {
    pub(crate) redis: RedisServer,
    pub(crate) mongo: MongoServer,
    client: Client,
}

impl World {
    /// Fresh servers, MongoDB as a replica set of one.
    pub(crate) async fn start() -> Self {
        Self::start_on(&[], Topology::ReplicaSet(1)).await
    }

    /// Fresh servers, with lines of Redis's configuration file and MongoDB as it is wanted.
    pub(crate) async fn start_on(redis: &[&str], mongo: Topology) -> Self {
        let (redis, mongo) =
            tokio::join!(RedisServer::start_with(redis), MongoServer::start(mongo));
        let client = Client::with_uri_str(mongo.uri()).await.expect("a MongoDB client");
        Self { redis, mongo, client }
    }

    /// The settings that a daemon needs here, calling `service`.
    pub(crate) fn settings(&self, service: &str) -> Vec<(String, String)> {
        [
            ("REDIS_HOST", "127.0.0.1".to_owned()),
            ("REDIS_PORT", self.redis.port().to_string()),
            ("MONGODB_URI", self.mongo.uri()),
            ("MONGO_DB", "app".to_owned()),
            ("BLUESKY_SERVICE_URL", service.to_owned()),
            ("REFRESH_CRON", "off".to_owned()),
            // Most tests count calls: those that are not asked for would only be in the way.
            ("KEEP_FRESH", "false".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// A daemon with those settings and some more.
    pub(crate) async fn daemon(&self, service: &str, more: &[(&str, &str)]) -> Daemon {
        Daemon::start(&self.settings_and(service, more)).await
    }

    /// The same, of the program as it is shipped.
    pub(crate) async fn release(&self, service: &str, more: &[(&str, &str)]) -> Daemon {
        Daemon::start_release(&self.settings_and(service, more)).await
    }

    fn settings_and(&self, service: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut settings = self.settings(service);
        settings.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        settings
    }

    /// The application's database.
    pub(crate) fn database(&self) -> mongodb::Database {
        self.client.database("app")
    }

    /// How many active accounts have an access token that has expired.
    pub(crate) async fn stale(&self) -> u64 {
        let expired = doc! { "status": "active", "tokenExpiry": { "$lte": DateTime::now() } };
        self.accounts().count_documents(expired).await.expect("a count")
    }

    /// How many of them have one that is not known to live: it has expired, or its end is not known.
    pub(crate) async fn not_known_fresh(&self) -> u64 {
        let unknown = doc! { "status": "active", "tokenExpiry": null };
        self.stale().await + self.accounts().count_documents(unknown).await.expect("a count")
    }

    /// The application's collection.
    pub(crate) fn accounts(&self) -> Collection<Document> {
        self.database().collection("socialaccounts")
    }

    /// Stores a session as the application does right after a login; answers the account's id.
    pub(crate) async fn log_in(
        &self,
        did: &str,
        handle: &str,
        access: &str,
        refresh: &str,
    ) -> String {
        let document = login(did, handle, access, refresh);
        let id = document.get_object_id("_id").expect("an id").to_hex();
        self.accounts().insert_one(document).await.expect("an insert");
        id
    }

    /// Changes an account as the application would, behind the daemon's back.
    pub(crate) async fn set(&self, id: &str, fields: Document) {
        let result =
            self.accounts().update_one(by_id(id), doc! {"$set": fields}).await.expect("an update");
        assert_eq!(result.matched_count, 1, "account {id} stands");
    }

    /// An account's document.
    pub(crate) async fn account(&self, id: &str) -> Document {
        self.accounts().find_one(by_id(id)).await.expect("a read").expect("the account stands")
    }
}

/// A document as the application's login writes it, with mongoose.
pub(crate) fn login(did: &str, handle: &str, access: &str, refresh: &str) -> Document {
    let now = DateTime::now();
    doc! {
        "_id": ObjectId::new(),
        "userId": ObjectId::new(),
        "platform": "bluesky",
        "platformAccountId": did,
        "platformUsername": handle,
        "displayName": handle,
        "accessToken": access,
        "refreshToken": refresh,
        "tokenExpiry": Bson::Null,
        "status": "active",
        "errorMessage": Bson::Null,
        "scope": "atproto",
        "metadata": {"followers": 3, "tags": [], "big": 9_007_199_254_740_993_i64},
        "createdAt": now,
        "updatedAt": now,
        "__v": 0,
    }
}

/// The filter for one account.
pub(crate) fn by_id(id: &str) -> Document {
    doc! {"_id": ObjectId::parse_str(id).expect("an id")}
}

/// A text field of a document, or "" when it is null, missing or no text.
pub(crate) fn text<'a>(document: &'a Document, path: &str) -> &'a str {
    let mut at = document;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return at.get_str(part).unwrap_or_default();
        }
        match at.get_document(part) {
            Ok(inner) => at = inner,
            Err(_missing) => return "",
        }
    }
    ""
}
