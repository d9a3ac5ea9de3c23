//! The daemon under test: the real program, its log read line by line.

use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::http::{self, Http};
use super::{PATIENCE, arrival, part, signal};

/// The admin token that the tests' daemons are started with.
pub(crate) const ADMIN_TOKEN: &str = "a-token-for-the-tests-0123456789abcdef";

/// A daemon process. It is killed when this is dropped.
pub(crate) struct Daemon {
    child: Child,
    log: Log,
    admin: String,
    http: Http,
    _cwd: TempDir,
}

/// What a process has said so far, a JSON object a line.
#[derive(Clone)]
pub(crate) struct Log {
    lines: Arc<Mutex<Vec<Value>>>,
    count: watch::Receiver<usize>,
}

impl Daemon {
    /// Starts `refreshd run` with exactly these settings, and waits until it is ready.
    pub(crate) async fn start(settings: &[(String, String)]) -> Self {
        Self::spawn(settings).until_ready().await
    }

    /// The same, of the program as it is shipped.
    pub(crate) async fn start_release(settings: &[(String, String)]) -> Self {
        Self::spawn_program(part("REFRESHD_RELEASE_BIN"), settings).until_ready().await
    }

    /// Waits until it is ready.
    pub(crate) async fn until_ready(mut self) -> Self {
        let daemon = &mut self;
        let ready =
            daemon.log.wait(|line| line["event"] == "ready" || line["event"] == "log_ended").await;
        if ready["event"] != "ready" {
            let status = daemon.child.wait().await.expect("a status");
            panic!("the daemon ended with {status} before it was ready:\n{}", daemon.log.text());
        }
        if let Some(address) = ready["admin"].as_str() {
            daemon.admin = format!("http://{address}");
        }
        self
    }

    /// Starts it without waiting for anything.
    pub(crate) fn spawn(settings: &[(String, String)]) -> Self {
        Self::spawn_program(crate::binary(), settings)
    }

    /// The same, of a program that becomes the daemon.
    pub(crate) fn spawn_program(program: impl AsRef<OsStr>, settings: &[(String, String)]) -> Self {
        let cwd = TempDir::new().expect("a temporary folder");
        let mut child = Command::new(program)
            .arg("run")
            .env_clear()
            .env("LOG_FORMAT", "json")
            .env("ADMIN_LISTEN", "127.0.0.1:0")
            .env("ADMIN_TOKEN", ADMIN_TOKEN)
            .env("PDS_RATE_LIMIT", "off")
            .envs(settings.iter().cloned())
            .current_dir(cwd.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the daemon starts");
        let stderr = child.stderr.take().expect("a pipe");
        let log = Log::follow(stderr);
        Self { child, log, admin: String::new(), http: http::client(), _cwd: cwd }
    }

    /// Its log.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("a living daemon")
    }

    /// POSTs to the admin API with the right token.
    pub(crate) async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        self.http.post(&format!("{}{path}", self.admin), Some(ADMIN_TOKEN), body).await
    }

    /// GETs from it with the right token.
    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.http.get(&format!("{}{path}", self.admin), Some(ADMIN_TOKEN)).await
    }

    /// GETs what is no JSON.
    pub(crate) async fn text(&self, path: &str) -> String {
        self.http.text(&format!("{}{path}", self.admin)).await
    }

    /// Refreshes one account by name and waits for its outcome.
    pub(crate) async fn refresh(&self, account: &str) -> Value {
        let (status, answer) = self
            .post("/api/admin/refresh-tokens", &format!(r#"{{"accountId":"{account}"}}"#))
            .await;
        assert_eq!(status, 200, "{answer}");
        self.job(answer["jobId"].as_str().expect("a job id")).await
    }

    /// Refreshes all accounts and waits for the run's end.
    pub(crate) async fn refresh_all(&self) -> Value {
        self.refresh_all_within(PATIENCE).await
    }

    /// The same, where that takes longer than most.
    pub(crate) async fn refresh_all_within(&self, limit: Duration) -> Value {
        self.run_within(&self.ask_for_run().await, limit).await
    }

    /// Asks for a refresh of all accounts, and answers the run's id.
    pub(crate) async fn ask_for_run(&self) -> String {
        let (status, answer) = self.post("/api/admin/refresh-tokens", "{}").await;
        assert_eq!(status, 200, "{answer}");
        answer["jobId"].as_str().expect("a run id").to_owned()
    }

    /// Waits until a job is done, and answers what the admin API says of it.
    pub(crate) async fn job(&self, id: &str) -> Value {
        let path = format!("/api/admin/jobs/{id}");
        arrival(&format!("job {id} is done"), PATIENCE, || async {
            let (_, job) = self.get(&path).await;
            (job["state"] == "done").then_some(job)
        })
        .await
    }

    /// Waits until a run is done, and answers what the admin API says of it.
    pub(crate) async fn run(&self, id: &str) -> Value {
        self.run_within(id, PATIENCE).await
    }

    /// The same, for a run that takes longer than most.
    pub(crate) async fn run_within(&self, id: &str, limit: Duration) -> Value {
        let path = format!("/api/admin/runs/{id}");
        arrival(&format!("run {id} is done"), limit, || async {
            let (_, run) = self.get(&path).await;
            (run["state"] == "done").then_some(run)
        })
        .await
    }

    /// Waits for the line that ends a run: by then, the lines of its jobs on this daemon are there.
    pub(crate) async fn end_of_run(&self, run: &Value) -> Value {
        let id = run["id"].as_str().expect("a run id");
        let ends = |line: &Value| line["event"] == "run" && line["state"] == "done";
        self.log.wait(|line| ends(line) && line["run"] == id).await
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .unwrap_or_else(|_late| panic!("the daemon does not end:\n{}", self.log.text()))
            .expect("a status")
    }

    /// Stops it as a supervisor would, and waits for its end.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    /// Kills it without warning.
    pub(crate) async fn kill(mut self) {
        self.kill_now().await;
    }

    /// The same, when something is yet to be asked of what it leaves behind.
    pub(crate) async fn kill_now(&mut self) {
        self.child.kill().await.expect("it is killed");
    }
}

impl Log {
    /// Reads a process's pipe until it ends; then comes the event `log_ended`.
    pub(super) fn follow(pipe: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let lines: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (sender, count) = watch::channel(0);
        let log = Self { lines: Arc::clone(&lines), count };
        #[expect(clippy::disallowed_methods, reason = "the harness has no task tracker")]
        tokio::spawn(async move {
            let mut reader = BufReader::new(pipe).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                push(&lines, serde_json::from_str(&line).unwrap_or(Value::String(line)), &sender);
            }
            push(&lines, serde_json::json!({"event": "log_ended"}), &sender);
        });
        log
    }

    /// All lines so far that are so.
    pub(crate) fn matching(&self, which: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.lines.lock().expect("no panic").iter().filter(|line| which(line)).cloned().collect()
    }

    /// How many lines so far are so.
    pub(crate) fn count(&self, which: impl Fn(&Value) -> bool) -> usize {
        self.lines.lock().expect("no panic").iter().filter(|line| which(line)).count()
    }

    /// The first line that is so, now or to come.
    pub(crate) async fn wait(&self, which: impl Fn(&Value) -> bool) -> Value {
        self.wait_within(PATIENCE, which).await
    }

    /// The same, of a line that takes longer than most.
    pub(crate) async fn wait_within(
        &self,
        limit: Duration,
        which: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut count = self.count.clone();
        let found = async {
            loop {
                count.borrow_and_update();
                if let Some(line) = self.matching(&which).into_iter().next() {
                    return line;
                }
                count.changed().await.expect("the log is followed");
            }
        };
        tokio::time::timeout(limit, found).await.unwrap_or_else(|_late| {
            panic!("the line that was waited for never came:\n{}", self.text())
        })
    }

    /// The lines as they were written.
    pub(crate) fn text(&self) -> String {
        let lines = self.lines.lock().expect("no panic");
        lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
}

fn push(lines: &Mutex<Vec<Value>>, line: Value, sender: &watch::Sender<usize>) {
    let count = {
        let mut lines = lines.lock().expect("no panic");
        lines.push(line);
        lines.len()
    };
    let _nobody_waits = sender.send(count);
}
