//! How the process lives and ends: signals, exit statuses, and what the service manager is told.

use std::process::ExitCode;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// How the process ends (contract.md, "Command line"; the numbers are sysexits.h's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well, also after a signal with everything drained.
    Fine,
    /// Anything without a status of its own.
    Failed,
    /// The command line was wrong (`EX_USAGE`).
    Usage,
    /// Redis or MongoDB could not be reached at start (`EX_UNAVAILABLE`).
    Unavailable,
    /// Redis was lost for too long (`EX_TEMPFAIL`): the supervisor starts the daemon again.
    RedisLost,
    /// The configuration is wrong (`EX_CONFIG`): starting again would not help.
    Config,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Fine => 0,
            Exit::Failed => 1,
            Exit::Usage => 64,
            Exit::Unavailable => 69,
            Exit::RedisLost => 75,
            Exit::Config => 78,
        })
    }
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes both signals over, from now on.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one and names it.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _received = self.terminate.recv() => "SIGTERM",
            _received = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Tells systemd, if it is the one that started us, that the daemon works.
pub async fn ready() {
    tell(NotifyState::Ready).await;
}

/// Tells systemd that the daemon is draining.
pub async fn stopping() {
    tell(NotifyState::Stopping).await;
}

/// Keeps systemd's watchdog quiet for as long as the runtime gets around to it.
pub async fn watchdog(stop: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut every = tokio::time::interval((limit / 2).max(Duration::from_millis(1)));
    let fed = async {
        loop {
            every.tick().await;
            tell(NotifyState::Watchdog).await;
        }
    };
    let _ended: Option<()> = stop.run_until_cancelled(fed).await;
}

/// Says one word. On a thread of its own: a manager that does not listen lets only so many words
/// wait (`net.unix.max_dgram_qlen`), and then whoever speaks.
async fn tell(state: NotifyState<'static>) {
    let told = spawn_blocking(move || sd_notify::notify(&[state])).await;
    if let Ok(Err(error)) = told {
        tracing::debug!(%error, "the service manager could not be told");
    }
}
