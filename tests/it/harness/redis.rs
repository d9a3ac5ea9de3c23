//! A Redis server of the test's own.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use refreshd::link::{Link, RedisTarget};
use tempfile::TempDir;

use super::{PATIENCE, arrival, free_port};

const LOG: &str = "log";

/// What a server, and what a sentinel, says once it listens.
const SIGNS: [&str; 2] = ["Ready to accept connections", "Sentinel ID is"];

/// Settings of a server that keeps what it has acknowledged, whatever happens to it.
pub(crate) const KEEPS_ALL: [&str; 2] = ["appendonly yes", "appendfsync always"];

/// Runs `redis-server` (or `REFRESHD_REDIS_SERVER`) on a free port, without persistence, until
/// it is dropped.
#[derive(Debug)]
pub(crate) struct RedisServer {
    child: Child,
    port: u16,
    dir: TempDir,
    /// Lines of its configuration file. One of `sentinel …` makes it a sentinel.
    settings: Vec<String>,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(settings: &[&str]) -> Self {
        let settings: Vec<_> = settings.iter().map(|&it| it.to_owned()).collect();
        loop {
            let port = free_port();
            let dir = tempfile::tempdir().unwrap();
            let child = launch(port, &dir, &settings);
            let mut server = Self { child, port, dir, settings: settings.clone() };
            // The port was free a moment ago; another test's server may have been faster.
            if server.is_up().await {
                return server;
            }
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The server's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A link of its own, as another process would have.
    pub(crate) fn link(&self) -> Link {
        Link::new(RedisTarget::from_url(&self.url()).unwrap()).unwrap()
    }

    /// Makes it a replica of `primary`, at run time, and waits until it holds the same; with
    /// `None`, a primary of its own.
    pub(crate) async fn follow(&self, primary: Option<&Self>) {
        let (host, port) = primary.map_or_else(
            || ("NO".to_owned(), "ONE".to_owned()),
            |primary| ("127.0.0.1".to_owned(), primary.port.to_string()),
        );
        self.ask(redis::cmd("REPLICAOF").arg(host).arg(port)).await;
        let sign = if primary.is_some() { "master_link_status:up" } else { "role:master" };
        arrival("the replication is as it is wanted", PATIENCE, || async {
            let link = self.link();
            let info: String = link.query(redis::cmd("INFO").arg("replication")).await.ok()?;
            info.contains(sign).then_some(())
        })
        .await;
    }

    /// How many bytes it may keep; 0: as many as there are. It drops nothing to get there.
    pub(crate) async fn limit_memory(&self, bytes: u32) {
        self.ask(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes)).await;
    }

    async fn ask(&self, command: &redis::Cmd) {
        let _done: String = self.link().query(command).await.unwrap();
    }

    /// SIGKILL, and not started again.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the killed server on the same port, with what it had kept on disk: nothing, unless
    /// its settings say so.
    pub(crate) async fn restart(&mut self) {
        self.child = launch(self.port, &self.dir, &self.settings);
        let (pid, port) = (self.pid(), self.port);
        assert!(self.is_up().await, "redis-server {pid} ends at once on port {port}");
    }

    /// Waits for this very process, not for whoever answers on its port.
    async fn is_up(&mut self) -> bool {
        let log = self.dir.path().join(LOG);
        let child = &mut self.child;
        arrival("redis-server is up", PATIENCE, || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let ended = child.try_wait().unwrap().is_some();
            let is_up = SIGNS.iter().any(|sign| said.contains(sign));
            std::future::ready((is_up || ended).then_some(is_up && !ended))
        })
        .await
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _gone = (self.child.kill(), self.child.wait());
    }
}

#[expect(clippy::disallowed_methods, reason = "the tests' own setting, not the daemon's")]
fn launch(port: u16, dir: &TempDir, settings: &[String]) -> Child {
    let program = std::env::var("REFRESHD_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
    let config = dir.path().join("redis.conf");
    let ours = format!("port {port}\nbind 127.0.0.1\nsave \"\"\ndir {}\n", dir.path().display());
    std::fs::write(&config, ours + &settings.join("\n")).unwrap();
    let log = File::create(dir.path().join(LOG)).unwrap();
    let sentinel = settings.iter().any(|it| it.starts_with("sentinel "));
    Command::new(&program)
        .arg(&config)
        .args(sentinel.then_some("--sentinel"))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"))
}
