//! What systemd is told, heard on a socket of the test's own.

use std::collections::BTreeSet;

use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

use super::{Stage, exit};
use crate::harness::PATIENCE;
use crate::harness::daemon::Daemon;
use crate::harness::scripted_pds::Fault;

struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn listen() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        Self { socket, folder }
    }

    fn address(&self) -> String {
        self.folder.path().join("notify").to_str().expect("a path").to_owned()
    }

    async fn hear(&self) -> String {
        let mut datagram = [0; 512];
        let length = timeout(PATIENCE, self.socket.recv(&mut datagram))
            .await
            .expect("a word in time")
            .expect("a datagram");
        String::from_utf8_lossy(&datagram[..length]).trim_end().to_owned()
    }

    /// All different words up to this one.
    async fn hear_until(&self, word: &str) -> BTreeSet<String> {
        let mut heard = BTreeSet::new();
        loop {
            let said = self.hear().await;
            heard.insert(said.clone());
            if said == word {
                return heard;
            }
        }
    }
}

#[tokio::test]
async fn systemd_is_told_ready_alive_and_stopping() {
    let mut stage = Stage::set(0).await;
    stage.world.mongo.kill();
    let manager = Manager::listen();
    let address = manager.address();
    let told = [("NOTIFY_SOCKET", address.as_str()), ("WATCHDOG_USEC", "200000")];
    let mut daemon = Daemon::spawn(&stage.settings(&told));
    for _ in 0..3 {
        assert_eq!(manager.hear().await, "WATCHDOG=1", "alive, but not ready without MongoDB");
    }
    stage.world.mongo.restart().await;
    manager.hear_until("READY=1").await;
    daemon.log().wait(|line| line["event"] == "ready").await;
    manager.hear_until("WATCHDOG=1").await;
    daemon.signal("TERM");
    let heard = manager.hear_until("STOPPING=1").await;
    assert!(!heard.contains("READY=1"), "once");
    assert_eq!(exit(&mut daemon).await, Some(0));
}

#[tokio::test]
async fn the_watchdog_is_fed_during_the_drain() {
    let stage = Stage::set(1).await;
    stage.pds.fail_next(1, &Fault::Hang);
    let manager = Manager::listen();
    let address = manager.address();
    let more = [
        ("NOTIFY_SOCKET", address.as_str()),
        ("WATCHDOG_USEC", "200000"),
        ("SHUTDOWN_TIMEOUT", "1h"),
        ("PDS_TIMEOUT", "300s"),
    ];
    let mut daemon = stage.daemon(&more).await;
    stage.ask(&daemon, &stage.members[0]).await;
    stage.called(1).await;
    daemon.signal("TERM");
    manager.hear_until("STOPPING=1").await;
    for _ in 0..5 {
        assert_eq!(manager.hear().await, "WATCHDOG=1");
    }
    daemon.signal("TERM");
    assert_eq!(exit(&mut daemon).await, Some(1));
}

#[tokio::test]
async fn without_systemd_nobody_is_told() {
    let stage = Stage::set(0).await;
    // A socket that is not there is no reason to fail.
    let gone = Manager::listen().address();
    let daemon = stage.daemon(&[("NOTIFY_SOCKET", &gone)]).await;
    assert!(daemon.stop().await.success());
}
