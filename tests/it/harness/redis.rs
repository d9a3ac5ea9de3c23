//! A Redis server of the test's own.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use refreshd::link::{Link, RedisTarget};
use tempfile::TempDir;

use super::eventually;

/// Runs `redis-server` (or `REFRESHD_REDIS_SERVER`) on a free port, without persistence, until
/// it is dropped.
#[derive(Debug)]
pub(crate) struct RedisServer {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let server = Self { child: launch(port, &dir), port, dir };
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

    /// Starts the killed server on the same port, empty.
    pub(crate) async fn restart(&mut self) {
        self.child = launch(self.port, &self.dir);
        self.ready().await;
    }

    async fn ready(&self) {
        let link = self.link();
        eventually("redis-server answers", Duration::from_secs(10), async || {
            link.query::<String>(&redis::cmd("PING")).await.is_ok()
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
fn launch(port: u16, dir: &TempDir) -> Child {
    let program = std::env::var("REFRESHD_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
    Command::new(&program)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", "no", "--dir"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"))
}
