//! What others do to the accounts is noticed within seconds, whether the daemon hears of it at
//! once, after its next start, after a fail-over, or by looking itself.

use std::time::Duration;

use mongodb::bson::{Bson, DateTime, Document, doc};
use refreshd::domain::session::AccessJwt;
use tokio::time::Instant;

use super::FRESH;
use crate::harness::daemon::Daemon;
use crate::harness::mongo::Topology;
use crate::harness::scripted_pds::{Options, ScriptedPds, Session};
use crate::harness::world::{World, login, text};
use crate::harness::{PATIENCE, arrival, eventually};

/// Within a second or two, and the machine may be busy; below the ten seconds after which it would
/// be served anyway.
const SOON: Duration = Duration::from_secs(8);

/// Without a change stream all accounts are looked at every ten seconds, and servers as often.
const BY_SWEEP: Duration = Duration::from_secs(25);

/// Without Redis nobody leads any more after this.
const LEADS_NO_MORE: Duration = Duration::from_secs(12);

/// Tokens live two hours here: nobody is refreshed just because time passes.
struct Stage {
    world: World,
    pds: ScriptedPds,
}

impl Stage {
    async fn on(mongo: Topology) -> Self {
        let pds = ScriptedPds::start(Options::default());
        let (world, pds) = tokio::join!(World::start_on(&[], mongo), pds);
        Self { world, pds }
    }

    /// With a daemon that listens.
    async fn set() -> (Self, Daemon) {
        let stage = Self::on(Topology::ReplicaSet(1)).await;
        let daemon = stage.daemon().await;
        stage.log_in_and_be_noticed().await;
        (stage, daemon)
    }

    async fn daemon(&self) -> Daemon {
        self.world.daemon(self.pds.url().as_str(), FRESH).await
    }

    /// A new session of a new account.
    fn session(&self) -> Session {
        self.pds.create(1).pop().expect("one")
    }

    /// The same, whose access token has lapsed.
    fn lapsed(&self) -> Session {
        let session = self.session();
        Session { access: self.pds.expire(&session.access), ..session }
    }

    async fn store(&self, session: &Session) -> String {
        let Session { did, handle, access, refresh } = session;
        self.world.log_in(did, handle, access, refresh).await
    }

    async fn log_in_and_be_noticed(&self) -> String {
        let id = self.store(&self.session()).await;
        self.noticed(&id, PATIENCE).await;
        id
    }

    /// Waits until an account has been looked at, and answers its document.
    async fn noticed(&self, id: &str, limit: Duration) -> Document {
        arrival("the account is noticed", limit, async || {
            let account = self.world.account(id).await;
            account.get_document("tokenRefresh").is_ok().then_some(account)
        })
        .await
    }

    /// Waits until all of these are healed, each by a refresh that was asked for so.
    async fn all_healed(&self, daemon: &Daemon, all: [(String, &str); 3], limit: Duration) {
        for (id, asked_by) in all {
            self.healed(&id, limit).await;
            assert_eq!(trigger(daemon, &id).await, asked_by);
        }
    }

    /// Waits until an account is active and its token the unspent end of its chain.
    async fn healed(&self, id: &str, limit: Duration) -> Document {
        arrival("the account is refreshed", limit, async || {
            let account = self.world.account(id).await;
            let good = text(&account, "status") == "active"
                && text(&account, "tokenRefresh.outcome") == "refreshed"
                && self.pds.is_current(text(&account, "refreshToken"));
            good.then_some(account)
        })
        .await
    }

    /// An account that the daemon has refreshed, and knows to be well.
    async fn kept_alive(&self, daemon: &Daemon) -> String {
        let id = self.log_in_and_be_noticed().await;
        assert_eq!(daemon.refresh(&id).await["outcome"], "refreshed");
        id
    }

    /// An account whose session the server has ended, as the daemon found; and its DID.
    async fn revoked(&self, daemon: &Daemon) -> (String, String) {
        let session = self.session();
        let id = self.store(&session).await;
        self.pds.revoke(&session.did);
        assert_eq!(daemon.refresh(&id).await["outcome"], "revoked");
        (id, session.did)
    }

    /// A person logs in again, and only the tokens are stored.
    async fn log_in_again(&self, id: &str, did: &str) {
        let session = self.pds.login(did);
        let tokens = doc! { "accessToken": session.access, "refreshToken": session.refresh };
        self.world.set(id, tokens).await;
        assert_eq!(text(&self.world.account(id).await, "status"), "revoked");
    }

    /// Waits until the daemon's place in the stream of changes is written down.
    async fn place(&self) -> Document {
        let places = self.world.database().collection::<Document>("refresh_changes");
        let found = async || places.find_one(doc! {}).await.expect("a read");
        arrival("the place is saved", PATIENCE, found).await
    }
}

fn expiry(session: &Session) -> DateTime {
    let access = AccessJwt::parse(&session.access).expect("a token");
    DateTime::from_millis(access.expires_at().timestamp_millis())
}

fn next_attempt(account: &Document) -> Option<DateTime> {
    account.get_document("tokenRefresh").ok()?.get_datetime("nextAttemptAt").ok().copied()
}

/// Who asked for the account's last refresh, by the daemon's log.
async fn trigger(daemon: &Daemon, id: &str) -> String {
    let of_it = |line: &serde_json::Value| line["event"] == "refresh" && line["account"] == id;
    daemon.log().wait(|line| of_it(line) && line["trigger"] != "manual").await["trigger"]
        .as_str()
        .expect("a text")
        .to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_account_is_due_by_its_tokens_own_expiry() {
    let (stage, _daemon) = Stage::set().await;
    let session = stage.session();
    let before = DateTime::now();
    let id = stage.store(&session).await;
    let account = stage.noticed(&id, SOON).await;
    let ends = expiry(&session);
    assert_eq!(account.get("tokenExpiry"), Some(&Bson::from(ends)), "{account}");
    let next = next_attempt(&account).expect("a time");
    let latest = ends.timestamp_millis() - 2 * 3_600_000 / 4;
    assert!(before <= next && next.timestamp_millis() <= latest, "{account}");
    assert_eq!(stage.pds.calls(&session.did), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_account_that_has_lapsed_is_refreshed_at_once() {
    let (stage, daemon) = Stage::set().await;
    let session = stage.lapsed();
    let id = stage.store(&session).await;
    stage.healed(&id, SOON).await;
    assert_eq!(trigger(&daemon, &id).await, "keep_fresh");
    assert_eq!(stage.pds.calls(&session.did), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_account_wakes_when_somebody_logs_in_again() {
    let (stage, daemon) = Stage::set().await;
    let (id, did) = stage.revoked(&daemon).await;
    stage.log_in_again(&id, &did).await;
    let account = stage.healed(&id, SOON).await;
    assert_eq!(account.get("errorMessage"), Some(&Bson::Null), "{account}");
    assert_eq!(trigger(&daemon, &id).await, "external");
    assert_eq!(stage.pds.calls(&did), 2);
}

/// The login comes in between the daemon's reading and its writing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_while_the_old_session_is_probed_wakes_the_account() {
    let (stage, daemon) = Stage::set().await;
    let (id, did) = stage.revoked(&daemon).await;
    let held = stage.pds.hold();
    let asked = format!(r#"{{"accountId":"{id}"}}"#);
    assert_eq!(daemon.post("/api/admin/refresh-tokens", &asked).await.0, 200);
    eventually("the probe is under way", SOON, async || stage.pds.calls(&did) == 2).await;
    stage.pds.pass();
    stage.log_in_again(&id, &did).await;
    assert_eq!(stage.pds.answers(400), 1, "it was done before the daemon had its answer");
    drop(held);
    stage.healed(&id, SOON).await;
    assert_eq!(stage.pds.answers(400), 2, "the old session was pronounced dead once more");
    assert_eq!(trigger(&daemon, &id).await, "external");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_the_application_calls_broken_heals() {
    let (stage, daemon) = Stage::set().await;
    let id = stage.kept_alive(&daemon).await;
    stage.world.set(&id, doc! { "status": "error", "errorMessage": "it would not post" }).await;
    let account = stage.healed(&id, SOON).await;
    assert_eq!(account.get("errorMessage"), Some(&Bson::Null), "{account}");
    assert_eq!(trigger(&daemon, &id).await, "external");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_expiry_is_corrected_and_nothing_else_changes() {
    let (stage, daemon) = Stage::set().await;
    let id = stage.kept_alive(&daemon).await;
    let right = stage.world.account(&id).await;
    let past = DateTime::from_millis(DateTime::now().timestamp_millis() - 60_000);
    for wrong in [Bson::Null, past.into(), "tomorrow".into()] {
        stage.world.set(&id, doc! { "tokenExpiry": wrong.clone() }).await;
        let what = format!("the expiry is no longer {wrong}");
        let corrected = arrival(&what, SOON, async || {
            let account = stage.world.account(&id).await;
            (account.get("tokenExpiry") != Some(&wrong)).then_some(account)
        });
        assert_eq!(corrected.await, right);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inactive_account_is_left_alone() {
    let (stage, daemon) = Stage::set().await;
    let id = stage.kept_alive(&daemon).await;
    let did = text(&stage.world.account(&id).await, "platformAccountId").to_owned();
    let past = DateTime::from_millis(DateTime::now().timestamp_millis() - 60_000);
    let off = doc! { "status": "inactive", "tokenRefresh.nextAttemptAt": past };
    stage.world.set(&id, off).await;
    let other = stage.lapsed();
    let mut document = login(&other.did, &other.handle, &other.access, &other.refresh);
    document.insert("status", "inactive");
    stage.world.accounts().insert_one(&document).await.expect("an insert");
    let new = document.get_object_id("_id").expect("an id").to_hex();
    let before = (stage.world.account(&id).await, stage.world.account(&new).await);

    // What comes later is noticed, so that was, too.
    for _ in 0..3 {
        let marker = stage.store(&stage.lapsed()).await;
        stage.healed(&marker, SOON).await;
    }
    let after = (stage.world.account(&id).await, stage.world.account(&new).await);
    assert_eq!(after, before);
    assert_eq!((stage.pds.calls(&did), stage.pds.calls(&other.did)), (1, 0));
    let jobs =
        daemon.log().matching(|line| line["event"] == "refresh" && line["trigger"] != "manual");
    assert!(jobs.iter().all(|line| line["account"] != id && line["account"] != new), "{jobs:?}");
}

/// A person logs in again, another logs in for the first time, and an account is called broken,
/// while nobody listens; what `meanwhile` does to the place, too.
async fn noticed_after_a_pause(meanwhile: impl AsyncFnOnce(&Stage)) {
    let (stage, daemon) = Stage::set().await;
    let (revoked, did) = stage.revoked(&daemon).await;
    let broken = stage.kept_alive(&daemon).await;
    stage.place().await;
    assert!(daemon.stop().await.success());

    stage.log_in_again(&revoked, &did).await;
    stage.world.set(&broken, doc! { "status": "error" }).await;
    let new = stage.store(&stage.lapsed()).await;
    meanwhile(&stage).await;
    let daemon = stage.daemon().await;
    let asked_by = [(revoked, "external"), (broken, "external"), (new, "keep_fresh")];
    stage.all_healed(&daemon, asked_by, SOON).await;
    // And listens on.
    let next = stage.store(&stage.lapsed()).await;
    stage.healed(&next, SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_while_no_daemon_ran_is_noticed_at_the_next_start() {
    noticed_after_a_pause(async |_stage| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_noticed_also_when_the_place_to_go_on_at_is_none() {
    noticed_after_a_pause(async |stage| {
        let places = stage.world.database().collection::<Document>("refresh_changes");
        let nonsense = doc! { "$set": { "resumeToken": { "_data": "nonsense" } } };
        places.update_one(doc! {}, nonsense).await.expect("an update");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_change_stream_a_sweep_notices() {
    let stage = Stage::on(Topology::Standalone).await;
    let daemon = stage.daemon().await;
    let (revoked, did) = stage.revoked(&daemon).await;
    let broken = stage.kept_alive(&daemon).await;

    stage.log_in_again(&revoked, &did).await;
    stage.world.set(&broken, doc! { "status": "error", "tokenExpiry": null }).await;
    let new = stage.store(&stage.lapsed()).await;
    let asked_by = [(revoked, "external"), (broken, "external"), (new, "keep_fresh")];
    stage.all_healed(&daemon, asked_by, BY_SWEEP).await;
}

/// With `REDIS_DOWN_EXIT_AFTER=off`: nobody can know then which instance is to listen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_gone_changes_are_noticed_all_the_same() {
    let mut stage = Stage::on(Topology::ReplicaSet(1)).await;
    let settings: Vec<_> =
        FRESH.iter().copied().chain([("REDIS_DOWN_EXIT_AFTER", "off")]).collect();
    let daemon = stage.world.daemon(stage.pds.url().as_str(), &settings).await;
    let (revoked, did) = stage.revoked(&daemon).await;

    stage.world.redis.kill();
    let gone = Instant::now();
    while gone.elapsed() < LEADS_NO_MORE {
        let new = stage.store(&stage.lapsed()).await;
        stage.healed(&new, PATIENCE).await;
    }
    stage.log_in_again(&revoked, &did).await;
    stage.healed(&revoked, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_fail_over_changes_are_still_noticed() {
    let mut stage = Stage::on(Topology::ReplicaSet(3)).await;
    let _daemon = stage.daemon().await;
    let first = stage.store(&stage.lapsed()).await;
    stage.healed(&first, PATIENCE).await;

    let primary = stage.world.mongo.primary().await;
    stage.world.mongo.kill_node(primary);
    stage.world.mongo.primary().await;
    // The first one may have to wait until the daemon, too, has found the new primary.
    for limit in [PATIENCE / 3, SOON] {
        let new = stage.store(&stage.lapsed()).await;
        stage.healed(&new, limit).await;
    }
}
