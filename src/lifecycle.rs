//! How the process lives and ends: signals, exit statuses, and what the service manager is told.

use std::process::ExitCode;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
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
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells systemd that the daemon is draining.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Keeps systemd's watchdog quiet for as long as the runtime gets around to it.
pub async fn watchdog(stop: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut every = tokio::time::interval((limit / 2).max(Duration::from_millis(1)));
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}
