//! A → B → C, and a late repair with A: the fresh-looking copy of B never replaces C.

use std::time::Duration;

use mongodb::bson::{Document, doc};

use super::Stage;
use crate::harness::daemon::Daemon;
use crate::harness::http;
use crate::harness::scripted_pds::{Fault, Session};
use crate::harness::world::text;
use crate::harness::{PATIENCE, eventually};

/// One account, and the application that rotates its tokens, too.
struct Case {
    stage: Stage,
    daemon: Daemon,
    session: Session,
    id: String,
}

impl Case {
    /// Of a daemon with this `PDS_TIMEOUT`.
    async fn set(timeout: &str) -> Self {
        let stage = Stage::set().await;
        stage.pds.set_latency(Duration::ZERO);
        let daemon = stage.daemon(&[("PDS_TIMEOUT", timeout)]).await;
        let session = stage.pds.create(1).remove(0);
        let Session { did, handle, access, refresh } = &session;
        let id = stage.world.log_in(did, handle, access, refresh).await;
        Self { stage, daemon, session, id }
    }

    /// Waits until the token that it began with was used so often.
    async fn used(&self, times: u64) {
        eventually("the token is used", PATIENCE, async || self.uses() >= times).await;
    }

    fn uses(&self) -> u64 {
        self.stage.pds.uses(&self.session.refresh)
    }

    /// Rotates twice at the server, stores the second pair, and answers its refresh token.
    async fn moves_on(&self) -> String {
        let (_, second) = self.rotate(&self.session.refresh).await;
        let (access, third) = self.rotate(&second).await;
        let pair = doc! { "accessToken": access, "refreshToken": &third };
        self.stage.world.set(&self.id, pair).await;
        third
    }

    async fn rotate(&self, refresh: &str) -> (String, String) {
        let url = format!("{}/xrpc/com.atproto.server.refreshSession", self.stage.pds.url());
        let (status, answer) = http::client().post_empty(&url, refresh).await;
        assert_eq!(status, 200, "{answer}");
        let token = |name: &str| answer[name].as_str().expect("a token").to_owned();
        (token("accessJwt"), token("refreshJwt"))
    }

    async fn account(&self) -> Document {
        self.stage.world.account(&self.id).await
    }

    /// `third` is what stands, it is what the next refresh spends, and the first one is never
    /// asked again.
    async fn assert_moved_on(&self, third: &str, uses: u64) {
        assert_eq!(text(&self.account().await, "refreshToken"), third);
        // A run comes by after all that was planned before it.
        for _ in 0..2 {
            self.daemon.refresh_all().await;
        }
        let document = self.account().await;
        assert!(self.stage.pds.is_current(text(&document, "refreshToken")));
        assert_eq!(text(&document, "status"), "active");
        assert_eq!(self.stage.pds.uses(third), 1);
        assert_eq!(self.uses(), uses, "no further call with the first token");
        self.stage.pds.advance(Duration::from_hours(3));
        assert!(self.stage.pds.is_live(text(&document, "refreshToken")), "also after the grace");
    }

    async fn ask(&self) -> String {
        let body = format!(r#"{{"accountId":"{}"}}"#, self.id);
        let (status, answer) = self.daemon.post("/api/admin/refresh-tokens", &body).await;
        assert_eq!(status, 200, "{answer}");
        answer["jobId"].as_str().expect("a job id").to_owned()
    }
}

#[tokio::test]
async fn a_lost_reply_is_given_up_when_the_document_has_moved_on() {
    let case = Case::set("3s").await;
    case.stage.pds.fail_next_of(&case.session.did, 1, &Fault::HangAfter);
    let job = case.ask().await;
    case.used(1).await;
    let third = case.moves_on().await;
    let job = case.daemon.job(&job).await;
    assert_ne!(job["outcome"], "refreshed", "{job}");
    case.assert_moved_on(&third, 2).await;
}

#[tokio::test]
async fn a_repair_that_is_under_way_when_the_document_moves_on_changes_nothing() {
    let case = Case::set("15s").await;
    case.stage.pds.fail_next_of(&case.session.did, 1, &Fault::DropAfter);
    let first = case.stage.pds.hold();
    // Not by name: the planner reads which servers there are only every so often, and in a run.
    case.daemon.ask_for_run().await;
    case.used(1).await;
    // The repair is held, too, and from its first moment on.
    let repair = case.stage.pds.hold();
    drop(first);
    case.used(2).await;
    case.stage.pds.pass();
    let third = case.moves_on().await;
    assert_eq!(case.stage.pds.answers(200), 2, "the repair has no answer yet");
    drop(repair);
    let line = case
        .daemon
        .log()
        .wait(|line| line["event"] == "refresh" && line["trigger"] == "recovery")
        .await;
    assert_eq!(line["outcome"], "superseded", "{line}");
    case.assert_moved_on(&third, 3).await;
}
