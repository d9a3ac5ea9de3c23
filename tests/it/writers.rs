//! Others write while a call is under way: the newest pair stays, and a person always wins.

use std::time::Duration;

use futures::future::join;
use mongodb::bson::{Bson, Document, doc};
use serde_json::Value;

use super::harness::daemon::Daemon;
use super::harness::http::{self, Http};
use super::harness::scripted_pds::{Options, ScriptedPds, Session};
use super::harness::world::{World, by_id, text};
use super::harness::{PATIENCE, eventually};

struct Stage {
    world: World,
    pds: ScriptedPds,
    daemon: Daemon,
    /// The other writer's way to the server.
    http: Http,
    session: Session,
    id: String,
}

impl Stage {
    /// One account, logged in by the application.
    async fn set() -> Self {
        let (world, pds) = join(World::start(), ScriptedPds::start(Options::default())).await;
        let daemon = world.daemon(&pds.url().to_string(), &[]).await;
        let session = pds.create(1).remove(0);
        let id =
            world.log_in(&session.did, &session.handle, &session.access, &session.refresh).await;
        Self { world, pds, daemon, http: http::client(), session, id }
    }

    /// Asks the daemon to refresh; does `meanwhile` while its call is under way; answers the job
    /// as it ended.
    async fn while_it_calls<F: Future<Output = ()>>(&self, meanwhile: impl FnOnce() -> F) -> Value {
        let before = self.pds.calls(&self.session.did);
        let held = self.pds.hold();
        let body = format!(r#"{{"accountId":"{}"}}"#, self.id);
        let (status, answer) = self.daemon.post("/api/admin/refresh-tokens", &body).await;
        assert_eq!(status, 200, "{answer}");
        let id = answer["jobId"].as_str().expect("a job id").to_owned();
        eventually("the call is under way", PATIENCE, async || {
            self.pds.calls(&self.session.did) > before
        })
        .await;
        self.pds.pass();
        meanwhile().await;
        let (_, job) = self.daemon.get(&format!("/api/admin/jobs/{id}")).await;
        assert_eq!(job["state"], "running", "it was done before the daemon had its answer");
        drop(held);
        self.daemon.job(&id).await
    }

    /// Refreshes at the server as another program does; answers the new access and refresh token.
    async fn rotate(&self, refresh: &str) -> (String, String) {
        let url = format!("{}/xrpc/com.atproto.server.refreshSession", self.pds.url());
        let (status, answer) = self.http.post_empty(&url, refresh).await;
        assert_eq!(status, 200, "{answer}");
        let token = |name: &str| answer[name].as_str().expect("a token").to_owned();
        (token("accessJwt"), token("refreshJwt"))
    }

    async fn store(&self, (access, refresh): &(String, String)) {
        self.world.set(&self.id, doc! { "accessToken": access, "refreshToken": refresh }).await;
    }

    async fn account(&self) -> Document {
        self.world.account(&self.id).await
    }

    fn token(&self) -> &str {
        &self.session.refresh
    }
}

#[tokio::test]
async fn a_pair_that_is_two_links_newer_stays() {
    let stage = Stage::set().await;
    let job = stage
        .while_it_calls(|| async {
            let (_, first) = stage.rotate(stage.token()).await;
            stage.store(&stage.rotate(&first).await).await;
        })
        .await;
    assert_eq!(job["outcome"], "superseded", "{job}");
    let document = stage.account().await;
    assert!(stage.pds.is_current(text(&document, "refreshToken")), "the newest pair stays");
    assert_eq!(text(&document, "status"), "active");

    // And it is the one that the next refresh spends.
    assert_eq!(stage.daemon.refresh(&stage.id).await["outcome"], "refreshed");
    assert!(stage.pds.is_current(text(&stage.account().await, "refreshToken")));
}

#[tokio::test]
async fn of_two_copies_of_the_same_link_either_is_good() {
    let stage = Stage::set().await;
    let job = stage
        .while_it_calls(|| async {
            let copy = stage.rotate(stage.token()).await;
            // Copies of one second are one and the same token.
            stage.pds.advance(Duration::from_secs(2));
            stage.store(&copy).await;
        })
        .await;
    assert_eq!(job["outcome"], "superseded", "{job}");
    assert!(stage.pds.is_current(text(&stage.account().await, "refreshToken")));
    assert_eq!(stage.daemon.refresh(&stage.id).await["outcome"], "refreshed");
}

#[tokio::test]
async fn a_new_login_wins_over_the_refresh_of_the_old_session() {
    let stage = Stage::set().await;
    let session = stage.pds.login(&stage.session.did);
    let pair = (session.access.clone(), session.refresh.clone());
    let job = stage.while_it_calls(|| stage.store(&pair)).await;
    assert_eq!(job["outcome"], "superseded", "{job}");
    assert_eq!(text(&stage.account().await, "refreshToken"), session.refresh);
}

#[tokio::test]
async fn an_old_pair_that_is_written_back_is_replaced_by_ours() {
    let stage = Stage::set().await;
    let old = (stage.session.access.clone(), stage.session.refresh.clone());
    // Tokens tell their age in whole seconds.
    stage.pds.advance(Duration::from_secs(5));
    assert_eq!(stage.daemon.refresh(&stage.id).await["outcome"], "refreshed");
    stage.pds.advance(Duration::from_secs(5));

    let job = stage.while_it_calls(|| stage.store(&old)).await;
    assert_eq!(job["outcome"], "refreshed", "{job}");
    assert!(stage.pds.is_current(text(&stage.account().await, "refreshToken")), "ours is stored");
}

#[tokio::test]
async fn an_account_that_is_disconnected_during_the_call_is_not_revived() {
    let stage = Stage::set().await;
    let gone = doc! { "status": "inactive", "errorMessage": "bye" };
    stage.while_it_calls(|| stage.world.set(&stage.id, gone)).await;
    let document = stage.account().await;
    assert_eq!((text(&document, "status"), text(&document, "errorMessage")), ("inactive", "bye"));
    // The token that stood there is spent; nobody but the daemon has the one that replaced it.
    assert!(stage.pds.is_current(text(&document, "refreshToken")), "the pair alone is written");

    let calls = stage.pds.total_calls();
    let run = stage.daemon.refresh_all().await;
    assert_eq!(run["jobs"], 0, "{run}");
    assert_eq!(stage.pds.total_calls(), calls, "and it is left alone from then on");
}

#[tokio::test]
async fn tokens_that_are_nulled_during_the_call_stay_null() {
    for status in ["inactive", "active"] {
        let stage = Stage::set().await;
        let gone = doc! {
            "status": status, "accessToken": Bson::Null, "refreshToken": Bson::Null,
            "tokenExpiry": Bson::Null,
        };
        let job = stage.while_it_calls(|| stage.world.set(&stage.id, gone)).await;
        assert_eq!(job["outcome"], "superseded", "{job}");
        let document = stage.account().await;
        assert_eq!(document.get("refreshToken"), Some(&Bson::Null));
        assert_eq!(document.get("accessToken"), Some(&Bson::Null));
        assert_eq!(document.get("tokenExpiry"), Some(&Bson::Null));
        assert_eq!(text(&document, "status"), status);
    }
}

#[tokio::test]
async fn a_document_that_is_deleted_during_the_call_stays_deleted() {
    let stage = Stage::set().await;
    let job = stage
        .while_it_calls(|| async {
            stage.world.accounts().delete_one(by_id(&stage.id)).await.expect("a deletion");
        })
        .await;
    assert_eq!(job["outcome"], "superseded", "{job}");
    assert_eq!(stage.world.accounts().count_documents(doc! {}).await.expect("a count"), 0);
}

#[tokio::test]
async fn a_token_that_is_overwritten_with_something_unreadable_is_somebodys_newer_business() {
    let stage = Stage::set().await;
    let other = doc! { "refreshToken": "oauth:something", "scope": "oauth" };
    let job = stage.while_it_calls(|| stage.world.set(&stage.id, other)).await;
    assert_eq!(job["outcome"], "superseded", "{job}");
    assert_eq!(text(&stage.account().await, "refreshToken"), "oauth:something");
}

#[tokio::test]
async fn a_status_that_changes_among_ours_is_healed_by_the_same_call() {
    let stage = Stage::set().await;
    let error = doc! { "status": "error", "errorMessage": "posting failed" };
    let job = stage.while_it_calls(|| stage.world.set(&stage.id, error)).await;
    assert_eq!(job["outcome"], "refreshed", "{job}");
    let document = stage.account().await;
    assert_eq!(text(&document, "status"), "active");
    assert_eq!(document.get("errorMessage"), Some(&Bson::Null));
    assert!(stage.pds.is_current(text(&document, "refreshToken")));
}

#[tokio::test]
async fn an_account_in_error_with_a_good_token_heals_in_a_run() {
    let stage = Stage::set().await;
    for status in ["error", "revoked", "expired"] {
        stage.world.set(&stage.id, doc! { "status": status, "errorMessage": "once" }).await;
        let run = stage.daemon.refresh_all().await;
        assert_eq!(run["outcomes"]["refreshed"], 1, "{status}: {run}");
        let document = stage.account().await;
        assert_eq!(text(&document, "status"), "active", "{status}");
        assert_eq!(document.get("errorMessage"), Some(&Bson::Null), "{status}");
    }
}

#[tokio::test]
async fn what_the_application_writes_beside_the_tokens_stays_as_it_wrote_it() {
    let stage = Stage::set().await;
    let change = doc! {
        "metadata": { "followers": 4, "note": "new" }, "lastUsed": mongodb::bson::DateTime::now(),
        "displayName": "A new name", "__v": 1,
    };
    let job = stage.while_it_calls(|| stage.world.set(&stage.id, change.clone())).await;
    assert_eq!(job["outcome"], "refreshed", "{job}");
    let document = stage.account().await;
    for (field, value) in &change {
        assert_eq!(document.get(field), Some(value), "{field}");
    }
}

#[tokio::test]
async fn one_person_in_two_documents_keeps_two_sessions() {
    let stage = Stage::set().await;
    let other = stage.pds.login(&stage.session.did);
    let second = stage.world.log_in(&other.did, &other.handle, &other.access, &other.refresh).await;
    let run = stage.daemon.refresh_all().await;
    assert_eq!(run["outcomes"]["refreshed"], 2, "{run}");
    let (one, two) = (stage.account().await, stage.world.account(&second).await);
    let (one, two) = (text(&one, "refreshToken"), text(&two, "refreshToken"));
    assert_ne!(one, two);
    assert!(stage.pds.is_current(one) && stage.pds.is_current(two));
}
