//! The accounts: created at the scripted server, stored as the daemon leaves them, and looked at
//! when all is over. Runs in the server's process, which knows every token.

use std::time::Duration;

use anyhow::Context as _;
use chrono::TimeDelta;
use futures::TryStreamExt as _;
use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::{Client, Collection};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use refreshd::domain::session::RefreshJwt;

use crate::harness::scripted_pds::{ScriptedPds, Session};
use crate::harness::world::{login, text};

/// Documents that one insert carries.
const BATCH: u32 = 2_000;

/// What is to be created.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fill {
    pub(crate) mongo: String,
    pub(crate) count: u32,
    pub(crate) due: Due,
}

/// When the accounts are to be refreshed next.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Due {
    /// Nobody says: as `KEEP_FRESH=false` leaves them.
    Never,
    /// Evenly spread between so many seconds from now; their tokens live an hour longer.
    Between(u32, u32),
}

/// Creates and stores accounts that were refreshed once before; answers the DID of the last.
pub(crate) async fn fill(pds: &ScriptedPds, fill: &Fill) -> anyhow::Result<Option<String>> {
    let accounts = accounts(&fill.mongo).await?;
    let (mut done, mut last) = (0, None);
    while done < fill.count {
        let sessions = pds.create(usize::try_from(BATCH.min(fill.count - done))?);
        let documents: Result<Vec<_>, _> = (done..)
            .zip(&sessions)
            .map(|(number, session)| {
                document(pds, session, fill.due, f64::from(number) / f64::from(fill.count))
            })
            .collect();
        accounts.insert_many(documents?).await.context("an insert")?;
        done += BATCH.min(fill.count - done);
        last = sessions.into_iter().next_back().map(|session| session.did);
        // The server's other work has its turn.
        tokio::task::yield_now().await;
    }
    Ok(last)
}

/// Reads every account: how many there are, and of how many the stored token is what it should be.
pub(crate) async fn verify(pds: &ScriptedPds, mongo: &str) -> anyhow::Result<Value> {
    let fields = doc! { "refreshToken": 1, "platformAccountId": 1 };
    let mut all = accounts(mongo).await?.find(doc! {}).projection(fields).await?;
    let (mut count, mut current, mut wrong) = (0_u64, 0_u64, None);
    while let Some(document) = all.try_next().await? {
        count += 1;
        if pds.is_current(text(&document, "refreshToken")) {
            current += 1;
        } else {
            wrong = Some(text(&document, "platformAccountId").to_owned());
        }
    }
    Ok(json!({ "accounts": count, "current": current, "wrong": wrong }))
}

async fn accounts(mongo: &str) -> anyhow::Result<Collection<Document>> {
    let client = Client::with_uri_str(mongo).await.context("MongoDB")?;
    Ok(client.database("app").collection("socialaccounts"))
}

fn document(
    pds: &ScriptedPds,
    session: &Session,
    due: Due,
    place: f64,
) -> anyhow::Result<Document> {
    let now = pds.now();
    let next = match due {
        Due::Never => None,
        Due::Between(from, to) => {
            let after = f64::from(from) + (f64::from(to) - f64::from(from)) * place;
            Some(now + TimeDelta::from_std(Duration::from_secs_f64(after))?)
        }
    };
    let ends = next.unwrap_or(now) + TimeDelta::hours(1);
    let access = ScriptedPds::until(&session.access, ends);
    let refresh = RefreshJwt::parse(&session.refresh)?;
    let at = DateTime::from_millis(now.timestamp_millis());
    let mut document = login(&session.did, &session.handle, &access, &session.refresh);
    document.insert("tokenExpiry", DateTime::from_millis(ends.timestamp() * 1_000));
    document.insert(
        "tokenRefresh",
        doc! {
            "attemptedAt": at, "refreshedAt": at, "outcome": "refreshed", "failures": 0,
            "service": pds.url().as_str(), "judgedJti": refresh.jti(),
            "nextAttemptAt": next.map(|next| DateTime::from_millis(next.timestamp_millis())),
            "refreshExpiresAt": DateTime::from_millis(refresh.expires_at().timestamp_millis()),
            "heardAt": Bson::Null, "heardAtServer": Bson::Null, "lastError": Bson::Null,
            "accountStatus": Bson::Null,
        },
    );
    Ok(document)
}
