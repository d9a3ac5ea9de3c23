//! The posting application (`tests/app/app.mjs`), driven by JSON lines.

use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Mutex;

use super::daemon::Log;
use super::reference_pds::log_file;
use super::world::World;
use super::{PATIENCE, part};

/// A running application. It ends when this is dropped.
pub(crate) struct App {
    stdin: Mutex<ChildStdin>,
    /// What it says: answers by their `id`, and events.
    log: Log,
    asked: AtomicU64,
    _child: Child,
    _folder: TempDir,
}

impl App {
    /// Starts one beside the daemons of `world`, that logs in and posts at `service`;
    /// `["--bullmq", "newest"]` gives it the newest instead of its own 5.56.1.
    pub(crate) async fn start(world: &World, service: &str, options: &[&str]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let mut child = Command::new(part("REFRESHD_NODE"))
            .arg(part("REFRESHD_APP"))
            .args(options)
            .envs(world.settings(service))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_file(folder.path()))
            .kill_on_drop(true)
            .spawn()
            .expect("node starts the application");
        let stdin = Mutex::new(child.stdin.take().expect("a pipe"));
        let log = Log::follow(child.stdout.take().expect("a pipe"));
        let ready = log.wait(|line| line["event"] == "ready" || line["event"] == "log_ended").await;
        if ready["event"] != "ready" {
            let said = std::fs::read_to_string(folder.path().join("stderr.log"));
            panic!("the application ended before it was ready:\n{}", said.unwrap_or_default());
        }
        Self { stdin, log, asked: AtomicU64::new(0), _child: child, _folder: folder }
    }

    /// Tells it to do something (`{"do": "schedule", …}`), and answers what came of it.
    pub(crate) async fn ask(&self, command: Value) -> Value {
        self.ask_within(command, PATIENCE).await
    }

    /// The same, of what takes longer than most.
    pub(crate) async fn ask_within(&self, mut command: Value, limit: Duration) -> Value {
        let id = self.asked.fetch_add(1, Ordering::Relaxed);
        command["id"] = json!(id);
        let line = format!("{command}\n");
        self.stdin.lock().await.write_all(line.as_bytes()).await.expect("the application listens");
        let is_over = |line: &Value| line["id"] == id || line["event"] == "log_ended";
        let answer = self.log.wait_within(limit, is_over).await;
        assert_eq!(answer["ok"], true, "{command}: {answer}");
        answer
    }

    /// Everything that it has said: its answers and its events.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// The attempts to post so far, in their order.
    pub(crate) fn posts(&self) -> Vec<Value> {
        self.log.matching(|line| line["event"] == "post")
    }
}
