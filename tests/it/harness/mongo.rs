//! A real `mongod` of a test's own, on a free port, with its data in a temporary folder; or three
//! of them, as a replica set that can lose one.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::join_all;
use mongodb::Client;
use mongodb::bson::{Document, doc};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{PATIENCE, arrival, free_port, signal};

/// How the server is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topology {
    /// A replica set of this many.
    ReplicaSet(u8),
    /// A replica set of one, with room for a million accounts.
    Large,
    /// No replica set at all.
    Standalone,
    /// The same, with logins.
    WithLogins,
}

impl Topology {
    fn is_set(self) -> bool {
        matches!(self, Self::ReplicaSet(_) | Self::Large)
    }
}

/// The server, or the replica set; stopped when dropped.
#[derive(Debug)]
pub(crate) struct MongoServer {
    kind: Topology,
    nodes: Vec<Node>,
    databases: AtomicU32,
}

/// One process.
#[derive(Debug)]
struct Node {
    kind: Topology,
    port: u16,
    folder: TempDir,
    process: Option<Child>,
}

impl MongoServer {
    /// Starts a server and waits until it takes writes.
    pub(crate) async fn start(kind: Topology) -> Self {
        let count = if let Topology::ReplicaSet(members) = kind { members } else { 1 };
        let nodes = join_all((0..count).map(|_| Node::start(kind))).await;
        let server = Self { kind, nodes, databases: AtomicU32::new(0) };
        if kind.is_set() {
            server.initiate().await;
        }
        server
    }

    async fn initiate(&self) {
        let members: Vec<_> = (0..)
            .zip(&self.nodes)
            .map(|(id, node)| doc! { "_id": id, "host": node.address() })
            .collect();
        // A primary that is gone is noticed in a second or two, and not in ten.
        let settings = doc! { "electionTimeoutMillis": 1_500, "heartbeatIntervalMillis": 300 };
        let config = doc! { "_id": "rs0", "members": members, "settings": settings };
        let first = self.nodes.first().unwrap();
        admin(&first.uri(), doc! { "replSetInitiate": config }).await.unwrap();
        admin(&self.uri(), doc! { "ping": 1 }).await.unwrap();
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

    /// Where it, or the first of the set, listens.
    pub(crate) fn port(&self) -> u16 {
        self.nodes.first().unwrap().port
    }

    /// A node's process id.
    pub(crate) fn pid(&self, node: usize) -> u32 {
        self.nodes.get(node).unwrap().pid()
    }

    /// Its connection string, without a database.
    pub(crate) fn uri(&self) -> String {
        let set = if self.kind.is_set() { "?replicaSet=rs0" } else { "" };
        let hosts: Vec<_> = self.nodes.iter().map(Node::address).collect();
        format!("mongodb://{}/{set}", hosts.join(","))
    }

    /// The name of a database that no other test uses.
    pub(crate) fn fresh_database(&self) -> String {
        format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed))
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.nodes.iter_mut().for_each(Node::kill);
    }

    /// Starts it (again) on its own port and data.
    pub(crate) async fn restart(&mut self) {
        join_all(self.nodes.iter_mut().map(Node::restart)).await;
    }

    // ---- a set of several: nodes are told by their place in it ----

    /// Waits until a node is primary, and answers which.
    pub(crate) async fn primary(&self) -> usize {
        arrival("a node is primary", PATIENCE, || async {
            let asked = self.nodes.iter().map(Node::is_primary);
            join_all(asked).await.into_iter().position(|is_primary| is_primary)
        })
        .await
    }

    /// All but this one.
    pub(crate) fn others(&self, node: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|other| *other != node).collect()
    }

    /// Kills one node, as a crash would.
    pub(crate) fn kill_node(&mut self, node: usize) {
        self.nodes.get_mut(node).unwrap().kill();
    }

    /// Starts a killed node again, with its data.
    pub(crate) async fn restart_node(&mut self, node: usize) {
        self.nodes.get_mut(node).unwrap().restart().await;
    }

    /// Stops a node's process in its tracks, until it is [thawed](Self::thaw).
    pub(crate) fn freeze(&self, node: usize) {
        signal(self.pid(node), "STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self, node: usize) {
        signal(self.pid(node), "CONT");
    }

    /// Makes the primary step down, and waits until another node is primary.
    pub(crate) async fn step_down(&self) -> usize {
        let before = self.primary().await;
        let command = doc! { "replSetStepDown": 10, "secondaryCatchUpPeriodSecs": 2 };
        // Not when no other is close enough behind it: then it stays, and is asked again.
        arrival("another node is primary", PATIENCE, || async {
            drop(admin(&self.nodes.get(before).unwrap().uri(), command.clone()).await);
            let now = self.primary().await;
            (now != before).then_some(now)
        })
        .await
    }

    /// Makes the primary step down while no other may follow it for so many seconds; answers when
    /// one has.
    pub(crate) async fn step_down_without_heir(&self, seconds: u32) {
        let before = self.primary().await;
        for other in self.others(before) {
            let frozen = doc! { "replSetFreeze": seconds };
            admin(&self.nodes.get(other).unwrap().uri(), frozen).await.unwrap();
        }
        let command =
            doc! { "replSetStepDown": 60, "secondaryCatchUpPeriodSecs": 0, "force": true };
        admin(&self.nodes.get(before).unwrap().uri(), command).await.unwrap();
        assert_ne!(self.primary().await, before);
    }

    /// The daemon's next commands of these names go wrong, as the server's fail point
    /// `failCommand` is told by `how`.
    pub(crate) async fn fail(&self, times: u32, commands: &[&str], how: Document) {
        let mut data = doc! { "failCommands": commands, "appName": "refreshd" };
        data.extend(how);
        let mode = doc! { "times": i64::from(times) };
        let fail = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
        let primary = self.primary().await;
        admin(&self.nodes.get(primary).unwrap().uri(), fail).await.unwrap();
    }

    /// How many commands have gone wrong like that; one more where two came at the last moment,
    /// both of which mongod counts.
    pub(crate) async fn failed(&self) -> i64 {
        let off = doc! { "configureFailPoint": "failCommand", "mode": "off" };
        let primary = self.primary().await;
        let answer = admin(&self.nodes.get(primary).unwrap().uri(), off).await.unwrap();
        match answer.get("count") {
            Some(mongodb::bson::Bson::Int32(count)) => i64::from(*count),
            Some(mongodb::bson::Bson::Int64(count)) => *count,
            _ => panic!("no count in {answer}"),
        }
    }
}

impl Node {
    async fn start(kind: Topology) -> Self {
        loop {
            let (port, folder) = (free_port(), TempDir::new().unwrap());
            let mut node = Self { kind, port, folder, process: None };
            node.process = Some(node.spawn());
            // The port was free a moment ago; another test's server may have been faster.
            if node.is_up().await {
                return node;
            }
        }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// To this node, whatever it is in its set.
    fn uri(&self) -> String {
        let patience = "serverSelectionTimeoutMS=30000";
        format!("mongodb://{}/?directConnection=true&{patience}", self.address())
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().expect("a living mongod").id()
    }

    async fn is_primary(&self) -> bool {
        if self.process.is_none() {
            return false;
        }
        // A frozen one would never answer.
        let asked = timeout(Duration::from_secs(1), admin(&self.uri(), doc! { "hello": 1 })).await;
        asked.is_ok_and(|answer| {
            answer
                .is_ok_and(|it| it.get_bool("isWritablePrimary").is_ok_and(|is_primary| is_primary))
        })
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    async fn restart(&mut self) {
        self.kill();
        self.process = Some(self.spawn());
        assert!(self.is_up().await, "mongod did not start\n{}", self.log());
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
            .args([
                "--wiredTigerCacheSizeGB",
                if self.kind == Topology::Large { "4" } else { "0.25" },
            ])
            .args(["--setParameter", "enableTestCommands=1"])
            .args(["--setParameter", "diagnosticDataCollectionEnabled=false"])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null());
        match self.kind {
            Topology::ReplicaSet(_) => command.args(["--replSet", "rs0", "--oplogSize", "64"]),
            Topology::Large => command.args(["--replSet", "rs0", "--oplogSize", "1024"]),
            Topology::Standalone => &mut command,
            Topology::WithLogins => command.arg("--auth"),
        };
        command.spawn().unwrap_or_else(|error| {
            panic!(
                "cannot run {program}: {error}; run scripts/setup mongod and set REFRESHD_MONGOD"
            )
        })
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        text.lines().rev().take(5).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn admin(uri: &str, command: Document) -> mongodb::error::Result<Document> {
    let client = Client::with_uri_str(uri).await?;
    client.database("admin").run_command(command).await
}
