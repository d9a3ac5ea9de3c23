//! A wire to a server that loses a reply on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A relay to a port of this machine; torn down when dropped.
#[derive(Debug)]
pub(crate) struct Cable {
    port: u16,
    armed: Arc<AtomicBool>,
    gone: CancellationToken,
}

impl Cable {
    /// A relay to `port`. Once [armed](Self::lose_next_reply), the reply to the next request that
    /// contains `marker` is lost together with its connection.
    pub(crate) async fn to(port: u16, marker: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let armed = Arc::new(AtomicBool::new(false));
        let gone = CancellationToken::new();
        let cable =
            Self { port: listener.local_addr().unwrap().port(), armed: Arc::clone(&armed), gone };
        let tasks = TaskTracker::new();
        let (inner, gone) = (tasks.clone(), cable.gone.clone());
        tasks.spawn(cable.gone.clone().run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let doomed = Arc::new(AtomicBool::new(false));
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let up =
                    up(from_client, to_server, marker, (Arc::clone(&armed), Arc::clone(&doomed)));
                inner.spawn(gone.clone().run_until_cancelled_owned(up));
                let down = down(from_server, to_client, doomed);
                inner.spawn(gone.clone().run_until_cancelled_owned(down));
            }
        }));
        cable
    }

    /// Where to connect.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Loses the reply to the next marked request, after the server has carried it out.
    pub(crate) fn lose_next_reply(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Whether the loss is still to come.
    pub(crate) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::SeqCst)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

async fn up(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    marker: &str,
    (armed, doomed): (Arc<AtomicBool>, Arc<AtomicBool>),
) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let found = buffer[..n].windows(marker.len()).any(|window| window == marker.as_bytes());
        if found && armed.swap(false, Ordering::SeqCst) {
            doomed.store(true, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

async fn down(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, doomed: Arc<AtomicBool>) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if doomed.load(Ordering::SeqCst) || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
