//! A Redis server of the test's own.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use refreshd::link::{Link, RedisTarget};
use tempfile::TempDir;

use super::{eventually, free_port};

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
        let port = free_port();
        let dir = tempfile::tempdir().unwrap();
        let settings: Vec<_> = settings.iter().map(|&it| it.to_owned()).collect();
        let server = Self { child: launch(port, &dir, &settings), port, dir, settings };
        server.ready().await;
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A link of its own, as another process would have.
    pub(crate) fn link(&self) -> Link {
        Link::new(RedisTarget::from_url(&self.url()).unwrap()).unwrap()
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
        self.ready().await;
    }

    async fn ready(&self) {
        let link = self.link();
        eventually("redis-server answers", Duration::from_secs(10), async || {
            // A server that asks for a password is there, too.
            let pong = link.query::<String>(&redis::cmd("PING")).await;
            pong.map_or_else(|error| error.code() == Some("NOAUTH"), |_| true)
        })
        .await;
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
    let sentinel = settings.iter().any(|it| it.starts_with("sentinel "));
    Command::new(&program)
        .arg(&config)
        .args(sentinel.then_some("--sentinel"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"))
}
