//! The daemon as a user runs it: release build, journal on disk, queue in Redis, JSON log in a file.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::bed::Bed;
use crate::harness::daemon::ADMIN_TOKEN;
use crate::harness::http::{self, Http};
use crate::harness::signal;
use crate::proc;

/// How long the start, a quiet second and the stop may take.
const PATIENCE: Duration = Duration::from_mins(3);

/// At rest, a daemon uses less than this in [`QUIET`].
const AT_REST: Duration = Duration::from_millis(20);

const QUIET: Duration = Duration::from_millis(700);

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    pid: u32,
    log: PathBuf,
    admin: String,
    http: Http,
    /// From the start of the process to the line that says that it is ready.
    pub(crate) ready_after: Duration,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon").field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl Daemon {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start(
        bed: &Bed,
        concurrency: u32,
        more: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let log = bed.path("refreshd.log");
        let mut settings = bed.world.settings(bed.server.url());
        let ours = [
            ("STATE_DIR", bed.path("state").display().to_string()),
            ("WORKER_CONCURRENCY", concurrency.to_string()),
            ("PDS_RATE_LIMIT", "off".to_owned()),
            ("ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
            ("ADMIN_TOKEN", ADMIN_TOKEN.to_owned()),
        ];
        settings.extend(ours.map(|(name, value)| (name.to_owned(), value)));
        settings.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        fs::create_dir_all(bed.path("state"))?;
        let file = File::create(&log)?;
        let begun = Instant::now();
        let child = Command::new(crate::binary())
            .arg("run")
            .env_clear()
            .envs(settings)
            .current_dir(bed.path("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", crate::binary()))?;
        let pid = child.id().context("a process id")?;
        let (admin, http) = (String::new(), http::client());
        let mut daemon = Self { child, pid, log, admin, http, ready_after: Duration::ZERO };
        daemon.until_ready(begun).await?;
        Ok(daemon)
    }

    async fn until_ready(&mut self, begun: Instant) -> anyhow::Result<()> {
        loop {
            if let Some(address) = self.ready() {
                self.ready_after = begun.elapsed();
                self.admin = format!("http://{address}");
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("refreshd ended with {status}:\n{}", self.said());
            }
            anyhow::ensure!(begun.elapsed() < PATIENCE, "not ready in time:\n{}", self.said());
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// The admin API's address, once the log says it.
    fn ready(&self) -> Option<String> {
        let log = fs::read_to_string(&self.log).ok()?;
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut ready = lines.filter(|line| line.get("event").is_some_and(|it| it == "ready"));
        Some(ready.next()?.get("admin")?.as_str()?.to_owned())
    }

    /// The last lines of its log.
    fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n")
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it has done what it does after a start.
    pub(crate) async fn rest(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let before = proc::cpu(self.pid)?;
            sleep(QUIET).await;
            if proc::cpu(self.pid)?.saturating_sub(before) < AT_REST {
                return Ok(());
            }
            anyhow::ensure!(begun.elapsed() < PATIENCE, "refreshd does not come to rest");
        }
    }

    /// Asks for a refresh of all accounts, and answers the run's id.
    pub(crate) async fn ask_for_run(&self) -> anyhow::Result<String> {
        self.ask("{}").await
    }

    /// Asks for a refresh of one account, and answers the job's id.
    pub(crate) async fn ask_for(&self, account: &str) -> anyhow::Result<String> {
        self.ask(&format!(r#"{{"accountId":"{account}"}}"#)).await
    }

    async fn ask(&self, body: &str) -> anyhow::Result<String> {
        let url = format!("{}/api/admin/refresh-tokens", self.admin);
        let (status, answer) = self.http.post(&url, Some(ADMIN_TOKEN), body).await;
        anyhow::ensure!(status == 200, "{status}: {answer}");
        Ok(answer.get("jobId").and_then(Value::as_str).context("an id")?.to_owned())
    }

    /// What the admin API says of a run or a job.
    pub(crate) async fn state(&self, what: &str, id: &str) -> anyhow::Result<Value> {
        let url = format!("{}/api/admin/{what}/{id}", self.admin);
        let (status, answer) = self.http.get(&url, Some(ADMIN_TOKEN)).await;
        anyhow::ensure!(status == 200, "{status}: {answer}");
        Ok(answer)
    }

    /// Waits for the end of a run or a job.
    pub(crate) async fn done(&self, what: &str, id: &str) -> anyhow::Result<Value> {
        loop {
            let state = self.state(what, id).await?;
            if state.get("state").is_some_and(|it| it == "done") {
                return Ok(state);
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// One refresh-all over so many accounts, all of which are refreshed.
    ///
    /// Nobody asks the daemon how far it is until the server has seen the last call.
    pub(crate) async fn pass(&self, bed: &Bed, accounts: u64) -> anyhow::Result<()> {
        let before = bed.server.calls().await?;
        let run = self.ask_for_run().await?;
        let (mut seen, mut since) = (before, Instant::now());
        while seen < before + accounts {
            sleep(Duration::from_millis(20)).await;
            let now = bed.server.calls().await?;
            if now > seen {
                (seen, since) = (now, Instant::now());
            }
            anyhow::ensure!(since.elapsed() < PATIENCE, "refreshd stands still:\n{}", self.said());
        }
        let end = self.done("runs", &run).await?;
        let refreshed = end.get("succeeded").and_then(Value::as_u64);
        anyhow::ensure!(refreshed == Some(accounts), "the run has not refreshed all: {end}");
        Ok(())
    }

    /// Stops it as a supervisor would.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        signal(self.pid, "TERM");
        let status = timeout(PATIENCE, self.child.wait()).await.context("no end")??;
        anyhow::ensure!(status.success(), "refreshd ended with {status}:\n{}", self.said());
        Ok(())
    }
}
