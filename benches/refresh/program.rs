//! One of the programs that are measured, and one round of it.

use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::bed::{Bed, grouped};
use crate::counting::{Counted, Counter};
use crate::daemon::Daemon;
use crate::figures::Figures;
use crate::meter::Meter;
use crate::options::Who;
use crate::proc;
use crate::progress::Progress;
use crate::worker::Worker;

/// Whichever it is, at work.
#[derive(Debug)]
pub(crate) enum Program {
    Daemon(Daemon),
    Worker(Worker),
}

impl Program {
    /// Starts it and waits until it has nothing to do.
    pub(crate) async fn start(who: Who, bed: &Bed, concurrency: u32) -> anyhow::Result<Self> {
        bed.wipe_redis().await?;
        match who {
            Who::Daemon => {
                let daemon = Daemon::start(bed, concurrency, &[]).await?;
                daemon.rest().await?;
                Ok(Self::Daemon(daemon))
            }
            Who::Floor => Worker::floor(bed, concurrency).await.map(Self::Worker),
            Who::Peer => Worker::peer(bed, concurrency).await.map(Self::Worker),
        }
    }

    fn pid(&self) -> anyhow::Result<u32> {
        match self {
            Self::Daemon(daemon) => Ok(daemon.pid()),
            Self::Worker(worker) => worker.pid(),
        }
    }

    /// Refreshes every account once.
    async fn pass(&mut self, bed: &Bed, accounts: u64) -> anyhow::Result<()> {
        match self {
            Self::Daemon(daemon) => daemon.pass(bed, accounts).await,
            Self::Worker(worker) => worker.pass(accounts).await,
        }
    }

    async fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Daemon(daemon) => daemon.stop().await,
            Self::Worker(worker) => worker.stop().await,
        }
    }

    /// One refresh of every account, from the request to the end, and what it has cost.
    pub(crate) async fn measure(
        mut self,
        bed: &Bed,
        accounts: u64,
        (progress, title): (&Progress, &str),
    ) -> anyhow::Result<Figures> {
        let pid = self.pid()?;
        let meter = Meter::new(bed, pid).await?;
        progress.say(title);
        let before = meter.read().await?;
        tokio::select! {
            passed = self.pass(bed, accounts) => passed?,
            broken = show(bed, accounts, (progress, title)) => broken?,
        }
        let figures = meter.read().await?.figures(&before, accounts);
        let figures = figures.with("peak_rss_mb", proc::peak_rss(pid)?);
        self.stop().await?;
        bed.verify(accounts).await?;
        Ok(figures)
    }

    /// The same, with what can only be counted by standing in the way: not timed.
    pub(crate) async fn count(mut self, bed: &Bed, accounts: u64) -> anyhow::Result<Counted> {
        let counter = Counter::start(bed, self.pid()?).await?;
        self.pass(bed, accounts).await?;
        let result = counter.end(accounts).await?;
        self.stop().await?;
        Ok(result)
    }
}

/// Keeps the progress line up to date until it is dropped.
async fn show(
    bed: &Bed,
    accounts: u64,
    (progress, title): (&Progress, &str),
) -> anyhow::Result<()> {
    let (begun, before) = (Instant::now(), bed.server.calls().await?);
    let mut pace = interval(Duration::from_millis(250));
    loop {
        pace.tick().await;
        let calls = bed.server.calls().await? - before;
        let rate = calls as f64 / begun.elapsed().as_secs_f64().max(0.001);
        let (calls, all) = (grouped(calls), grouped(accounts));
        progress.tick(&format!("{title}: {calls} of {all}, {rate:.0}/s"));
    }
}
