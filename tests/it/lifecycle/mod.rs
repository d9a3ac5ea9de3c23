//! How the daemon starts, stops, and outlives what it stands on.

mod logs;
mod notify;
mod outages;
mod start;
mod stop;

use super::harness::daemon::Daemon;
use super::harness::scripted_pds::{Options, ScriptedPds, Session};
use super::harness::world::{World, text};
use super::harness::{PATIENCE, eventually, free_port};

/// Services, a scripted server, and accounts that are logged in there.
struct Stage {
    world: World,
    pds: ScriptedPds,
    members: Vec<Member>,
}

struct Member {
    id: String,
    session: Session,
}

impl Stage {
    async fn set(members: usize) -> Self {
        let (world, pds) = tokio::join!(World::start(), ScriptedPds::start(Options::default()));
        let mut stage = Self { world, pds, members: Vec::new() };
        for session in stage.pds.create(members) {
            let Session { did, handle, access, refresh } = &session;
            let id = stage.world.log_in(did, handle, access, refresh).await;
            stage.members.push(Member { id, session });
        }
        stage
    }

    async fn daemon(&self, more: &[(&str, &str)]) -> Daemon {
        self.world.daemon(&self.pds.url().to_string(), more).await
    }

    fn settings(&self, more: &[(&str, &str)]) -> Vec<(String, String)> {
        with(self.world.settings(&self.pds.url().to_string()), more)
    }

    /// Asks for one account's refresh, and does not wait for it.
    async fn ask(&self, daemon: &Daemon, member: &Member) -> String {
        let body = format!(r#"{{"accountId":"{}"}}"#, member.id);
        let (status, answer) = daemon.post("/api/admin/refresh-tokens", &body).await;
        assert_eq!(status, 200, "{answer}");
        answer["jobId"].as_str().expect("a job id").to_owned()
    }

    /// Waits until so many calls have arrived at the server.
    async fn called(&self, calls: u64) {
        eventually("the calls arrive", PATIENCE, async || self.pds.total_calls() >= calls).await;
    }

    /// The stored refresh token is another than at the start, and the end of its chain.
    async fn assert_rotated(&self, member: &Member) {
        let document = self.world.account(&member.id).await;
        let token = text(&document, "refreshToken");
        assert_ne!(token, member.session.refresh, "{} was refreshed", member.id);
        assert!(self.pds.is_current(token), "{} holds the end of its chain", member.id);
        assert_eq!(text(&document, "status"), "active");
    }
}

fn with(mut settings: Vec<(String, String)>, more: &[(&str, &str)]) -> Vec<(String, String)> {
    settings.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    settings
}

/// Its exit status, after its last log line was read.
async fn exit(daemon: &mut Daemon) -> Option<i32> {
    let status = daemon.ended().await;
    daemon.log().wait(|line| line["event"] == "log_ended").await;
    status.code()
}

/// Whether a line of this kind says this.
fn says(line: &serde_json::Value, event: &str, parts: &[&str]) -> bool {
    let message = line["message"].as_str().unwrap_or_default();
    line["event"] == event && parts.iter().all(|part| message.contains(part))
}
