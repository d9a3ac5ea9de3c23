//! The journal holds calls to a server that answers nobody: they wait for it without a word each,
//! and those that are too old to be of any use come to their end without it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use refreshd::clock::Clock;
use refreshd::domain::pending::{Intent, Pending};
use refreshd::domain::session::RefreshJwt;
use refreshd::journal::Journal;
use tempfile::TempDir;

use super::Stage;
use crate::harness::daemon::Daemon;
use crate::harness::proxy::Proxy;
use crate::harness::scripted_pds::Fault;
use crate::harness::{PATIENCE, eventually};

/// More than the repairer takes up at once, of one server or of all.
const MANY: usize = 24;

/// A daemon's journal, and the servers.
struct Case {
    stage: Stage,
    state: TempDir,
}

impl Case {
    async fn set() -> Self {
        let stage = Stage::set().await;
        stage.pds.set_latency(Duration::ZERO);
        Self { stage, state: TempDir::new().expect("a folder") }
    }

    /// Leaves calls in the journal that may have happened so long ago.
    async fn leave(&self, count: usize, ago: TimeDelta, service: &str) -> DateTime<Utc> {
        let (journal, _) = Journal::open(self.state.path()).expect("a journal");
        let at = Clock::system().now() - ago;
        for session in self.stage.pds.create(count) {
            let (did, handle) = (&session.did, &session.handle);
            let id = self.stage.world.log_in(did, handle, &session.access, &session.refresh).await;
            let intent = Intent {
                account: id.parse().expect("an id"),
                service: service.parse().expect("a server"),
                token: RefreshJwt::parse(&session.refresh).expect("a token"),
                at,
            };
            journal.intend(&intent).await.expect("room");
        }
        journal.close().await;
        at
    }

    async fn daemon(&self, more: &[(&str, &str)]) -> Daemon {
        let state = self.state.path().display().to_string();
        let settings: Vec<_> =
            [("STATE_DIR", state.as_str())].into_iter().chain(more.iter().copied()).collect();
        self.stage.daemon(&settings).await
    }

    fn pending(&self) -> Vec<Pending> {
        Journal::read(self.state.path()).expect("a journal").pending
    }
}

/// Attempts that ended, whoever made them.
fn attempts(daemon: &Daemon) -> usize {
    daemon.log().matching(|line| line["event"] == "refresh").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_server_is_silent_its_calls_are_tried_by_its_probes_only() {
    let case = Case::set().await;
    case.leave(MANY, TimeDelta::zero(), case.stage.pds.url().as_str()).await;
    case.stage.pds.fail_next(100_000, &Fault::html(502));
    let daemon = case.daemon(&[]).await;
    daemon.log().wait(|line| line["event"] == "breaker").await;
    // Eight at the most before it opened, then probes, after 0.5, 1, 2 … s at the earliest.
    eventually("it was probed", PATIENCE, async || case.stage.pds.total_calls() >= 10).await;
    let (attempts, calls) = (attempts(&daemon), case.stage.pds.total_calls());
    let calls = usize::try_from(calls).expect("a small number");
    // A retry may lose the race for a probe, and says so.
    assert!(attempts <= calls + 4, "{attempts} attempts for {calls} calls");
    assert_eq!(case.pending().len(), MANY);

    case.stage.pds.recover();
    eventually("all is known", PATIENCE, async || case.pending().is_empty()).await;
    assert_eq!(case.stage.pds.answers(200), u64::try_from(MANY).expect("a small number"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_asks_for_time_is_not_tried_before_it() {
    let case = Case::set().await;
    case.leave(MANY, TimeDelta::zero(), case.stage.pds.url().as_str()).await;
    case.stage.pds.fail_next(4, &Fault::rate_limited(5));
    let daemon = case.daemon(&[]).await;
    eventually("all is known", PATIENCE, async || case.pending().is_empty()).await;
    // Those that met the 429, and those that were under way.
    let put_off = daemon.log().matching(|line| line["outcome"] == "rate_limited").len();
    assert!(put_off <= 8, "{put_off} were put off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_to_a_server_that_is_gone_end_with_the_grace_and_not_before() {
    let case = Case::set().await;
    let proxy = Proxy::to(9).await;
    let gone = format!("http://127.0.0.1:{}", proxy.port());
    proxy.refuse();
    case.leave(MANY, TimeDelta::hours(4), &gone).await;
    let at = case.leave(1, TimeDelta::hours(2), &gone).await;
    let daemon = case.daemon(&[("BLUESKY_SERVICE_URL", &gone)]).await;
    eventually("the old ones end", PATIENCE, async || case.pending().len() == 1).await;
    daemon.log().wait(|line| line["event"] == "breaker").await;
    let probed = |line: &serde_json::Value| line["attempt"].as_u64().is_some_and(|it| it > 1);
    daemon.log().wait(probed).await;
    assert!(daemon.stop().await.success());
    let left = case.pending();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].intent.at, at, "it is as old as it was: nothing was sent since");
}
