//! The reference PDS (`tests/pds/server.mjs`), with its control API.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::http::{self, Http};
use super::part;

/// A running reference PDS. It ends when this is dropped.
pub(crate) struct ReferencePds {
    /// Its address, as an application would be given it.
    pub(crate) url: String,
    control: String,
    http: Http,
    _data: TempDir,
    _child: Child,
    /// The server ends when this closes.
    _stdin: ChildStdin,
}

/// An account there, and the session that its creation began.
#[derive(Debug, Clone)]
pub(crate) struct PdsAccount {
    pub(crate) did: String,
    pub(crate) handle: String,
    pub(crate) access: String,
    pub(crate) refresh: String,
    pub(crate) password: String,
}

impl PdsAccount {
    fn read(value: &Value) -> Self {
        let text = |key: &str| {
            value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned()
        };
        Self {
            did: text("did"),
            handle: text("handle"),
            access: text("accessJwt"),
            refresh: text("refreshJwt"),
            password: text("password"),
        }
    }
}

impl ReferencePds {
    /// Starts one, with its rate limits switched off.
    pub(crate) async fn start() -> Self {
        Self::spawn(TempDir::new().expect("a temporary folder"), &[]).await
    }

    /// Starts one with its rate limits switched on: 3,000 calls in 5 minutes.
    pub(crate) async fn start_with_rate_limits() -> Self {
        Self::spawn(TempDir::new().expect("a temporary folder"), &["--rate-limits"]).await
    }

    async fn spawn(data: TempDir, options: &[&str]) -> Self {
        let mut child = Command::new(part("REFRESHD_NODE"))
            .arg(part("REFRESHD_PDS_SERVER"))
            .arg("--data")
            .arg(data.path())
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_file(data.path()))
            .kill_on_drop(true)
            .spawn()
            .expect("node starts the reference PDS");
        let stdin = child.stdin.take().expect("a pipe");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let line = lines.next_line().await.expect("the reference PDS talks").unwrap_or_else(|| {
            let log = std::fs::read_to_string(data.path().join("stderr.log")).unwrap_or_default();
            panic!("the reference PDS ended before it was ready:\n{log}")
        });
        let ready: Value = serde_json::from_str(&line).expect("one JSON line");
        Self {
            url: ready["pds"].as_str().expect("its address").to_owned(),
            control: ready["control"].as_str().expect("its control address").to_owned(),
            http: http::client(),
            _data: data,
            _child: child,
            _stdin: stdin,
        }
    }

    /// Creates an account `<name>.test`.
    pub(crate) async fn create(&self, name: &str) -> PdsAccount {
        PdsAccount::read(
            &self.control("/accounts", json!({"handle": format!("{name}.test")})).await,
        )
    }

    /// Creates accounts `<prefix>0.test` and on.
    pub(crate) async fn create_many(&self, prefix: &str, count: usize) -> Vec<PdsAccount> {
        let all = self.control("/accounts", json!({"count": count, "prefix": prefix})).await;
        all.as_array().expect("a list").iter().map(PdsAccount::read).collect()
    }

    /// Whether an access token is good for posting: `getSession` takes it.
    pub(crate) async fn accepts(&self, access: &str) -> bool {
        self.control("/get-session", json!({"accessJwt": access})).await["status"] == 200
    }

    /// What `refreshSession` answers to a token: status and body.
    pub(crate) async fn refresh(&self, refresh: &str) -> (u64, Value) {
        let answer = self.control("/refresh", json!({"refreshJwt": refresh})).await;
        (answer["status"].as_u64().expect("a status"), answer["body"].clone())
    }

    /// Any call of the control API.
    pub(crate) async fn control(&self, path: &str, body: Value) -> Value {
        let (status, answer) =
            self.http.post(&format!("{}{path}", self.control), None, &body.to_string()).await;
        assert!((200..300).contains(&status), "{path} {body}: {status} {answer}");
        answer
    }

    /// How many `refreshSession` calls were answered so far.
    pub(crate) async fn refreshes(&self) -> u64 {
        let (_, counts) = self.http.get(&format!("{}/requests", self.control), None).await;
        counts.as_object().expect("counts").values().filter_map(Value::as_u64).sum()
    }
}

/// Where a server of Node writes what goes wrong.
pub(super) fn log_file(folder: &Path) -> std::fs::File {
    std::fs::File::create(folder.join("stderr.log")).expect("a log file")
}
