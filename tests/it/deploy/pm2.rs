//! The real PM2 runs the release binary by the shipped `ecosystem.config.js`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::shipped;
use crate::harness::daemon::ADMIN_TOKEN;
use crate::harness::scripted_pds::{Options, ScriptedPds, Session};
use crate::harness::world::{World, text};
use crate::harness::{PATIENCE, arrival, eventually, http, part};

/// A PM2 of the test's own; it and all that it runs end when this is dropped.
struct Pm2 {
    home: TempDir,
    cwd: TempDir,
}

impl Pm2 {
    /// `settings` stand in `.env`, as the comment in the shipped file asks for.
    fn new(settings: &[(String, String)]) -> Self {
        let folder = || TempDir::new().expect("a temporary folder");
        let pm2 = Self { home: folder(), cwd: folder() };
        let own = [("ADMIN_LISTEN", "127.0.0.1:0"), ("ADMIN_TOKEN", ADMIN_TOKEN)];
        let own = own.iter().map(|(name, value)| format!("{name}={value}\n"));
        let given = settings.iter().map(|(name, value)| format!("{name}={value}\n"));
        let env: String = own.chain(given).collect();
        std::fs::write(pm2.cwd.path().join(".env"), env).expect(".env");
        pm2
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(part("REFRESHD_PM2"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.home.path())
            .env("PM2_HOME", self.home.path())
            .env("REFRESHD_BIN", part("REFRESHD_RELEASE_BIN"))
            .env("REFRESHD_CWD", self.cwd.path())
            .current_dir(self.cwd.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of PM2's, away from the runtime's threads.
    async fn run(&self, arguments: &[&str]) -> String {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output());
        let output: Output = output.await.expect("no panic").expect("PM2 runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let trouble = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pm2 {arguments:?}: {said}{trouble}");
        said + &trouble
    }

    async fn start(&self) {
        let file = shipped("pm2/ecosystem.config.js");
        self.run(&["start", file.to_str().expect("a path")]).await;
    }

    /// What PM2 knows of an app.
    async fn app(&self, name: &str) -> Value {
        let said = self.run(&["jlist"]).await;
        let list = said.lines().rev().find(|line| line.starts_with('[')).expect("a list");
        let apps: Vec<Value> = serde_json::from_str(list).expect("JSON");
        let app = apps.into_iter().find(|app| app["name"] == name);
        app.unwrap_or_else(|| panic!("PM2 has no {name}: {list}"))
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("logs/refreshd.log")
    }

    /// The daemon's log lines so far; what is no JSON is text.
    fn lines(&self) -> Vec<Value> {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|_text| line.into());
        log.lines().map(line).collect()
    }

    /// The `n`th line of this kind.
    async fn line(&self, n: usize, event: &str, words: &str) -> Value {
        let is_it = |line: &Value| {
            line["event"] == event && line["message"].as_str().is_some_and(|it| it.contains(words))
        };
        arrival(&format!("line {n} of {event}: {words}"), PATIENCE, async || {
            self.lines().into_iter().filter(is_it).nth(n)
        })
        .await
    }
}

impl Drop for Pm2 {
    fn drop(&mut self) {
        let killed = self.command(&["kill"]).output();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            eprintln!("the daemon's log:\n{log}");
        }
        assert!(std::thread::panicking() || killed.is_ok_and(|it| it.status.success()), "pm2 kill");
    }
}

struct Stage {
    world: World,
    pds: ScriptedPds,
    session: Session,
    id: String,
    pm2: Pm2,
}

impl Stage {
    async fn set(more: &[(&str, &str)]) -> Self {
        let (world, pds) = tokio::join!(World::start(), ScriptedPds::start(Options::default()));
        let session = pds.create(1).remove(0);
        let Session { did, handle, access, refresh } = &session;
        let id = world.log_in(did, handle, access, refresh).await;
        let mut settings = world.settings(&pds.url().to_string());
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        settings.extend(more);
        let pm2 = Pm2::new(&settings);
        Self { world, pds, session, id, pm2 }
    }

    /// Asks the daemon that said this ready line for a refresh.
    async fn ask(&self, ready: &Value) {
        let url = ready["admin"].as_str().expect("an address");
        let url = format!("http://{url}/api/admin/refresh-tokens");
        let body = format!(r#"{{"accountId":"{}"}}"#, self.id);
        let (status, answer) = http::client().post(&url, Some(ADMIN_TOKEN), &body).await;
        assert_eq!(status, 200, "{answer}");
    }

    async fn assert_rotated(&self) {
        let document = self.world.account(&self.id).await;
        let token = text(&document, "refreshToken");
        assert_ne!(token, self.session.refresh);
        assert!(self.pds.is_current(token));
    }
}

#[tokio::test]
async fn pm2_runs_it_tails_its_log_and_lets_it_drain() {
    let stage = Stage::set(&[]).await;
    // Longer than the 1.6 s that PM2 gives a process to end unless it is told otherwise.
    stage.pds.set_latency(Duration::from_secs(3));
    stage.pm2.start().await;
    let ready = stage.pm2.line(0, "ready", "ready").await;
    assert_eq!(ready["level"], "INFO");
    let tail = stage.pm2.run(&["logs", "refreshd", "--nostream", "--raw", "--lines", "50"]).await;
    assert!(tail.contains(r#""event":"ready""#), "{tail}");

    stage.ask(&ready).await;
    eventually("a call is in flight", PATIENCE, async || stage.pds.total_calls() == 1).await;
    assert_eq!(stage.pds.answers(200), 0);
    stage.pm2.run(&["stop", "refreshd"]).await;
    stage.assert_rotated().await;
    stage.pm2.line(0, "stopped", "every job that ran is finished").await;
    let app = stage.pm2.app("refreshd").await;
    assert_eq!(app["pm2_env"]["status"], "stopped", "{app}");
    assert_eq!(app["pm2_env"]["restart_time"], 0, "{app}");
}

#[tokio::test]
async fn pm2_starts_it_again_for_as_long_as_an_outage_lasts() {
    let more = [("REDIS_DOWN_EXIT_AFTER", "1s"), ("STARTUP_TIMEOUT", "2s")];
    let mut stage = Stage::set(&more).await;
    stage.pm2.start().await;
    stage.pm2.line(0, "ready", "ready").await;

    stage.world.redis.kill();
    stage.pm2.line(0, "stop", "exiting with status 75").await;
    // It is started, exits with 69, and is started again.
    for time in 0..3 {
        stage.pm2.line(time, "start", "giving up after STARTUP_TIMEOUT").await;
    }
    stage.world.redis.restart().await;
    let ready = stage.pm2.line(1, "ready", "ready").await;
    stage.ask(&ready).await;
    stage.pm2.line(0, "refresh", "").await;
    stage.assert_rotated().await;
    let app = stage.pm2.app("refreshd").await;
    assert_eq!(app["pm2_env"]["status"], "online", "{app}");
    assert!(app["pm2_env"]["restart_time"].as_u64() >= Some(3), "{app}");
}

#[tokio::test]
async fn pm2_leaves_it_alone_when_a_start_cannot_help() {
    let pm2 = Pm2::new(&[("REDIS_PORT".to_owned(), "no-port".to_owned())]);
    pm2.start().await;
    // The same, with another name and a wrong command line.
    let wrong = pm2.cwd.path().join("wrong.config.js");
    let script = format!(
        "const all = require({:?}); Object.assign(all.apps[0], {{name: 'wrong', args: 'walk'}}); \
         module.exports = all;",
        shipped("pm2/ecosystem.config.js")
    );
    std::fs::write(&wrong, script).expect("a file");
    pm2.run(&["start", Path::to_str(&wrong).expect("a path")]).await;

    for (name, status) in [("refreshd", 78), ("wrong", 64)] {
        let app = arrival("it has ended", PATIENCE, async || {
            let app = pm2.app(name).await;
            let runs = ["online", "launching"].iter().any(|it| app["pm2_env"]["status"] == *it);
            (!runs).then_some(app)
        })
        .await;
        // PM2 lists both as "waiting restart"; it forgets the pid only when it does not restart.
        assert_eq!(app["pid"], 0, "{app}");
        assert_eq!(app["pm2_env"]["exit_code"], status, "{app}");
        assert_eq!(app["pm2_env"]["restart_time"], 0, "{app}");
    }
    let log = std::fs::read_to_string(pm2.log()).expect("a log");
    assert_eq!(log.matches("no-port").count(), 1, "said once: {log}");
}
