//! A real `mongod` of a test's own, on a free port, with its data in a temporary folder.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use mongodb::Client;
use mongodb::bson::doc;
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::{PATIENCE, arrival, free_port};

/// How the server is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topology {
    /// A replica set of this many; only one is built so far.
    ReplicaSet(u8),
    /// No replica set at all.
    Standalone,
    /// The same, with logins.
    WithLogins,
}

/// The server; stopped when dropped.
#[derive(Debug)]
pub(crate) struct MongoServer {
    kind: Topology,
    port: u16,
    folder: TempDir,
    process: Option<Child>,
    databases: AtomicU32,
}

impl MongoServer {
    /// Starts a server and waits until it takes writes.
    pub(crate) async fn start(kind: Topology) -> Self {
        let server = loop {
            let port = free_port();
            let folder = TempDir::new().unwrap();
            let databases = AtomicU32::new(0);
            let mut server = Self { kind, port, folder, process: None, databases };
            server.process = Some(server.spawn());
            // The port was free a moment ago; another test's server may have been faster.
            if server.is_up().await {
                break server;
            }
        };
        let port = server.port;
        if let Topology::ReplicaSet(members) = kind {
            assert_eq!(members, 1, "one process is one member");
            let member = doc! { "_id": 0, "host": format!("127.0.0.1:{port}") };
            let direct = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
            let set = doc! { "replSetInitiate": { "_id": "rs0", "members": [member] } };
            admin(&direct, set).await;
            admin(&server.uri(), doc! { "ping": 1 }).await;
        }
        server
    }

    /// A replica set that tests of this binary share while any of them uses it.
    pub(crate) async fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<MongoServer>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start(Topology::ReplicaSet(1)).await);
        *shared = Arc::downgrade(&server);
        server
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its connection string, without a database.
    pub(crate) fn uri(&self) -> String {
        let set = if matches!(self.kind, Topology::ReplicaSet(_)) { "?replicaSet=rs0" } else { "" };
        format!("mongodb://127.0.0.1:{}/{set}", self.port)
    }

    /// The name of a database that no other test uses.
    pub(crate) fn fresh_database(&self) -> String {
        format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed))
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it (again) on its own port and data.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.process = Some(self.spawn());
        assert!(self.is_up().await, "mongod did not start\n{}", log(self.folder.path()));
    }

    /// Waits for this very process, not for whoever answers on its port.
    async fn is_up(&mut self) -> bool {
        let log = self.folder.path().join("log");
        let process = self.process.as_mut().unwrap();
        arrival("mongod is up", PATIENCE, || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let ended = process.try_wait().unwrap().is_some();
            let is_up = said.contains("Waiting for connections");
            std::future::ready((is_up || ended).then_some(is_up && !ended))
        })
        .await
    }

    fn spawn(&self) -> Child {
        #[expect(clippy::disallowed_methods, reason = "the harness has no configuration")]
        let program = std::env::var("REFRESHD_MONGOD").unwrap_or_else(|_| "mongod".to_owned());
        let log = File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(&program);
        command
            .arg("--dbpath")
            .arg(self.folder.path())
            .args(["--port", &self.port.to_string(), "--bind_ip", "127.0.0.1", "--nounixsocket"])
            .args(["--wiredTigerCacheSizeGB", "0.25", "--setParameter", "enableTestCommands=1"])
            .args(["--setParameter", "diagnosticDataCollectionEnabled=false"])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null());
        match self.kind {
            Topology::ReplicaSet(_) => command.args(["--replSet", "rs0", "--oplogSize", "64"]),
            Topology::Standalone => &mut command,
            Topology::WithLogins => command.arg("--auth"),
        };
        command.spawn().unwrap_or_else(|error| {
            panic!(
                "cannot run {program}: {error}; run scripts/setup mongod and set REFRESHD_MONGOD"
            )
        })
    }
}

impl Drop for MongoServer {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn admin(uri: &str, command: mongodb::bson::Document) {
    let client = Client::with_uri_str(uri).await.unwrap();
    client.database("admin").run_command(command).await.unwrap();
}

fn log(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    text.lines().rev().take(5).collect::<Vec<_>>().join("\n")
}
