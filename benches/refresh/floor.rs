//! The bare floor: what a refresh of every account costs without anything around it.
//!
//! A cursor over the accounts, so many calls in flight, and `update` commands of 64 statements with
//! the daemon's own compare-and-set and fields. No queue, journal, log, budget or retries: what
//! goes wrong ends it.

use std::borrow::Cow;
use std::io::{BufRead as _, Write as _};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use mongodb::bson::{DateTime, RawArrayBuf, RawBson, RawDocumentBuf, doc, rawdoc};
use mongodb::{Client, Database};
use refreshd::clock::Clock;
use refreshd::domain::session::{AccessJwt, RefreshJwt};
use serde::Deserialize;
use tokio::runtime::Builder;

use crate::options::FloorArgs;

/// Statements of one `update` command.
const BATCH: usize = 64;

/// Commands under way at once.
const WRITES: usize = 4;

const OURS: [&str; 4] = ["active", "error", "expired", "revoked"];

/// Says `ready`; on each line `go`, refreshes every account once and says `done STORED FAILED`.
pub(crate) fn run(given: &FloorArgs) -> anyhow::Result<()> {
    // As many threads as there are cores, as in any program of tokio's, the daemon among them. On a
    // single one the loop costs a third less (docs/performance.md), and has one core at most.
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let floor = runtime.block_on(Floor::connect(given))?;
    say("ready")?;
    for line in std::io::stdin().lock().lines() {
        if line?.trim() == "go" {
            let stored = runtime.block_on(floor.pass())?;
            say(&format!("done {stored} 0"))?;
        }
    }
    Ok(())
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

struct Floor {
    database: Database,
    http: reqwest::Client,
    service: String,
    url: String,
    in_flight: usize,
    clock: Clock,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    #[serde(borrow)]
    access_jwt: Cow<'a, str>,
    #[serde(borrow)]
    refresh_jwt: Cow<'a, str>,
    #[serde(borrow)]
    did: Cow<'a, str>,
    #[serde(borrow)]
    handle: Cow<'a, str>,
}

impl Floor {
    async fn connect(given: &FloorArgs) -> anyhow::Result<Self> {
        let _second_time = rustls::crypto::ring::default_provider().install_default();
        let client = Client::with_uri_str(&given.mongo).await?;
        let database = client.database("app");
        database.run_command(doc! { "ping": 1 }).await.context("MongoDB")?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .pool_max_idle_per_host(given.in_flight)
            .build()?;
        Ok(Self {
            database,
            http,
            service: given.pds.clone(),
            url: format!("{}/xrpc/com.atproto.server.refreshSession", given.pds),
            in_flight: given.in_flight,
            clock: Clock::system(),
        })
    }

    /// Refreshes every account once; answers how many were stored.
    async fn pass(&self) -> anyhow::Result<usize> {
        let accounts = self.database.collection::<RawDocumentBuf>("socialaccounts");
        let fields = doc! { "platformAccountId": 1, "refreshToken": 1 };
        let all = accounts.find(doc! { "platform": "bluesky" }).projection(fields);
        all.batch_size(1_000)
            .await?
            .map(|account| async { self.refresh(&account?).await })
            .buffer_unordered(self.in_flight)
            .try_chunks(BATCH)
            .map_err(|broken| broken.1)
            .map_ok(|updates| self.store(updates))
            .try_buffer_unordered(WRITES)
            .try_fold(0, |sum, stored| async move { Ok(sum + stored) })
            .await
    }

    /// The call for one account, and the statement that stores its answer.
    async fn refresh(&self, account: &RawDocumentBuf) -> anyhow::Result<RawDocumentBuf> {
        let (id, token) = (account.get_object_id("_id")?, account.get_str("refreshToken")?);
        let answer = self.http.post(&self.url).bearer_auth(token).send().await?;
        let answer = answer.error_for_status()?.bytes().await?;
        let answer: Answer<'_> = serde_json::from_slice(&answer)?;
        anyhow::ensure!(answer.did == account.get_str("platformAccountId")?, "another account's");
        let access = AccessJwt::parse(&answer.access_jwt)?;
        let refresh = RefreshJwt::parse(&answer.refresh_jwt)?;
        let now = DateTime::from_millis(self.clock.now().timestamp_millis());
        let date = |at: chrono::DateTime<chrono::Utc>| DateTime::from_millis(at.timestamp_millis());
        let filter = rawdoc! {
            "_id": id, "platform": "bluesky", "refreshToken": token,
            "status": { "$in": RawArrayBuf::from_iter(OURS) },
        };
        let set = rawdoc! {
            "accessToken": access.expose(),
            "refreshToken": refresh.expose(),
            "tokenExpiry": date(access.expires_at()),
            "platformUsername": answer.handle.as_ref(),
            "status": "active",
            "errorMessage": RawBson::Null,
            "updatedAt": now,
            "tokenRefresh.attemptedAt": now,
            "tokenRefresh.outcome": "refreshed",
            "tokenRefresh.failures": 0,
            "tokenRefresh.nextAttemptAt": RawBson::Null,
            "tokenRefresh.judgedJti": refresh.jti(),
            "tokenRefresh.heardAt": RawBson::Null,
            "tokenRefresh.heardAtServer": RawBson::Null,
            "tokenRefresh.lastError": RawBson::Null,
            "tokenRefresh.service": self.service.as_str(),
            "tokenRefresh.refreshedAt": now,
            "tokenRefresh.refreshExpiresAt": date(refresh.expires_at()),
            "tokenRefresh.accountStatus": RawBson::Null,
        };
        Ok(rawdoc! { "q": filter, "u": { "$set": set } })
    }

    /// One unordered command; every statement of it must have matched.
    async fn store(&self, updates: Vec<RawDocumentBuf>) -> anyhow::Result<usize> {
        let count = updates.len();
        let command = rawdoc! {
            "update": "socialaccounts",
            "updates": RawArrayBuf::from_iter(updates),
            "ordered": false,
            "writeConcern": { "w": "majority" },
        };
        let reply = self.database.run_raw_command(command).await?;
        let stored = usize::try_from(reply.get_i32("n")?)?;
        anyhow::ensure!(stored == count, "{stored} of {count} were stored: {reply}");
        Ok(stored)
    }
}
