//! A wire to a server that breaks on demand: cut, refused, reset, half-open, slow, a reply lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::free_port;

/// A relay to a port of this machine; torn down when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    loss: Arc<Loss>,
    gone: CancellationToken,
}

/// How the network is.
#[derive(Debug, Clone, Default)]
struct Weather {
    /// Nobody listens.
    refuses: bool,
    /// Connections stand, or are made, and nothing comes through.
    swallows: bool,
    /// Every piece of an answer takes so much longer.
    delay: Duration,
    /// Connections of an earlier age are over.
    age: u64,
    /// They end with a reset and not as one that says goodbye.
    resets: bool,
}

/// The one reply that is to be lost.
#[derive(Debug)]
struct Loss {
    marker: &'static str,
    armed: AtomicBool,
}

impl Proxy {
    /// A relay to `port`.
    pub(crate) async fn to(port: u16) -> Self {
        Self::marking(port, "").await
    }

    /// A relay to `port`. Once [armed](Self::lose_next_reply), the reply to the next request that
    /// contains `marker` is lost together with its connection.
    pub(crate) async fn marking(port: u16, marker: &'static str) -> Self {
        let own = free_port();
        let proxy = Self {
            port: own,
            weather: watch::Sender::default(),
            loss: Arc::new(Loss { marker, armed: AtomicBool::new(false) }),
            gone: CancellationToken::new(),
        };
        let first = TcpListener::bind(("127.0.0.1", own)).await.unwrap();
        let relay = Relay {
            own,
            port,
            weather: proxy.weather.subscribe(),
            loss: Arc::clone(&proxy.loss),
            gone: proxy.gone.clone(),
        };
        TaskTracker::new().spawn(proxy.gone.clone().run_until_cancelled_owned(relay.listen(first)));
        proxy
    }

    /// Where to connect.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Ends all connections as a server does that stops. New ones are made.
    pub(crate) fn cut(&self) {
        self.end_connections(false);
    }

    /// Ends all connections with a reset. New ones are made.
    pub(crate) fn reset(&self) {
        self.end_connections(true);
    }

    /// Ends all connections, and refuses new ones.
    pub(crate) fn refuse(&self) {
        self.weather.send_modify(|weather| weather.refuses = true);
        self.cut();
    }

    /// Half-open: connections stand and new ones are made, but no byte comes through either way,
    /// nor ever will on those that have lost one.
    pub(crate) fn swallow(&self) {
        self.weather.send_modify(|weather| weather.swallows = true);
    }

    /// Everything that comes back comes later.
    pub(crate) fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// The network is as it was at first, except for connections that are over.
    pub(crate) fn mend(&self) {
        self.weather.send_modify(|weather| {
            *weather = Weather { age: weather.age, ..Weather::default() };
        });
    }

    /// Loses the reply to the next marked request, after the server has carried it out.
    pub(crate) fn lose_next_reply(&self) {
        self.loss.armed.store(true, Ordering::SeqCst);
    }

    /// Whether the loss is still to come.
    pub(crate) fn is_armed(&self) -> bool {
        self.loss.armed.load(Ordering::SeqCst)
    }

    fn end_connections(&self, resets: bool) {
        self.weather.send_modify(|weather| {
            weather.age += 1;
            weather.resets = resets;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

/// What listens.
struct Relay {
    own: u16,
    port: u16,
    weather: watch::Receiver<Weather>,
    loss: Arc<Loss>,
    gone: CancellationToken,
}

impl Relay {
    async fn listen(mut self, first: TcpListener) {
        let (tasks, weather) = (TaskTracker::new(), self.weather.clone());
        let mut listener = Some(first);
        loop {
            let Some(open) = listener.take() else {
                // Only a port without a listener is one that refuses.
                let calm = self.weather.wait_for(|weather| !weather.refuses).await;
                if calm.map(drop).is_err() {
                    return;
                }
                listener = Some(TcpListener::bind(("127.0.0.1", self.own)).await.unwrap());
                continue;
            };
            tokio::select! {
                accepted = open.accept() => {
                    let (client, _) = accepted.unwrap();
                    let wire = Wire { weather: weather.clone(), loss: Arc::clone(&self.loss) };
                    let carried = wire.carry(client, self.port);
                    tasks.spawn(self.gone.clone().run_until_cancelled_owned(carried));
                    listener = Some(open);
                }
                refused = self.weather.wait_for(|weather| weather.refuses) => {
                    if refused.map(drop).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// One connection.
struct Wire {
    weather: watch::Receiver<Weather>,
    loss: Arc<Loss>,
}

impl Wire {
    async fn carry(self, client: TcpStream, port: u16) {
        let age = self.weather.borrow().age;
        // A server that is not there refuses its clients here, too.
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
            client.set_zero_linger().unwrap();
            return;
        };
        let doomed = AtomicBool::new(false);
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let mut ends = self.weather.clone();
        let mut to_client = to_client;
        let is_reset = {
            let up = up(from_client, to_server, (&self.loss, &doomed), self.weather.clone());
            let down = down(from_server, &mut to_client, &doomed, self.weather);
            tokio::select! {
                () = up => false,
                () = down => false,
                over = ends.wait_for(|weather| weather.age != age) => over.is_ok_and(|it| it.resets),
            }
        };
        if is_reset {
            to_client.as_ref().set_zero_linger().unwrap();
        }
    }
}

async fn up(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    (loss, doomed): (&Loss, &AtomicBool),
    weather: watch::Receiver<Weather>,
) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let is_marked = || {
            let marker = loss.marker.as_bytes();
            !marker.is_empty() && buffer[..n].windows(marker.len()).any(|window| window == marker)
        };
        if loss.armed.load(Ordering::SeqCst)
            && is_marked()
            && loss.armed.swap(false, Ordering::SeqCst)
        {
            doomed.store(true, Ordering::SeqCst);
        }
        if weather.borrow().swallows {
            return std::future::pending().await;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

async fn down(
    mut from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    doomed: &AtomicBool,
    weather: watch::Receiver<Weather>,
) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if doomed.load(Ordering::SeqCst) {
            return;
        }
        let (swallows, delay) = {
            let weather = weather.borrow();
            (weather.swallows, weather.delay)
        };
        if swallows {
            return std::future::pending().await;
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
