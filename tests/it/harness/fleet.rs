//! Many accounts of one scripted server, stored as the application stores them after a login.

use std::collections::HashMap;
use std::time::Duration;

use futures::TryStreamExt as _;
use mongodb::bson::{DateTime, Document, doc};
use tokio::time::{Instant, sleep};

use refreshd::domain::session::RefreshJwt;

use super::PATIENCE;
use super::scripted_pds::{ScriptedPds, Session};
use super::world::{World, login, text};

/// Documents that one insert carries.
const BATCH: usize = 5_000;

/// The accounts of one server.
pub(crate) struct Fleet<'a> {
    pds: &'a ScriptedPds,
    dids: Vec<String>,
}

impl<'a> Fleet<'a> {
    /// So many new accounts, each logged in.
    pub(crate) async fn of(world: &World, pds: &'a ScriptedPds, count: usize) -> Self {
        Self::logged_in(world, pds, count, |session| session).await
    }

    /// The same, but the lives of their access tokens have ended a minute ago.
    pub(crate) async fn lapsed(world: &World, pds: &'a ScriptedPds, count: usize) -> Self {
        let lapse = |session: Session| Session { access: pds.expire(&session.access), ..session };
        Self::logged_in(world, pds, count, lapse).await
    }

    async fn logged_in(
        world: &World,
        pds: &'a ScriptedPds,
        count: usize,
        become_so: impl Fn(Session) -> Session,
    ) -> Self {
        // All are there before the first is stored, which is what takes the time.
        let sessions: Vec<_> = pds.create(count).into_iter().map(become_so).collect();
        for some in sessions.chunks(BATCH) {
            world.accounts().insert_many(some.iter().map(stored)).await.expect("an insert");
        }
        Self { pds, dids: sessions.into_iter().map(|session| session.did).collect() }
    }

    pub(crate) fn len(&self) -> u64 {
        u64::try_from(self.dids.len()).expect("a small number")
    }

    /// Their DIDs.
    pub(crate) fn dids(&self) -> &[String] {
        &self.dids
    }

    /// Waits until the server has been asked at least so often.
    pub(crate) async fn called(&self, times: u64) {
        let begun = Instant::now();
        while self.pds.total_calls() < times {
            let calls = self.pds.total_calls();
            let late = "the server has not been asked as often as was waited for";
            assert!(begun.elapsed() < PATIENCE, "{calls} calls, not {times}: {late}");
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until some account of these has been asked for.
    pub(crate) async fn asked_once(&self) {
        let begun = Instant::now();
        while self.dids.iter().all(|did| self.pds.called_at(did).is_none()) {
            assert!(begun.elapsed() < PATIENCE, "none of these accounts was asked for");
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// The filter for these accounts.
    pub(crate) fn filter(&self) -> Document {
        doc! { "platformAccountId": { "$in": &self.dids } }
    }

    /// Has all of them due so many milliseconds from now, as the daemon writes it after a failure.
    pub(crate) async fn set_due(&self, world: &World, millis: i64) {
        let next = DateTime::from_millis(DateTime::now().timestamp_millis() + millis);
        let due = |document: Document| {
            let token = RefreshJwt::parse(text(&document, "refreshToken")).expect("a token");
            let set = doc! {
                "tokenRefresh.service": self.pds.url().as_str(),
                "tokenRefresh.judgedJti": token.jti(), "tokenRefresh.outcome": "unreachable",
                "tokenRefresh.failures": 1, "tokenRefresh.nextAttemptAt": next,
                "tokenRefresh.attemptedAt": DateTime::now(),
            };
            doc! { "q": { "_id": document.get("_id") }, "u": { "$set": set } }
        };
        let documents = world.accounts().find(self.filter()).await.expect("the accounts");
        let updates: Vec<_> = documents.map_ok(due).try_collect().await.expect("the accounts");
        for some in updates.chunks(BATCH) {
            let update = doc! { "update": "socialaccounts", "updates": some };
            let answer = world.database().run_command(update).await.expect("an update");
            assert_eq!(answer.get_i32("n").ok(), i32::try_from(some.len()).ok());
        }
    }

    /// The most and the fewest calls that any account had.
    pub(crate) fn calls(&self) -> (u64, u64) {
        let calls = || self.dids.iter().map(|did| self.pds.calls(did));
        (calls().min().expect("some"), calls().max().expect("some"))
    }

    /// Accounts that were asked for more than once.
    pub(crate) fn repeated(&self) -> usize {
        self.dids.iter().filter(|did| self.pds.calls(did) > 1).count()
    }

    /// Whether the database holds a refreshed pair for every account.
    pub(crate) async fn is_refreshed(&self, world: &World) -> bool {
        let mine = doc! {
            "platformAccountId": { "$in": &self.dids }, "tokenRefresh.outcome": "refreshed",
        };
        world.accounts().count_documents(mine).await.expect("a count") == self.len()
    }

    /// Every account is active, was refreshed, and its stored token is the end of its chain.
    pub(crate) async fn assert_current(&self, world: &World) {
        self.assert_all(world, "the end of its chain", |token| self.pds.is_current(token)).await;
    }

    /// The same, but a crash may have left a token that is spent and still within its grace.
    pub(crate) async fn assert_live(&self, world: &World) {
        self.assert_all(world, "live", |token| self.pds.is_live(token)).await;
    }

    /// Waits until it is so that every account is current. What tries again has its own time.
    pub(crate) async fn heals(&self, world: &World) {
        let what = "the end of its chain";
        let begun = Instant::now();
        while let Some(wrong) = self.wrong(world, what, &|token| self.pds.is_current(token)).await {
            assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {wrong}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn assert_all(&self, world: &World, what: &str, is_good: impl Fn(&str) -> bool) {
        if let Some(wrong) = self.wrong(world, what, &is_good).await {
            panic!("{wrong}");
        }
    }

    /// The first account that is not as it should be, in words.
    async fn wrong(
        &self,
        world: &World,
        what: &str,
        is_good: &impl Fn(&str) -> bool,
    ) -> Option<String> {
        let fields = doc! {
            "platformAccountId": 1, "refreshToken": 1, "status": 1, "tokenRefresh": 1,
        };
        let all: Vec<Document> = world
            .accounts()
            .find(doc! {})
            .projection(fields)
            .await
            .expect("a read")
            .try_collect()
            .await
            .expect("all");
        let by_did: HashMap<_, _> =
            all.iter().map(|document| (text(document, "platformAccountId"), document)).collect();
        self.dids.iter().find_map(|did| {
            let document = by_did.get(did.as_str()).expect("the account stands");
            if text(document, "status") != "active" {
                return Some(format!("active: {document}"));
            }
            if text(document, "tokenRefresh.outcome") != "refreshed" {
                return Some(format!("refreshed: {document}"));
            }
            let good = is_good(text(document, "refreshToken"));
            (!good).then(|| format!("{did}'s token is {what}: {document}"))
        })
    }
}

fn stored(session: &Session) -> Document {
    login(&session.did, &session.handle, &session.access, &session.refresh)
}
