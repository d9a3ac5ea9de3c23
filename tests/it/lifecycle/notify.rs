//! What systemd is told, heard on a socket of the test's own.

use std::collections::BTreeSet;

use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::{Stage, exit};
use crate::harness::PATIENCE;
use crate::harness::daemon::Daemon;
use crate::harness::scripted_pds::Fault;

/// What listens at all times: only ten words may wait for somebody who does not.
struct Manager {
    heard: UnboundedReceiver<String>,
    address: String,
    _listener: AbortOnDropHandle<()>,
    _folder: TempDir,
}

fn socket(folder: &TempDir) -> (UnixDatagram, String) {
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    (socket, path.to_str().expect("a path").to_owned())
}

impl Manager {
    fn listen() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let (socket, address) = socket(&folder);
        let (said, heard) = unbounded_channel();
        let listener = TaskTracker::new().spawn(async move {
            let mut datagram = [0; 512];
            while let Ok(length) = socket.recv(&mut datagram).await {
                let word = String::from_utf8_lossy(&datagram[..length]).trim_end().to_owned();
                let _test_is_over = said.send(word);
            }
        });
        Self { heard, address, _listener: AbortOnDropHandle::new(listener), _folder: folder }
    }

    async fn hear(&mut self) -> String {
        let word = timeout(PATIENCE, self.heard.recv()).await;
        word.expect("a word in time").expect("somebody listens")
    }

    /// All different words up to this one.
    async fn hear_until(&mut self, word: &str) -> BTreeSet<String> {
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
    let mut manager = Manager::listen();
    let address = manager.address.clone();
    let told = [
        ("NOTIFY_SOCKET", address.as_str()),
        ("WATCHDOG_USEC", "200000"),
        // A database that was killed takes its time to come back on a busy machine.
        ("STARTUP_TIMEOUT", "10m"),
    ];
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
    let mut manager = Manager::listen();
    let address = manager.address.clone();
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
    let gone = Manager::listen().address;
    let daemon = stage.daemon(&[("NOTIFY_SOCKET", &gone)]).await;
    assert!(daemon.stop().await.success());
}

/// Its queue is full, and nobody ever reads it.
#[tokio::test]
async fn a_manager_that_does_not_listen_holds_nothing_up() {
    let stage = Stage::set(1).await;
    let folder = TempDir::new().expect("a temporary folder");
    let (_deaf, address) = socket(&folder);
    let chatter = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
    chatter.set_nonblocking(true).expect("a socket");
    let mut words = 0;
    while chatter.send_to(b"X=1", &address).is_ok() {
        words += 1;
    }
    assert!(words > 0, "somebody is there");
    let told = [("NOTIFY_SOCKET", address.as_str()), ("WATCHDOG_USEC", "200000")];
    let daemon = stage.daemon(&told).await;
    assert_eq!(daemon.refresh(&stage.members[0].id).await["outcome"], "refreshed");
    assert!(daemon.stop().await.success());
}
