//! Every row of bluesky.md's table that the reference PDS can produce, through the whole daemon.

use serde_json::json;

use super::harness::daemon::Daemon;
use super::harness::reference_pds::{PdsAccount, ReferencePds};
use super::harness::world::{World, text};

struct Stage {
    world: World,
    pds: ReferencePds,
    daemon: Daemon,
}

impl Stage {
    async fn set(more: &[(&str, &str)]) -> Self {
        let (world, pds) = tokio::join!(World::start(), ReferencePds::start());
        let daemon = world.daemon(&pds.url, more).await;
        Self { world, pds, daemon }
    }

    async fn log_in(&self, account: &PdsAccount) -> String {
        self.world.log_in(&account.did, &account.handle, &account.access, &account.refresh).await
    }

    /// Creates an account at the PDS and stores its session.
    async fn member(&self, name: &str) -> (PdsAccount, String) {
        let account = self.pds.create(name).await;
        let id = self.log_in(&account).await;
        (account, id)
    }

    /// Refreshes an account, and says how that ended.
    async fn outcome(&self, id: &str) -> String {
        self.daemon.refresh(id).await["outcome"].as_str().unwrap_or_default().to_owned()
    }

    async fn assert_alive(&self, id: &str) {
        let document = self.world.account(id).await;
        assert_eq!(text(&document, "status"), "active");
        assert!(
            self.pds.accepts(text(&document, "accessToken")).await,
            "the stored access token is good"
        );
    }
}

#[tokio::test]
async fn a_valid_token_is_rotated_and_the_new_pair_stored() {
    let stage = Stage::set(&[]).await;
    let (account, id) = stage.member("valid").await;
    let before = stage.world.account(&id).await;

    assert_eq!(stage.outcome(&id).await, "refreshed");

    let after = stage.world.account(&id).await;
    assert_ne!(text(&after, "refreshToken"), account.refresh);
    assert!(after.get_datetime("tokenExpiry").is_ok(), "tokenExpiry is the access token's own");
    for field in
        ["userId", "platformAccountId", "displayName", "metadata", "scope", "createdAt", "__v"]
    {
        assert_eq!(before.get(field), after.get(field), "{field} is the application's");
    }
    stage.assert_alive(&id).await;
    let line = stage.daemon.log().wait(|line| line["event"] == "refresh").await;
    assert_eq!(line["outcome"], "refreshed");
    assert_eq!(line["trigger"], "manual");
    assert_eq!(line["did"], account.did);
    assert_eq!(line["account"], id);
    assert!(!stage.daemon.log().text().contains(&account.refresh), "no token in the log");
    assert!(stage.daemon.stop().await.success());
}

#[tokio::test]
async fn a_refresh_all_leaves_every_session_alive() {
    let stage = Stage::set(&[]).await;
    let mut ids = Vec::new();
    for account in stage.pds.create_many("many", 30).await {
        ids.push(stage.log_in(&account).await);
    }
    let run = stage.daemon.refresh_all().await;
    assert_eq!((&run["outcomes"], &run["failed"]), (&json!({"refreshed": 30}), &json!(0)));
    for id in ids {
        stage.assert_alive(&id).await;
    }
    assert_eq!(stage.pds.refreshes().await, 30, "each token was spent once");
}

#[tokio::test]
async fn a_token_that_was_used_within_its_grace_still_yields_a_live_pair() {
    let stage = Stage::set(&[]).await;
    let (account, id) = stage.member("reused").await;
    assert_eq!(stage.pds.refresh(&account.refresh).await.0, 200);
    assert_eq!(stage.outcome(&id).await, "refreshed");
    stage.assert_alive(&id).await;
}

#[tokio::test]
async fn dead_sessions_are_marked_with_what_their_owner_can_do() {
    let stage = Stage::set(&[]).await;

    let (spent, after_grace) = stage.member("spent").await;
    assert_eq!(stage.pds.refresh(&spent.refresh).await.0, 200);
    stage.pds.control("/end-grace", json!({"did": spent.did})).await;

    let (deleted, session_deleted) = stage.member("leaver").await;
    stage.pds.control("/delete-session", json!({"refreshJwt": deleted.refresh})).await;

    let with_app_password = stage.pds.create("apppass").await;
    let app = stage
        .pds
        .control(
            "/app-password",
            json!({"did": with_app_password.did, "password": with_app_password.password}),
        )
        .await;
    let session = stage
        .pds
        .control("/session", json!({"did": with_app_password.did, "password": app["password"]}))
        .await;
    let app_password_revoked = stage
        .world
        .log_in(
            &with_app_password.did,
            &with_app_password.handle,
            session["accessJwt"].as_str().expect("a token"),
            session["refreshJwt"].as_str().expect("a token"),
        )
        .await;
    stage
        .pds
        .control("/revoke-app-password", json!({"did": with_app_password.did, "name": app["name"]}))
        .await;

    for id in [after_grace, session_deleted, app_password_revoked] {
        assert_eq!(stage.outcome(&id).await, "revoked");
        let document = stage.world.account(&id).await;
        assert_eq!(text(&document, "status"), "revoked");
        assert!(text(&document, "errorMessage").contains("Log in again"), "{document}");
    }

    let (_, id) = stage.member("expired").await;
    let did = text(&stage.world.account(&id).await, "platformAccountId").to_owned();
    let expired = stage.pds.control("/expire", json!({"did": did})).await;
    let token = expired["refreshJwt"].as_str().expect("a token");
    stage.world.set(&id, mongodb::bson::doc! {"refreshToken": token}).await;
    assert_eq!(stage.outcome(&id).await, "expired");
    assert_eq!(text(&stage.world.account(&id).await, "status"), "expired");
}

#[tokio::test]
async fn tokens_that_are_none_and_accounts_that_are_gone_become_errors() {
    let stage = Stage::set(&[]).await;

    let (_, forged) = stage.member("forged").await;
    let token = text(&stage.world.account(&forged).await, "refreshToken").to_owned();
    let (rest, _signature) = token.rsplit_once('.').expect("a JWT");
    let wrong = format!("{rest}.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    stage.world.set(&forged, mongodb::bson::doc! {"refreshToken": wrong}).await;
    assert_eq!(stage.outcome(&forged).await, "invalid_token");

    let (gone_account, gone) = stage.member("gone").await;
    stage.pds.control("/delete", json!({"did": gone_account.did})).await;
    assert_eq!(stage.outcome(&gone).await, "account_gone");

    for id in [&forged, &gone] {
        assert_eq!(text(&stage.world.account(id).await, "status"), "error");
    }

    let (account, garbage) = stage.member("garbage").await;
    stage.world.set(&garbage, mongodb::bson::doc! {"refreshToken": "garbage"}).await;
    assert_eq!(stage.outcome(&garbage).await, "malformed");
    let document = stage.world.account(&garbage).await;
    assert_eq!((text(&document, "status"), text(&document, "refreshToken")), ("active", "garbage"));

    let (other, mismatched) = stage.member("stranger").await;
    stage.world.set(&mismatched, mongodb::bson::doc! {"refreshToken": &account.refresh}).await;
    assert_eq!(stage.outcome(&mismatched).await, "identity_mismatch");
    assert_eq!(stage.pds.refresh(&account.refresh).await.0, 200, "nothing was spent");
    assert_ne!(account.did, other.did);
}

#[tokio::test]
async fn a_takedown_is_an_error_that_names_it() {
    let stage = Stage::set(&[]).await;
    let (account, id) = stage.member("taken").await;
    stage.pds.control("/takedown", json!({"did": account.did})).await;
    assert_eq!(stage.outcome(&id).await, "taken_down");
    let document = stage.world.account(&id).await;
    assert_eq!(text(&document, "status"), "error");
    assert_eq!(text(&document, "refreshToken"), account.refresh, "the token stays");

    // The reference PDS forgets the sessions of an account that it takes down; after it is
    // reinstated, a new login heals the account.
    stage.pds.control("/reinstate", json!({"did": account.did})).await;
    let session = stage
        .pds
        .control("/session", json!({"did": account.did, "password": account.password}))
        .await;
    let token = session["refreshJwt"].as_str().expect("a token");
    stage.world.set(&id, mongodb::bson::doc! {"refreshToken": token}).await;
    assert_eq!(stage.outcome(&id).await, "refreshed");
    stage.assert_alive(&id).await;
}

#[tokio::test]
async fn a_deactivated_account_keeps_its_session() {
    let stage = Stage::set(&[]).await;
    let (account, id) = stage.member("asleep").await;
    stage.pds.control("/deactivate", json!({"accessJwt": account.access})).await;
    assert_eq!(stage.outcome(&id).await, "refreshed");
    let document = stage.world.account(&id).await;
    assert_eq!(text(&document, "status"), "active");
    assert_eq!(text(&document, "tokenRefresh.accountStatus"), "deactivated");
}

#[tokio::test]
async fn a_session_that_was_kept_alive_is_condemned_only_on_a_second_hearing() {
    let stage = Stage::set(&[("VERDICT_CONFIRM_AFTER", "1s")]).await;
    let (account, id) = stage.member("kept").await;
    assert_eq!(stage.outcome(&id).await, "refreshed");
    let token = text(&stage.world.account(&id).await, "refreshToken").to_owned();
    stage.pds.control("/delete-session", json!({"refreshJwt": token})).await;

    let first = stage.daemon.refresh(&id).await;
    assert_eq!((&first["outcome"], &first["held"]), (&json!("revoked"), &json!(true)));
    assert_eq!(text(&stage.world.account(&id).await, "status"), "active");

    // The planner asks the second time, by itself, when the time has come.
    let line = stage
        .daemon
        .log()
        .wait(|line| line["event"] == "refresh" && line["trigger"] == "recovery")
        .await;
    assert_eq!((&line["outcome"], &line["did"]), (&json!("revoked"), &json!(account.did)));
    assert_eq!(text(&stage.world.account(&id).await, "status"), "revoked");
}

#[tokio::test]
async fn a_server_over_its_limit_is_left_alone_and_no_account_is_blamed() {
    let (world, pds) = tokio::join!(World::start(), ReferencePds::start_with_rate_limits());
    let daemon = world.daemon(&pds.url, &[]).await;
    let account = pds.create("limited").await;
    let other = pds.create("limited2").await;
    let id = world.log_in(&account.did, &account.handle, &account.access, &account.refresh).await;
    let other = world.log_in(&other.did, &other.handle, &other.access, &other.refresh).await;
    pds.control("/spend", json!({"count": 3_000})).await;

    assert_eq!(daemon.refresh(&id).await["outcome"], "rate_limited");
    let document = world.account(&id).await;
    assert_eq!(text(&document, "status"), "active", "nobody is hidden for the server's sake");
    let calls = pds.refreshes().await;
    assert_eq!(daemon.refresh(&other).await["outcome"], "rate_limited");
    assert_eq!(pds.refreshes().await, calls, "the second account did not even ask");
}
